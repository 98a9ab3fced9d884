"""The token cache on disk: ``docs/cache-format.md`` says what every byte means."""

from vidcomp.store.format import FORMAT_VERSION
from vidcomp.store.manifest import Manifest
from vidcomp.store.memory import Memory
from vidcomp.store.reader import TokenCache, open_cache
from vidcomp.store.recover import recover
from vidcomp.store.selection import Selection
from vidcomp.store.storage import open_storage
from vidcomp.store.types import Receipt, RecordInfo, SourceId
from vidcomp.store.verify import VerifyReport, verify
from vidcomp.store.writer import CacheWriter

__all__ = [
    "FORMAT_VERSION",
    "CacheWriter",
    "Manifest",
    "Memory",
    "Receipt",
    "RecordInfo",
    "Selection",
    "SourceId",
    "TokenCache",
    "VerifyReport",
    "open_cache",
    "open_storage",
    "recover",
    "verify",
]
