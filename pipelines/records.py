"""What a run leaves beside the tokens: one file for every item that failed."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import xxhash

from vidcomp.store.files import explained
from vidcomp.store.storage import Storage, open_storage

__all__ = ["ErrorLog", "ErrorRecord"]

_FOLDER, _SUFFIX = "errors", ".json"


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

    def __iter__(self) -> Iterator[ErrorRecord]:
        for name in sorted(self._names):
            if (record := self._load(name)) is not None:
                yield record

    def get(self, key: str) -> ErrorRecord | None:
        """The record of ``key``, if it failed last time."""
        name = _name(key)
        return self._load(name) if name in self._names else None

    def add(self, record: ErrorRecord) -> None:
        """Keep a record, replacing the key's older one; the file appears whole or not at all.

        Raises:
            StoreError: the folder cannot be written.
        """
        name = _name(record.key)
        with explained(f"write the error record of {record.key!r} to {self._storage.path}"):
            if self._storage.is_local:
                (self._storage.wal.parent / _FOLDER).mkdir(parents=True, exist_ok=True)
            text = json.dumps(asdict(record), indent=1)
            self._storage.replace(f"{_FOLDER}/{name}{_SUFFIX}", text.encode())
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

    def _load(self, name: str) -> ErrorRecord | None:
        try:
            return ErrorRecord(**json.loads(self._storage.read(f"{_FOLDER}/{name}{_SUFFIX}")))
        except (OSError, ValueError, TypeError):
            return None  # a record that cannot be read only means that the item is tried again


def _name(key: str) -> str:
    return xxhash.xxh3_128_hexdigest(key.encode("utf-8", "surrogatepass"))
