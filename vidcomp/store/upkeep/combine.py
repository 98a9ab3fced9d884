"""Several stores of one recipe into one, byte by byte."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from vidcomp.errors import ConfigError, StoreError, StoreMissError, StoreStaleError
from vidcomp.store.commit import snapshot
from vidcomp.store.disk.format import unescape
from vidcomp.store.disk.index import Table
from vidcomp.store.files import explained
from vidcomp.store.manifest import Manifest, create_or_join, read_manifest, what_differs
from vidcomp.store.recover import recover
from vidcomp.store.storage import Storage, open_storage
from vidcomp.store.upkeep.copying import Copier, Copy, Progress
from vidcomp.store.view import View, load_view

__all__ = ["MergeReport", "merge"]

Conflict = Literal["error", "first", "last"]


@dataclass(kw_only=True)
class MergeReport:
    """What a merge did."""

    out: str
    num_sources: int = 0
    num_copied: int = 0
    bytes_copied: int = 0
    num_there: int = 0
    """Records that the store had before, replaced ones included."""
    num_conflicts: int = 0
    """Keys with several records, of which one was chosen."""
    bad: dict[str, str] = field(default_factory=dict)
    """Keys of damaged records, which were not copied, and why."""
    problems: list[str] = field(default_factory=list)
    """Damaged index files of the sources; records may be missing because of them."""


class _Source(NamedTuple):
    """A store that is read."""

    storage: Storage
    manifest: Manifest
    view: View


class _Place(NamedTuple):
    """A record of a source; the store that gets them all has number -1."""

    source: int
    table: Table
    row: int

    @property
    def checksum(self) -> int:
        return int(self.table.columns["checksum"][self.row])


def merge(
    sources: Sequence[str | Path | Storage],
    out: str | Path | Storage,
    *,
    on_conflict: Conflict = "error",
    seal_bytes: int = 256 << 20,
    progress: Progress | None = None,
) -> MergeReport:
    """Copy all records of several stores into one, new or there already.

    Records keep their bytes, and are checked on the way.  A merge that was stopped is finished by
    the same call: what is there already is not copied again.

    Args:
        sources: stores of one recipe, weights and settings.
        out: the store that gets them; if it has records, it counts as the first source.
        on_conflict: what happens to a key whose records differ: nothing at all is copied
            (``error``), or the record of the ``first`` or ``last`` source stays.
        seal_bytes: size of the shards that are made.
        progress: called with the bytes copied and those to copy.

    Raises:
        StoreStaleError: the stores were made with different settings; the message names them.
        StoreError: records differ, a disk is full; what was copied stays.
        StoreMissError: there is no such source.
        ConfigError: no sources, or one of them is ``out``.
    """
    opened = [_open(open_storage(path)) for path in sources]
    target = open_storage(out)
    _check(opened, target)
    report = MergeReport(out=str(target.path), num_sources=len(opened))
    report.problems = [why for source in opened for why in source.view.damaged.values()]
    first = opened[0].manifest
    manifest = create_or_join(target, first.identity, first.weights, first.settings)
    recover(target)
    before = load_view(target, manifest.id)
    plan = _plan(before, opened, on_conflict, report)
    with explained(f"merge stores into {target.path}"):
        total = sum(int(p.table.columns["nbytes"][p.row]) for p in plan)
        copier = Copier(target, manifest, seal_bytes=seal_bytes, progress=progress, total=total)
        try:
            copier.write(_copies(plan, opened, before, copier.id))
        finally:
            report.num_copied, report.bytes_copied = copier.num_records, copier.num_bytes
            report.bad = {unescape(key): why for key, why in copier.bad.items()}
        if copier.made:
            snapshot(target, manifest.id)
    return report


def _open(storage: Storage) -> _Source:
    manifest = read_manifest(storage)
    return _Source(storage, manifest, load_view(storage, manifest.id))


def _check(sources: Sequence[_Source], target: Storage) -> None:
    """Refuse stores that do not fit together before anything is written."""
    if not sources:
        raise ConfigError("no stores to merge were given: name at least one")
    try:
        there: Manifest | None = read_manifest(target)
    except StoreMissError:
        there = None
    for source in sources:
        if there is not None and source.manifest.id == there.id:
            raise ConfigError(
                f"{source.storage.path} is (a copy of) the store {target.path} itself: name others"
            )
    base, name = (there, target) if there else (sources[0].manifest, sources[0].storage)
    for source in sources:
        if changed := what_differs(base, source.manifest):
            raise StoreStaleError(
                f"{source.storage.path} cannot be merged with {name.path}, as they were made with "
                f"different settings ({changed}): extract or recompress one of them anew"
            )


def _plan(
    before: View, sources: Sequence[_Source], on_conflict: Conflict, report: MergeReport
) -> list[_Place]:
    """The records to copy, in the order of the sources' shards."""
    there = {t.key(i): _Place(-1, t, i) for t, i in before.places()}
    chosen = dict(there)
    conflicts: dict[str, None] = {}
    for number, source in enumerate(sources):
        for table, i in source.view.places():
            key, place = table.key(i), _Place(number, table, i)
            known = chosen.get(key)
            if known is None:
                chosen[key] = place
            elif known.checksum != place.checksum:
                conflicts[key] = None
                if on_conflict == "last":
                    chosen[key] = place
    report.num_there, report.num_conflicts = len(there), len(conflicts)
    if conflicts and on_conflict == "error":
        names = ", ".join(repr(unescape(key)) for key in list(conflicts)[:3])
        raise StoreError(
            f"{len(conflicts)} keys have records that differ from store to store ({names}"
            f"{', ...' if len(conflicts) > 3 else ''}): choose on_conflict='first' or 'last', or "
            f"remove those that are wrong"
        )
    wanted = [(key, place) for key, place in chosen.items() if place.source >= 0]
    # An earlier run may have copied it already.
    plan = [p for key, p in wanted if key not in there or there[key].checksum != p.checksum]
    return sorted(plan, key=_order)


def _order(place: _Place) -> tuple[int, str, int]:
    columns = place.table.columns
    shard = place.table.shards[columns["shard"][place.row]]
    return place.source, shard, int(columns["offset"][place.row])


def _copies(
    plan: Sequence[_Place], sources: Sequence[_Source], before: View, writer: str
) -> Iterator[Copy]:
    for place in plan:
        row = place.table.row(place.row)
        rank = before.generation(row.key) + 1, writer
        yield Copy(sources[place.source].storage, row, rank)
