"""A store of millions of records whose index is real and whose records are a few, many times."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from bench_store_parts.stores import videos, write_cache
from bench_store_parts.synthetic import Size, records
from vidcomp.store import Manifest, TokenCache
from vidcomp.store.disk.columns import COLUMNS
from vidcomp.store.disk.format import digest
from vidcomp.store.disk.types import SourceId
from vidcomp.store.manifest import read_manifest
from vidcomp.store.snapshots import publish_index
from vidcomp.store.storage import open_storage
from vidcomp.store.view import load_view

__all__ = ["large_store", "synthetic_key"]

_DISTINCT = 8
"""Records that are really there."""
_PER_COMMIT = 100
"""A shard of 256 MB holds about as many records of 2 MB."""


def synthetic_key(i: int) -> str:
    """The key of record ``i``."""
    return f"videos/part-{i % 97:02d}/{i:09d}.mp4"


def large_store(path: Path, count: int) -> None:
    """A store of ``count`` records by its index: one snapshot, as many commits as it would have.

    Shards and deltas are there under as many names: all are links to one shard, so that every
    record can be read, and empty deltas, which nobody reads as the snapshot covers them.
    """
    size = Size("tiny", _DISTINCT, 16, 16, 64)
    source = SourceId(size=10**7, mtime_ns=1_700_000_000 * 10**9)
    write_cache(path, videos(records(size)), source=source)
    storage = open_storage(path)
    manifest: Manifest = read_manifest(storage)
    (table,) = load_view(storage, manifest.id).tables
    keys = [synthetic_key(i).encode() for i in range(count)]
    hashes = np.array([digest(key) for key in keys], np.uint64)
    order = np.argsort(hashes, kind="stable")
    row = np.arange(count) % _DISTINCT
    columns = {}
    for name, column in table.columns.items():
        columns[name] = column[row] if name in COLUMNS and not COLUMNS[name].free else column
    lengths = np.array([len(key) for key in keys], np.int64)[order]
    columns["keys"] = np.frombuffer(b"".join(keys[i] for i in order.tolist()), np.uint8)
    columns |= {"key_hash": hashes[order], "key_end": np.cumsum(lengths)}
    (real,) = table.covers
    writer = real.partition("-")[0]
    covers = (real, *(f"{writer}-{i:06d}" for i in range(1, -(-count // _PER_COMMIT))))
    for name in covers[1:]:
        os.link(_file(path, "shards", real), _file(path, "shards", name))
        _file(path, "deltas", name).touch()
    columns["shard"] = (np.arange(count) // _PER_COMMIT).astype(np.uint32)[order]
    big = replace(table, covers=covers, shards=covers, columns=columns)
    assert publish_index(storage, 0, big, {})
    cache = TokenCache(path)
    assert (len(cache), len(cache[synthetic_key(count // 2)])) == (count, size.most)


def _file(path: Path, folder: str, name: str) -> Path:
    return path / folder / f"{name}.safetensors"
