"""What a store holds at one moment: its index loaded, and looked up by key."""

import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TypeAlias

import numpy as np

from vidcomp.errors import StoreCorruptError, StoreError
from vidcomp.store.disk.format import is_commit
from vidcomp.store.disk.index import Table
from vidcomp.store.disk.merge import merge_tables
from vidcomp.store.disk.shard import read_shard_header, shard_name
from vidcomp.store.disk.types import Order, Row
from vidcomp.store.files import explained, list_names
from vidcomp.store.snapshots import is_snapshot
from vidcomp.store.storage import Storage
from vidcomp.store.threads import threads

__all__ = ["Listing", "Pin", "View", "load_commit", "load_view"]

_TRIES = 5

Pin: TypeAlias = tuple[str | None, tuple[str, ...]]
"""A snapshot and the commits after it: all that a view was made from."""


@dataclass(frozen=True)
class Listing:
    """Names of a store's files at one moment."""

    snapshots: tuple[str, ...]
    """Oldest first."""
    shards: frozenset[str]
    deltas: frozenset[str]
    journals: frozenset[str]
    """Of this machine only, if the store is not local."""
    commits: frozenset[str]
    """Those with a delta, and, if it can be known, those that lost theirs."""

    @classmethod
    def of(cls, storage: Storage) -> "Listing":
        """Read the folders, in the order that the commit protocol asks for."""
        snapshots = filter(is_snapshot, storage.names("index", ".safetensors"))
        shards, deltas = (
            frozenset(filter(is_commit, storage.names(folder, ".safetensors")))
            for folder in ("shards", "deltas")
        )
        journals = frozenset(filter(is_commit, list_names(storage.wal, ".journal")))
        # A shard without a delta may be another machine's, just being committed, unless all
        # journals are here to be seen.
        lost = shards - journals if storage.is_local else frozenset()
        return cls(tuple(snapshots), shards, deltas, journals, deltas | lost)


@dataclass(frozen=True)
class View:
    """Tables of a store: at most one snapshot, and one of all commits after it."""

    tables: tuple[Table, ...]
    snapshot: str | None
    """Name of the snapshot that the first table was read from."""
    commits: frozenset[str]
    """Commits of the last table."""
    damaged: dict[str, str] = field(default_factory=dict)
    """Index files that could not be used, and why; their rows came from elsewhere if possible."""

    @property
    def pin(self) -> Pin:
        """What another process needs to load the same view."""
        return self.snapshot, tuple(sorted(self.commits))

    def place(self, key: str) -> tuple[Table, int] | None:
        """Table and place of the valid record of an escaped key; ``None`` if there is none."""
        found = None
        for table in self._filled:
            i = table.find(key)
            # Of two places of one record the later commit's: the other may be about to be removed.
            if i is not None and (found is None or table.rank(i) >= found[0].rank(found[1])):
                found = table, i
        return None if found is None or found[0].removed(found[1]) else found

    @cached_property
    def _filled(self) -> tuple[Table, ...]:
        return tuple(table for table in self.tables if len(table))

    def row(self, key: str) -> Row | None:
        """The valid row of an escaped key."""
        place = self.place(key)
        return None if place is None else place[0].row(place[1])

    def generation(self, key: str) -> int:
        """The largest generation of an escaped key, removals counted; 0 if it was never there."""
        return max((t.rank(i)[0] for t in self.tables if (i := t.find(key)) is not None), default=0)

    def places(self) -> Iterator[tuple[Table, int]]:
        """All valid records, by hash within each table."""
        for table, valid in zip(self.tables, self.valid, strict=True):
            for i in np.flatnonzero(valid).tolist():
                yield table, i

    @cached_property
    def ordered(self) -> Order:
        """All valid records, sorted by key."""
        rows = [np.flatnonzero(valid) for valid in self.valid]
        keys = [k for t, r in zip(self.tables, rows, strict=True) for k in t.texts(r)]
        order = np.array(sorted(range(len(keys)), key=keys.__getitem__), np.int64)
        tables = np.repeat(np.arange(len(rows)), [len(r) for r in rows])
        every = np.concatenate(rows) if rows else np.zeros(0, np.int64)
        return Order([keys[i] for i in order.tolist()], tables[order], every[order])

    def __len__(self) -> int:
        return sum(int(valid.sum()) for valid in self.valid)

    @cached_property
    def valid(self) -> list[np.ndarray[tuple[int], np.dtype[np.bool_]]]:
        """For each table, which rows are valid records."""
        valid = [table.live.copy() for table in self.tables]
        if len(self.tables) == 2:
            base, after = self.tables
            hashes, known = after.columns["key_hash"], base.columns["key_hash"]
            nearest = np.searchsorted(known, hashes).clip(max=max(len(known) - 1, 0))
            shared = known[nearest] == hashes if len(known) else np.zeros(len(hashes), bool)
            for i in np.flatnonzero(shared).tolist():
                j = base.find(after.key(i))
                if j is not None:  # equal hashes alone are no equal keys
                    newer = after.rank(i) >= base.rank(j)
                    valid[0][j] &= not newer
                    valid[1][i] &= newer
        return valid


