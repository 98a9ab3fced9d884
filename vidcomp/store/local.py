"""A store in a folder of this machine or of a network file system."""

import errno
import os
import threading
from pathlib import Path

import numpy as np

from vidcomp.errors import StoreCorruptError
from vidcomp.store.files import (
    create_once,
    list_names,
    open_file,
    read_file,
    replace_file,
    sync_folder,
)

__all__ = ["FOLDERS", "LocalStorage", "OpenFile"]

FOLDERS = ("shards", "deltas", "index", "wal")

_MOST_PIECES = 512
_MOST_BYTES = 1 << 30
"""Of a file that is read whole; snapshots may be larger."""


class LocalStorage:
    """The files of a store below one folder."""

    is_local = True
    concurrency = 1

    def __init__(self, root: Path) -> None:
        self._root = root

    @property
    def path(self) -> Path:
        """The folder."""
        return self._root

    @property
    def wal(self) -> Path:
        """The folder of unfinished shards, which all writers of this store see."""
        return self._root / "wal"

    def names(self, folder: str, suffix: str) -> list[str]:
        """Sorted names in a folder; none if it is not there."""
        return list_names(self._root / folder, suffix)

    def folders(self, folder: str) -> list[str]:
        """Sorted names of the folders in a folder; none if it is not there."""
        root = self._root / folder
        return [name for name in list_names(root, "") if (root / name).is_dir()]

    def exists(self, name: str) -> bool:
        """Whether the file is there."""
        return (self._root / name).exists()

    def size(self, name: str) -> int:
        """Bytes of a file."""
        return (self._root / name).stat().st_size

    def read(self, name: str) -> bytearray:
        """All bytes of a file, in a buffer that may be viewed by tensors.

        Raises:
            StoreCorruptError: it is no file, or one of absurd size.
        """
        return read_file(self._root / name, None if name.startswith("index/") else _MOST_BYTES)

    def open(self, name: str) -> "OpenFile":
        """The file open for reading.

        Raises:
            StoreCorruptError: it is no file.
        """
        return OpenFile(self._root / name)

    def create(self, name: str, data: bytes | bytearray) -> bool:
        """Make a file unless it is there; whether this call made it."""
        return create_once(self._root / name, data)

    def replace(self, name: str, data: bytes | bytearray) -> None:
        """Write a file atomically."""
        replace_file(self._root / name, data)

    def adopt(self, name: str, path: Path) -> None:
        """Rename a file of the same file system."""
        path.rename(self._root / name)

    def remove(self, name: str) -> None:
        """Remove a file if it is there."""
        (self._root / name).unlink(missing_ok=True)

    def prepare(self) -> None:
        """Make the folders, and see that they can be written."""
        for folder in (self._root / name for name in FOLDERS):
            folder.mkdir(parents=True, exist_ok=True)
            if not os.access(folder, os.W_OK | os.X_OK):
                read_only = os.statvfs(folder).f_flag & os.ST_RDONLY if os.name == "posix" else 0
                number = errno.EROFS if read_only else errno.EACCES
                raise OSError(number, os.strerror(number), str(folder))

    def barrier(self, folder: str) -> None:
        """Sync a folder."""
        sync_folder(self._root / folder)


class OpenFile:
    """A file open for reading; closed when nobody holds it any more."""

    def __init__(self, path: Path) -> None:
        self._fd = -1
        self._fd = open_file(path)
        self.size = os.fstat(self._fd).st_size
        self._lock = threading.Lock()

    def __del__(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)

    def fileno(self) -> int:
        """The descriptor, open as long as this object lives."""
        return self._fd

    def read_pieces(self, pieces: list[memoryview], offset: int, what: str) -> None:
        """Fill buffers one after another from ``offset`` on, in one call to the system.

        Raises:
            StoreCorruptError: the file ends before they are full.
        """
        total = sum(map(len, pieces))
        self._check(offset, total, what)
        done = 0
        if hasattr(os, "preadv") and len(pieces) <= _MOST_PIECES:
            done = os.preadv(self._fd, pieces, offset)
        for piece in pieces if done < total else ():
            skip = min(done, len(piece))
            done -= skip
            offset += skip
            if self.read_into(piece[skip:], offset) < len(piece) - skip:
                raise StoreCorruptError(f"{what} became shorter while it was read: run verify")
            offset += len(piece) - skip

    def read_into(self, view: memoryview, offset: int) -> int:
        """Fill ``view`` from ``offset`` on; the count is smaller only if the file ends."""
        done = 0
        while done < len(view):
            rest = view[done:] if done else view
            if hasattr(os, "preadv"):
                count = os.preadv(self._fd, [rest], offset + done)
            else:
                count = self._seek_and_read(rest, offset + done)
            if not count:
                break
            done += count
        return done

    def read(self, offset: int, nbytes: int, what: str) -> memoryview:
        """Bytes of a range, in a buffer of their own.

        Raises:
            StoreCorruptError: it ends after the file does, or is larger than the memory.
        """
        self._check(offset, nbytes, what)
        try:
            data = np.empty(nbytes, np.uint8).data  # a bytearray would be filled with zeros first
        except MemoryError as error:
            raise StoreCorruptError(
                f"{what} speaks of {nbytes} bytes in one piece, more than there is memory for: run "
                f"verify"
            ) from error
        if self.read_into(data, offset) != nbytes:
            raise StoreCorruptError(f"{what} became shorter while it was read: run verify")
        return data

    def forget(self, offset: int, nbytes: int) -> bool:  # noqa: ARG002
        """Nothing is kept, so reading again gives the same bytes."""
        return False

    def _check(self, offset: int, nbytes: int, what: str) -> None:
        if nbytes < 0 or offset < 0 or offset + nbytes > self.size:
            raise StoreCorruptError(
                f"{what} should have bytes {offset} to {offset + nbytes}, but ends at {self.size}: "
                f"it was cut, run verify"
            )

    def _seek_and_read(self, view: memoryview, offset: int) -> int:
        with self._lock:
            os.lseek(self._fd, offset, os.SEEK_SET)
            data = os.read(self._fd, len(view))
        view[: len(data)] = data
        return len(data)
