"""A commit looked at closely: what its header, its delta and its records say, and what is true."""

import errno
import json
from dataclasses import dataclass
from typing import Literal

import numpy as np

from vidcomp.errors import StoreCorruptError
from vidcomp.store.commit import delta_name
from vidcomp.store.disk.format import unescape
from vidcomp.store.disk.header import check_header, header_length
from vidcomp.store.disk.index import Table
from vidcomp.store.disk.record import read_meta
from vidcomp.store.disk.shard import ShardHeader, read_shard_header, shard_name
from vidcomp.store.disk.types import Row
from vidcomp.store.storage import RangeFile, Storage
from vidcomp.store.upkeep.census import holds_best

__all__ = [
    "Commit",
    "examine",
    "is_index_of",
    "meta_problem",
    "same_rows",
    "tensor_problems",
]


@dataclass(frozen=True)
class Commit:
    """What is known of a commit."""

    name: str
    why: str
    """What is wrong with its shard; empty if nothing is."""
    rows: tuple[Row, ...] | None
    """Its rows, from the best source that can be trusted; ``None`` if there is none."""
    delta: Literal["right", "wrong", "lost"]

    @property
    def is_sound(self) -> bool:
        """Whether the shard, records aside, is as it was written."""
        return not self.why


def examine(storage: Storage, store: str, name: str, indexed: Table | None) -> Commit:
    """Look at a shard's header and its delta.

    Args:
        storage: where the store's files lie.
        store: the store's id.
        name: of the commit.
        indexed: the newest snapshot, which may know rows that nothing else does.

    Raises:
        FileNotFoundError: shard and delta are gone.
        OSError: they cannot be read.
    """
    delta, delta_why = _read_delta(storage, store, name)
    why, rows, is_other = _read_shard(storage, store, name)
    if rows is not None:
        if delta is not None and same_rows(delta, Table.of_rows(store, [name], rows)):
            return Commit(name, why, rows, "right")
        return Commit(name, why, rows, "wrong" if delta or delta_why else "lost")
    if not is_other and delta is not None:
        return Commit(name, why, tuple(delta.rows()), "right")
    if not is_other and indexed is not None and name in indexed.shards:
        number = indexed.shards.index(name)
        places = (indexed.live & (indexed.columns["shard"] == number)).nonzero()[0]
        return Commit(name, why, tuple(indexed.row(i) for i in places.tolist()), "wrong")
    if not is_other and delta is None and not delta_why and why == _LOST:
        raise FileNotFoundError(name)
    return Commit(name, why, None, "wrong" if delta or delta_why else "lost")


_LOST = "its shard is lost"


def _read_delta(storage: Storage, store: str, name: str) -> tuple[Table | None, str]:
    try:
        table = Table.read(storage.read(delta_name(name)), f"delta {name}")
    except FileNotFoundError:
        return None, ""
    except StoreCorruptError as error:
        return None, str(error)
    except OSError as error:
        return None, _bad_sector(error)
    if table.covers != (name,) or table.store != store:
        return None, f"delta {name} belongs to another commit or store"
    return table, ""


def _read_shard(
    storage: Storage, store: str, name: str
) -> tuple[str, tuple[Row, ...] | None, bool]:
    """What is wrong with a shard, the rows of its header, and whether it is another store's."""
    try:
        file = storage.open(shard_name(name))
    except FileNotFoundError:
        return _LOST, None, False
    except StoreCorruptError as error:
        return str(error), None, False
    try:
        found = read_shard_header(file, name)
        header = found.header
        why = "; ".join(tensor_problems(found.rows, header.entries, header.data_start))
    except StoreCorruptError as error:
        cut, why = _header_of_cut(file, name), str(error)
        if cut is None:
            return why, None, False
        found = cut
    except OSError as error:
        return _bad_sector(error), None, False
    if found.store.get("id") != store:
        return "it belongs to another store", None, True
    return why, found.rows, False


def _bad_sector(error: OSError) -> str:
    """What is wrong, if it is the file and not the way to it."""
    if error.errno != errno.EIO:
        raise error
    return "its disk cannot read it"


def _header_of_cut(file: RangeFile, name: str) -> ShardHeader | None:
    """The header of a shard whose data is not all there; ``None`` if it is damaged, too.

    It has a check of its own, so it can be trusted.
    """
    what = f"shard {name}"
    try:
        length = header_length(bytes(file.read(0, min(8, file.size), what)), file.size, what)
        data = bytes(file.read(0, length, what))
        check_header(data, what)
        entries = json.loads(data[8:])
        ends = [e["data_offsets"][1] for key, e in entries.items() if key != "__metadata__"]
        return read_shard_header(_Whole(file, length + max(ends, default=0)), name)
    except (StoreCorruptError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


class _Whole:
    """A file as long as it was before it was cut."""

    def __init__(self, file: RangeFile, size: int) -> None:
        self.read, self.read_pieces = file.read, file.read_pieces
        self.forget, self.fileno = file.forget, file.fileno
        self.size = size


def tensor_problems(
    rows: tuple[Row, ...], entries: dict[str, tuple[str, list[int], int, int]], data_start: int
) -> list[str]:
    """Where the rows of a header and its tensors differ."""
    wanted = {}
    for row in rows:
        if row.removed or row.layout is None:
            continue
        places = row.layout.places(row.counts)
        if places.nbytes >= row.nbytes:
            return [f"{unescape(row.key)!r} has less bytes than its tensors need"]
        first, end = row.offset - data_start, row.offset - data_start + places.nbytes
        for name, dtype, sizes, start, stop in places.tensors:
            wanted[f"{row.key}/{name}"] = (dtype, list(sizes), first + start, first + stop)
        meta = row.nbytes - places.nbytes
        wanted[f"{row.key}/meta"] = ("U8", [meta], end, first + row.nbytes)
    found = {name: value for name, value in entries.items() if not name.startswith("/pad.")}
    names = sorted(n for n in wanted.keys() | found.keys() if wanted.get(n) != found.get(n))
    return [f"tensor {name!r} is not where its record says" for name in names[:3]]


def meta_problem(row: Row, data: memoryview) -> str | None:
    """Why bytes with the right hash are not the record of that row, if they are not."""
    assert row.layout is not None  # noqa: S101  # only removals have none
    try:
        about = read_meta(bytes(data[row.layout.places(row.counts).nbytes :]))
    except StoreCorruptError as error:
        return str(error)
    if about["key"] != row.key or about.get("grid") != list(row.counts.grid):
        return "its bytes belong to another key or grid than the index says"
    return None


def is_index_of(base: Table, wanted: Table, headers: dict[str, tuple[Row, ...]]) -> bool:
    """Whether ``base`` has the valid rows, each in a place where it is, and no other record."""
    places = {(row.shard, row.key): row for rows in headers.values() for row in rows}
    for row in base.rows():
        # A removal may have outlived its commit.
        if not row.removed and places.get((row.shard, row.key)) != row:
            return False
    return bool(holds_best(wanted, base).all() and holds_best(base, wanted)[base.live].all())


def same_rows(a: Table, b: Table) -> bool:
    """Whether two tables say the same."""

    def rows(table: Table) -> list[Row]:
        return sorted(table.rows(), key=lambda row: row.key)

    # Equal rows have equal hashes, unless one table lies about them and finds nothing.
    hashes = a.columns["key_hash"], b.columns["key_hash"]
    return rows(a) == rows(b) and np.array_equal(*hashes)
