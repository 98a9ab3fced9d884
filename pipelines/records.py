"""What a run leaves beside the tokens: one file for every item that failed."""

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import xxhash

from vidcomp.errors import StoreError

__all__ = ["ErrorLog", "ErrorRecord"]


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
    """Error records of a store, one JSON file an item, in its ``errors`` folder."""

    def __init__(self, store: Path) -> None:
        self._folder = store / "errors"

    def __iter__(self) -> Iterator[ErrorRecord]:
        for path in sorted(self._folder.glob("*.json")):
            if (record := self._load(path)) is not None:
                yield record

    def get(self, key: str) -> ErrorRecord | None:
        """The record of ``key``, if it failed last time."""
        return self._load(self._path(key))

    def add(self, record: ErrorRecord) -> None:
        """Keep a record, replacing the key's older one; the file appears whole or not at all.

        Raises:
            StoreError: the folder cannot be written.
        """
        path = self._path(record.key)
        temporary = path.with_name(f".tmp-{os.getpid()}-{path.name}")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(asdict(record), indent=1))
            temporary.replace(path)
        except OSError as error:
            raise StoreError(
                f"the error record {path} cannot be written ({error.strerror}): free space or "
                f"choose another folder"
            ) from error

    def discard(self, key: str) -> None:
        """Forget the record of ``key``: it has tokens now."""
        self._path(key).unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        return self._folder / f"{xxhash.xxh3_128_hexdigest(key.encode())}.json"

    @staticmethod
    def _load(path: Path) -> ErrorRecord | None:
        try:
            return ErrorRecord(**json.loads(path.read_text()))
        except (OSError, ValueError, TypeError):
            return None  # a record that cannot be read only means that the item is tried again
