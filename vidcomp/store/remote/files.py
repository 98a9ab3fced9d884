"""An object of which ranges are read, with the local cache in between."""

from typing import Protocol

import numpy as np

from vidcomp.errors import StoreCorruptError
from vidcomp.store.disk.format import Bytes
from vidcomp.store.remote.cached import RangeCache, scatter
from vidcomp.store.remote.client import ObjectInfo

__all__ = ["RemoteFile"]


class _Source(Protocol):
    """What a file needs of its storage."""

    @property
    def path(self) -> str: ...

    @property
    def cache(self) -> RangeCache | None: ...

    def fetch(self, name: str, start: int, stop: int) -> Bytes: ...

    def fresh_size(self, name: str) -> int: ...


class RemoteFile:
    """One object; it holds no connection, so it is as safe as its storage with threads and forks.

    Args:
        source: the storage.
        name: of the object.
        info: what is known of it.
    """

    def __init__(self, source: _Source, name: str, info: ObjectInfo) -> None:
        self._source, self._name = source, name
        self.size = info.size
        self._key = RangeCache.key(source.path, name, info)

    def fileno(self) -> int:
        """-1: there is no local file."""
        return -1

    def read_pieces(self, pieces: list[memoryview], offset: int, what: str) -> None:
        """Fill buffers one after another from ``offset`` on, by one request.

        Raises:
            StoreCorruptError: the object ends before they are full.
            FileNotFoundError: it is gone.
            OSError: it cannot be read.
        """
        total = sum(map(len, pieces))
        self._check(offset, total, what)
        cache = self._source.cache
        if not total or (cache is not None and cache.read(self._key, offset, pieces)):
            return
        data = self._fetch(offset, total, what)
        scatter(data, pieces)
        if cache is not None:
            cache.write(self._key, offset, data)

    def read(self, offset: int, nbytes: int, what: str) -> memoryview:
        """Bytes of a range, in a buffer of their own.

        Raises:
            StoreCorruptError, OSError: as for pieces.
        """
        self._check(offset, nbytes, what)
        data = np.empty(nbytes, np.uint8).data
        self.read_pieces([data], offset, what)
        return data

    def forget(self, offset: int, nbytes: int) -> bool:
        """Drop what the local cache has of a range; the next read may give other bytes."""
        if (cache := self._source.cache) is not None:
            cache.forget(self._key, offset, nbytes)
        return True

    def _fetch(self, offset: int, nbytes: int, what: str) -> memoryview:
        try:
            data = self._source.fetch(self._name, offset, offset + nbytes)
        except FileNotFoundError:
            raise
        except OSError:
            # A range that begins behind the end is refused; say so if that is what it was.
            if (size := self._source.fresh_size(self._name)) < offset + nbytes:
                raise _shorter(what, offset, nbytes, size) from None
            raise
        if len(data) < nbytes:
            raise _shorter(what, offset, nbytes, offset + len(data))
        return memoryview(data)

    def _check(self, offset: int, nbytes: int, what: str) -> None:
        if nbytes < 0 or offset < 0 or offset + nbytes > self.size:
            raise _shorter(what, offset, nbytes, self.size)


def _shorter(what: str, offset: int, nbytes: int, size: int) -> StoreCorruptError:
    return StoreCorruptError(
        f"{what} should have bytes {offset} to {offset + nbytes}, but ends at {size}: it was cut, "
        f"run verify"
    )
