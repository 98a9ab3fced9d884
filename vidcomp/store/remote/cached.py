"""Ranges of remote objects, kept on local disk up to a size; shared by any number of processes.

One file a range: nothing is read that was not asked for, a file is complete from the moment it has
its name, and removing one does not disturb who has it open.  So there are no locks and no index
that could be damaged.  Each file ends with the xxh3 of its data: what the disk changed is not
returned but dropped, and fetched again.
"""

import hashlib
import logging
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np

from vidcomp.store.disk.format import Bytes, digest
from vidcomp.store.files import TEMPORARY, write_all
from vidcomp.store.remote.client import ObjectInfo

__all__ = ["RangeCache", "scatter"]

_log = logging.getLogger(__name__)

_TAIL = 8
"""Bytes of hash at the end of each file."""
_BLOCK = 4096
"""Of the disk: what a file takes is a multiple of it."""
_FRESH_S = 60.0
"""A file's time of use is written down at most so often."""
_STALE_S = 3600.0
_MOST_PIECES = 512
_LATER = 8
"""So many processes may fill the cache at once and keep to the limit."""


class RangeCache:
    """A folder of ranges.  It belongs to the process that made it, the folder to all.

    Args:
        folder: made if it is missing; for nothing else.
        limit_bytes: on disk; beyond 7/8 of it, those used longest ago are removed down to 3/4.
    """

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self._folder, self._limit = folder / "v1", limit_bytes
        self._due = 0
        self._warned = False

    @staticmethod
    def key(url: str, name: str, info: ObjectInfo) -> str:
        """What names an object's content; another one after it was replaced."""
        text = "\n".join((url, name, str(info.size), info.tag))
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def read(self, key: str, offset: int, pieces: list[memoryview]) -> bool:
        """Fill buffers with a range that was kept, alone or within a larger one; whether it was."""
        total = sum(map(len, pieces))
        if self._read_file(self._path(key, offset, total), pieces):
            return True
        for start, nbytes in self._ranges(key):
            if (start, nbytes) != (offset, total) and start <= offset <= start + nbytes - total:
                data = np.empty(nbytes, np.uint8).data
                if self._read_file(self._path(key, start, nbytes), [data]):
                    scatter(data[offset - start :], pieces)
                    return True
        return False

    def write(self, key: str, offset: int, data: Bytes) -> None:
        """Keep a range, unless the disk says no."""
        size = _on_disk(len(data) + _TAIL)
        if 4 * size > self._limit:
            return
        self._due -= size
        try:
            if self._due < 0:
                self._due = self._evict(size)
            self._write_file(self._path(key, offset, len(data)), data)
        except OSError as error:
            if not self._warned:
                _log.warning("the local cache %s is not used: %s", self._folder, error)
            self._warned = True

    def forget(self, key: str, offset: int, nbytes: int) -> None:
        """Remove all that was kept of a range."""
        for start, size in list(self._ranges(key)):
            if start < offset + nbytes and offset < start + size:
                with suppress(OSError):
                    self._path(key, start, size).unlink()

    def _path(self, key: str, offset: int, nbytes: int) -> Path:
        return self._folder / key[:2] / key / f"{offset}-{nbytes}"

    def _ranges(self, key: str) -> Iterator[tuple[int, int]]:
        """Offset and length of each range of an object."""
        try:
            names = os.listdir(self._folder / key[:2] / key)  # noqa: PTH208  # thousands of names
        except OSError:
            return
        for name in names:
            start, _, nbytes = name.partition("-")
            if start.isdecimal() and nbytes.isdecimal():
                yield int(start), int(nbytes)

    def _read_file(self, path: Path, pieces: list[memoryview]) -> bool:
        try:
            with path.open("rb", buffering=0) as file:
                about = os.fstat(file.fileno())
                tail = bytearray(_TAIL)
                wanted = sum(map(len, pieces)) + _TAIL
                done = about.st_size == wanted and _read_all(file.fileno(), [*pieces, tail])
            if done and digest(*pieces) == int.from_bytes(tail, "little"):
                if time.time() - about.st_mtime > _FRESH_S:
                    os.utime(path)
                return True
        except FileNotFoundError:
            return False
        except OSError as error:
            _log.info("%s cannot be read: %s", path, error)
            return False
        _log.warning("%s is damaged, it is fetched again", path)
        with suppress(OSError):
            path.unlink()
        return False

    def _write_file(self, path: Path, data: Bytes) -> None:
        temporary = path.with_name(f"{TEMPORARY}{uuid.uuid4().hex}")
        try:
            file = temporary.open("xb", buffering=0)
        except FileNotFoundError:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = temporary.open("xb", buffering=0)
        try:
            with file:
                tail = digest(data).to_bytes(_TAIL, "little")
                write_all(file.fileno(), [data, tail], 0)
            temporary.replace(path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise

    def _evict(self, wanted: int) -> int:
        """Make room if it is scarce; bytes that may be written before the next look."""
        files = sorted(self._scan())
        total = sum(size for _, size, _ in files) + wanted
        if total > self._limit * 7 // 8:
            for _, size, path in files:
                if total <= self._limit * 3 // 4:
                    break
                with suppress(OSError):
                    os.unlink(path)  # noqa: PTH108  # many
                total -= size
        return max(0, self._limit - total) // _LATER

    def _scan(self) -> Iterator[tuple[float, int, str]]:
        """Time of use, size on disk and path of every file; removes what dead writers left."""
        now = time.time()
        for folder, _, names in os.walk(self._folder):
            for name in names:
                path = os.path.join(folder, name)  # noqa: PTH118  # many
                try:
                    about = os.stat(path)  # noqa: PTH116
                    if name.startswith(TEMPORARY) and now - about.st_mtime > _STALE_S:
                        os.unlink(path)  # noqa: PTH108
                        continue
                except OSError:
                    continue
                yield about.st_mtime, _on_disk(about.st_size), path


def scatter(data: memoryview, pieces: list[memoryview]) -> None:
    """Copy bytes into buffers, one after another, until these are full."""
    start = 0
    for piece in pieces:
        piece[:] = data[start : start + len(piece)]
        start += len(piece)


def _read_all(fd: int, pieces: list[memoryview | bytearray]) -> bool:
    """Fill buffers from the start of a file; false if it ends early."""
    if hasattr(os, "preadv") and len(pieces) <= _MOST_PIECES:
        wanted = sum(map(len, pieces))
        if os.preadv(fd, pieces, 0) == wanted:
            return True
    os.lseek(fd, 0, os.SEEK_SET)
    with open(fd, "rb", closefd=False) as file:
        return all(file.readinto(piece) == len(piece) for piece in pieces)


def _on_disk(nbytes: int) -> int:
    return -(-nbytes // _BLOCK) * _BLOCK
