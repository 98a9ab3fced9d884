"""Compaction: records that are still valid move together, the room of the others becomes free.

What is rewritten is not removed at once: readers may hold it.  It is retired, by the snapshot that
takes its place, and removed by a later compaction when the grace period is over.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, time

from vidcomp.errors import ConfigError, StoreCorruptError, StoreError
from vidcomp.store.disk.format import unescape
from vidcomp.store.disk.types import Row
from vidcomp.store.files import explained
from vidcomp.store.manifest import Manifest, read_manifest
from vidcomp.store.recover import recover
from vidcomp.store.storage import Storage, open_storage
from vidcomp.store.upkeep.census import Census
from vidcomp.store.upkeep.copying import Copier, Copy, Progress
from vidcomp.store.upkeep.plan import Plan, plan_compaction
from vidcomp.store.upkeep.retire import remove_due, retire, waiting

__all__ = ["CompactReport", "compact"]

_TRIES = 5
_STALE_S = 300.0
"""A plan of this age is looked at again before a commit that follows it."""


@dataclass(kw_only=True)
class CompactReport:
    """What a compaction did, or would do."""

    path: str
    dry_run: bool = False
    num_shards: int = 0
    """Shards before it, those that only wait for their removal left out."""
    num_records: int = 0
    """Valid records before and after it."""
    rewritten: list[str] = field(default_factory=list)
    """Commits that were replaced; their files stay until the grace period is over."""
    made: list[str] = field(default_factory=list)
    """Commits that took their place."""
    num_copied: int = 0
    bytes_copied: int = 0
    bytes_replaced: int = 0
    """Size of the shards that were replaced."""
    removed: list[str] = field(default_factory=list)
    """Files of earlier compactions that were removed."""
    bytes_freed: int = 0
    bytes_waiting: int = 0
    """Size of the shards that are removed when the grace period is over."""
    bad: dict[str, str] = field(default_factory=dict)
    """Keys of damaged records, which were left where they are, and why: run repair."""


def compact(
    path: str | Path | Storage,
    *,
    min_live: float = 0.5,
    grace_s: float = 86_400.0,
    seal_bytes: int = 256 << 20,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> CompactReport:
    """Rewrite shards that hold little of use, gather small ones, remove what earlier runs replaced.

    Writers and readers may work meanwhile, and other compactions too.  It may be stopped at any
    moment: no record is lost, and the next run goes on.  It needs room for the copies until the
    shards they came from are removed.

    Args:
        path: the store's folder, URL or storage.
        min_live: shards are rewritten if a smaller share of their bytes is valid records.
        grace_s: how long replaced files stay for readers that opened the store before, in seconds;
            0 if there are none.
        seal_bytes: size of the shards that are made.
        dry_run: change nothing, only say what would be done.
        progress: called with the bytes copied and those to copy.

    Raises:
        ConfigError: numbers that cannot be.
        StoreMissError: there is no store.
        StoreCorruptError: its index is damaged: run repair first.
        StoreError: the disk is full or cannot be read; nothing is lost.
    """
    if not 0 <= min_live <= 1 or grace_s < 0 or seal_bytes < 1:
        raise ConfigError(
            f"min_live must be within 0 and 1, grace_s at least 0 and seal_bytes at least 1, got "
            f"{min_live}, {grace_s} and {seal_bytes}"
        )
    storage = open_storage(path)
    manifest = read_manifest(storage)
    report = CompactReport(path=str(storage.path), dry_run=dry_run)
    if not dry_run:
        with explained(f"compact {storage.path}"):
            storage.prepare()  # empty folders get lost when a store is copied
        recover(storage)
    run = _Run(storage, manifest, report, min_live, seal_bytes, progress)
    with explained(f"compact {storage.path}"):
        census, plan = run.copy()
        if dry_run:
            gone = remove_due(storage, census, grace_s, time(), dry_run=True)
            report.removed, report.bytes_freed = gone.names, gone.nbytes
            report.bytes_waiting = waiting(storage, census.retired) - gone.nbytes
            return report
        census = retire(storage, census, plan.victims, time())
        gone = remove_due(storage, census, grace_s, time())
        report.removed, report.bytes_freed = gone.names, gone.nbytes
        left = {n: t for n, t in census.retired.items() if n not in gone.commits}
        report.rewritten = sorted(plan.victims & census.retired.keys())
        report.bytes_waiting = waiting(storage, left)
    return report


class _Run:
    """Plans, and copies what the plan says."""

    def __init__(
        self,
        storage: Storage,
        manifest: Manifest,
        report: CompactReport,
        min_live: float,
        seal_bytes: int,
        progress: Progress | None,
    ) -> None:
        self._storage, self._manifest, self._report = storage, manifest, report
        self._limits = (min_live, seal_bytes)
        self._progress = progress
        self._census = self._count(None)
        report.num_shards = len(self._census.kept)
        report.num_records = int(self._census.best.live.sum())

    def copy(self) -> tuple[Census, Plan]:
        """Plan and copy, all over again if files vanish meanwhile; the census after it."""
        for _ in range(_TRIES):
            try:
                plan = plan_compaction(self._storage, self._census, *self._limits)
                self._follow(plan)
                return self._count(self._census), plan
            except FileNotFoundError:  # another compaction was quicker
                self._census = self._count(self._census)
        raise StoreError(f"shards of {self._storage.path} vanish while they are read: run it again")

    def _follow(self, plan: Plan) -> None:
        report = self._report
        report.bytes_replaced, report.rewritten = plan.bytes_replaced, sorted(plan.victims)
        if report.dry_run:
            report.num_copied, report.bytes_copied = plan.num_live, plan.bytes_live
        else:
            self._copy(plan)

    def _copy(self, plan: Plan) -> None:
        copier = Copier(
            self._storage,
            self._manifest,
            seal_bytes=self._limits[1],
            progress=self._progress,
            total=plan.bytes_live,
        )
        try:
            copier.write(_copies(self._storage, plan), self._drop_stale)
        finally:
            report = self._report
            report.made += copier.made
            report.num_copied += copier.num_records
            report.bytes_copied += copier.num_bytes
            report.bad |= {unescape(key): why for key, why in copier.bad.items()}

    def _drop_stale(self, rows: dict[str, Row]) -> None:
        """Take out rows that are not valid any more; by now, even their removal may be gone."""
        if monotonic() - self._census.taken_s > _STALE_S:
            self._census = self._count(self._census)
        best = self._census.best
        for key, row in list(rows.items()):
            place = best.find(key)
            if place is None or best.rank(place) != row.rank:
                del rows[key]

    def _count(self, before: Census | None) -> Census:
        census = Census.take(self._storage, self._manifest.id, before.tables if before else None)
        if census.unreadable:
            name = min(census.unreadable)
            raise StoreCorruptError(
                f"{self._storage.path} cannot be compacted while its index is damaged "
                f"({census.damaged[f'shard {name}']}): run repair first"
            )
        return census


def _copies(storage: Storage, plan: Plan) -> Iterable[Copy]:
    """The records and removals that the victims hold, in the order of the shards."""
    for i in plan.rows.tolist():
        row = plan.table.row(i)
        yield Copy(storage, row, row.rank)
