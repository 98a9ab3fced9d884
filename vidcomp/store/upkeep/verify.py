"""Looks at every byte of a store and lists what is not as written; damage never raises."""

import os
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from vidcomp.errors import StoreCorruptError, StoreError
from vidcomp.store import journal
from vidcomp.store.commit import delta_name, journal_path
from vidcomp.store.disk.format import digest, is_commit, unescape
from vidcomp.store.disk.index import Table
from vidcomp.store.disk.merge import merge_tables
from vidcomp.store.disk.shard import read_shard_header, shard_name
from vidcomp.store.disk.types import Row
from vidcomp.store.files import explained, list_names
from vidcomp.store.manifest import Manifest, read_manifest
from vidcomp.store.snapshots import read_snapshot
from vidcomp.store.storage import RangeFile, Storage, open_storage
from vidcomp.store.upkeep.copying import Progress
from vidcomp.store.upkeep.examine import is_index_of, meta_problem, same_rows, tensor_problems
from vidcomp.store.view import Listing, View, load_view

__all__ = ["VerifyReport", "verify"]

_TELL = 8 << 20
"""Bytes between two calls of the progress."""


@dataclass(kw_only=True)
class VerifyReport:
    """What ``verify`` found."""

    path: str
    num_records: int = 0
    """Valid records of the index."""
    num_ok: int = 0
    """Those that can be read."""
    num_bytes: int = 0
    """On disk, of the valid records."""
    bad: dict[str, str] = field(default_factory=dict)
    """Keys of valid records that cannot be read, and why: extract these videos again."""
    problems: list[str] = field(default_factory=list)
    """All that is damaged, files and records."""
    pending: list[str] = field(default_factory=list)
    """Commits that are being written, or that a dead writer left for the next one to finish."""

    @property
    def ok(self) -> bool:
        """Whether nothing is damaged."""
        return not self.problems


def verify(
    path: str | Path | Storage, *, deep: bool = True, progress: Progress | None = None
) -> VerifyReport:
    """Check a store: ``store.json``, index files, headers of shards, journals and records.

    Args:
        path: the store's folder, URL or storage.
        deep: read all records and check their hashes, replaced ones left out; else only that they
            lie within their files.
        progress: called with the bytes of records that were checked, and of all of them.

    Raises:
        StoreMissError: there is no store.
        StoreError: it may not be read, or is of a newer format; all damage is in the report.
    """
    storage = open_storage(path)
    report = VerifyReport(path=str(storage.path))
    try:
        manifest: Manifest | None = read_manifest(storage)
    except StoreCorruptError as error:
        report.problems.append(str(error))
        manifest = _manifest_of_shards(storage, report)
    if manifest is None:
        return report
    try:
        with explained(f"read the index of {storage.path}"):
            listing = Listing.of(storage)
        view = load_view(storage, manifest.id)
    except StoreError as error:
        report.problems.append(str(error))
        return report
    report.problems += view.damaged.values()
    headers = _check_commits(storage, manifest, listing, report)
    _check_snapshot(storage, manifest, view, headers, report)
    _check_journals(storage, listing, report)
    _check_records(storage, view, deep, report, progress)
    return report


def _manifest_of_shards(storage: Storage, report: VerifyReport) -> Manifest | None:
    """What store.json should say, from the copy in a shard."""
    with explained(f"read the shards of {storage.path}"):
        names = sorted(Listing.of(storage).shards)
    for name in names:
        try:
            found = read_shard_header(storage.open(shard_name(name)), name)
            return Manifest.from_json(found.store, f"shard {name}")
        except (StoreError, OSError) as error:
            report.problems.append(str(error))
    return None


def _check_commits(
    storage: Storage, manifest: Manifest, listing: Listing, report: VerifyReport
) -> dict[str, tuple[Row, ...]]:
    """Headers of all shards against their deltas; returns the rows of those that are whole."""
    headers: dict[str, tuple[Row, ...]] = {}
    for name in sorted(listing.shards | listing.deltas):
        try:
            found = read_shard_header(storage.open(shard_name(name)), name)
        except StoreCorruptError as error:
            _add(report, str(error))
            continue
        except OSError as error:
            if isinstance(error, FileNotFoundError) and not storage.exists(delta_name(name)):
                continue  # a compaction removed it meanwhile
            _add(report, f"shard {name} cannot be read ({os.strerror(error.errno or 0)})")
            continue
        headers[name] = found.rows
        if found.store.get("id") != manifest.id:
            _add(report, f"shard {name} belongs to another store")
        for problem in tensor_problems(found.rows, found.header.entries, found.header.data_start):
            _add(report, f"shard {name}: {problem}")
        if name in listing.deltas:
            _check_delta(storage, manifest, name, found.rows, report)
    return headers


