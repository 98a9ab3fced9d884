"""The token cache on disk: ``docs/cache-format.md`` says what every byte means."""

from vidcomp.store.disk.format import FORMAT_VERSION
from vidcomp.store.disk.types import Receipt, RecordInfo, SourceId
from vidcomp.store.exports.export import ExportReport, export
from vidcomp.store.manifest import Manifest
from vidcomp.store.memory import Memory
from vidcomp.store.reader import TokenCache, open_cache
from vidcomp.store.recover import recover
from vidcomp.store.selection import Selection
from vidcomp.store.storage import open_storage
from vidcomp.store.upkeep.combine import MergeReport, merge
from vidcomp.store.upkeep.compact import CompactReport, compact
from vidcomp.store.upkeep.remove import RemoveReport, remove
from vidcomp.store.upkeep.repair import RepairReport, repair
from vidcomp.store.upkeep.verify import VerifyReport, verify
from vidcomp.store.writer import CacheWriter

__all__ = [
    "FORMAT_VERSION",
    "CacheWriter",
    "CompactReport",
    "ExportReport",
    "Manifest",
    "Memory",
    "MergeReport",
    "Receipt",
    "RecordInfo",
    "RemoveReport",
    "RepairReport",
    "Selection",
    "SourceId",
    "TokenCache",
    "VerifyReport",
    "compact",
    "export",
    "merge",
    "open_cache",
    "open_storage",
    "recover",
    "remove",
    "repair",
    "verify",
]
