"""Reads records of a store: any of them, in any order, from any thread or process."""

import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from vidcomp.errors import ConfigError, StoreCorruptError, StoreMissError
from vidcomp.store.disk.format import escape_key, is_commit, unescape
from vidcomp.store.disk.index import Table
from vidcomp.store.disk.record import read_meta
from vidcomp.store.disk.rows import read_rows, read_window
from vidcomp.store.disk.types import Location, Order, RecordInfo, Row
from vidcomp.store.fetch import Fetcher
from vidcomp.store.manifest import Manifest, read_manifest
from vidcomp.store.memory import Memory
from vidcomp.store.room import num_cores, within_memory
from vidcomp.store.selection import Selection, read_many, read_one, read_part
from vidcomp.store.snapshots import is_snapshot
from vidcomp.store.storage import Storage, open_storage
from vidcomp.store.view import Pin, View, load_view
from vidcomp.types import TokenBatch, VideoTokens

__all__ = ["TokenCache", "open_cache"]

_log = logging.getLogger(__name__)

_OPEN_FILES = 64
_MOST_COMMITS = 10_000_000
"""That a pin may name."""
_KEEP_BYTES = 64 << 20
_MOST_WARNINGS = 3
_THREADS = min(4, num_cores())


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

    def at(self, pin: str) -> "TokenCache":
        """The same store with the same settings, as the cache of that ``pin`` saw it.

        Raises:
            ConfigError: ``pin`` is none.
            StoreCorruptError: as for opening it.
            StoreError: that state is gone, as the store was compacted since.
        """
        cache = self.__new__(type(self))
        cache._setup(self._storage, self._fetcher.verify, self._max_open_files, _parse_pin(pin))
        return cache

    def _setup(self, storage: Storage, verify: bool, max_open_files: int, pin: Pin | None) -> None:
        self._storage, self._max_open_files = storage, max_open_files
        self._manifest = read_manifest(storage)
        self._view = self._load(pin)
        self._fetcher = Fetcher(storage, verify=verify, max_open_files=max_open_files)
        self._memory = Memory(keep_bytes=_KEEP_BYTES)

    @property
    def path(self) -> Path | str:
        """The store's folder or URL."""
        return self._storage.path

    @property
    def manifest(self) -> Manifest:
        """Recipe, weights, fingerprint and format of the store."""
        return self._manifest

    @property
    def pin(self) -> str:
        """What this cache sees, as a short text; ``at`` gives the same again."""
        snapshot, commits = self._view.pin
        return json.dumps([snapshot, _group(commits)], separators=(",", ":"))

    def keys(self) -> list[str]:
        """All keys, sorted."""
        return list(self._view.ordered.keys)

    def select(self, keys: Sequence[str] | None = None) -> Selection:
        """Records by number, for data sets and loaders.

        Args:
            keys: which ones, in this order and as often as they are named; by default all,
                sorted.

        Raises:
            StoreMissError: it lacks some of them; the message says how many.
        """
        view = self._view
        order = view.ordered if keys is None else self._order_of(view, keys)
        chosen = None if keys is None else list(keys)
        return Selection(view.tables, order, self._fetcher, lambda: (_select, (self, chosen)))

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
        return read_one(self._fetcher, key, self._locate(key), self._memory)

    def get_many(self, keys: Sequence[str], *, out: Tensor | None = None) -> TokenBatch:
        """The tokens of several videos, packed end to end.

        Args:
            keys: of the records.
            out: takes the tokens, [S or more, D] on the CPU, contiguous and of the type they are
                stored in; by default new memory.

        Raises:
            StoreMissError, StoreCorruptError: as for one.
            ShapeError: no keys, videos of other widths or types, or no room in ``out``.
        """
        places = [self._locate(key) for key in keys]
        batch = read_many(self._fetcher, keys, places, self._memory, out=out, threads=_THREADS)
        assert isinstance(batch, TokenBatch)  # noqa: S101  # not padded
        return batch

    def read_into(self, key: str, out: Tensor) -> VideoTokens:
        """The tokens of one video, straight into the first rows of the caller's tensor.

        Args:
            key: of the record.
            out: as for ``get_many``.

        Returns:
            The video; its tokens are the first rows of ``out``.

        Raises:
            StoreMissError, StoreCorruptError, ShapeError: as for several.
        """
        return read_one(self._fetcher, key, self._locate(key), self._memory, out=out)

    def rows(self, key: str, start: int, stop: int) -> VideoTokens:
        """Tokens ``start`` to ``stop`` of one video, as ``cache[key].select`` would give them.

        Only their bytes and a few more are read, and those are checked.

        Raises:
            StoreMissError, StoreCorruptError: as for the whole video.
            ShapeError: it has no such tokens.
        """
        return read_part(self._fetcher, key, self._locate(key), read_rows, start, stop)

    def window(self, key: str, start_s: float, end_s: float) -> VideoTokens:
        """Tokens of one video that are seen in ``[start_s, end_s)``: whose span overlaps it.

        Only their bytes and a few more are read, and those are checked.

        Raises:
            StoreMissError, StoreCorruptError: as for the whole video.
            ShapeError: the window does not end after it starts.
        """
        return read_part(self._fetcher, key, self._locate(key), read_window, start_s, end_s)

    @within_memory
    def meta(self, key: str) -> dict[str, Any]:
        """What the writer put beside the tokens: path, decoder, damage, versions.

        Raises:
            StoreMissError, StoreCorruptError: as for the tokens.
        """
        place = self._locate(key)
        self._fetcher.check(key, place)
        data = np.empty(place.nbytes, np.uint8).data
        self._fetcher.fill(key, place, [data])
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
        self._view = view
        return True

    def close(self) -> None:
        """Close the shards that are open; they open again when needed."""
        self._fetcher.close()

    def __getstate__(self) -> tuple[Any, ...]:
        return self._storage, self._fetcher.verify, self._max_open_files, self._view.pin

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self._setup(*state)

    def _load(self, pin: Pin | None) -> View:
        view = load_view(self._storage, self._manifest.id, pin)
        for problem in list(view.damaged.values())[:_MOST_WARNINGS]:
            _log.warning("%s: %s", self.path, problem)
        if len(view.damaged) > _MOST_WARNINGS:
            _log.warning("%s: %d damaged files in all, run verify", self.path, len(view.damaged))
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

    def _order_of(self, view: View, keys: Sequence[str]) -> Order:
        numbers = {id(table): t for t, table in enumerate(view.tables)}
        found = [view.place(escape_key(key)) for key in keys]
        missing = [key for key, place in zip(keys, found, strict=True) if place is None]
        if missing:
            shown = ", ".join(map(repr, missing[:3]))
            raise StoreMissError(
                f"{self.path} lacks {len(missing)} of the {len(keys)} records asked for ({shown}"
                f"{', ...' if len(missing) > 3 else ''}): extract them, or leave them out"
            )
        places = [place for place in found if place is not None]
        tables = np.array([numbers[id(table)] for table, _ in places], np.int64)
        return Order(list(keys), tables, np.array([row for _, row in places], np.int64))


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