def _check_delta(
    storage: Storage, manifest: Manifest, name: str, rows: tuple[Row, ...], report: VerifyReport
) -> None:
    try:
        table = Table.read(storage.read(delta_name(name)), f"delta {name}")
    except FileNotFoundError:
        return  # a compaction removes it, or it is said to be lost elsewhere
    except (StoreCorruptError, OSError) as error:
        _add(report, str(error))
        return
    if not same_rows(table, Table.of_rows(manifest.id, [name], rows)):
        _add(report, f"delta {name} says other things than its shard's header")


def _check_snapshot(
    storage: Storage,
    manifest: Manifest,
    view: View,
    headers: dict[str, tuple[Row, ...]],
    report: VerifyReport,
) -> None:
    """The snapshot in use against the shards it covers (older ones were checked if needed)."""
    if view.snapshot is None:
        return
    with suppress(FileNotFoundError):  # replaced meanwhile, and removed
        base, retired = read_snapshot(storage, view.snapshot, manifest.id)
        covered = set(base.covers) & headers.keys()
        if set(base.covers) - covered - retired.keys():
            return  # some of its shards are gone or damaged, which is said elsewhere
        names = sorted(covered, key=lambda name: (name not in retired, name))
        tables = [Table.of_rows(manifest.id, [name], headers[name]) for name in names]
        if not is_index_of(base, merge_tables(manifest.id, base.covers, tables), headers):
            _add(report, f"snapshot {view.snapshot} says other things than the shards it covers")


def _check_journals(storage: Storage, listing: Listing, report: VerifyReport) -> None:
    for name in sorted(listing.journals):
        report.pending.append(name)
        try:
            found = journal.read(journal_path(storage.wal, name))
        except FileNotFoundError:
            report.pending.pop()  # it was committed meanwhile
        except (StoreCorruptError, OSError) as error:
            _add(report, str(error))
        else:
            if found.num_bad:
                _add(report, f"journal {name} has {found.num_bad} damaged lines")
    for name in filter(is_commit, list_names(storage.wal, ".part")):
        if name not in listing.journals and not journal_path(storage.wal, name).exists():
            _add(report, f"part {name} has no journal, so its records cannot be recovered")


def _check_records(
    storage: Storage, view: View, deep: bool, report: VerifyReport, progress: Progress | None
) -> None:
    rows = [table.row(i) for table, i in view.places()]
    rows.sort(key=lambda row: (row.shard, row.offset))
    report.num_records = len(rows)
    total = sum(row.nbytes for row in rows)
    file, name = None, ""
    end = told = 0
    for row in rows:
        if progress is not None and report.num_bytes - told >= _TELL:
            progress(told := report.num_bytes, total)
        if row.shard != name:
            file, name, end = _open(storage, row.shard), row.shard, 0
        problem = "its shard is lost" if file is None else _record_problem(file, row, deep)
        if problem is None and row.offset < end:
            problem = "its bytes overlap with those of another record"
        end = max(end, row.offset + row.nbytes)
        report.num_bytes += row.nbytes
        if problem is None:
            report.num_ok += 1
        else:
            report.bad[unescape(row.key)] = f"{problem} (shard {row.shard})"
            _add(report, f"record {unescape(row.key)!r}: {report.bad[unescape(row.key)]}")
    if progress is not None:
        progress(total, total)


def _record_problem(file: RangeFile, row: Row, deep: bool) -> str | None:
    assert row.layout is not None  # noqa: S101  # only removals have none
    size = row.layout.places(row.counts).nbytes
    if size >= row.nbytes:
        return "its bytes are fewer than its tensors need"
    if row.offset + row.nbytes > file.size:
        return "its shard ends before it does"
    if not deep:
        return None
    try:
        with explained("read it"):
            data = file.read(row.offset, row.nbytes, "its shard")
    except StoreError as error:
        return str(error)
    if digest(data) != row.checksum:
        return "its bytes are not those that were written"
    return meta_problem(row, data)


def _open(storage: Storage, name: str) -> RangeFile | None:
    try:
        return storage.open(shard_name(name))
    except OSError:
        return None


def _add(report: VerifyReport, problem: str) -> None:
    if problem not in report.problems:
        report.problems.append(problem)
