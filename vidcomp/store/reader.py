"""Reads records of a store: any of them, in any order, from any thread or process."""

import logging
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from vidcomp.errors import StoreCorruptError, StoreMissError
from vidcomp.store.batch import read_batch
from vidcomp.store.files import explained
from vidcomp.store.format import digest, escape_key, unescape
from vidcomp.store.index import Table
from vidcomp.store.manifest import Manifest, read_manifest
from vidcomp.store.pool import FilePool
from vidcomp.store.record import read_meta, unpack
from vidcomp.store.shard import shard_name
from vidcomp.store.storage import RangeFile, Storage, open_storage
from vidcomp.store.types import Location, RecordInfo, Row
from vidcomp.store.view import View, load_view
from vidcomp.types import TokenBatch, VideoTokens

__all__ = ["TokenCache", "open_cache"]

_log = logging.getLogger(__name__)

_OPEN_FILES = 64


class TokenCache:
    """A store as it was when it was opened or last refreshed; ``cache[key]`` is a video's tokens.

    It never writes.  It may be used by several threads, forked, and pickled: the copy shows the
    same records.

    Args:
        path: the store's folder, URL or storage.
        verify: check the hash of every record that is read.
        max_open_files: shards kept open at a time.

    Raises:
        StoreMissError: there is no store.
        StoreError: ``path`` is no store, cannot be read, or is of a newer format.
        StoreCorruptError: ``store.json`` is damaged.
    """

    def __init__(
        self,
        path: str | Path | Storage,
        *,
        verify: bool = True,
        max_open_files: int = _OPEN_FILES,
    ) -> None:
        self._setup(open_storage(path), verify, max_open_files, None)

    @classmethod
    def open(cls, path: str | Path) -> "TokenCache":
        """The store at ``path`` with default settings; the same as ``TokenCache(path)``."""
        return cls(path)

    def _setup(
        self,
        storage: Storage,
        verify: bool,
        max_open_files: int,
        pin: tuple[str | None, tuple[str, ...]] | None,
    ) -> None:
        self._storage, self._verify, self._max_open_files = storage, verify, max_open_files
        self._manifest = read_manifest(storage)
        self._view = self._load(pin)
        self._pool = FilePool(partial(_open_shard, storage), max_open_files)
        self._sorted: list[str] | None = None

    @property
    def path(self) -> Path | str:
        """The store's folder or URL."""
        return self._storage.path

    @property
    def manifest(self) -> Manifest:
        """Recipe, weights, fingerprint and format of the store."""
        return self._manifest

    def keys(self) -> list[str]:
        """All keys, sorted."""
        if self._sorted is None:
            self._sorted = sorted(unescape(t.key(i)) for t, i in self._view.places())
        return list(self._sorted)

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __len__(self) -> int:
        return len(self._view)

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and bool(key) and self._view.place(escape_key(key)) is not None

    def __repr__(self) -> str:
        return f"TokenCache({str(self.path)!r}, {len(self)} records)"

    def __getitem__(self, key: str) -> VideoTokens:
        """The tokens of one video, on the CPU, in the type they are stored in.

        Raises:
            StoreMissError: no such record.
            StoreCorruptError: its bytes are not those that were written.
        """
        place = self._locate(key)
        data = self._read(key, place)
        try:
            return unpack(data, place.layout, place.counts)
        except StoreCorruptError as error:
            raise StoreCorruptError(f"{key!r} in {self.path}: {error}") from error

    def get_many(self, keys: Sequence[str]) -> TokenBatch:
        """The tokens of several videos, packed end to end.

        Raises:
            StoreMissError, StoreCorruptError: as for one.
            ShapeError: no keys, or videos of other widths or types.
        """
        places = [self._locate(key) for key in keys]
        for key, place in zip(keys, places, strict=True):
            self._check(key, place)  # before room is made for all of them
        batch = read_batch(places, keys, self._read_pieces) if places else None
        # Records of several forms are left to the batch itself: it joins or refuses them.
        return TokenBatch.pack([self[key] for key in keys], keys) if batch is None else batch

    def meta(self, key: str) -> dict[str, Any]:
        """What the writer put beside the tokens: path, decoder, damage, versions.

        Raises:
            StoreMissError, StoreCorruptError: as for the tokens.
        """
        place = self._locate(key)
        data = self._read(key, place)
        about = read_meta(data[place.layout.places(place.counts).nbytes :])
        if about["key"] != escape_key(key):
            raise StoreCorruptError(
                f"the bytes of {key!r} in shard {place.shard} belong to {about['key']!r}: run "
                f"verify"
            )
        meta = about.get("meta")
        return meta if isinstance(meta, dict) else {}

    def info(self, key: str) -> RecordInfo:
        """Place, size, type, hash and source of a record, from the index alone.

        Raises:
            StoreMissError: no such record.
        """
        table, i = self._place(key)
        return _info(table.row(i))

    def entries(self) -> Iterator[RecordInfo]:
        """``info`` of all records, in no particular order, quicker than key by key."""
        return (_info(table.row(i)) for table, i in self._view.places())

    def refresh(self) -> bool:
        """See what was committed since; whether anything was.

        Raises:
            StoreError: the index cannot be read.
        """
        view = self._load(None)
        if view.pin == self._view.pin:
            return False
        # Threads that read meanwhile see one view or the other, both whole.
        self._view, self._sorted = view, None
        return True

    def close(self) -> None:
        """Close the shards that are open; they open again when needed."""
        self._pool.clear()

    def __getstate__(self) -> tuple[Any, ...]:
        return self._storage, self._verify, self._max_open_files, self._view.pin

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self._setup(*state)

    def _load(self, pin: tuple[str | None, tuple[str, ...]] | None) -> View:
        view = load_view(self._storage, self._manifest.id, pin)
        for problem in view.damaged.values():
            _log.warning("%s: %s", self.path, problem)
        return view

    def _place(self, key: str) -> tuple[Table, int]:
        place = self._view.place(escape_key(key))
        if place is None:
            raise StoreMissError(
                f"{self.path} has no record {key!r} among its {len(self)}: check the key, or "
                f"extract the video"
            )
        return place

    def _locate(self, key: str) -> Location:
        table, i = self._place(key)
        return table.location(i)

    def _check(self, key: str, place: Location) -> RangeFile:
        """The shard of a record that can be there.

        Raises:
            StoreCorruptError: its bytes cannot hold its tensors, or its shard is gone or cut.
            StoreError: the shard cannot be opened.
        """
        needed = place.layout.places(place.counts).nbytes
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
        if needed >= place.nbytes or place.offset + place.nbytes > file.size:
            raise StoreCorruptError(
                f"{_what(key, place)} has {file.size} bytes, which cannot hold {place.nbytes} from "
                f"{place.offset} on with {needed} of tensors and the meta: it was cut, run verify"
            )
        return file

    def _read(self, key: str, place: Location) -> memoryview:
        """All bytes of a record, checked."""
        file = self._check(key, place)
        data = np.empty(place.nbytes, np.uint8).data  # a bytearray would be filled with zeros first
        self._fill(file, key, place, [data])
        return data

    def _read_pieces(self, key: str, place: Location, pieces: list[memoryview]) -> None:
        self._fill(self._check(key, place), key, place, pieces)

    def _fill(self, file: RangeFile, key: str, place: Location, pieces: list[memoryview]) -> None:
        """Fill buffers with all bytes of a record, and check them."""
        try:
            file.read_pieces(pieces, place.offset, f"shard {place.shard}")
        except OSError as error:
            with explained(f"read {_what(key, place)}"):
                raise error
        if self._verify and (found := digest(*pieces)) != place.checksum:
            raise StoreCorruptError(
                f"{_what(key, place)} has other bytes than were written (hash {found:016x} "
                f"instead of {place.checksum:016x}): run verify, then extract the video again"
            )


