"""A shard while it grows: records at its end, a line in the journal for each."""

import os
import time
from collections.abc import Mapping
from concurrent.futures import Future, wait
from functools import lru_cache
from typing import Any

from vidcomp.store import journal
from vidcomp.store.commit import drop, journal_path, part_path, publish, seal
from vidcomp.store.disk.format import ALIGN
from vidcomp.store.disk.header import dumps
from vidcomp.store.disk.layout import Counts, Layout
from vidcomp.store.disk.shard import FILLER_NBYTES, record_entries, shard_header, shard_name
from vidcomp.store.disk.types import Row
from vidcomp.store.files import write_all
from vidcomp.store.storage import Storage
from vidcomp.store.threads import threads

__all__ = ["Part", "header_cost", "layout_cost", "room_for"]

_SPARE = 512
_FAR = 10**12
_NUMBERS_NBYTES = 320
"""Characters that the numbers of a row have at most: up to 14, of 20 digits and a comma each."""
_EARLY_BYTES = 16 << 20
_datasync = getattr(os, "fdatasync", os.fsync)


class Part:
    """One open shard of one writer.  Every method may raise OSError and leaves a whole part.

    Args:
        storage: where the store's files lie.
        name: of the commit.
        store: what store.json holds.
        room: bytes to reserve for the header.
        copies: it will hold copies of records that stay where they are until it is committed, so
            that it is thrown away if its writer dies.
    """

    def __init__(
        self,
        storage: Storage,
        name: str,
        store: Mapping[str, Any],
        room: int,
        *,
        copies: bool = False,
    ) -> None:
        self.name = name
        self.rows: dict[str, Row] = {}
        """The last row of each key."""
        self.room = room
        """Bytes reserved for the header, a multiple of 64."""
        self.end = room
        """Byte after the last record."""
        self.sealed = False
        """Whether nothing may be added any more: it is among the shards, where more bytes would not
        be in its header, or thrown away as empty; it may still lack its delta."""
        self.started_s = time.monotonic()
        self._storage = storage
        self._store = dict(store)
        self._header = len(shard_header(name, store, [], None)) + _SPARE
        self._layouts: set[Layout | None] = set()
        self._unsynced = 0
        self._synced_s = self.started_s
        self._journal_end = 0
        self._journal = self._part = -1
        self._early: Future[None] | None = None
        self._early_end = room
        try:
            path = journal_path(storage.wal, name)
            self._journal = journal.create(path, str(store["id"]), room, copies=copies)
            self._journal_end = os.fstat(self._journal).st_size
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0)
            self._part = os.open(part_path(storage.wal, name), flags, 0o666)
            write_all(self._part, [b" " * room], 0)
        except BaseException:
            self.close()
            drop(storage.wal, name)
            raise

    def fits(self, row: Row, cost: int) -> bool:
        """Whether the header has room for one more row, of that ``header_cost``."""
        return self._header + cost + self._layout_cost(row) <= self.room

    def append(self, row: Row, parts: list[memoryview], cost: int) -> None:
        """Write a record, then its line.  An earlier record of the key becomes filler."""
        end = self.end
        try:
            write_all(self._part, parts, end)
            self._note(row, journal.record_line(row), cost)
        except BaseException:
            os.ftruncate(self._part, end)
            raise
        self.end = row.offset + row.nbytes
        self._write_back()

    def remove(self, row: Row, cost: int) -> None:
        """Note a removal; an earlier record of the key becomes filler."""
        self._note(row, journal.removal_line(row), cost)

    def sync(self) -> None:
        """Make all that was taken survive a power cut: the records first, then their lines."""
        if self._unsynced:
            self._settle()
            os.fsync(self._part)
            os.fsync(self._journal)
        self._unsynced = 0
        self._synced_s = time.monotonic()

    def sync_if_due(self, every: int, seconds: float) -> bool:
        """Sync after so many rows or seconds; whether all rows are durable now."""
        if self._unsynced >= every or time.monotonic() - self._synced_s >= seconds:
            self.sync()
        return not self._unsynced

    def commit(self) -> None:
        """Seal the shard and make it visible; the part is closed afterwards, or as it was.

        One without rows, as the first record found no room, is thrown away.
        """
        rows = self.in_order()
        self._settle()
        if rows:
            self._seal(rows)
            publish(self._storage, self.name, str(self._store["id"]), rows)
        else:
            self.sealed = True  # half thrown away it takes no records
            drop(self._storage.wal, self.name)
        self.close()

    def in_order(self) -> list[Row]:
        """Records in the order of the data, then removals."""
        return sorted(self.rows.values(), key=lambda row: (row.removed, row.offset, row.key))

    def close(self) -> None:
        """Close the files, which gives the lock back; what is on disk stays for the recovery."""
        if self._early is not None:
            wait([self._early])
        for fd in (self._part, self._journal):
            if fd >= 0:
                os.close(fd)
        self._part = self._journal = -1

    def _seal(self, rows: list[Row]) -> None:
        if self.sealed:
            return
        try:
            seal(self._storage, self.name, self._store, rows, (self.room, self.end))
        except BaseException:
            # On a network, what was done may be answered with an error.
            is_gone = not part_path(self._storage.wal, self.name).exists()
            self.sealed = is_gone and self._storage.exists(shard_name(self.name))
            raise
        self.sealed = True

    def _write_back(self) -> None:
        """Let the disk begin, so that it has little left to do when it is waited for."""
        if self.end - self._early_end >= _EARLY_BYTES and (
            self._early is None or (self._early.done() and self._early.exception() is None)
        ):
            self._early = threads().submit(_datasync, self._part)
            self._early_end = self.end

    def _settle(self) -> None:
        """Wait for the disk; an error is told once to whoever asks first, so it is kept."""
        if self._early is not None:
            self._early.result()

    def _layout_cost(self, row: Row) -> int:
        known = row.layout is None or row.layout in self._layouts
        return 0 if known or row.layout is None else layout_cost(row.layout)

    def _note(self, row: Row, line: bytes, cost: int) -> None:
        try:
            end = write_all(self._journal, [line], self._journal_end)
        except BaseException:
            os.ftruncate(self._journal, self._journal_end)
            raise
        self._journal_end = end
        self._header += cost + self._layout_cost(row)
        self._layouts.add(row.layout)
        self.rows[row.key] = row
        self._unsynced += 1


