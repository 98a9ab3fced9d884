"""What is wrong with the commits of a store, and what of it can be put right."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from vidcomp.errors import StoreCorruptError
from vidcomp.store.disk.format import unescape
from vidcomp.store.disk.index import Table
from vidcomp.store.disk.merge import merge_tables
from vidcomp.store.disk.types import Row
from vidcomp.store.manifest import Manifest
from vidcomp.store.snapshots import Retired, read_snapshot
from vidcomp.store.storage import Storage
from vidcomp.store.upkeep.census import holds_best
from vidcomp.store.upkeep.copying import Copy, Progress, read_copies
from vidcomp.store.upkeep.examine import Commit, examine, is_index_of, meta_problem
from vidcomp.store.view import Listing

__all__ = ["Findings", "inspect"]

_TELL = 8 << 20
"""Bytes between two calls of the progress."""


@dataclass
class Findings:
    """What has to be done."""

    problems: list[str] = field(default_factory=list)
    """What is done about each thing that is wrong, one sentence each."""
    left: list[str] = field(default_factory=list)
    """What is not touched, and why."""
    deltas: dict[str, tuple[Row, ...]] = field(default_factory=dict)
    """Deltas to write again, with their rows."""
    broken: set[str] = field(default_factory=set)
    """Commits whose shard is damaged or lost."""
    rescued: list[Row] = field(default_factory=list)
    """Whole records of broken commits, in the order of their shards."""
    reborn: list[Row] = field(default_factory=list)
    """Whole copies of records that are damaged in a sound commit."""
    removals: list[Row] = field(default_factory=list)
    """Removals that only broken commits hold."""
    bad: list[tuple[Row, str]] = field(default_factory=list)
    """Records that cannot be read anywhere, and why."""
    snapshots: list[str] = field(default_factory=list)
    """Snapshots that are damaged, or say other things than the commits."""
    num_whole: int = 0
    """Valid records that can be read."""


def inspect(
    storage: Storage,
    manifest: Manifest,
    progress: Progress | None = None,
    *,
    commit_uploads: bool = False,
) -> Findings:
    """Look at all commits and all valid records.

    Args:
        storage: where the store's files lie.
        manifest: what it holds.
        progress: called with the bytes of records that were checked, and of all of them.
        commit_uploads: on an object store, take shards without a delta for ones that lost it.

    Raises:
        FileNotFoundError: a file was removed meanwhile: begin again.
        OSError: one cannot be read.
    """
    out = Findings()
    listing = Listing.of(storage)
    indexed, retired, newest = _snapshots(storage, manifest, listing, out)
    commits = _commits(storage, manifest, listing, indexed, out, commit_uploads)
    tables = {
        name: Table.of_rows(manifest.id, [name], commit.rows or ())
        for name, commit in commits.items()
    }
    sound = [name for name, commit in commits.items() if commit.is_sound]
    order = sorted(tables, key=lambda name: (name in sound, name not in retired, name))
    best = merge_tables(manifest.id, sorted(tables), [tables[name] for name in order])
    _check_index(out, indexed, newest, best, commits, retired)
    _check_records(storage, out, best, tables, listing, progress)
    kept = merge_tables(manifest.id, [], [tables[name] for name in sound])
    gone = ~holds_best(best, kept) & ~best.live
    out.removals += [best.row(i) for i in gone.nonzero()[0].tolist()]
    return out


def _snapshots(
    storage: Storage, manifest: Manifest, listing: Listing, out: Findings
) -> tuple[Table | None, Retired, str | None]:
    """The newest whole snapshot, what it says is retired, and its name."""
    best: tuple[Table | None, Retired, str | None] = None, {}, None
    for name in listing.snapshots:
        try:
            table, retired = read_snapshot(storage, name, manifest.id)
            best = table, retired, name
        except StoreCorruptError as error:
            out.snapshots.append(name)
            out.problems.append(f"set aside snapshot {name} ({error})")
    return best


def _commits(
    storage: Storage,
    manifest: Manifest,
    listing: Listing,
    indexed: Table | None,
    out: Findings,
    commit_uploads: bool,
) -> dict[str, Commit]:
    commits = {}
    covered = frozenset(indexed.covers if indexed else ())
    for name in sorted((listing.shards | listing.deltas) - listing.journals):
        if name not in listing.commits and name not in covered and not commit_uploads:
            out.left.append(
                f"shard {name} has no delta, as if it were just being written: when no writer is "
                f"left, run repair with force_recover"
            )
            continue
        commits[name] = commit = examine(storage, manifest.id, name, indexed)
        if not commit.is_sound:
            out.broken.add(name)
            kind = "shard" if name in listing.shards else "delta"
            out.problems.append(f"set aside {kind} {name} ({commit.why})")
            if commit.rows is None and "another store" not in commit.why:
                out.problems.append(
                    f"gave up the records of shard {name}: nothing says any more which they were"
                )
        elif commit.delta != "right":
            out.deltas[name] = commit.rows or ()
            out.problems.append(f"wrote delta {name} again: it was {commit.delta}")
    return commits


def _check_index(
    out: Findings,
    indexed: Table | None,
    newest: str | None,
    best: Table,
    commits: dict[str, Commit],
    retired: Retired,
) -> None:
    """What only the newest snapshot still knows, and whether it agrees with the commits."""
    if indexed is None or newest is None:
        return
    num_lost = 0
    for i in (~holds_best(indexed, best)).nonzero()[0].tolist():
        j = best.find(indexed.key(i))
        if j is not None and best.rank(j) > indexed.rank(i):
            continue
        if not indexed.removed(i):
            _give_up(out, indexed.row(i), "its shard and delta are lost")
            num_lost += 1
        elif j is not None and not best.removed(j):
            out.removals.append(indexed.row(i))
            num_lost += 1
    covered = [name for name in indexed.covers if name in commits]
    rows = {name: commits[name].rows or () for name in covered}
    order = sorted(covered, key=lambda name: (name not in retired, name))
    tables = [Table.of_rows(indexed.store, [name], rows[name]) for name in order]
    wanted = merge_tables(indexed.store, indexed.covers, tables)
    if num_lost or not (out.broken or is_index_of(indexed, wanted, rows)):
        out.snapshots.append(newest)
        out.problems.append(f"set aside snapshot {newest} (it says other things than the shards)")


def _give_up(out: Findings, row: Row, why: str) -> None:
    why = f"{why} (shard {row.shard})"
    out.problems.append(f"gave up record {unescape(row.key)!r}: {why}")
    out.bad.append((row, why))


def _check_records(
    storage: Storage,
    out: Findings,
    best: Table,
    tables: dict[str, Table],
    listing: Listing,
    progress: Progress | None,
) -> None:
    rows = [best.row(i) for i in best.live.nonzero()[0].tolist()]
    rows.sort(key=lambda row: (row.shard, row.offset))
    for row in rows:
        if row.shard not in listing.shards:
            _lose(storage, out, row, "its shard is lost", tables, listing)
    there = [row for row in rows if row.shard in listing.shards]
    for row, problem in _checked(storage, there, progress):
        if problem is not None:
            _lose(storage, out, row, problem, tables, listing)
            continue
        out.num_whole += 1
        if row.shard in out.broken:
            out.rescued.append(row)


def _checked(
    storage: Storage, rows: list[Row], progress: Progress | None = None
) -> Iterable[tuple[Row, str | None]]:
    """Rows, and what is wrong with their records."""
    total, done, told = sum(row.nbytes for row in rows), 0, 0
    ends: dict[str, int] = {}
    for copy, data in read_copies([Copy(storage, row, row.rank) for row in rows]):
        row = copy.row
        problem = data if isinstance(data, str) else meta_problem(row, data or memoryview(b""))
        if problem is None and row.offset < ends.get(row.shard, 0):
            problem = "its bytes overlap with those of another record"
        ends[row.shard] = max(ends.get(row.shard, 0), row.offset + row.nbytes)
        yield row, problem
        done += row.nbytes
        if progress is not None and done - told >= _TELL:
            progress(told := done, total)
    if progress is not None:
        progress(total, total)


def _lose(
    storage: Storage,
    out: Findings,
    row: Row,
    problem: str,
    tables: dict[str, Table],
    listing: Listing,
) -> None:
    """Look for the same record elsewhere, as interrupted compactions leave some; else it is bad."""
    others = []
    for name in tables.keys() & listing.shards - {row.shard}:
        table = tables[name]
        i = table.find(row.key)
        if i is not None and not table.removed(i) and table.rank(i) == row.rank:
            others.append(table.row(i))
    for other, wrong in _checked(storage, sorted(others, key=lambda row: row.shard)):
        if wrong is None:
            out.problems.append(f"took another copy of record {unescape(row.key)!r} ({problem})")
            out.reborn.append(other)
            out.num_whole += 1
            return
    _give_up(out, row, problem)
