"""Commits that others took the place of: retired by a snapshot, removed when nobody holds them."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from vidcomp.errors import StoreError
from vidcomp.store.commit import delta_name
from vidcomp.store.disk.format import is_commit
from vidcomp.store.disk.shard import shard_name
from vidcomp.store.snapshots import Retired, is_snapshot, publish_index
from vidcomp.store.storage import Storage
from vidcomp.store.upkeep.census import Census, holds_best

__all__ = ["Removed", "remove_due", "retire", "waiting"]

_TRIES = 20
_REMOVALS_REST_S = 3600.0
"""A removal that is not copied stays that long, whatever the grace period: another compaction may
just be copying what was removed."""


@dataclass
class Removed:
    """Files that are gone."""

    names: list[str] = field(default_factory=list)
    commits: set[str] = field(default_factory=set)
    nbytes: int = 0


def retire(
    storage: Storage, census: Census, victims: Iterable[str], now: float, *, force: bool = False
) -> Census:
    """Publish a snapshot that covers all commits, has no row in ``victims``, and says so of them.

    A victim that holds the only place of a valid row is left out, whatever the plan was: its
    record may be damaged, or another compaction retired the copy.

    Args:
        storage: where the store's files lie.
        census: of the store after all was copied.
        victims: commits to retire.
        now: seconds since 1970, kept for ``remove_due``.
        force: publish one in any case, as the one that is there is wrong, or as the victims are
            damaged: what is retired comes back before they are kept.

    Returns:
        The census with the snapshot that is valid now.

    Raises:
        StoreError, OSError: it cannot be written.
    """
    wanted = frozenset(victims)
    for _ in range(_TRIES):
        resting = _resting(storage, census, wanted, broken=force)
        retired = _still_there(census, resting, wanted, int(now))
        if not force and not _is_news(census, retired):
            return census
        places = sorted(census.tables, key=lambda n: (n not in resting, n in census.kept, n))
        table = census.merged(places, sorted(census.tables))
        made = publish_index(storage, census.number, table, retired)
        census = Census.take(storage, census.store, census.tables)
        if made is not None:
            return census
    raise StoreError(
        f"other processes keep publishing snapshots of {storage.path}: run it again when they are "
        f"done"
    )


def remove_due(
    storage: Storage, census: Census, grace_s: float, now: float, *, dry_run: bool = False
) -> Removed:
    """Remove what has been retired for so long that no reader holds it.

    Args:
        storage: where the store's files lie.
        census: of the store.
        grace_s: seconds.
        now: seconds since 1970.
        dry_run: only say what would be removed.

    Raises:
        OSError: a file cannot be removed.
    """
    out = Removed()
    if census.snapshot is None or census.snapshot != max(census.listing.snapshots):
        return out  # the newest snapshot is damaged, so that older ones may be needed: for repair
    due = {name for name, when in census.retired.items() if now - when >= grace_s}
    commits = {name for name in due if is_commit(name)}
    rest = census.tables.keys() - commits
    commits -= _needed(storage, census, frozenset(rest) & census.listing.shards, commits)
    fresh = {n for n in commits if now - census.retired[n] < _REMOVALS_REST_S}
    commits -= _with_removals(census, fresh, rest)
    snapshots = {n for n in due if is_snapshot(n) and n < census.snapshot}
    # In this order a reader that finds any of it still finds what stands for it.
    for folder, names in (
        ("index", [f"index/{name}.safetensors" for name in sorted(snapshots)]),
        ("deltas", [delta_name(name) for name in sorted(commits & census.listing.deltas)]),
        ("shards", [shard_name(name) for name in sorted(commits & census.listing.shards)]),
    ):
        for name in names:
            out.nbytes += _size(storage, name)
            if not dry_run:
                storage.remove(name)
        if names and not dry_run:
            storage.barrier(folder)
        out.names += names
    out.commits = commits
    return out


def waiting(storage: Storage, retired: Iterable[str]) -> int:
    """Bytes of the shards that are retired and still there."""
    return sum(_size(storage, shard_name(name)) for name in retired if is_commit(name))


def _resting(
    storage: Storage, census: Census, wanted: frozenset[str], *, broken: bool
) -> frozenset[str]:
    """Commits, old and new, that nothing is lost with."""
    victims = wanted & census.tables.keys()
    old = (census.retired.keys() & census.tables.keys()) - victims
    kept = census.kept - victims
    # A retired commit may be removed at any moment, so it comes back only if nothing else helps.
    first, second = (old, victims) if broken else (victims, old)
    back = _needed(storage, census, kept, first)
    back |= _needed(storage, census, kept | back, second)
    return frozenset((victims | old) - back)


def _needed(
    storage: Storage, census: Census, kept: Iterable[str], others: Iterable[str]
) -> set[str]:
    """Which of the ``others`` hold a valid row that no kept commit has, and that is needed."""
    hashes = _missing(census, kept, census.older(storage))
    found = set()
    for name in set(others) & census.tables.keys():
        table = census.tables[name]
        if np.isin(table.columns["key_hash"][census.held(name)], hashes).any():
            found.add(name)
    return found


def _missing(
    census: Census, kept: Iterable[str], older: npt.NDArray[np.uint64]
) -> npt.NDArray[np.uint64]:
    """Hashes of keys whose valid row is in no kept commit: records, and removals of older rows."""
    best = census.best
    missing = ~holds_best(best, census.merged(sorted(kept)))
    hashes: npt.NDArray[np.uint64] = best.columns["key_hash"]
    return hashes[missing & (best.live | np.isin(hashes, older))]


def _with_removals(census: Census, names: set[str], rest: Iterable[str]) -> set[str]:
    """Which commits hold valid removals that none of the ``rest`` has."""
    there = names & census.tables.keys()
    if not there:
        return set()
    others, found = census.merged(sorted(rest)), set()
    for name in there:
        removals = census.held(name) & ~census.tables[name].live
        if (removals & ~holds_best(census.tables[name], others)).any():
            found.add(name)
    return found


def _still_there(
    census: Census, resting: Iterable[str], wanted: frozenset[str], now: int
) -> Retired:
    """What is retired after this: files that are gone are forgotten, older snapshots join."""
    retired = {n: now if n in wanted else census.retired.get(n, now) for n in resting}
    # Halves of commits that were being removed have no table.
    halves = census.present - census.tables.keys()
    retired |= {n: when for n, when in census.retired.items() if n in halves}
    for name in filter(is_snapshot, census.listing.snapshots):
        retired[name] = census.retired.get(name, now)
    return retired


def _is_news(census: Census, retired: Retired) -> bool:
    """Whether a new snapshot would say more than the one there is."""
    back = (census.retired.keys() & census.tables.keys()) - retired.keys()
    more = retired.keys() - census.retired.keys() - {census.snapshot}
    return bool(back or more or census.tables.keys() - census.covers)


def _size(storage: Storage, name: str) -> int:
    try:
        return storage.size(name)
    except FileNotFoundError:
        return 0
