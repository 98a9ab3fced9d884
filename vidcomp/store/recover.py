"""What dead writers left: the whole records of their open shards are committed."""

import logging
import os
import stat
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import xxhash

from vidcomp.errors import StoreCorruptError
from vidcomp.store import journal
from vidcomp.store.commit import delta_name, drop, journal_path, part_path, publish, seal
from vidcomp.store.disk.format import is_commit
from vidcomp.store.disk.shard import read_shard_header, shard_name
from vidcomp.store.disk.types import Row
from vidcomp.store.files import TEMPORARY, explained, list_names
from vidcomp.store.local import FOLDERS, OpenFile
from vidcomp.store.manifest import Manifest, read_manifest
from vidcomp.store.room import total_memory
from vidcomp.store.storage import Storage, open_storage

__all__ = ["recover", "replay"]

_log = logging.getLogger(__name__)

_STALE_S = 3600.0
_PIECE = 64 << 20


def recover(path: str | Path | Storage, *, force: bool = False) -> list[str]:
    """Commit what writers that died on this machine had taken; every writer begins with this.

    A process that was killed loses at most the video it was writing, a machine that stopped
    those since the last sync.  Writers that live, and those of other machines, are left alone.

    Args:
        path: the store's folder, URL or storage.
        force: also what writers of other machines left.  A writer that lives after all loses what
            it has not committed, and fails.

    Returns:
        Names of the commits that were finished.

    Raises:
        StoreMissError: there is no store.
        StoreError: it cannot be written.
    """
    storage = open_storage(path)
    manifest = read_manifest(storage)
    done = []
    with explained(f"recover what dead writers left in {storage.path}"):
        for name in filter(is_commit, list_names(storage.wal, ".journal")):
            if _recover_one(storage, name, manifest, force):
                done.append(name)
        _sweep(storage)
    return done


def _recover_one(storage: Storage, name: str, manifest: Manifest, force: bool) -> bool:
    """Whether the commit ``name`` was unfinished and is finished now."""
    try:
        fd = journal.claim(journal_path(storage.wal, name), manifest.id, force=force)
        if fd is None:
            return False
        try:
            return _finish(storage, name, manifest)
        finally:
            os.close(fd)
    except StoreCorruptError as error:
        _log.warning("%s is left as it is: %s", name, error)
        return False


def _finish(storage: Storage, name: str, manifest: Manifest) -> bool:
    is_sealed = storage.exists(shard_name(name))
    is_seen = storage.exists(delta_name(name))
    rows: Sequence[Row] = ()
    # Copies go: what they were made of may have been replaced or removed since, and is still there.
    copies = journal.read(journal_path(storage.wal, name)).copies
    if not copies and not (is_sealed and is_seen):
        rows = _replayed(storage, name, manifest)
        if is_sealed and not rows:
            rows = _sealed_rows(storage, name, manifest)
    if not rows:
        if is_sealed and not is_seen:  # without its journal it would seem to have lost its delta
            storage.remove(shard_name(name))
            storage.barrier("shards")
        drop(storage.wal, name)
        return False
    publish(storage, name, manifest.id, rows)
    _log.info("recovered %d rows of a writer that died: %s", len(rows), name)
    return True


def _replayed(storage: Storage, name: str, manifest: Manifest) -> Sequence[Row]:
    """The rows of the part, a shard now; none if there is no part, or nothing whole in it.

    A part beside its shard is one whose upload was not seen to end: it may hold more by now.
    """
    if not part_path(storage.wal, name).exists():
        return ()
    rows, data = replay(storage.wal, name)
    if rows:
        _seal(storage, name, manifest, rows, data)
    return rows


def _sealed_rows(storage: Storage, name: str, manifest: Manifest) -> tuple[Row, ...]:
    found = read_shard_header(storage.open(shard_name(name)), name)
    if found.store.get("id") != manifest.id:
        raise StoreCorruptError(f"shard {name} belongs to another store: remove it")
    return found.rows


def _seal(
    storage: Storage, name: str, manifest: Manifest, rows: Sequence[Row], data: tuple[int, int]
) -> None:
    try:
        seal(storage, name, manifest.to_json(), rows, data)
    except ValueError as error:
        raise StoreCorruptError(
            f"the part of {name} has no room for the header of its records ({error}): remove it"
        ) from error


def replay(wal: Path, name: str) -> tuple[list[Row], tuple[int, int]]:
    """The whole records of a part, and the first byte of its data and the byte after the last.

    Raises:
        StoreCorruptError: the journal's first line is damaged.
        OSError: a file cannot be read.
    """
    lines = journal.read(journal_path(wal, name))
    file = OpenFile(part_path(wal, name))
    last: dict[str, Row] = {}
    end = lines.data_start
    for row in lines.rows:
        if row.removed:
            last[row.key] = row
        elif row.offset >= end and _is_whole(file, row):
            last[row.key] = row
            end = row.offset + row.nbytes
    rows = sorted(last.values(), key=lambda row: (row.removed, row.offset, row.key))
    return rows, (lines.data_start, end)


def _is_whole(file: OpenFile, row: Row) -> bool:
    if row.layout is None or row.layout.places(row.counts).nbytes >= row.nbytes:
        return False
    if row.nbytes > total_memory():  # nobody wrote that: the part is mostly holes
        return False
    end = row.offset + row.nbytes
    places = range(row.offset, end, _PIECE)
    state = xxhash.xxh3_64()
    try:
        for place in places:
            state.update(file.read(place, min(_PIECE, end - place), "part"))
    except StoreCorruptError:
        return False
    return int(state.intdigest()) == row.checksum


def _sweep(storage: Storage) -> None:
    """Remove temporary files that nobody can be writing any more."""
    now = time.time()
    root = storage.wal.parent
    folders = (root, *(root / name for name in FOLDERS)) if storage.is_local else (storage.wal,)
    for folder in folders:
        for path in folder.glob(f"{TEMPORARY}*"):
            with suppress(FileNotFoundError):
                found = path.lstat()
                if now - found.st_mtime > _STALE_S and not stat.S_ISDIR(found.st_mode):
                    path.unlink()
