"""Repair: what can be known is put right, what cannot be read is missing, nothing is deleted.

Every file of a store has a second one that says the same, but for the records themselves: a shard's
header and its delta, store.json and its copy in each shard, a snapshot and what it covers.  What
is right is told by their checks, and of records by their hashes.
"""

import logging
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from time import time

from vidcomp.errors import StoreCorruptError, StoreError
from vidcomp.store.commit import delta_name
from vidcomp.store.disk.format import unescape
from vidcomp.store.disk.index import Table
from vidcomp.store.disk.shard import read_shard_header, shard_name
from vidcomp.store.disk.types import Row
from vidcomp.store.files import explained
from vidcomp.store.manifest import MANIFEST, Manifest, manifest_bytes, read_manifest
from vidcomp.store.recover import recover
from vidcomp.store.storage import Storage, open_storage
from vidcomp.store.upkeep.census import Census
from vidcomp.store.upkeep.copying import Copier, Copy, Progress
from vidcomp.store.upkeep.quarantine import keep_copy, set_aside
from vidcomp.store.upkeep.repair_wal import repair_wal, say_what_is_left
from vidcomp.store.upkeep.report import RepairReport
from vidcomp.store.upkeep.rescue import Findings, inspect
from vidcomp.store.upkeep.retire import retire

__all__ = ["RepairReport", "repair"]

_log = logging.getLogger(__name__)

_SEAL_BYTES = 256 << 20
_TRIES = 3


def repair(
    path: str | Path | Storage,
    *,
    force_recover: bool = False,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> RepairReport:
    """Put a damaged store right; all that could be read before can be read after.

    Lost or damaged ``store.json``, deltas and snapshots are written again from the shards.  Whole
    records are copied out of shards whose header is damaged.  Records with a wrong hash become
    missing, so that extract makes them again.  Damaged files move to ``quarantine/``.  A store
    that is whole is left as it is; a repair that was killed is finished by the next one.

    Args:
        path: the store's folder, URL or storage.
        force_recover: also commit what writers on other machines left.  One that still lives
            loses all that it has not committed, and fails: make sure that there is none.
        dry_run: change nothing, only say what would be done.
        progress: called with the bytes of records that were checked, and of all of them.

    Raises:
        StoreMissError: there is no store.
        StoreCorruptError: store.json is lost, and no shard has a copy that can be read.
        StoreError: a disk is full or cannot be read.
    """
    storage = open_storage(path)
    report = RepairReport(path=str(storage.path), dry_run=dry_run)
    with explained(f"repair {storage.path}"):
        manifest = _manifest(storage, report)
        repair_wal(storage, manifest.id, report)
        if not dry_run:
            report.recovered = recover(storage, force=force_recover)
        findings = _inspect(storage, manifest, progress, force_recover)
        _say(findings, report)
        if findings.problems and not dry_run:
            _follow(storage, manifest, findings, report)
        if not force_recover or dry_run:
            say_what_is_left(storage, manifest.id, report)
    return report


def _manifest(storage: Storage, report: RepairReport) -> Manifest:
    try:
        return read_manifest(storage)
    except StoreCorruptError as error:
        content = _copy_of_manifest(storage)
        if content is None:
            raise StoreCorruptError(
                f"{storage.path} cannot be repaired, as {MANIFEST} is damaged or lost and no "
                f"shard has a copy that can be read: restore it from a backup"
            ) from error
        manifest = Manifest.from_json(content, "the copy in a shard")
        report.did(f"wrote {MANIFEST} again from the copy in a shard")
        if not report.dry_run:
            if (kept := keep_copy(storage, MANIFEST)) is not None:
                report.quarantined.append(kept)
            storage.replace(MANIFEST, manifest_bytes(content))
        return manifest


def _copy_of_manifest(storage: Storage) -> dict[str, object] | None:
    """What most of the shards say that store.json held."""
    found: dict[str, tuple[int, dict[str, object]]] = {}
    for name in storage.names("shards", ".safetensors"):
        with suppress(StoreError, FileNotFoundError):
            content = read_shard_header(storage.open(shard_name(name)), name).store
            Manifest.from_json(content, f"shard {name}")
            count = found.get(str(content["id"]), (0, content))[0]
            found[str(content["id"])] = count + 1, content
    return max(found.values(), key=lambda item: item[0])[1] if found else None


def _inspect(
    storage: Storage, manifest: Manifest, progress: Progress | None, force: bool
) -> Findings:
    for _ in range(_TRIES):
        with suppress(FileNotFoundError):  # a compaction is at work
            return inspect(storage, manifest, progress, commit_uploads=force)
    raise StoreError(f"files of {storage.path} vanish while they are read: run repair again")


def _say(findings: Findings, report: RepairReport) -> None:
    for problem in findings.problems:
        report.did(problem)
    report.left += findings.left
    report.num_records = findings.num_whole
    report.num_rescued = len(findings.rescued)
    report.bad |= {unescape(row.key): why for row, why in findings.bad}


def _follow(storage: Storage, manifest: Manifest, findings: Findings, report: RepairReport) -> None:
    """Do what was found to be needed; each step leaves a store that can be read."""
    storage.prepare()
    for name, rows in findings.deltas.items():
        kept = keep_copy(storage, delta_name(name))
        report.quarantined += [kept] if kept else []
        storage.replace(delta_name(name), Table.of_rows(manifest.id, [name], rows).write())
    copier = Copier(storage, manifest, seal_bytes=_SEAL_BYTES)
    copier.write(_copies(storage, findings, copier.id))
    census = Census.take(storage, manifest.id)
    if findings.broken or findings.snapshots:
        census = retire(storage, census, findings.broken, time(), force=True)
    elif census.snapshot is not None:
        census = retire(storage, census, (), time())
    _set_aside(storage, findings, census, report)


def _copies(storage: Storage, findings: Findings, writer: str) -> Iterator[Copy]:
    """Whole records of damaged shards as they are; removals of those that are lost."""
    for row in findings.rescued:
        yield Copy(storage, row, row.rank)
    for row in findings.reborn:  # the copy that was found must win over the damaged one
        yield Copy(storage, row, (row.generation + 1, writer))
    for row in findings.removals:
        yield Copy(storage, row, row.rank)
    highest: dict[str, int] = {}
    for row, _ in findings.bad:
        highest[row.key] = max(row.generation + 1, highest.get(row.key, 0))
    for key, generation in highest.items():
        yield Copy(storage, Row(key, generation, writer), (generation, writer))


def _set_aside(storage: Storage, findings: Findings, census: Census, report: RepairReport) -> None:
    names = [f"index/{name}.safetensors" for name in findings.snapshots if name != census.snapshot]
    for name in sorted(findings.broken):
        if name in census.retired or name not in census.tables:
            names += [delta_name(name), shard_name(name)]
        else:
            report.left.append(f"shard {name} holds what was written meanwhile: run repair again")
    for name in names:
        if (moved := set_aside(storage, name)) is not None:
            report.quarantined.append(moved)
