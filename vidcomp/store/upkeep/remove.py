"""Removing records; their room becomes free when the store is compacted."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vidcomp.errors import StoreMissError
from vidcomp.store.manifest import read_manifest
from vidcomp.store.reader import TokenCache
from vidcomp.store.storage import Storage, open_storage
from vidcomp.store.writer import CacheWriter

__all__ = ["RemoveReport", "remove"]


@dataclass(kw_only=True)
class RemoveReport:
    """What was removed, or would be."""

    path: str
    dry_run: bool = False
    removed: list[str] = field(default_factory=list)
    """Keys, in the order they were given."""
    missing: list[str] = field(default_factory=list)
    """Keys that the store does not have."""
    num_bytes: int = 0
    """Of the removed records; free after a compaction and its grace period."""


def remove(
    path: str | Path | Storage, keys: Sequence[str], *, dry_run: bool = False
) -> RemoveReport:
    """Remove records, in one commit; readers see it when they open the store again.

    Args:
        path: the store's folder, URL or storage.
        keys: of the records; those that are not there are listed, and stop nothing.
        dry_run: change nothing, only say what would be removed.

    Raises:
        StoreMissError: there is no store.
        StoreError: it cannot be written.
    """
    storage = open_storage(path)
    manifest = read_manifest(storage)
    cache = TokenCache(storage)
    report = RemoveReport(path=str(storage.path), dry_run=dry_run)
    for key in dict.fromkeys(keys):
        if key in cache:
            report.removed.append(key)
            report.num_bytes += cache.info(key).nbytes
        else:
            report.missing.append(key)
    if report.removed and not dry_run:
        with CacheWriter(
            storage,
            identity=manifest.identity,
            weights=manifest.weights,
            settings=manifest.settings,
        ) as writer:
            for key in list(report.removed):
                try:
                    writer.remove(key)
                except StoreMissError:  # another process was quicker
                    report.removed.remove(key)
                    report.missing.append(key)
    return report
