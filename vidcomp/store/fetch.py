"""Reads the bytes of records, and checks that they are those that were written."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import wait
from contextlib import suppress
from functools import partial
from typing import NoReturn

import xxhash

from vidcomp.errors import StoreCorruptError, StoreError
from vidcomp.store.disk.format import digest
from vidcomp.store.disk.shard import shard_name
from vidcomp.store.disk.types import Location
from vidcomp.store.files import explained
from vidcomp.store.pool import FilePool
from vidcomp.store.storage import RangeFile, Storage
from vidcomp.store.threads import threads as threads_of_ours

__all__ = ["Fetcher"]

_SHARE = 512 << 10
"""Bytes that are worth another thread."""
_PREADV = getattr(os, "preadv", None)
_NOWAIT: int = getattr(os, "RWF_NOWAIT", 0) if hasattr(os, "posix_fadvise") else 0


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
        except OSError as error:
            _raise(error, key, place)
        needed = place.layout.places(place.counts).nbytes
        if needed >= place.nbytes or place.offset + place.nbytes > file.size:
            raise StoreCorruptError(
                f"{_what(key, place)} has {file.size} bytes, which cannot hold {place.nbytes} from "
                f"{place.offset} on with {needed} of tensors and the meta: it was cut, run verify"
            )
        return file

    def check_many(self, keys: Sequence[str], places: Sequence[Location]) -> None:
        """``check`` of several records.

        Raises:
            StoreCorruptError, StoreError: as for one.
        """
        sizes: dict[str, int] = {}
        needed: dict[tuple[int, int], int] = {}
        for key, place in zip(keys, places, strict=True):
            shard, offset, nbytes, _, counts, layout = place
            form = id(layout), id(counts)
            if not needed.get(form, nbytes) < nbytes or offset + nbytes > sizes.get(shard, 0):
                sizes[shard] = self.check(key, place).size  # raises if it cannot be
                needed[form] = layout.places(counts).nbytes

    def fill(
        self,
        key: str,
        place: Location,
        pieces: list[memoryview],
        *,
        file: RangeFile | None = None,
    ) -> None:
        """Fill buffers, which together take a whole record, and check its hash.

        Args:
            key: of the record.
            place: where it lies.
            pieces: the buffers.
            file: what ``check`` gave.

        Raises:
            StoreCorruptError: other bytes than were written, in the file itself.
            StoreError: they cannot be read.
        """
        file = file or self.check(key, place)
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
        self,
        keys: Sequence[str],
        places: Sequence[Location],
        pieces: Callable[[int], list[memoryview]],
        *,
        threads: int = 1,
    ) -> None:
        """``fill`` for several records.

        Args:
            keys: of the records.
            places: where they lie.
            pieces: gives the buffers of the ``i``-th; called by the thread that reads it.
            threads: for a store on this machine; where reads wait for a network there are more.

        Raises:
            StoreCorruptError, StoreError: as for the first record that cannot be read.
        """
        if self.is_far:  # what a read waits for is not its size
            count = min(self._storage.concurrency, len(places))
        else:
            share = 1 + sum(place.nbytes for place in places) // _SHARE
            count = min(threads, len(places), share)
        if count > 1:
            # Whoever is done takes the next; the largest come first, so that all end together.
            turns = iter(sorted(range(len(places)), key=lambda i: -places[i].nbytes))
            job = partial(self._fill_in_turn, turns, keys, places, pieces)
            others = [threads_of_ours().submit(job) for _ in range(1, count)]
            failed = False
            try:
                job()
            except StoreError:
                failed = True
            finally:
                wait(others)
            if not failed and all(other.exception() is None for other in others):
                return
        # Alone, or to find the first that fails.
        self._fill_in_turn(iter(range(len(places))), keys, places, pieces)

    def _fill_in_turn(
        self,
        turns: Iterator[int],
        keys: Sequence[str],
        places: Sequence[Location],
        pieces: Callable[[int], list[memoryview]],
    ) -> None:
        """What ``fill`` does, without a call of ours where all is well: small records are many."""
        files: dict[str, RangeFile] = {}
        verify, new = self.verify, xxhash.xxh3_64
        preadv = None if self.is_far else _PREADV
        flags = _NOWAIT if len(places) > 1 else 0
        for i in turns:
            shard, offset, nbytes, checksum, _, _ = places[i]
            views = pieces(i)
            file = files.get(shard)
            if file is None:
                if len(files) >= self._limit:
                    files.clear()
                file = files[shard] = self.check(keys[i], places[i])
            try:
                good = preadv is not None and preadv(file.fileno(), views, offset, flags) == nbytes
            except OSError:  # what must wait for the disk, or a system that cannot tell
                good = False
            if not good and flags:
                # The disk is needed: let it look for the rest of the batch all at once.
                flags = 0
                self._announce(keys[i:], places[i:])
                with suppress(OSError):
                    good = preadv is not None and preadv(file.fileno(), views, offset) == nbytes
            if good and verify:
                state = new()
                for view in views:
                    state.update(view)
                good = state.intdigest() == checksum
            if not good:
                self.fill(keys[i], places[i], views)  # which tries again, and tells why

    def _announce(self, keys: Sequence[str], places: Sequence[Location]) -> None:
        for key, place in zip(keys, places, strict=True):
            fd = self.check(key, place).fileno()
            if fd >= 0:
                os.posix_fadvise(fd, place.offset, place.nbytes, os.POSIX_FADV_WILLNEED)

    def ranges(
        self, key: str, place: Location, wanted: Sequence[tuple[int, int]]
    ) -> list[memoryview]:
        """Bytes of ranges ``(start, stop)`` of a record, unchecked.

        Raises:
            StoreCorruptError, StoreError: as for the whole record.
        """
        file = self.check(key, place)

        def read(part: tuple[int, int]) -> memoryview:
            with explained(f"read {_what(key, place)}"):
                start, stop = part
                return file.read(place.offset + start, stop - start, f"shard {place.shard}")

        if self.is_far and len(wanted) > 1:
            return list(threads_of_ours().map(read, wanted))
        return [read(part) for part in wanted]

    def forget(self, key: str, place: Location) -> bool:
        """Drop copies of a record that were found wrong; whether reading again may help."""
        return self.check(key, place).forget(place.offset, place.nbytes)

    @property
    def is_far(self) -> bool:
        """Whether a read waits for a network, so that fewer and larger ones pay."""
        return self._storage.concurrency > 1

    def _read(self, file: RangeFile, key: str, place: Location, pieces: list[memoryview]) -> None:
        try:
            file.read_pieces(pieces, place.offset, f"shard {place.shard}")
        except OSError as error:
            _raise(error, key, place)


def _open_shard(storage: Storage, name: str) -> RangeFile:
    return storage.open(shard_name(name))


def _raise(error: OSError, key: str, place: Location) -> NoReturn:
    """The sentence for a shard that cannot be opened or read: remote ones vanish at any time."""
    if isinstance(error, FileNotFoundError):
        raise StoreCorruptError(
            f"{_what(key, place)} is gone: open the cache again if it was compacted, else run "
            f"verify"
        ) from error
    with explained(f"read {_what(key, place)}"):
        raise error


def _what(key: str, place: Location) -> str:
    return f"shard {place.shard}, which holds {key!r},"
