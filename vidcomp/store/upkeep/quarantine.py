"""Damaged files are moved aside, never deleted: somebody may still read something in them."""

from pathlib import Path

from vidcomp.store.files import read_file
from vidcomp.store.storage import Storage

__all__ = ["QUARANTINE", "keep_copy", "set_aside", "set_aside_local"]

QUARANTINE = "quarantine"
"""Folder of a store for damaged files; readers and writers do not look into it."""


def set_aside(storage: Storage, name: str) -> str | None:
    """Move a file of a store into its quarantine; its new name, ``None`` if it is gone.

    Raises:
        OSError: it cannot be moved.
    """
    if not isinstance(storage.path, Path):
        made = keep_copy(storage, name)
        if made is not None:
            storage.remove(name)
        return made
    target = _free(storage, f"{QUARANTINE}/{name}")
    (storage.path / target).parent.mkdir(parents=True, exist_ok=True)
    try:
        (storage.path / name).rename(storage.path / target)
    except FileNotFoundError:
        return None
    return target


def keep_copy(storage: Storage, name: str) -> str | None:
    """Copy a file into the quarantine, before another takes its place; ``None`` if it is gone.

    Raises:
        OSError: it cannot be read or written.
    """
    try:
        data = storage.read(name)
    except FileNotFoundError:
        return None
    if isinstance(storage.path, Path):
        (storage.path / QUARANTINE / name).parent.mkdir(parents=True, exist_ok=True)
    target = _free(storage, f"{QUARANTINE}/{name}")
    storage.create(target, data)
    return target


def set_aside_local(storage: Storage, path: Path, *, copy: bool = False) -> str:
    """Move (or copy) a file of the folder of writers, which is local for every store.

    Raises:
        OSError: it cannot be moved.
    """
    folder = storage.wal.parent / QUARANTINE / storage.wal.name
    folder.mkdir(parents=True, exist_ok=True)
    target, number = folder / path.name, 0
    while target.exists():
        number += 1
        target = folder / f"{path.name}.{number}"
    if copy:
        target.write_bytes(read_file(path))
    else:
        path.rename(target)
    return str(target)


def _free(storage: Storage, name: str) -> str:
    """``name``, or with a number behind it if there is such a file already."""
    out, number = name, 0
    while storage.exists(out):
        number += 1
        out = f"{name}.{number}"
    return out
