"""Open shards: few files at a time, safe with threads and after a fork."""

import errno
import os
import threading
from collections import OrderedDict
from collections.abc import Callable

from vidcomp.store.storage import RangeFile

__all__ = ["FilePool"]


class FilePool:
    """The files used last, kept open; safe with threads, and after a fork opens its own.

    Args:
        open_file: opens the file of a name.
        limit: files open at a time.

    A file that is dropped while another thread reads from it is closed when that thread is done.
    """

    def __init__(self, open_file: Callable[[str], RangeFile], limit: int) -> None:
        self._open_file, self._limit = open_file, limit
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()  # a lock of before a fork may be held by no thread of ours
        self._files: OrderedDict[str, RangeFile] = OrderedDict()

    def get(self, name: str) -> RangeFile:
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
        opened = self._open(name)  # not under the lock: on a network this takes a while
        with self._lock:
            file = self._files.setdefault(name, opened)
            self._files.move_to_end(name)
            while len(self._files) > self._limit:
                self._files.popitem(last=False)
        return file

    def clear(self) -> None:
        """Close all files that no thread is reading from."""
        with self._lock:
            self._files.clear()

    def _open(self, name: str) -> RangeFile:
        try:
            return self._open_file(name)
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE) or not self._files:
                raise
            self.clear()  # the process has too few left: give ours back
            return self._open_file(name)
