"""The steps that turn a part into a commit; the writer and the recovery take the same ones."""

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from vidcomp.store.disk.index import Table
from vidcomp.store.disk.merge import merge_tables
from vidcomp.store.disk.shard import shard_header, shard_name
from vidcomp.store.disk.types import Row
from vidcomp.store.files import open_file, sync_folder, write_all
from vidcomp.store.snapshots import (
    Retired,
    is_snapshot,
    next_number,
    publish_index,
    read_snapshot,
)
from vidcomp.store.storage import Storage
from vidcomp.store.view import load_view

__all__ = ["delta_name", "drop", "journal_path", "part_path", "publish", "seal", "snapshot"]


def part_path(wal: Path, name: str) -> Path:
    """The shard of a commit while it is written."""
    return wal / f"{name}.part"


def journal_path(wal: Path, name: str) -> Path:
    """The journal beside it."""
    return wal / f"{name}.journal"


def delta_name(name: str) -> str:
    """The file that makes a commit visible."""
    return f"deltas/{name}.safetensors"


def seal(
    storage: Storage,
    name: str,
    store: Mapping[str, Any],
    rows: Sequence[Row],
    data: tuple[int, int],
) -> None:
    """Finish a part and move it among the shards; it is not visible yet.

    Args:
        storage: where the store's files lie.
        name: of the commit.
        store: what store.json holds.
        rows: records in the order of the data, and removals; one a key.
        data: first byte of the data and the byte after the last; the rest is cut off.

    Raises:
        OSError: a step failed; all of them may be repeated.
        StoreCorruptError: the part is no file of its own.
        ValueError: the header does not fit before the data.
    """
    part = part_path(storage.wal, name)
    header = shard_header(name, store, rows, *data)
    fd = open_file(part, write=True)
    try:
        os.ftruncate(fd, data[1])
        write_all(fd, [header], 0)
        os.fsync(fd)
    finally:
        os.close(fd)
    storage.adopt(shard_name(name), part)


def publish(storage: Storage, name: str, store_id: str, rows: Sequence[Row]) -> None:
    """Write the delta, which makes the shard's records visible, and remove the journal.

    Raises:
        OSError: a step failed; all of them may be repeated.
    """
    table = Table.of_rows(store_id, [name], rows)
    storage.barrier("shards")  # a delta must not outlive a power cut that its shard did not
    sync_folder(storage.wal)
    storage.replace(delta_name(name), table.write())
    drop(storage.wal, name)


def drop(wal: Path, name: str) -> None:
    """Remove what a commit leaves in the folder of writers; the journal last."""
    for path in (part_path(wal, name), journal_path(wal, name)):
        with suppress(FileNotFoundError):
            path.unlink()


def snapshot(storage: Storage, store_id: str, *, least: int = 1) -> str | None:
    """Publish one index of all that is committed now, so that opening reads one file.

    Args:
        storage: where the store's files lie.
        store_id: the store's id.
        least: do nothing if fewer commits came after the newest snapshot.

    Returns:
        Its name; ``None`` if there was nothing to do, or another process just did it.

    Raises:
        StoreError, OSError: the index cannot be read or written.
    """
    number = next_number(storage.names("index", ".safetensors"))
    view = load_view(storage, store_id)
    if len(view.commits) < least or view.damaged:  # a damaged index is for repair, not for copies
        return None
    retired: Retired = {}
    if view.snapshot is not None:
        try:
            retired = read_snapshot(storage, view.snapshot, store_id)[1]
        except FileNotFoundError:
            return None  # a newer one took its place
        if is_snapshot(view.snapshot):
            retired[view.snapshot] = int(time.time())
    covers = sorted({name for table in view.tables for name in table.covers})
    table = merge_tables(store_id, covers, view.tables)
    return publish_index(storage, number, table, retired)