def header_cost(row: Row) -> int:
    """Header bytes that a row needs at most, wherever its record will lie; without its layout."""
    if row.layout is None:
        return len(dumps(dumps(row.key))) + 64 + FILLER_NBYTES
    num_names, entries = _entries_cost(row.layout, row.counts, row.nbytes)
    quoted = len(dumps(row.key))
    # The row stands in a string, so what is quoted in it is quoted twice.
    texts = len(dumps(dumps(row.key))) + (
        len(dumps(dumps(row.source.content))) if row.source else 0
    )
    return _NUMBERS_NBYTES + texts + entries + num_names * quoted + FILLER_NBYTES


@lru_cache(maxsize=1024)
def _entries_cost(layout: Layout, counts: Counts, nbytes: int) -> tuple[int, int]:
    """Header entries of a record, and their bytes at most, but for the key in their names."""
    row = Row("", 1, "", "-", 0, nbytes, 0, counts, layout)
    entries = record_entries(row, -_FAR)
    return len(entries), sum(map(len, entries))


def layout_cost(layout: Layout) -> int:
    """Header bytes that a layout needs."""
    return len(dumps(dumps(layout.fields))) + 1


def room_for(row: Row, store: Mapping[str, Any], name: str, least: int) -> int:
    """Bytes to reserve for the header of a shard that begins with ``row``: at least ``least``."""
    needed = len(shard_header(name, store, [], None)) + _SPARE + header_cost(row)
    needed += 0 if row.layout is None else layout_cost(row.layout)
    return max(least, needed + -needed % ALIGN)
