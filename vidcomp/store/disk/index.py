"""Tables of records: a delta indexes one shard, a snapshot many, both are the same kind of file.

Rows are sorted by the hash of their key, so a look-up is a binary search in one column.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from vidcomp.errors import StoreCorruptError
from vidcomp.store.disk.columns import COLUMNS, Array, blob, check_columns, read_index, write_index
from vidcomp.store.disk.format import digest, unescape
from vidcomp.store.disk.layout import Counts, Layout
from vidcomp.store.disk.types import Location, Row, SourceId
from vidcomp.types import Grid

__all__ = ["Table"]

_REMOVED = 1
_REMEMBERED = 4096
T = TypeVar("T")


@dataclass(frozen=True)
class Table:
    """What some commits say of their keys; columns as in docs/cache-format.md, section 7."""

    store: str
    """Id of the store."""
    covers: tuple[str, ...]
    """Commits whose rows these are."""
    shards: tuple[str, ...]
    writers: tuple[str, ...]
    layouts: tuple[Layout, ...]
    columns: dict[str, Array]

    @classmethod
    def of_rows(cls, store: str, covers: Sequence[str], rows: Iterable[Row]) -> "Table":
        """A table of rows; of rows with one key the one of the largest rank stays."""
        best: dict[str, Row] = {}
        for row in rows:
            if row.key not in best or row.rank > best[row.key].rank:
                best[row.key] = row
        keyed = sorted((digest(k := row.key.encode()), k, row) for row in best.values())
        hashes, keys = [item[0] for item in keyed], [item[1] for item in keyed]
        ordered = [item[2] for item in keyed]
        shards = tuple(sorted({row.shard for row in ordered if not row.removed}))
        writers = tuple(sorted({row.writer for row in ordered}))
        layouts = tuple(sorted({r.layout for r in ordered if r.layout}, key=lambda la: la.text))
        places = _places(shards), _places(writers), _places(layouts)
        columns = {name: column.empty(len(ordered)) for name, column in COLUMNS.items()}
        columns["key_hash"][:] = hashes
        columns["keys"], columns["key_end"] = blob(keys)
        sources = [row.source or SourceId(size=-1, mtime_ns=0) for row in ordered]
        columns["contents"], columns["content_end"] = blob([s.content.encode() for s in sources])
        for i, (row, source) in enumerate(zip(ordered, sources, strict=True)):
            _fill(columns, i, row, source, *places)
        return cls(store, tuple(covers), shards, writers, layouts, columns)

    @classmethod
    def read(cls, data: bytearray, what: str) -> "Table":
        """A table from the bytes of an index file; its columns are views of them.

        Raises:
            StoreCorruptError: other bytes than were written, or columns that cannot be.
        """
        header, columns = read_index(data, what)
        lists = {name: header.json(name, what) for name in ("covers", "shards", "writers")}
        layouts = header.json("layouts", what)
        if not isinstance(layouts, list):
            raise StoreCorruptError(f"{what} has no list of layouts: run verify")
        if not all(isinstance(value, list) for value in lists.values()):
            raise StoreCorruptError(f"{what} has no lists of commits and writers: run verify")
        table = cls(
            header.metadata.get("store", ""),
            **{name: tuple(value) for name, value in lists.items()},
            layouts=tuple(Layout.parse(layout) for layout in layouts),
            columns=columns,
        )
        check_columns(columns, (table.shards, table.writers, table.layouts), table.covers, what)
        return table

    def write(self) -> bytearray:
        """The bytes of an index file."""
        lists = {"covers": self.covers, "shards": self.shards, "writers": self.writers}
        layouts = [layout.fields for layout in self.layouts]
        return write_index(self.store, {**lists, "layouts": layouts}, self.columns)

    def __len__(self) -> int:
        """Keys, removed ones included."""
        return len(self.columns["key_hash"])

    def find(self, key: str) -> int | None:
        """The place of an escaped key."""
        raw = key.encode()
        wanted, (hashes, end, keys) = digest(raw), self._keys
        i = bisect_left(hashes, wanted)
        while i < len(hashes) and hashes[i] == wanted:
            if keys[end[i - 1] if i else 0 : end[i]] == raw:
                return i
            i += 1
        return None

    def raw_key(self, i: int) -> bytes:
        """The bytes of the escaped key at place ``i``."""
        return self._slice("keys", "key_end", i)

    def key(self, i: int) -> str:
        """The escaped key at place ``i``."""
        return self._text("keys", "key_end", i)

    def texts(self, rows: npt.NDArray[np.int64]) -> list[str]:
        """The keys of many rows, unescaped."""
        ends = self.columns["key_end"]
        starts = np.where(rows > 0, ends[rows - 1], 0).tolist() if len(rows) else []
        pairs = zip(starts, ends[rows].tolist(), strict=True)
        data = self.columns["keys"].tobytes()
        if data.isascii() and b"%" not in data:
            text = data.decode("ascii")
            return [text[a:b] for a, b in pairs]
        try:
            return [unescape(data[a:b].decode()) for a, b in pairs]
        except UnicodeDecodeError as error:
            raise StoreCorruptError("a key of an index is no text: run verify") from error

    def removed(self, i: int) -> bool:
        """Whether row ``i`` says that there is no such record."""
        return bool(self._views["flags"][i] & _REMOVED)

    def rank(self, i: int) -> tuple[int, str]:
        """The largest rank of a key's rows wins."""
        return self._views["generation"][i], self.writers[self._views["writer"][i]]

    def location(self, i: int) -> Location:
        """Where the record of row ``i`` lies; it must not be a removal."""
        shard, offset, nbytes, checksum, layout, n, grid, nnz, packed = self._places
        sizes = (n[i], grid[i, 0], grid[i, 1], grid[i, 2], nnz[i], packed[i])
        # Most records have the same few counts, and equal ones are one object.
        counts = self._counts.get(sizes) or self._remember(sizes)
        return Location(
            self.shards[shard[i]],
            offset[i],
            nbytes[i],
            checksum[i],
            counts,
            self.layouts[layout[i]],
        )

    def row(self, i: int) -> Row:
        """Row ``i``."""
        key, (generation, writer) = self.key(i), self.rank(i)
        if self.removed(i):
            return Row(key, generation, writer)
        return Row(key, generation, writer, *self.location(i), source=self.source(i))

    def rows(self) -> Iterator[Row]:
        """All rows."""
        return (self.row(i) for i in range(len(self)))

    @cached_property
    def live(self) -> npt.NDArray[np.bool_]:
        """Which rows are records."""
        live: npt.NDArray[np.bool_] = (self.columns["flags"] & _REMOVED) == 0
        return live

    def _text(self, data: str, ends: str, i: int) -> str:
        try:
            return self._slice(data, ends, i).decode()
        except UnicodeDecodeError as error:
            raise StoreCorruptError(f"row {i} of an index is no text: run verify") from error

    def _slice(self, data: str, ends: str, i: int) -> bytes:
        end = self._views[ends]
        return bytes(self._views[data][end[i - 1] if i else 0 : end[i]])

    def source(self, i: int) -> SourceId | None:
        """The file behind row ``i``, if it is known."""
        size = self._views["size"][i]
        if size < 0:
            return None
        content = self._text("contents", "content_end", i)
        return SourceId(size=size, mtime_ns=self._views["mtime_ns"][i], content=content)

    @cached_property
    def _keys(self) -> tuple[Any, ...]:
        """The columns that a look-up needs, at hand."""
        return tuple(self._views[name] for name in ("key_hash", "key_end", "keys"))

    @cached_property
    def _places(self) -> tuple[Any, ...]:
        """The columns that tell where a record lies, at hand."""
        names = ("shard", "offset", "nbytes", "checksum", "layout")
        return tuple(self._views[n] for n in (*names, "num_tokens", "grid", "nnz", "packed"))

    @cached_property
    def _counts(self) -> dict[tuple[int, ...], Counts]:
        return {}

    def _remember(self, sizes: tuple[int, ...]) -> Counts:
        if len(self._counts) >= _REMEMBERED:
            self._counts.clear()
        n, t, h, w, nnz, packed = sizes
        return self._counts.setdefault(sizes, Counts(n, Grid(t, h, w), nnz, packed))

    @cached_property
    def _views(self) -> dict[str, Any]:
        """The columns as memoryviews: one number of them costs a fifth of what numpy takes."""
        return {name: np.ascontiguousarray(c).data for name, c in _native(self.columns).items()}


def _native(columns: dict[str, Array]) -> dict[str, Array]:
    """Columns in the byte order of this machine; the same ones on most."""
    return {name: c.astype(c.dtype.newbyteorder("="), copy=False) for name, c in columns.items()}


def _places(names: Sequence[T]) -> dict[T, int]:
    return {name: i for i, name in enumerate(names)}


def _fill(
    columns: dict[str, Array],
    i: int,
    row: Row,
    source: SourceId,
    shards: dict[str, int],
    writers: dict[str, int],
    layouts: dict[Layout, int],
) -> None:
    columns["generation"][i] = row.generation
    columns["writer"][i] = writers[row.writer]
    if row.removed:
        columns["flags"][i] = _REMOVED
        return
    assert row.layout is not None  # noqa: S101  # only removals have none
    values = {
        "shard": shards[row.shard],
        "offset": row.offset,
        "nbytes": row.nbytes,
        "checksum": row.checksum,
        "num_tokens": row.counts.num_tokens,
        "grid": row.counts.grid,
        "nnz": row.counts.nnz,
        "packed": row.counts.packed,
        "layout": layouts[row.layout],
        "size": source.size,
        "mtime_ns": source.mtime_ns,
    }
    for name, value in values.items():
        columns[name][i] = value
