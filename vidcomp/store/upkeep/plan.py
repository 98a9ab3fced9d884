"""Which shards a compaction rewrites, and which of their rows it copies."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from vidcomp.errors import StoreCorruptError
from vidcomp.store.disk.index import Table
from vidcomp.store.storage import Storage
from vidcomp.store.upkeep.census import Census, shard_sizes
from vidcomp.store.upkeep.copying import MOST_HEADER_BYTES

__all__ = ["Plan", "plan_compaction"]

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Plan:
    """Commits to be replaced, and what of them is copied."""

    victims: frozenset[str]
    table: Table
    """The valid rows of the store, in places that need as little copying as possible."""
    rows: Rows
    """Those to copy: records in the order of the shards, then removals."""
    num_live: int
    """Records among them."""
    bytes_live: int
    bytes_replaced: int
    """Bytes of data in the victims' shards."""


class _Use(NamedTuple):
    """How much of a commit is needed."""

    header: int
    """Bytes of its shard's header."""
    data: int
    """Bytes after it."""
    live: int
    """Bytes of valid records."""
    num_removals: int
    """Removals that may be needed."""


def plan_compaction(storage: Storage, census: Census, min_live: float, seal_bytes: int) -> Plan:
    """What to rewrite.

    Args:
        storage: where the store's files lie.
        census: all that its commits say.
        min_live: least share of valid bytes of a shard that stays.
        seal_bytes: size of full shards; those less than half of it are gathered.

    Raises:
        OSError: a shard cannot be read.
    """
    older = census.older(storage)
    sizes = _sizes(storage, census.kept)
    table = census.merged(_by_worth(census, sizes))
    live = _live_bytes(table)
    removals = {name: _removals(census, name, older) for name in census.tables}
    uses = {
        name: _Use(*size, live.get(name, 0), len(removals[name])) for name, size in sizes.items()
    }
    # What was retired, and is needed all the same (its copy was lost), is copied once more.
    forced = {n for n in census.tables.keys() - census.kept if n in census.listing.shards}
    forced = {n for n in forced if live.get(n, 0)}
    victims = frozenset(_chosen(uses, min_live, seal_bytes) | forced)
    rows, num_live = _rows(table, victims, census.kept - victims, removals)
    return Plan(
        victims,
        table,
        rows,
        num_live,
        int(table.columns["nbytes"][rows[:num_live]].sum()),
        sum(sizes[name][1] for name in victims if name in sizes),
    )


def _sizes(storage: Storage, names: Iterable[str]) -> dict[str, tuple[int, int]]:
    """Bytes of header and data of each shard whose length can be read."""

    def size(name: str) -> tuple[int, int]:
        try:
            return shard_sizes(storage, name)
        except StoreCorruptError:
            return -1, -1

    ordered = sorted(names)
    with ThreadPoolExecutor(storage.concurrency) as pool:
        found = dict(zip(ordered, pool.map(size, ordered), strict=True))
    return {name: both for name, both in found.items() if both[1] >= 0}


def _by_worth(census: Census, sizes: dict[str, tuple[int, int]]) -> list[str]:
    """Commits in rising order of preference as the place of a record that lies in several."""

    def worth(name: str) -> tuple[bool, float, str]:
        held = census.held(name) & census.tables[name].live
        nbytes = int(census.tables[name].columns["nbytes"][held].sum())
        return name in sizes, nbytes / max(sizes.get(name, (0, 0))[1], 1), name

    return sorted(census.tables, key=worth)


def _live_bytes(table: Table) -> dict[str, int]:
    live = table.live
    places = table.columns["shard"][live]
    counts = np.zeros(len(table.shards), np.int64)
    np.add.at(counts, places, table.columns["nbytes"][live])
    return dict(zip(table.shards, counts.tolist(), strict=True))


def _removals(census: Census, name: str, older: npt.NDArray[np.uint64]) -> set[int]:
    """Hashes of the keys whose removal, here, may still be needed."""
    table = census.tables[name]
    hashes = table.columns["key_hash"][census.held(name) & ~table.live]
    return set(hashes[np.isin(hashes, older)].tolist())


def _chosen(uses: dict[str, _Use], min_live: float, seal_bytes: int) -> set[str]:
    wasteful = {
        name
        for name, use in uses.items()
        if (use.data and use.live < min_live * use.data) or not (use.live or use.num_removals)
    }
    small = {
        name
        for name, use in uses.items()
        if use.data < seal_bytes / 2 and use.header < MOST_HEADER_BYTES / 2
    } - wasteful
    needed = [uses[n] for n in wasteful | small if uses[n].live or uses[n].num_removals]
    by_data = -(-sum(use.live for use in needed) // seal_bytes)
    by_header = -(-sum(use.header for use in needed) // MOST_HEADER_BYTES)
    num_made = max(by_data, by_header, min(1, len(needed)))
    # Small ones are gathered if that makes them fewer; else it would go on for ever.
    return wasteful | small if num_made < len(needed) else wasteful


def _rows(
    table: Table, victims: frozenset[str], others: frozenset[str], removals: dict[str, set[int]]
) -> tuple[Rows, int]:
    """Rows to copy, as they are in none of the ``others``, and how many of them are records."""
    columns = table.columns
    chosen = np.array([name in victims for name in table.shards] or [False])
    lookup = np.where(table.live, columns["shard"], 0)
    records = np.flatnonzero(table.live & chosen[lookup])
    records = records[np.lexsort((columns["offset"][records], columns["shard"][records]))]
    wanted = {h for name in victims for h in removals[name]}
    wanted -= {h for name in others for h in removals[name]}
    hashes = np.array(sorted(wanted), np.uint64)
    gone = np.flatnonzero(~table.live & np.isin(columns["key_hash"], hashes))
    return np.concatenate([records, gone]).astype(np.int64), len(records)
