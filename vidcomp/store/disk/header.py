"""Headers of safetensors files, written and parsed without trusting what they say."""

import json
import struct
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from vidcomp.errors import StoreCorruptError
from vidcomp.store.disk.format import (
    ALIGN,
    DTYPES,
    FORMAT_VERSION,
    MAX_DIMS,
    MAX_HEADER_BYTES,
    check_stamp,
    stamp,
)

__all__ = [
    "Header",
    "build_header",
    "check_header",
    "dumps",
    "entry",
    "header_length",
    "parse_header",
    "stamp_header",
]

PREFIX = b'{"__metadata__":{"check":"'
_PLACEHOLDER = "0" * 16
_LARGE = 1 << 20
_UNREADABLE = (
    ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError, MemoryError,
)  # fmt: skip
"""What parsing JSON of any content can raise."""
_ENCODER = json.JSONEncoder(separators=(",", ":"))  # json.dumps would make one each time


class Header(NamedTuple):
    """A parsed header."""

    metadata: dict[str, str]
    entries: dict[str, tuple[str, list[int], int, int]]
    """Name to type, shape, first byte and end byte (from the start of the data)."""
    data_start: int
    """First byte of the data in the file."""

    def json(self, name: str, what: str) -> Any:
        """A metadata value parsed as JSON.

        Raises:
            StoreCorruptError: missing, or no JSON.
        """
        try:
            return _loads(self.metadata[name].encode())
        except (KeyError, ValueError, RecursionError, MemoryError) as error:
            raise StoreCorruptError(
                f"{what} has no readable {name!r} in its header ({error!s:.200}): run verify"
            ) from error


def dumps(value: object) -> str:
    """Compact JSON, ASCII only."""
    return _ENCODER.encode(value)


def entry(name: str, dtype: str, shape: Iterable[int], start: int, stop: int) -> bytes:
    """One tensor's part of a header, with the comma before it."""
    return (
        f',{dumps(name)}:{{"dtype":"{dtype}","shape":[{",".join(map(str, shape))}],'
        f'"data_offsets":[{start},{stop}]}}'
    ).encode()


def build_header(
    metadata: Mapping[str, str], entries: Iterable[bytes], *, room: int | None = None
) -> bytearray:
    """The bytes before the data: length, JSON, spaces; the check digits are still zeros.

    Args:
        metadata: without ``check``.
        entries: made by ``entry``.
        room: bytes to fill, a multiple of 64; by default the fewest possible.
    """
    text = dumps({"__metadata__": {"check": _PLACEHOLDER, **metadata}})[:-1].encode()
    text += b"".join(entries) + b"}"
    size = 8 + len(text)
    room = size + -size % ALIGN if room is None else room
    if size > room:
        raise ValueError(f"a header of {size} bytes does not fit into the {room} reserved")
    return bytearray(struct.pack("<Q", room - 8) + text + b" " * (room - size))


def stamp_header(data: bytearray) -> None:
    """Put the check of all of ``data`` into the header at its start, in place."""
    stamp(data, 8 + len(PREFIX))


def check_header(data: bytes | bytearray, what: str) -> None:
    """Check bytes stamped by ``stamp_header``.

    Raises:
        StoreCorruptError: they are others.
    """
    check_stamp(data, PREFIX, 8, what)


def header_length(first: bytes, size: int, what: str) -> int:
    """Bytes before the data, from the first 8 bytes of a file of ``size`` bytes.

    Raises:
        StoreCorruptError: no length that such a file can have.
    """
    length = struct.unpack("<Q", first)[0] if len(first) == 8 else 0
    if not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
        raise StoreCorruptError(
            f"{what} has {size} bytes and speaks of a header of {length}: it was cut or overwritten"
        )
    return 8 + int(length)


def parse_header(data: bytes | bytearray, kind: str, size: int, what: str) -> Header:
    """A header of our own making.

    Args:
        data: at least the bytes before the data.
        kind: the wanted ``kind`` in the metadata.
        size: of the file.
        what: its name for messages.

    Raises:
        StoreCorruptError: not a header, of another kind or a newer format, or tensors that do
            not fill the data exactly.
    """
    data_start = header_length(bytes(data[:8]), size, what)
    try:
        raw = _loads(bytes(data[8:data_start]))
        metadata = raw.pop("__metadata__")
        if metadata["kind"] != kind or not 1 <= int(metadata["format"]) <= FORMAT_VERSION:
            raise ValueError(f"{metadata['kind']} of format {metadata['format']}")
        if not all(isinstance(value, str) for value in metadata.values()):
            raise ValueError("metadata that are no texts")
        entries = {name: _entry(value) for name, value in raw.items()}
    except _UNREADABLE as error:
        raise StoreCorruptError(
            f"{what} has no header of a {kind} of format {FORMAT_VERSION} or older "
            f"({error!s:.200}): restore it, or read it with a newer vidcomp"
        ) from error
    _check_tiling(entries, size - data_start, what)
    return Header(metadata, entries, data_start)


def _loads(text: bytes) -> Any:
    """JSON of a header.

    Nothing but brackets would become 30 times its size in memory, so headers that have more than
    any list of tensors or rows are not parsed.
    """
    if len(text) > _LARGE and 6 * (text.count(b"[") + text.count(b"{")) > len(text):
        raise ValueError("there are too many brackets in it")
    return json.loads(text)


def _entry(value: Any) -> tuple[str, list[int], int, int]:
    dtype, shape, (start, stop) = value["dtype"], value["shape"], value["data_offsets"]
    if (
        dtype not in DTYPES
        or not isinstance(shape, list)
        or len(shape) > MAX_DIMS
        or not all(type(n) is int and 0 <= n < 2**63 for n in (*shape, start, stop))
    ):
        raise ValueError(f"a tensor of {dtype!s:.20} and {shape!s:.80}")
    return dtype, shape, start, stop


def _check_tiling(
    entries: Mapping[str, tuple[str, list[int], int, int]], size: int, what: str
) -> None:
    """Tensors must lie end to end: safetensors allows no holes, no overlap, no trailing bytes."""
    end = 0
    for name, (dtype, shape, start, stop) in sorted(
        entries.items(), key=lambda item: (item[1][2], item[1][3])
    ):
        count = DTYPES[dtype].itemsize
        for n in shape:
            count *= n
        if start != end or stop - start != count:
            raise StoreCorruptError(
                f"{what} places {name[:80]!r} at bytes {start} to {stop}, expected {end} to "
                f"{end + count}: run verify"
            )
        end = stop
    if end != size:
        raise StoreCorruptError(
            f"{what} holds {size} bytes of data where its header speaks of {end}: it was cut or "
            f"overwritten"
        )
