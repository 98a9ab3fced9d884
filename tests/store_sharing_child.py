"""What other processes do with a store; a module of its own, so that spawned ones find it."""

import os

from store_builders import IDENTITY, bits, tiny

from vidcomp.store import CacheWriter, TokenCache

CACHE: TokenCache | None = None
"""Set by the test before it forks."""


def bits_of(seed):
    return bits(tiny(seed=seed).tokens)


def write_range(path, who, count):
    with CacheWriter(path, identity=IDENTITY, seal_bytes=3_000) as writer:
        for i in range(count):
            writer.add(f"{who}/{i}", tiny(seed=who * 1000 + i))
            if i % 4 == 0:
                writer.add(f"both/{i}", tiny(seed=i))


def read_all(cache):
    return {key: bits(cache[key].tokens) for key in cache.keys()}  # noqa: SIM118


def read_inherited(i):
    """The bits of a record, and whether the file it came from was opened by this process."""
    found = bits(CACHE[f"v{i}"].tokens)
    return found, CACHE._fetcher._pool._pid == os.getpid()
