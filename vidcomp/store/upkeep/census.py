"""All that the commits of a store say, those that are replaced or retired included.

A view is enough to read a store; what to copy, and what may go, needs every commit by itself.
Commits never change, so a second census reads only what is new.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from vidcomp.errors import StoreCorruptError, StoreError
from vidcomp.store import journal
from vidcomp.store.commit import journal_path
from vidcomp.store.disk.format import digest
from vidcomp.store.disk.header import header_length
from vidcomp.store.disk.index import Table
from vidcomp.store.disk.merge import gather, merge_tables
from vidcomp.store.disk.shard import shard_name
from vidcomp.store.disk.types import Row
from vidcomp.store.files import explained
from vidcomp.store.snapshots import Retired, is_snapshot, next_number, read_snapshot
from vidcomp.store.storage import Storage
from vidcomp.store.view import Listing, load_commit

__all__ = ["Census", "holds_best", "shard_sizes"]

Mask = npt.NDArray[np.bool_]

_TRIES = 5


@dataclass(frozen=True)
class Census:
    """The commits of a store at one moment, each with its own table."""

    store: str
    """Id of the store."""
    listing: Listing
    tables: dict[str, Table]
    """Of all commits that are there, retired ones included."""
    retired: Retired
    """Commits and snapshots that were replaced, and when."""
    snapshot: str | None
    """The newest whole one."""
    covers: frozenset[str]
    """Commits that it covers."""
    number: int
    """Of the next snapshot."""
    damaged: dict[str, str] = field(default_factory=dict)
    """Index files that could not be used, and why."""
    unreadable: frozenset[str] = frozenset()
    """Commits of which nothing can be read but what a snapshot may say."""
    taken_s: float = field(default_factory=time.monotonic)

    @classmethod
    def take(
        cls, storage: Storage, store: str, known: Mapping[str, Table] | None = None
    ) -> "Census":
        """Read what ``known`` does not have yet.

        Raises:
            StoreError: files vanish faster than they can be read, or cannot be read at all.
        """
        for attempt in range(_TRIES):
            try:
                with explained(f"read the index of {storage.path}"):
                    return cls._take(storage, store, known or {})
            except StoreError as error:
                if not isinstance(error.__cause__, FileNotFoundError):
                    raise
            time.sleep(0.05 * attempt)  # another compaction removes what it retired
        raise StoreError(f"index files of {storage.path} vanish while they are read: run it again")

    @classmethod
    def _take(cls, storage: Storage, store: str, known: Mapping[str, Table]) -> "Census":
        listing = Listing.of(storage)
        damaged: dict[str, str] = {}
        base: tuple[Table, Retired] | None = None
        snapshot = None
        for snapshot in reversed(listing.snapshots):
            try:
                base = read_snapshot(storage, snapshot, store)
                break
            except StoreCorruptError as error:
                damaged[f"snapshot {snapshot}"] = str(error)
        new = sorted(listing.commits - known.keys())

        def load(name: str) -> tuple[Table, dict[str, str]]:
            notes: dict[str, str] = {}
            return load_commit(storage, name, store, notes), notes

        with ThreadPoolExecutor(storage.concurrency) as pool:
            loaded = dict(zip(new, pool.map(load, new), strict=True))
        notes = {what: why for _, found in loaded.values() for what, why in found.items()}
        tables = {n: t for n, t in known.items() if n in listing.commits}
        return cls(
            store,
            listing,
            tables | {name: table for name, (table, _) in loaded.items()},
            base[1] if base else {},
            snapshot if base else None,
            frozenset(base[0].covers) if base else frozenset(),
            next_number(listing.snapshots),
            damaged | notes,
            frozenset(name for name in new if f"shard {name}" in notes),
        )

    @property
    def present(self) -> frozenset[str]:
        """Commits of which any file is there; those being committed left out."""
        return (self.listing.shards - self.listing.journals) | self.listing.deltas

    @property
    def kept(self) -> frozenset[str]:
        """Commits that are not retired and have their shard."""
        return frozenset(self.tables.keys() - self.retired.keys()) & self.listing.shards

    def merged(self, names: Iterable[str], covers: Sequence[str] = ()) -> Table:
        """The valid rows of some commits; of two places of a row that in the later name stays."""
        return merge_tables(self.store, covers, [self.tables[name] for name in names])

    @cached_property
    def best(self) -> Table:
        """The valid rows of all commits."""
        return self.merged(sorted(self.tables))

    def held(self, name: str) -> Mask:
        """Which rows of a commit are the valid ones of their keys (or equal ones)."""
        return holds_best(self.tables[name], self.best)

    def older(self, storage: Storage) -> npt.NDArray[np.uint64]:
        """Hashes of keys that have, anywhere, a row older than the valid one.

        Rows in journals count: they are committed some day.
        """
        parts = [t.columns["key_hash"][~holds_best(t, self.best)] for t in self.tables.values()]
        keys = [row.key for row in _journal_rows(storage, self.listing)]
        parts.append(np.array([digest(key.encode()) for key in keys], np.uint64))
        return np.unique(np.concatenate(parts).astype(np.uint64))

    def snapshots_before(self, name: str) -> list[str]:
        """Snapshots that ``name`` takes the place of."""
        return [n for n in self.listing.snapshots if is_snapshot(n) and n < name]


def holds_best(table: Table, best: Table) -> Mask:
    """Which rows of a table have the key and rank of a row of ``best``."""
    mine, theirs = table.columns, best.columns
    if not len(table) or not len(best):
        return np.zeros(len(table), bool)
    places = np.searchsorted(theirs["key_hash"], mine["key_hash"])
    places = np.minimum(places, len(best) - 1)
    numbers = {name: i for i, name in enumerate(best.writers)}
    lookup = np.array([numbers.get(name, -1) for name in table.writers], np.int64)
    same = (theirs["key_hash"][places] == mine["key_hash"]) & (
        theirs["generation"][places] == mine["generation"]
    )
    same &= theirs["writer"][places] == lookup[mine["writer"]]
    hashes = theirs["key_hash"]
    shared = np.isin(mine["key_hash"], hashes[1:][hashes[1:] == hashes[:-1]])
    rows = np.flatnonzero(same & ~shared)
    texts, others = (
        gather(t.columns["keys"], t.columns["key_end"], at)[0]
        for t, at in ((table, rows), (best, places[rows]))
    )
    # Equal hashes alone are no equal keys.
    doubtful = shared if np.array_equal(texts, others) else np.ones(len(table), bool)
    for i in np.flatnonzero(doubtful).tolist():
        j = best.find(table.key(i))
        same[i] = j is not None and best.rank(j) == table.rank(i)
    out: Mask = same
    return out


def shard_sizes(storage: Storage, name: str) -> tuple[int, int]:
    """Bytes of a shard's header, and of its data.

    Raises:
        OSError: it cannot be read.
        StoreCorruptError: its first bytes are no length.
    """
    file = storage.open(shard_name(name))
    what = f"shard {name}"
    length = header_length(bytes(file.read(0, min(8, file.size), what)), file.size, what)
    return length, file.size - length


def _journal_rows(storage: Storage, listing: Listing) -> list[Row]:
    found: list[Row] = []
    for name in sorted(listing.journals):
        try:
            found += journal.read(journal_path(storage.wal, name)).rows
        except (OSError, StoreCorruptError):
            continue  # committed meanwhile, or for repair
    return found
