"""The columns of an index file and their bytes."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

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
    parse_header,
    stamp_header,
)

__all__ = [
    "COLUMNS",
    "KIND",
    "Array",
    "Column",
    "blob",
    "check_columns",
    "read_index",
    "write_index",
]

Array: TypeAlias = npt.NDArray[Any]

KIND = "vidcomp-index"


class Column(NamedTuple):
    """Type of a column; a free length means bytes end to end, not one entry a row."""

    dtype: str
    inner: tuple[int, ...] = ()
    free: bool = False
    optional: bool = False
    """Whether it is left out of files where it is all zeros."""

    @property
    def numpy(self) -> np.dtype[Any]:
        """Little-endian, whatever the machine."""
        return np.dtype({"U64": "<u8", "I64": "<i8", "U32": "<u4", "U8": "u1"}[self.dtype])

    def empty(self, num_rows: int) -> Array:
        """Zeros for ``num_rows`` rows."""
        return np.zeros((0 if self.free else num_rows, *self.inner), self.numpy)


COLUMNS = {
    "key_hash": Column("U64"),
    "key_end": Column("I64"),
    "generation": Column("I64"),
    "offset": Column("I64"),
    "nbytes": Column("I64"),
    "checksum": Column("U64"),
    "num_tokens": Column("I64"),
    "grid": Column("I64", (3,)),
    "nnz": Column("I64"),
    "packed": Column("I64", optional=True),
    "size": Column("I64"),
    "mtime_ns": Column("I64"),
    "content_end": Column("I64"),
    "writer": Column("U32"),
    "shard": Column("U32"),
    "layout": Column("U32"),
    "flags": Column("U8"),
    "keys": Column("U8", free=True),
    "contents": Column("U8", free=True),
}
"""In the order of their bytes: larger elements first, so all are aligned."""

_COUNTS = ("offset", "num_tokens", "grid", "nnz", "packed")
_NOT_ASCII = re.compile(b"%[89A-F][0-9A-F]")
"""The escape of a byte that is no text by itself."""
_MOST_ALIKE = 1000
"""Keys with the hash of another one: an index has none, unless somebody made it slow on purpose."""


def blob(items: Sequence[bytes]) -> tuple[Array, Array]:
    """Bytes end to end, and where each item ends."""
    ends = np.cumsum([len(item) for item in items], dtype=np.int64)
    return np.frombuffer(b"".join(items), np.uint8), ends


def write_index(store: str, lists: Mapping[str, Any], columns: Mapping[str, Array]) -> bytearray:
    """The bytes of an index file, check included."""
    metadata = {"kind": KIND, "format": str(FORMAT_VERSION), "store": store}
    metadata |= {name: dumps(value) for name, value in lists.items()}
    entries, parts, start = [], [], 0
    for name, column in COLUMNS.items():
        data = np.ascontiguousarray(columns[name], column.numpy)
        if column.optional and not data.any():
            continue
        entries.append(entry(name, column.dtype, data.shape, start, start + data.nbytes))
        parts.append(data.tobytes())
        start += data.nbytes
    out = build_header(metadata, entries)
    out += b"".join(parts)
    stamp_header(out)
    return out


def read_index(data: bytearray, what: str) -> tuple[Header, dict[str, Array]]:
    """Header and columns of an index file; the columns are views of ``data``.

    Raises:
        StoreCorruptError: other bytes than were written, or a column is missing.
    """
    check_header(data, what)
    header = parse_header(data, KIND, len(data), what)
    columns: dict[str, Array] = {}
    for name, column in COLUMNS.items():
        if column.optional and name not in header.entries:
            columns[name] = column.empty(len(columns["key_hash"]))
            continue
        dtype, shape, start, stop = header.entries.get(name, ("", [], 0, 0))
        if dtype != column.dtype or tuple(shape[1:]) != column.inner or not shape:
            raise StoreCorruptError(f"{what} has no column {name!r} of {column.dtype}: run verify")
        first = header.data_start + start
        flat = np.frombuffer(memoryview(data)[first : first + stop - start], column.numpy)
        columns[name] = flat.reshape(shape)
    return header, columns


def check_columns(
    columns: Mapping[str, Array],
    tables: tuple[Sequence[Any], Sequence[Any], Sequence[Any]],
    covers: Sequence[str],
    what: str,
) -> None:
    """Refuse columns that point outside of a file, a table or a folder.

    Args:
        columns: of an index file.
        tables: its shards, writers and layouts.
        covers: commits.
        what: the file's name for the message.

    Raises:
        StoreCorruptError: the first thing that cannot be.
    """
    shards, writers, layouts = tables
    n = len(columns["key_hash"])
    live = (columns["flags"] & 1) == 0
    generation = columns["generation"]
    problems = {
        "names that are no commits": not all(map(_is_commit, (*shards, *covers))),
        "names that are no writers": not all(_is_commit(f"{w}-000000") for w in writers),
        "columns of other lengths": any(
            len(columns[name]) != n for name, column in COLUMNS.items() if not column.free
        ),
    }
    if not any(problems.values()):
        problems |= {
            "keys outside of their text": not _is_cut(columns["key_end"], columns["keys"], True),
            "sources outside of their text": not _is_cut(
                columns["content_end"], columns["contents"], False
            ),
            "generations no record can have": bool(
                ((generation < 0) | (generation >= MAX_GENERATION)).any()
            ),
            "writers it does not list": bool((columns["writer"] >= len(writers)).any()),
            "shards it does not list": bool((columns["shard"][live] >= len(shards)).any()),
            "layouts it does not list": bool((columns["layout"][live] >= len(layouts)).any()),
            "places no record can have": bool(
                (columns["offset"][live] % ALIGN != 0).any()
                or (columns["nbytes"][live] % ALIGN != 0).any()
                or (columns["nbytes"][live] < ALIGN).any()
                or any((columns[c] < 0).any() for c in _COUNTS)
                or (columns["grid"].prod(axis=1, dtype=np.float64) >= MAX_PATCHES).any()
            ),
        }
    if not any(problems.values()):
        problems |= {
            "keys out of order": not _is_sorted(columns),
            "keys that are no texts": not _are_texts(columns["keys"], columns["key_end"], True),
            "sources that are no texts": not _are_texts(
                columns["contents"], columns["content_end"], False
            ),
        }
    for problem, is_there in problems.items():
        if is_there:
            raise StoreCorruptError(f"{what} has {problem}: run verify, then restore it")


def _is_sorted(columns: Mapping[str, Array]) -> bool:
    """Whether rows are sorted by hash, then by key, and no key is there twice."""
    hashes, ends, keys = (columns[name] for name in ("key_hash", "key_end", "keys"))
    if (hashes[1:] < hashes[:-1]).any():
        return False
    alike = np.flatnonzero(hashes[1:] == hashes[:-1]).tolist()
    if len(alike) > _MOST_ALIKE:
        return False
    for i in alike:
        first, middle, last = int(ends[i - 1]) if i else 0, int(ends[i]), int(ends[i + 1])
        if keys[first:middle].tobytes() >= keys[middle:last].tobytes():
            return False
    return True


def _are_texts(data: Array, ends: Array, escaped: bool) -> bool:
    """Whether each piece is UTF-8, and text still when it is unescaped."""
    raw = data.tobytes()
    if raw.isascii() and not (escaped and b"%" in raw):
        return True
    starts = ends[:-1]
    inner = data[starts[starts < len(data)]]
    try:
        raw.decode()
        if not raw.isascii() and ((inner & 0xC0) == 0x80).any():  # a character is cut in two
            return False
        if escaped:
            places = [found.start() for found in _NOT_ASCII.finditer(raw)]
            rows = np.unique(np.searchsorted(ends, places, "right"))
            for i in rows.tolist():
                unescape(raw[int(ends[i - 1]) if i else 0 : int(ends[i])].decode())
    except UnicodeDecodeError:
        return False
    return True


def _is_commit(name: object) -> bool:
    return isinstance(name, str) and is_commit(name)


def _is_cut(ends: Array, data: Array, strictly: bool) -> bool:
    """Whether ``ends`` cut ``data`` into pieces end to end (``strictly``: none of them empty)."""
    sizes = np.diff(ends, prepend=np.int64(0))
    in_order = bool((sizes >= int(strictly)).all() and (ends >= 0).all())  # ends: sizes may wrap
    return in_order and int(ends[-1] if len(ends) else 0) == len(data)
