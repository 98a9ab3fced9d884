"""Records copied as bytes, checked on the way, into new commits of a store."""

import errno
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from typing import NamedTuple

import numpy as np

from vidcomp.errors import StoreCorruptError
from vidcomp.store.commit import drop
from vidcomp.store.disk.format import ALIGN, digest
from vidcomp.store.disk.shard import shard_header, shard_name
from vidcomp.store.disk.types import Row
from vidcomp.store.manifest import Manifest
from vidcomp.store.part import Part, header_cost, layout_cost
from vidcomp.store.storage import RangeFile, Storage

__all__ = ["MOST_HEADER_BYTES", "Copier", "Copy", "Progress", "read_copies"]

Progress = Callable[[int, int], None]
"""Called with the bytes that are done and those that there are, now and then."""

MOST_HEADER_BYTES = 32 << 20
"""Of the shards that are made: many small records fill a header before they fill a shard."""

_RUN = 16 << 20
_GAP = 256 << 10
_SPARE = 1024
_WRITER_COST = 48


class Copy(NamedTuple):
    """A record to be copied, or a removal."""

    source: Storage
    row: Row
    """Where it lies there; the key, counts, hash and source stay as they are."""
    rank: tuple[int, str]
    """Generation and writer that it has in the new place."""


class Copier:
    """Writes records into new commits, by the steps that every writer takes.

    Args:
        storage: of the store that gets them.
        manifest: what that store holds.
        seal_bytes: size of the shards.
        progress: told about every few megabytes.
        total: bytes that will be copied, for the progress.
    """

    def __init__(
        self,
        storage: Storage,
        manifest: Manifest,
        *,
        seal_bytes: int,
        progress: Progress | None = None,
        total: int = 0,
    ) -> None:
        self._storage, self._store = storage, manifest.to_json()
        self._seal_bytes, self._progress, self._total = seal_bytes, progress, total
        self.id = uuid.uuid4().hex
        """The new commits' writer."""
        self.made: list[str] = []
        """Commits that are visible now."""
        self.bad: dict[str, str] = {}
        """Escaped keys of records that were not copied, and why."""
        self.num_records = 0
        self.num_bytes = 0
        self._done = 0

    def write(
        self, copies: Iterable[Copy], check: Callable[[dict[str, Row]], None] | None = None
    ) -> None:
        """Copy what is right, commit by commit; what is not goes to ``bad``.

        Args:
            copies: in the order of the new shards; those of one shard together, by offset, are
                read in large pieces.  No key twice.
            check: called before each commit with its rows by key; may remove some of them.

        Raises:
            OSError: a disk says no; the open part is dropped, earlier commits stay.
            FileNotFoundError: a shard is gone.
        """
        for batch in self._batches(copies):
            self._write_batch(batch, check)

    def _batches(self, copies: Iterable[Copy]) -> Iterator[list[Copy]]:
        batch: list[Copy] = []
        nbytes = header = 0
        for copy in copies:
            cost = header_cost(copy.row)
            full = nbytes + copy.row.nbytes > self._seal_bytes or header + cost > MOST_HEADER_BYTES
            if batch and full:
                yield batch
                batch, nbytes, header = [], 0, 0
            batch.append(copy)
            nbytes += copy.row.nbytes
            header += cost
        if batch:
            yield batch

    def _write_batch(
        self, batch: list[Copy], check: Callable[[dict[str, Row]], None] | None
    ) -> None:
        name = f"{self.id}-{len(self.made):06d}"
        part = Part(self._storage, name, self._store, self._room(name, batch), copies=True)
        try:
            self._fill(part, batch)
            if check is not None:
                check(part.rows)
            if part.rows:
                part.commit()
        except BaseException:
            part.close()
            if not part.sealed:  # a sealed one may be visible already
                drop(self._storage.wal, name)
            raise
        if part.rows:
            self.made.append(name)
            records = [row for row in part.rows.values() if not row.removed]
            self.num_records += len(records)
            self.num_bytes += sum(row.nbytes for row in records)
        else:
            part.close()
            drop(self._storage.wal, name)

    def _fill(self, part: Part, batch: list[Copy]) -> None:
        for copy, data in read_copies(batch):
            row = replace(copy.row, generation=copy.rank[0], writer=copy.rank[1])
            if isinstance(data, str):
                self.bad[row.key] = data
            elif data is None:
                part.remove(row, header_cost(row))
            else:
                row = replace(row, shard=part.name, offset=part.end)
                part.append(row, [data], header_cost(row))
            self._tell(row.nbytes)

    def _room(self, name: str, batch: list[Copy]) -> int:
        """Bytes for the header of a shard with all these rows."""
        rows = [copy.row for copy in batch]
        needed = len(shard_header(name, self._store, [], None)) + _SPARE
        needed += sum(map(header_cost, rows))
        needed += sum(layout_cost(layout) for layout in {r.layout for r in rows if r.layout})
        needed += _WRITER_COST * len({copy.rank[1] for copy in batch})
        return needed + -needed % ALIGN

    def _tell(self, nbytes: int) -> None:
        before = self._done
        self._done += nbytes
        done = self._done >= self._total
        if self._progress is not None and (done or before // _RUN != self._done // _RUN):
            self._progress(self._done, self._total)


def read_copies(copies: Sequence[Copy]) -> Iterator[tuple[Copy, memoryview | str | None]]:
    """The bytes of records, read in large pieces and checked.

    Yields:
        Each copy with its bytes, valid until the next one is asked for; or with what is wrong with
        them; or with None if it is a removal.

    Raises:
        FileNotFoundError: a shard is gone.
        OSError: it cannot be read.
    """
    buffer = np.empty(_RUN, np.uint8).data
    for (source, name), group in groupby(copies, key=lambda copy: (copy.source, copy.row.shard)):
        if not name:
            yield from ((copy, None) for copy in group)
            continue
        file = source.open(shard_name(name))
        for run in _runs(list(group)):
            yield from _read_run(file, run, buffer)


def _runs(copies: list[Copy]) -> Iterator[list[Copy]]:
    """Records that lie so close together that they are read at once."""
    run: list[Copy] = []
    for copy in copies:
        if run:
            first, last = run[0].row, run[-1].row
            gap = copy.row.offset - last.offset - last.nbytes
            if not 0 <= gap <= _GAP or copy.row.offset + copy.row.nbytes - first.offset > _RUN:
                yield run
                run = []
        run.append(copy)
    if run:
        yield run


def _read_run(
    file: RangeFile, run: list[Copy], buffer: memoryview
) -> Iterator[tuple[Copy, memoryview | str]]:
    start = run[0].row.offset
    nbytes = run[-1].row.offset + run[-1].row.nbytes - start
    if run[-1].row.offset + run[-1].row.nbytes > file.size and len(run) > 1:
        for copy in run:
            yield from _read_run(file, [copy], buffer)
        return
    data: memoryview | str = _read(file, start, nbytes, buffer)
    if isinstance(data, str) and len(run) > 1:
        for copy in run:  # what can be read of it is read
            yield from _read_run(file, [copy], buffer)
        return
    for copy in run:
        row = copy.row
        if isinstance(data, str):
            yield copy, data
            continue
        first = row.offset - start
        piece = data[first : first + row.nbytes]
        whole = row.layout is not None and row.layout.places(row.counts).nbytes < row.nbytes
        if not whole or (digest(piece) != row.checksum and not _again(file, row, piece)):
            yield copy, "its bytes are not those that were written"
        else:
            yield copy, piece


def _read(file: RangeFile, start: int, nbytes: int, buffer: memoryview) -> memoryview | str:
    if start + nbytes > file.size:
        return "its shard ends before it does"
    try:
        data = buffer[:nbytes] if nbytes <= len(buffer) else np.empty(nbytes, np.uint8).data
        file.read_pieces([data], start, "its shard")
    except StoreCorruptError as error:
        return str(error)
    except MemoryError:
        return "there is not enough memory for its bytes"
    except OSError as error:
        if error.errno != errno.EIO:  # a bad sector is damage, a lost network is not
            raise
        return "its disk cannot read it"
    return data


def _again(file: RangeFile, row: Row, piece: memoryview) -> bool:
    """Whether a second reading, past a local copy that may be damaged, is right."""
    if not file.forget(row.offset, row.nbytes):
        return False
    file.read_pieces([piece], row.offset, "its shard")
    return digest(piece) == row.checksum