def load_view(storage: Storage, store: str, pin: Pin | None = None) -> View:
    """The index of a store.

    Args:
        storage: where its files lie.
        store: its id; index files of another store are damaged ones.
        pin: load exactly this; by default all that is committed now.

    Raises:
        StoreError: files vanish faster than they can be read, or cannot be read at all.
    """
    for attempt in range(1 if pin else _TRIES):
        with explained(f"read the index of {storage.path}"), suppress(FileNotFoundError):
            return _load(storage, store, pin)
        time.sleep(0.05 * attempt)  # a compaction is at work
    raise StoreError(
        f"index files of {storage.path} vanished while they were read: open it again"
        + (", the pinned state is gone" if pin else "")
    )


def load_commit(storage: Storage, name: str, store: str, damaged: dict[str, str]) -> Table:
    """The rows of one commit, from its delta or else from its shard's header.

    Args:
        storage: where the store's files lie.
        name: of the commit.
        store: the store's id.
        damaged: takes up what could not be read, and why.

    Returns:
        Its table; empty if neither can be read.

    Raises:
        FileNotFoundError: both are gone.
    """
    what = f"delta {name}"
    try:
        table = Table.read(storage.read(f"deltas/{name}.safetensors"), what)
        if table.covers != (name,) or table.store != store:
            raise StoreCorruptError(f"{what} belongs to {table.covers}: it was renamed, restore it")
        return table
    except FileNotFoundError:
        damaged[what] = f"{what} is lost: run repair, its shard has the same rows"
    except StoreCorruptError as error:
        damaged[what] = str(error)
    try:
        found = read_shard_header(storage.open(shard_name(name)), name)
        if found.store.get("id") != store:
            raise StoreCorruptError(f"shard {name} belongs to another store: remove it")
        return Table.of_rows(store, [name], found.rows)
    except StoreCorruptError as error:
        damaged[f"shard {name}"] = str(error)
    except FileNotFoundError:
        if not storage.exists(f"deltas/{name}.safetensors"):
            raise
        damaged[f"shard {name}"] = f"shard {name} is lost, and its delta is damaged"
    return Table.of_rows(store, [name], [])


def _load(storage: Storage, store: str, pin: Pin | None) -> View:
    damaged: dict[str, str] = {}
    listing = None if pin else Listing.of(storage)
    names = listing.snapshots if listing else () if pin is None or pin[0] is None else (pin[0],)
    base, base_name = _newest_snapshot(storage, store, names, damaged)
    if pin is not None and pin[0] != base_name:
        raise FileNotFoundError(f"snapshot {pin[0]}")
    wanted = frozenset(pin[1]) if pin else listing.commits if listing else frozenset()
    commits = wanted - frozenset(base.covers if base else ())
    load = partial(load_commit, storage, store=store, damaged=damaged)
    at_once = threads().map if storage.concurrency > 1 else map  # over a network, it is the waiting
    tables = list(at_once(load, sorted(commits)))
    after = merge_tables(store, sorted(commits), tables)
    return View((base, after) if base else (after,), base_name, commits, damaged)


def _newest_snapshot(
    storage: Storage, store: str, names: tuple[str, ...], damaged: dict[str, str]
) -> tuple[Table | None, str | None]:
    for name in reversed(names):
        what = f"snapshot {name}"
        try:
            table = Table.read(storage.read(f"index/{name}.safetensors"), what)
            if table.store == store:
                return table, name
            damaged[what] = f"{what} belongs to another store: remove it"
        except StoreCorruptError as error:
            damaged[what] = str(error)
    return None, None
