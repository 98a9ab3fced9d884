"""What a shard's own header says of its records: enough to write its delta again."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from json.encoder import encode_basestring_ascii
from typing import Any

from vidcomp.errors import StoreCorruptError
from vidcomp.store.disk.format import (
    ALIGN,
    FORMAT_VERSION,
    MAX_GENERATION,
    MAX_PATCHES,
    is_commit,
    unescape,
)
from vidcomp.store.disk.header import (
    Header,
    build_header,
    check_header,
    dumps,
    entry,
    header_length,
    parse_header,
    stamp_header,
)
from vidcomp.store.disk.layout import Counts, Layout
from vidcomp.store.disk.types import Row, SourceId
from vidcomp.store.storage import RangeFile
from vidcomp.types import Grid

__all__ = [
    "FILLER_NBYTES",
    "ShardHeader",
    "check_generation",
    "check_key",
    "read_shard_header",
    "record_entries",
    "row_from_json",
    "row_text",
    "shard_header",
    "shard_name",
]

KIND = "vidcomp-shard"

_NO_SOURCE = SourceId(size=-1, mtime_ns=0)

FILLER_NBYTES = 96
"""At most so many header bytes does one piece of filler need."""


@dataclass(frozen=True)
class ShardHeader:
    """A shard's header, parsed and checked."""

    name: str
    store: dict[str, Any]
    """What store.json held when the shard was begun."""
    rows: tuple[Row, ...]
    """Records in the order of the data, then removals."""
    header: Header


def row_text(row: Row, layout: int, writer: int) -> str:
    """A record's row as in docs/cache-format.md, section 5: JSON, as ``header.dumps`` has it.

    It is made for every record, twice, and so without an encoder.
    """
    source, counts, quote = row.source or _NO_SOURCE, row.counts, encode_basestring_ascii
    t, h, w = counts.grid
    packed = f",{counts.packed}" if counts.packed else ""
    return (
        f"[{quote(row.key)},{row.offset},{row.nbytes},{counts.num_tokens},[{t},{h},{w}],"
        f'{counts.nnz},{layout},"{row.checksum:016x}",{row.generation},{writer},{source.size},'
        f"{source.mtime_ns},{quote(source.content)}{packed}]"
    )


def row_from_json(data: Any, shard: str, layouts: Sequence[Layout], writers: Sequence[str]) -> Row:
    """The inverse of ``row_text``, parsed.

    Raises:
        StoreCorruptError: not such a row, or a place no record can have.
    """
    try:
        key, offset, nbytes, n, (t, h, w), nnz, layout, checksum, generation, writer, *rest = data
        size, mtime_ns, content, packed, *_ = (*rest, 0) if len(rest) == 3 else rest
        sizes = (offset, n, t, h, w, nnz, packed, layout, writer)
        numbers = (*sizes, nbytes, generation, size, mtime_ns)
        if not all(type(x) is int and -(2**63) <= x < 2**63 for x in numbers):
            raise ValueError("a number is none")
        if min(sizes) < 0 or nbytes < ALIGN:
            raise ValueError("a number is too small")
        if offset % ALIGN or nbytes % ALIGN or t * h * w >= MAX_PATCHES:
            raise ValueError("a record is not aligned, or of a grid that cannot be")
        if not 0 <= int(checksum, 16) < 2**64:
            raise ValueError("a hash is none")
        source = None if size < 0 else SourceId(size=size, mtime_ns=mtime_ns, content=str(content))
        str(content).encode()
        counts = Counts(n, Grid(t, h, w), nnz, packed)
        return Row(
            check_key(key),
            check_generation(generation),
            writers[writer],
            shard,
            offset,
            nbytes,
            int(checksum, 16),
            counts,
            layouts[layout],
            source,
        )
    except (TypeError, ValueError, IndexError) as error:
        raise StoreCorruptError(
            f"shard {shard} has a row that cannot be ({error!s:.200}): run verify"
        ) from error


def check_key(key: object) -> str:
    """An escaped key as it was found in JSON.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(key, str) or not key:
        raise ValueError("a key is no text, or empty")
    key.encode()
    unescape(key)
    return key


def check_generation(generation: object) -> int:
    """A generation as it was found in JSON.

    Raises:
        ValueError: it is none, or there could be no next one.
    """
    if type(generation) is not int or not 0 <= generation < MAX_GENERATION:
        raise ValueError("a generation is none")
    return generation


def record_entries(row: Row, data_start: int) -> list[bytes]:
    """Header entries of a record's tensors."""
    assert row.layout is not None  # noqa: S101  # only removals have none
    first, name = row.offset - data_start, "," + dumps(row.key)[:-1]
    fixed, end = _fixed(row.layout, row.counts)
    out = [f"{name}{text}{first + a},{first + b}]}}".encode() for text, a, b in fixed]
    out.append(entry(f"{row.key}/meta", "U8", [row.nbytes - end], first + end, first + row.nbytes))
    return out


