"""What a run leaves beside the tokens: one file for every item that failed."""

import json
import signal
import traceback
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import xxhash

from vidcomp.store.files import explained
from vidcomp.store.storage import Storage, open_storage

__all__ = ["Cause", "ErrorLog", "ErrorRecord", "cause_of", "now", "put", "read_all"]

T = TypeVar("T")

_FOLDER, _SUFFIX = "errors", ".json"
_MOST_DETAILS = 4000
"""Characters; the last ones are kept, which tell of the error itself and of a child's stack."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorRecord:
    """Why an item has no tokens."""

    key: str
    path: str
    stage: str
    """decode, encode, compress or write."""
    error: str
    """Class of the error."""
    message: str
    source: dict[str, Any] | None
    """Identity of the file when it failed; another file is tried anew."""
    fingerprint: str
    """Of the recipe it failed under."""
    attempts: int = 1
    details: str = ""
    """End of the traceback, with what a process wrote before it died."""
    exit_code: int | None = None
    """Of a process that died of it; below zero for a signal."""
    signal: str = ""
    """Name of that signal, such as ``SIGSEGV``."""
    run: str = ""
    """Name of the run, see ``vidcomp cache runs``."""
    host: str = ""
    time: str = ""
    """When it failed, UTC."""
    versions: dict[str, str] | None = None
    """Of the libraries that took part."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """What an exception tells beyond its message."""

    details: str
    exit_code: int | None
    signal: str


class ErrorLog:
    """Error records of a store, one JSON file an item, in its ``errors`` folder.

    They lie with the store, on an object store too, so that every machine knows of them.  Which
    ones there are is looked up once: items that never failed cost no request.

    Raises:
        StoreError: the store cannot be read.
    """

    def __init__(self, store: str | Path | Storage) -> None:
        self._storage = open_storage(store)
        with explained(f"read the error records of {self._storage.path}"):
            self._names = set(self._storage.names(_FOLDER, _SUFFIX))

    def __len__(self) -> int:
        return len(self._names)

    def __iter__(self) -> Iterator[ErrorRecord]:
        for record in read_all(self._storage, sorted(self._names), self._load):
            if record is not None:
                yield record

    def get(self, key: str) -> ErrorRecord | None:
        """The record of ``key``, if it failed last time."""
        name = _name(key)
        return self._load(name) if name in self._names else None

    def get_many(self, keys: Iterable[str]) -> dict[str, ErrorRecord]:
        """The records of those of ``keys`` that failed last time, without their details."""
        if not self._names:
            return {}
        names = [name for name in map(_name, keys) if name in self._names]
        found = read_all(self._storage, names, self._load)
        return {
            record.key: replace(record, details="", versions=None)
            for record in found
            if record is not None
        }

    def add(self, record: ErrorRecord) -> None:
        """Keep a record, replacing the key's older one; the file appears whole or not at all.

        Raises:
            StoreError: the folder cannot be written.
        """
        name = _name(record.key)
        with explained(f"write the error record of {record.key!r} to {self._storage.path}"):
            put(self._storage, f"{_FOLDER}/{name}{_SUFFIX}", asdict(record))
        self._names.add(name)

    def discard(self, key: str) -> None:
        """Forget the record of ``key``: it has tokens now.

        Raises:
            StoreError: it cannot be removed.
        """
        name = _name(key)
        if name in self._names:
            with explained(f"remove the error record of {key!r} from {self._storage.path}"):
                self._storage.remove(f"{_FOLDER}/{name}{_SUFFIX}")
            self._names.discard(name)

    def clear(self) -> int:
        """Forget all records; how many there were.

        Raises:
            StoreError: they cannot be removed.
        """
        names = sorted(self._names)
        with explained(f"remove the error records of {self._storage.path}"):
            for _ in read_all(
                self._storage,
                names,
                lambda name: self._storage.remove(f"{_FOLDER}/{name}{_SUFFIX}"),
            ):
                pass
        self._names.clear()
        return len(names)

    def _load(self, name: str) -> ErrorRecord | None:
        try:
            return ErrorRecord(**json.loads(self._storage.read(f"{_FOLDER}/{name}{_SUFFIX}")))
        except (OSError, ValueError, TypeError):
            return None  # a record that cannot be read only means that the item is tried again


def cause_of(error: BaseException) -> Cause:
    """Traceback, notes and exit code of an error, short enough to be kept for each item."""
    text = "".join(traceback.format_exception(error)).strip()
    if len(text) > _MOST_DETAILS:
        text = "..." + text[-_MOST_DETAILS:]
    # A process that hung was ended by its owner: its exit code tells nothing.
    exit_code = None if getattr(error, "is_stalled", False) else next(_exit_codes(error), None)
    return Cause(details=text, exit_code=exit_code, signal=_signal_name(exit_code))


def now() -> str:
    """The time, UTC, to the millisecond, as ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def put(storage: Storage, name: str, value: dict[str, Any]) -> None:
    """Write a JSON file beside a store's own; it appears whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    if storage.is_local:
        (storage.wal.parent / name).parent.mkdir(parents=True, exist_ok=True)
    storage.replace(name, json.dumps(value, indent=1).encode())


def read_all(storage: Storage, names: list[str], read: Callable[[str], T]) -> Iterator[T]:
    """``read`` of each name in order, several at once where waiting is what takes the time."""
    if storage.concurrency == 1 or len(names) < 2:
        yield from map(read, names)
        return
    with ThreadPoolExecutor(storage.concurrency) as pool:
        yield from pool.map(read, names)


def _exit_codes(error: BaseException | None) -> Iterator[int]:
    """Of the error and of what caused it."""
    while error is not None:
        code = getattr(error, "exit_code", None)
        if isinstance(code, int):
            yield code
        error = error.__cause__ or error.__context__


def _signal_name(exit_code: int | None) -> str:
    try:
        return signal.Signals(-exit_code).name if exit_code is not None and exit_code < 0 else ""
    except ValueError:
        return ""


def _name(key: str) -> str:
    return xxhash.xxh3_128_hexdigest(key.encode("utf-8", "surrogatepass"))
