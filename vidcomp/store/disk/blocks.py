"""Checks of parts of a record, so that some of its rows can be read, and trusted, alone.

The field ``blocks`` holds one check of what every partial read needs (the head) and one of each 64
rows; docs/cache-format.md, section 6.
"""

import struct
from collections.abc import Mapping, Sequence

from vidcomp.errors import StoreCorruptError
from vidcomp.store.disk.format import Bytes, digest
from vidcomp.store.disk.layout import BLOCK_ROWS, Counts, Layout

__all__ = ["block_checks", "check_blocks", "check_head", "check_rows"]


def block_checks(
    key: str, layout: Layout, num_tokens: int, fields: Mapping[str, memoryview]
) -> bytes:
    """The bytes of ``blocks``.

    Args:
        key: escaped.
        layout: has the field ``blocks``.
        num_tokens: at least 1.
        fields: bytes of all other fields.
    """
    parts = [fields[field.name] for field in layout.block_fields]
    if num_tokens <= BLOCK_ROWS:
        checks = [digest(*parts)]
    else:
        steps = [(part, len(part) // num_tokens * BLOCK_ROWS) for part in parts]
        checks = [
            digest(*(part[b * step : (b + 1) * step] for part, step in steps))
            for b in range(-(-num_tokens // BLOCK_ROWS))
        ]
    rows = struct.pack(f"<{len(checks)}Q", *checks)
    return struct.pack("<Q", _head(key, rows, [fields[f.name] for f in layout.head_fields])) + rows


def check_blocks(key: str, data: memoryview, layout: Layout, counts: Counts) -> None:
    """Check that the ``blocks`` of a whole record are right; those without the field are.

    Args:
        key: escaped.
        data: the record's bytes.
        layout: of the record.
        counts: of the record.

    Raises:
        StoreCorruptError: they are not.
    """
    if layout.has_blocks:
        fields = {p.name: data[p.start : p.stop] for p in layout.places(counts).tensors}
        if not counts.num_tokens:
            check_head(key, fields["blocks"], [fields[f.name] for f in layout.head_fields])
        elif block_checks(key, layout, counts.num_tokens, fields) != fields["blocks"]:
            raise StoreCorruptError("its block checks are not those of its bytes: run verify")


def check_head(key: str, blocks: memoryview, head: Sequence[memoryview]) -> None:
    """Check what every partial read needs.

    Args:
        key: escaped.
        blocks: the bytes of that field.
        head: bytes of the ``head_fields`` of the layout.

    Raises:
        StoreCorruptError: not the bytes that were written, or those of another key.
    """
    if blocks[:8] != struct.pack("<Q", _head(key, blocks[8:], head)):
        raise StoreCorruptError(
            f"the times and block checks of {key!r} are not those that were written: run verify, "
            f"then extract the video again"
        )


def check_rows(blocks: memoryview, block: int, rows: Sequence[memoryview]) -> None:
    """Check one block of rows.

    Args:
        blocks: the bytes of that field, checked.
        block: rows ``64 * block`` up to the next block.
        rows: their bytes in each of the ``block_fields`` of the layout.

    Raises:
        StoreCorruptError: not the bytes that were written.
    """
    if blocks[8 * block + 8 : 8 * block + 16] != struct.pack("<Q", digest(*rows)):
        raise StoreCorruptError(
            f"rows {BLOCK_ROWS * block} to {BLOCK_ROWS * (block + 1)} are not those that were "
            f"written: run verify, then extract the video again"
        )


def _head(key: str, rows: Bytes, head: Sequence[memoryview]) -> int:
    # The key binds the bytes to their record, the other checks those to this one.
    return digest(key.encode(), rows, *head)
