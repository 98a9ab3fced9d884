"""Reads the bytes of records, and checks that they are those that were written."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from vidcomp.errors import StoreCorruptError
from vidcomp.store.files import explained
from vidcomp.store.format import digest
from vidcomp.store.pool import FilePool
from vidcomp.store.shard import shard_name
from vidcomp.store.storage import RangeFile, Storage
from vidcomp.store.types import Location

__all__ = ["Fetcher"]

_HAS_PREADV = hasattr(os, "preadv")
_MOST_PIECES = 512


class Fetcher:
    """Ranges of the shards of one store; safe with threads and after a fork.

    Args:
        storage: where the shards lie.
        verify: check the hash of every record.
        max_open_files: shards kept open at a time.
    """

    def __init__(self, storage: Storage, *, verify: bool, max_open_files: int) -> None:
        self._storage, self.verify, self._limit = storage, verify, max_open_files
        self._pool = FilePool(partial(_open_shard, storage), max_open_files)

    def __getstate__(self) -> tuple[Storage, bool, int]:
        return self._storage, self.verify, self._limit

    def __setstate__(self, state: tuple[Storage, bool, int]) -> None:
        storage, verify, limit = state
        self.__init__(storage, verify=verify, max_open_files=limit)  # type: ignore[misc]

    def close(self) -> None:
        """Close the shards; they open again when needed."""
        self._pool.clear()

    def check(self, key: str, place: Location) -> RangeFile:
        """The shard of a record that can be there; call it before making room for the record.

        Raises:
            StoreCorruptError: its bytes cannot hold its tensors, or its shard is gone or cut.
            StoreError: the shard cannot be opened.
        """
        try:
            file = self._pool.get(place.shard)
        except FileNotFoundError as error:
            raise StoreCorruptError(
                f"{_what(key, place)} is gone: open the cache again if it was compacted, else run "
                f"verify"
            ) from error
        except OSError as error:
            with explained(f"read {_what(key, place)}"):
                raise error
        needed = place.layout.places(place.counts).nbytes
        if needed >= place.nbytes or place.offset + place.nbytes > file.size:
            raise StoreCorruptError(
                f"{_what(key, place)} has {file.size} bytes, which cannot hold {place.nbytes} from "
                f"{place.offset} on with {needed} of tensors and the meta: it was cut, run verify"
            )
        return file

    def fill(self, key: str, place: Location, pieces: list[memoryview]) -> None:
        """Fill buffers, which together take a whole record, and check its hash.

        Raises:
            StoreCorruptError: other bytes than were written, in the file itself.
            StoreError: they cannot be read.
        """
        file = self.check(key, place)
        self._read(file, key, place, pieces)
        if not self.verify or digest(*pieces) == place.checksum:
            return
        if file.forget(place.offset, place.nbytes):  # a copy of it was damaged, not the shard
            self._read(file, key, place, pieces)
        if (found := digest(*pieces)) != place.checksum:
            raise StoreCorruptError(
                f"{_what(key, place)} has other bytes than were written (hash {found:016x} "
                f"instead of {place.checksum:016x}): run verify, then extract the video again"
            )

    def fill_many(
        self, keys: Sequence[str], places: Sequence[Location], pieces: list[list[memoryview]]
    ) -> None:
        """``fill`` for several records; at once where the storage gains from that."""
        workers = min(self._storage.concurrency, len(keys))
        if workers <= 1:
            self._fill_in_turn(keys, places, pieces)
            return
        with ThreadPoolExecutor(workers) as pool:
            for _ in pool.map(self.fill, keys, places, pieces):
                pass

    def _fill_in_turn(
        self, keys: Sequence[str], places: Sequence[Location], pieces: list[list[memoryview]]
    ) -> None:
        """What ``fill`` does, without a call where all is well: small records are many."""
        files: dict[str, RangeFile] = {}
        for key, place, views in zip(keys, places, pieces, strict=True):
            file = files.get(place.shard)
            if file is None:
                if len(files) >= self._limit:
                    files.clear()
                file = files[place.shard] = self.check(key, place)
            fd = file.fileno() if _HAS_PREADV else -1
            if fd < 0 or len(views) > _MOST_PIECES:
                self.fill(key, place, views)
            elif not _is_read(fd, views, place) or (
                self.verify and digest(*views) != place.checksum
            ):
                self.fill(key, place, views)  # which tells why

    def read_range(self, key: str, place: Location, start: int, stop: int) -> memoryview:
        """Bytes ``start`` to ``stop`` of a record; the caller checks them.

        Raises:
            StoreCorruptError: as for the whole record.
        """
        file = self.check(key, place)
        with explained(f"read {_what(key, place)}"):
            return file.read(place.offset + start, stop - start, f"shard {place.shard}")

    def forget(self, key: str, place: Location) -> bool:
        """Drop copies of a record that were found wrong; whether reading again may help."""
        return self.check(key, place).forget(place.offset, place.nbytes)

    def _read(self, file: RangeFile, key: str, place: Location, pieces: list[memoryview]) -> None:
        try:
            file.read_pieces(pieces, place.offset, f"shard {place.shard}")
        except OSError as error:
            with explained(f"read {_what(key, place)}"):
                raise error


def _is_read(fd: int, views: list[memoryview], place: Location) -> bool:
    try:
        return os.preadv(fd, views, place.offset) == place.nbytes
    except OSError:
        return False


def _open_shard(storage: Storage, name: str) -> RangeFile:
    return storage.open(shard_name(name))


def _what(key: str, place: Location) -> str:
    return f"shard {place.shard}, which holds {key!r},"
