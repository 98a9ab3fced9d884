"""Adds records to a store: durable one by one, visible shard by shard."""

import logging
import os
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from vidcomp.config import StoreSettings
from vidcomp.errors import StoreError, StoreMissError
from vidcomp.store.commit import snapshot
from vidcomp.store.committed import Committed
from vidcomp.store.disk.format import escape_key
from vidcomp.store.disk.record import Packed, pack
from vidcomp.store.disk.types import Receipt, Row, SourceId
from vidcomp.store.files import explained
from vidcomp.store.manifest import Manifest, create_or_join
from vidcomp.store.part import Part, header_cost, room_for
from vidcomp.store.recover import recover
from vidcomp.store.storage import Storage, open_storage
from vidcomp.store.view import View, load_view
from vidcomp.types import VideoTokens

__all__ = ["CacheWriter"]

_log = logging.getLogger(__name__)

_FIRST_ROOM = 16 << 10
_LAST_ROOM = 4 << 20
_SNAPSHOT_COMMITS = 64


class CacheWriter:
    """Adds records to the store at ``path``, which it makes if there is none.

    One a process; any number of processes may write to one store at once, as no two write the
    same file.  Its methods may be called from several threads.  Use it as a context manager:
    what was added is committed at the end, after an exception too.

    Args:
        path: the store's folder, which is made with its parents, or a URL or storage.
        identity: what ``vidcomp.config.identity`` made of the recipe.
        weights: content hashes of model weights, by section of the recipe.
        settings: how records are written.
        seal_bytes: a shard is closed, and visible to readers, when it has so many bytes,
        seal_s: or when it has been open for so many seconds (looked at when a record is added).
        sync_every: records are synced to the disk after so many,
        sync_s: or after so many seconds; a crash of the machine can lose those since then, a
            crash of the process at most the one being written.

    Raises:
        StoreStaleError: the store was made with other settings; the message names them.
        StoreError: ``path`` is a file, or cannot be written.
    """

    def __init__(
        self,
        path: str | Path | Storage,
        *,
        identity: Mapping[str, Any],
        weights: Mapping[str, str] | None = None,
        settings: StoreSettings | None = None,
        seal_bytes: int = 256 << 20,
        seal_s: float = 120.0,
        sync_every: int = 1024,
        sync_s: float = 5.0,
    ) -> None:
        self._storage = open_storage(path)
        self.path = self._storage.path
        self._settings = settings or StoreSettings()
        self._limits = (seal_bytes, seal_s, sync_every, sync_s)
        self._manifest = create_or_join(self._storage, identity, weights or {}, self._settings)
        self._store = self._manifest.to_json()
        self.recovered: tuple[str, ...] = tuple(recover(self._storage))
        """Commits that writers which died had left unfinished."""
        self._view: View = load_view(self._storage, self._manifest.id)
        self._own: dict[str, Row] = {}
        self._id, self._sequence, self._pid = uuid.uuid4().hex, 0, os.getpid()
        self._room = _FIRST_ROOM
        self._part: Part | None = None
        self._lock = threading.RLock()
        self._closed = False

    @property
    def manifest(self) -> Manifest:
        """What the store holds."""
        return self._manifest

    @property
    def fingerprint(self) -> str:
        """16 hex digits of recipe, weights and format."""
        return self._manifest.fingerprint

    def add(
        self,
        key: str,
        video: VideoTokens,
        meta: Mapping[str, Any] | None = None,
        source: SourceId | None = None,
    ) -> Receipt:
        """Write one record; one that the key had before is valid until this one is visible.

        Args:
            key: names the video: any text that is not empty.
            video: its tokens, on any device.
            meta: JSON values to keep with it: path, decoder, damage, versions.
            source: identity of the file behind it, if known.

        Raises:
            StoreError: key, meta or values that cannot be stored, a full disk, a closed writer;
                nothing that was added before is lost, and no half record is left.
        """
        packed = pack(escape_key(key), video, meta or {}, source, self._settings)
        with self._locked(f"write {key!r} to {self.path}"):
            row, durable = self._append(packed, source)
        return Receipt(
            key=key,
            shard=row.shard,
            offset=row.offset,
            nbytes=row.nbytes,
            num_tokens=len(video),
            checksum=f"{row.checksum:016x}",
            generation=row.generation,
            durable=durable,
        )

    def remove(self, key: str) -> None:
        """Remove a record; readers see that with the next commit.

        Raises:
            StoreMissError: there is no such record.
            StoreError: the disk is full, or the writer is closed.
        """
        escaped = escape_key(key)
        with self._locked(f"remove {key!r} from {self.path}"):
            own = self._own.get(escaped)
            if (self._view.row(escaped) if own is None else own if own.shard else None) is None:
                raise StoreMissError(f"{self.path} has no record {key!r} to remove: check the key")
            row = Row(escaped, *self._next_rank(escaped))
            cost = header_cost(row)
            self._part_for(row, cost).remove(row, cost)
            self._own[escaped] = row
            self._after()

    def committed(self) -> Mapping[str, SourceId | None]:
        """Keys that need no more work, with the identity of their source.

        Those visible when this writer was opened (what dead writers left included) and those it
        added itself until now.  Keys are looked up in the index as they are asked for, so that a
        store of millions costs nothing to begin with; no file of a record is touched.
        """
        with self._lock:
            return Committed(self._view, dict(self._own))

    def sync(self) -> None:
        """Make all that was added survive a power cut.

        Raises:
            StoreError: the disk says no.
        """
        with self._locked(f"write to {self.path}"):
            if self._part is not None:
                self._part.sync()

    def seal(self) -> None:
        """Commit the open shard: its records become visible to readers.

        Raises:
            StoreError: the disk is full; what was added stays journalled, and is committed by
                the next call or the next writer.
        """
        with self._locked(f"commit to {self.path}"):
            self._seal()

    def close(self) -> None:
        """Commit and end; a second call does nothing.

        Raises:
            StoreError: as ``seal`` does; the writer is closed all the same.
        """
        with self._lock:
            if self._closed:
                return
            try:
                self.seal()
            finally:
                self._closed = True
                if self._part is not None:
                    self._part.close()
            if self._sequence:
                self._snapshot()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.close()
        except StoreError as failed:
            if error is None:
                raise
            error.add_note(f"and closing the token cache failed: {failed}")

    @contextmanager
    def _locked(self, wanted: str) -> Iterator[None]:
        with self._lock:
            if self._closed:
                raise StoreError(f"cannot {wanted}, as this writer is closed: open another")
            if self._pid != os.getpid():
                raise StoreError(
                    f"cannot {wanted}, as this writer belongs to process {self._pid}: open one in "
                    f"each process"
                )
            with explained(wanted):
                yield

    def _append(self, packed: Packed, source: SourceId | None) -> tuple[Row, bool]:
        row = packed.row(self._next_rank(packed.key), source)
        cost = header_cost(row)
        part = self._part_for(row, cost)
        row = row.at(part.name, part.end)
        part.append(row, packed.parts, cost)
        self._own[packed.key] = row
        return row, self._after()

    def _next_rank(self, escaped: str) -> tuple[int, str]:
        own = self._own.get(escaped)
        known = self._view.generation(escaped) if own is None else own.generation
        return known + 1, self._id

    def _part_for(self, row: Row, cost: int) -> Part:
        """The open shard if its header has room for ``row``, else a new one."""
        if self._part is not None and self._part.sealed:
            self._seal()  # an earlier try failed half way
        if self._part is not None and not self._part.fits(row, cost):
            self._seal()
            # A header that fills up before its shard does was too small for records of this size.
            self._room = min(16 * self._room, _LAST_ROOM)
        if self._part is None:
            name = f"{self._id}-{self._sequence:06d}"
            room = room_for(row, self._store, name, self._room)
            self._part = Part(self._storage, name, self._store, room)
            self._sequence += 1
        return self._part

    def _after(self) -> bool:
        """Sync and seal what is due; whether all that was added is durable."""
        part = self._part
        assert part is not None  # noqa: S101  # called after a row went into it
        seal_bytes, seal_s, every, seconds = self._limits
        if part.end - part.room >= seal_bytes or time.monotonic() - part.started_s >= seal_s:
            self._seal()
            return True
        return part.sync_if_due(every, seconds)

    def _seal(self) -> None:
        if self._part is not None:
            self._part.commit()
            self._part = None

    def _snapshot(self) -> None:
        """An index of many commits; a store without it is as good, only slower to open."""
        try:
            with explained(f"write an index of {self.path}"):
                snapshot(self._storage, self._manifest.id, least=_SNAPSHOT_COMMITS)
        except StoreError as error:
            _log.warning("no snapshot was written: %s", error)
