"""The steps that turn a part into a commit; the writer and the recovery take the same ones."""

import os
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from vidcomp.store.files import list_names, replace_file, sync_folder, write_all
from vidcomp.store.index import Table
from vidcomp.store.merge import merge_tables
from vidcomp.store.shard import shard_header, shard_path
from vidcomp.store.types import Row
from vidcomp.store.view import load_view

__all__ = ["delta_path", "drop", "journal_path", "part_path", "publish", "seal", "snapshot"]


def part_path(root: Path, name: str) -> Path:
    """The shard of a commit while it is written."""
    return root / "wal" / f"{name}.part"


def journal_path(root: Path, name: str) -> Path:
    """The journal beside it."""
    return root / "wal" / f"{name}.journal"


def delta_path(root: Path, name: str) -> Path:
    """The file that makes a commit visible."""
    return root / "deltas" / f"{name}.safetensors"


def seal(
    root: Path,
    name: str,
    store: Mapping[str, Any],
    rows: Sequence[Row],
    data: tuple[int, int],
) -> None:
    """Finish a part and move it among the shards; it is not visible yet.

    Args:
        root: the store's folder.
        name: of the commit.
        store: what store.json holds.
        rows: records in the order of the data, and removals; one a key.
        data: first byte of the data and the byte after the last; the rest is cut off.

    Raises:
        OSError: a step failed; all of them may be repeated.
    """
    part, shard = part_path(root, name), shard_path(root, name)
    header = shard_header(name, store, rows, *data)
    fd = os.open(part, os.O_RDWR)
    try:
        os.ftruncate(fd, data[1])
        write_all(fd, [header], 0)
        os.fsync(fd)
    finally:
        os.close(fd)
    part.rename(shard)


def publish(root: Path, name: str, store_id: str, rows: Sequence[Row]) -> None:
    """Write the delta, which makes the shard's records visible, and remove the journal.

    Raises:
        OSError: a step failed; all of them may be repeated.
    """
    table = Table.of_rows(store_id, [name], rows)
    for folder in ("shards", "wal"):  # a delta must not outlive a power cut that its shard did not
        sync_folder(root / folder)
    replace_file(delta_path(root, name), table.write())
    drop(root, name)


def drop(root: Path, name: str) -> None:
    """Remove what a commit leaves in the folder of writers; the journal last."""
    for path in (part_path(root, name), journal_path(root, name)):
        with suppress(FileNotFoundError):
            path.unlink()


def snapshot(root: Path, store_id: str, *, least: int = 1) -> str | None:
    """Publish one index of all that is committed now, so that opening reads one file.

    Args:
        root: the store's folder.
        store_id: the store's id.
        least: do nothing if fewer commits came after the newest snapshot.

    Returns:
        Its name; ``None`` if there was nothing to do.

    Raises:
        StoreError, OSError: the index cannot be read or written.
    """
    view = load_view(root, store_id)
    if len(view.commits) < least or view.damaged:  # a damaged index is for repair, not for copies
        return None
    covers = sorted({name for table in view.tables for name in table.covers})
    table = merge_tables(store_id, covers, view.tables)
    numbers = [int(n[:16]) for n in list_names(root / "index", ".safetensors") if n[:16].isdigit()]
    name = f"{max(numbers, default=-1) + 1:016d}-{uuid.uuid4().hex}"
    replace_file(root / "index" / f"{name}.safetensors", table.write())
    return name