def open_cache(path: str | Path | Storage, *, verify: bool = True, **options: Any) -> TokenCache:
    """The token cache at a folder or URL: ``cache[key]`` is a video's tokens.

    Args:
        path: a folder, or a URL such as ``s3://bucket/cache``.
        verify: check the hash of every record that is read.
        options: of ``ObjectStorage``, for a URL: credentials, a local cache of what was read.

    Raises:
        StoreMissError: there is none.
        StoreError: it is no store, or cannot be read.
        MissingExtraError: what the URL's scheme needs is not installed.
        ConfigError: an unknown option.
    """
    return TokenCache(open_storage(path, **options), verify=verify)


def _open_shard(storage: Storage, name: str) -> RangeFile:
    return storage.open(shard_name(name))


def _what(key: str, place: Location) -> str:
    return f"shard {place.shard}, which holds {key!r},"


def _info(row: Row) -> RecordInfo:
    assert row.layout is not None  # noqa: S101  # only removals have none
    return RecordInfo(
        key=unescape(row.key),
        shard=row.shard,
        offset=row.offset,
        nbytes=row.nbytes,
        num_tokens=row.counts.num_tokens,
        dim=row.layout.dim,
        dtype=row.layout.dtype,
        grid=row.counts.grid,
        fields=(*(field.name for field in row.layout.fields), "meta"),
        checksum=f"{row.checksum:016x}",
        generation=row.generation,
        source=row.source,
    )
