"""Open shards: ranges of bytes, few files at a time, safe with threads and after a fork."""

import errno
import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np

from vidcomp.errors import StoreCorruptError

__all__ = ["FilePool", "OpenFile"]

_MOST_PIECES = 512


class OpenFile:
    """A file open for reading; closed when nobody holds it any more."""

    def __init__(self, path: Path) -> None:
        self._fd = -1
        self._fd = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        self.size = os.fstat(self._fd).st_size
        self._lock = threading.Lock()

    def __del__(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)

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
            StoreCorruptError: it ends after the file does.
        """
        self._check(offset, nbytes, what)
        data = np.empty(nbytes, np.uint8).data  # a bytearray would be filled with zeros first
        if self.read_into(data, offset) != nbytes:
            raise StoreCorruptError(f"{what} became shorter while it was read: run verify")
        return data

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


class FilePool:
    """The files used last, kept open; safe with threads, and after a fork opens its own.

    Args:
        find: name to path.
        limit: files open at a time.

    A file that is dropped while another thread reads from it is closed when that thread is done.
    """

    def __init__(self, find: Callable[[str], Path], limit: int) -> None:
        self._find, self._limit = find, limit
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()  # a lock of before a fork may be held by no thread of ours
        self._files: OrderedDict[str, OpenFile] = OrderedDict()

    def get(self, name: str) -> OpenFile:
        """The open file of that name.

        Raises:
            OSError: it cannot be opened.
        """
        if self._pid != os.getpid():
            self._reset()
        with self._lock:
            file = self._files.get(name)
            if file is not None:
                self._files.move_to_end(name)
                return file
            while len(self._files) >= self._limit:
                self._files.popitem(last=False)
            file = self._files[name] = self._open(self._find(name))
            return file

    def clear(self) -> None:
        """Close all files that no thread is reading from."""
        with self._lock:
            self._files.clear()

    def _open(self, path: Path) -> OpenFile:
        try:
            return OpenFile(path)
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE) or not self._files:
                raise
            self._files.clear()  # the process has too few left: give ours back
            return OpenFile(path)
