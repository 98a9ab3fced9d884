"""Stores to be compacted, and all that they say."""

import shutil
import sys
import time

from store_builders import IDENTITY, content, tiny, write

from vidcomp.store import CacheWriter, open_cache, verify

DAY = 86_400.0
COMPACT = sys.modules["vidcomp.store.upkeep.compact"]  # its name in the package is the function
real = time.time


def state(path):
    """Key to all that a record says and is, but for where it lies."""
    cache = open_cache(path)
    out = {}
    for key in cache.keys():  # noqa: SIM118
        info = cache.info(key)
        about = info.checksum, info.generation, info.source, cache.meta(key)
        out[key] = (content(cache[key]), about)
    return out


def assert_state(path, wanted):
    """What readers see, with the snapshots and without them; and nothing is damaged."""
    assert state(path) == wanted
    report = verify(path)
    assert (report.problems, report.pending) == ([], [])
    bare = path.with_name(f"{path.name}-bare")
    shutil.copytree(path, bare)
    shutil.rmtree(bare / "index")
    assert state(bare) == wanted
    shutil.rmtree(bare)


def files(path):
    return {str(p.relative_to(path)) for p in path.rglob("*") if p.is_file()}


def shards(path):
    return {p.stem for p in (path / "shards").iterdir()}


def filled(path, commits=4):
    """Commits that overlap: each replaces some of the one before; one key is removed."""
    for i in range(commits):
        write(path, {f"v{j}": tiny(seed=10 * i + j) for j in range(i, i + 3)})
    with CacheWriter(path, identity=IDENTITY) as writer:
        writer.remove("v1")
    return path


def values(path):
    cache = open_cache(path)
    return {key: content(cache[key]) for key in cache.keys()}  # noqa: SIM118