def _select(cache: TokenCache, keys: list[str] | None) -> Selection:
    return cache.select(keys)


def _group(commits: Sequence[str]) -> dict[str, list[int]]:
    """Commits by writer, as first and last of each run of numbers: most writers make many."""
    out: dict[str, list[int]] = {}
    for name in sorted(commits):
        writer, _, text = name.partition("-")
        number, runs = int(text), out.setdefault(writer, [])
        if runs and runs[-1] == number - 1:
            runs[-1] = number
        else:
            runs += [number, number]
    return out


def _parse_pin(pin: str) -> Pin:
    try:
        snapshot, groups = json.loads(pin)
        # The names become those of files, so they are held to what such names can be.
        if not (snapshot is None or is_snapshot(snapshot)):
            raise ValueError("no such snapshot")
        names: list[str] = []
        for writer, runs in groups.items():
            for first, last in zip(runs[::2], runs[1::2], strict=True):
                if not 0 <= first <= last or len(names) + last - first > _MOST_COMMITS:
                    raise ValueError("no such commits")
                names += [f"{writer}-{number:06d}" for number in range(first, last + 1)]
        if not all(map(is_commit, names)):
            raise ValueError("no such commits")
        return snapshot, tuple(names)
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigError(
            f"a pin is the text that TokenCache.pin gave, got {pin[:80]!r} ({error}): pass that one"
        ) from error


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