def shard_header(
    name: str,
    store: Mapping[str, Any],
    rows: Iterable[Row],
    data_start: int | None,
    data_stop: int = 0,
) -> bytearray:
    """The bytes before a shard's data.

    Args:
        name: of the commit.
        store: what store.json holds.
        rows: records in the order of the data, and removals.
        data_start: bytes reserved for the header; ``None`` for a shard without data.
        data_stop: end of the data in the file; what lies between records becomes filler.
    """
    rows = list(rows)
    records = [row for row in rows if not row.removed]
    layouts = list(dict.fromkeys(row.layout for row in records if row.layout))
    writers = list(dict.fromkeys((name.partition("-")[0], *(row.writer for row in rows))))
    places = {layout: i for i, layout in enumerate(layouts)}
    metadata = {
        "kind": KIND,
        "format": str(FORMAT_VERSION),
        "name": name,
        "store": dumps(store),
        "layouts": dumps([layout.fields for layout in layouts]),
        "writers": dumps(writers),
        "records": f"[{','.join(_texts(records, places, writers))}]",
        "removed": dumps(
            [[r.key, r.generation, writers.index(r.writer)] for r in rows if r.removed]
        ),
    }
    entries = _all_entries(records, data_start or 0, data_stop)
    out = build_header(metadata, entries, room=data_start)
    stamp_header(out)
    return out


def read_shard_header(file: RangeFile, name: str) -> ShardHeader:
    """The header of an open shard.

    Raises:
        StoreCorruptError: other bytes than were written, or the file was cut.
    """
    what = f"shard {name}"
    length = header_length(bytes(file.read(0, min(8, file.size), what)), file.size, what)
    data = bytes(file.read(0, length, what))
    check_header(data, what)
    header = parse_header(data, KIND, file.size, what)
    lists = {key: header.json(key, what) for key in ("layouts", "writers", "records", "removed")}
    store = header.json("store", what)
    if (
        header.metadata.get("name") != name
        or not isinstance(store, dict)
        or not all(isinstance(value, list) for value in lists.values())
        or not all(isinstance(w, str) and is_commit(f"{w}-000000") for w in lists["writers"])
    ):
        raise StoreCorruptError(f"{what} has a header of another file: restore it")
    layouts = [Layout.parse(layout) for layout in lists["layouts"]]
    rows = [row_from_json(row, name, layouts, lists["writers"]) for row in lists["records"]]
    rows += [_removed_from_json(row, name, lists["writers"]) for row in lists["removed"]]
    return ShardHeader(name, store, tuple(rows), header)


def shard_name(name: str) -> str:
    """The file of a commit's shard."""
    return f"shards/{name}.safetensors"


@lru_cache(maxsize=4096)
def _fixed(layout: Layout, counts: Counts) -> tuple[list[tuple[str, int, int]], int]:
    """What the entries of all records of these counts share, and where their ``meta`` begins."""
    places = layout.places(counts)
    texts = [entry(f"/{p.name}", p.dtype, p.sizes, 0, 0).decode() for p in places.tensors]
    return [
        # From the slash to the bracket before the offsets.
        (text[len(',"') : -len("0,0]}")], p.start, p.stop)
        for text, p in zip(texts, places.tensors, strict=True)
    ], places.nbytes


def _texts(
    records: Sequence[Row], layouts: Mapping[Layout, int], writers: Sequence[str]
) -> Iterator[str]:
    numbers = {writer: i for i, writer in enumerate(writers)}
    for row in records:
        assert row.layout is not None  # noqa: S101  # only removals have none
        yield row_text(row, layouts[row.layout], numbers[row.writer])


def _all_entries(records: Sequence[Row], data_start: int, data_stop: int) -> list[bytes]:
    out, end, num_fillers = [], data_start, 0
    ends = [*((row.offset, row) for row in records), (data_stop or data_start, None)]
    for offset, row in ends:
        if offset > end:
            start, stop = end - data_start, offset - data_start
            out.append(entry(f"/pad.{num_fillers}", "U8", [stop - start], start, stop))
            num_fillers += 1
        if row is not None:
            out += record_entries(row, data_start)
            end = row.offset + row.nbytes
    return out


def _removed_from_json(data: Any, shard: str, writers: Sequence[str]) -> Row:
    try:
        key, generation, writer = data
        if type(writer) is not int or writer < 0:
            raise ValueError("a writer is none")
        return Row(check_key(key), check_generation(generation), writers[writer])
    except (TypeError, ValueError, IndexError) as error:
        raise StoreCorruptError(
            f"shard {shard} removes what cannot be a key ({error!s:.200}): run verify"
        ) from error
