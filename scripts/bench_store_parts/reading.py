"""Random reads, warm and cold, against a memory map and a copy."""

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from bench_store_parts.raw import RawStore
from bench_store_parts.report import report
from bench_store_parts.stores import Corpus
from bench_store_parts.synthetic import sizes
from bench_store_parts.timing import Case, as_rows, evict, ready, rounds_of, speeds
from vidcomp.store import TokenCache

__all__ = ["bench_read"]

_COLUMNS = ("case", "x raw", "lower quartile", "upper quartile")


def bench_read(options: argparse.Namespace, folder: Path) -> None:
    """Tables of the ratios to ``raw``, for both sizes and both states of the page cache."""
    rows = []
    for size in sizes(options.large, options.small, options.size):
        corpus = Corpus.make(size, folder)
        warm = speeds(rounds_of(warm_cases(corpus), options.rounds), "raw")
        rows += as_rows(warm, size.name, "warm")
        for share, shown in ((1, "cold, every record"), (4, "cold, one in 4")):
            cold = speeds(rounds_of(cold_cases(corpus, share), options.rounds, warm=0), "raw")
            rows += as_rows(cold, size.name, shown)
    report(
        options,
        "read",
        "random reads",
        ("records", "page cache", *_COLUMNS),
        rows,
        "Times the speed of `raw` in the same round (more is faster): a slice of a memory map "
        "copied into the caller's buffer, then the five views of a record. `raw_AA` is the same "
        "code on a second copy of the data, hence the noise; `lean raw` is the copy without the "
        "views. Cold: dropped from the page cache and opened anew each time. A map reads far "
        "around each page it lacks, which pays when every record is wanted and all of them fit "
        "into memory, and costs when they do not (one in 4). "
        f"large: {options.large} records of 196 to 1568 x 1152, small: {options.small} of 64 x "
        f"768, bfloat16; all of them in random order a round; medians of "
        f"{options.rounds} interleaved rounds.",
    )


def warm_cases(corpus: Corpus) -> dict[str, Case]:
    """Everything open and in the page cache."""
    order = corpus.order()
    raw, copy = RawStore(corpus.raw), RawStore(corpus.copy)
    cases = {
        "raw": ready(lambda: each(raw.read, order)),
        "raw_AA": ready(lambda: each(copy.read, order)),
        "lean raw": ready(lambda: each(raw.copy, order)),
    }
    for verify in (False, True):
        name = "verified" if verify else "unverified"
        cache = TokenCache(corpus.cache, verify=verify)
        for way, reader in ways(cache, corpus).items():
            cases[f"{way}, {name}"] = ready(lambda reader=reader: reader(order))
    return cases


def cold_cases(corpus: Corpus, share: int) -> dict[str, Case]:
    """Everything opened anew after it was dropped from the page cache; one record in ``share``."""
    order = corpus.order()[::share]

    def mapped(folder: Path) -> Case:
        def prepare() -> Callable[[], object]:
            evict(folder.rglob("*"))
            raw = RawStore(folder)
            return lambda: each(raw.read, order)

        return prepare

    def stored(way: str, verify: bool) -> Case:
        def prepare() -> Callable[[], object]:
            evict(corpus.cache.rglob("*"))
            cache = TokenCache(corpus.cache, verify=verify)
            reader = ways(cache, corpus)[way]
            return lambda: reader(order)

        return prepare

    cases = {"raw": mapped(corpus.raw), "raw_AA": mapped(corpus.copy)}
    for way in ("read_into", "get_many(out)"):
        for verify in (False, True):
            cases[f"{way}, {'verified' if verify else 'unverified'}"] = stored(way, verify)
    return cases


def ways(cache: TokenCache, corpus: Corpus) -> dict[str, Callable[[list[str]], object]]:
    """How a store is read: into the caller's buffer one by one or in batches, or a new tensor."""
    size = corpus.size
    batch = 8 if size.name == "large" else 64
    slot = torch.zeros(size.most, size.dim, dtype=torch.bfloat16)
    slots = torch.zeros(batch * size.most, size.dim, dtype=torch.bfloat16)

    def into(order: list[str]) -> None:
        for key in order:
            cache.read_into(key, slot)

    def many(order: list[str]) -> None:
        for keys in batches(order, batch):
            cache.get_many(keys, out=slots)

    return {
        "read_into": into,
        "get_many(out)": many,
        "cache[key]": lambda order: each(cache.__getitem__, order),
    }


def each(read: Callable[[str], object], order: list[str]) -> None:
    """Call it for every key; what it returns is dropped."""
    for key in order:
        read(key)


def batches(order: list[str], size: int) -> Iterator[list[str]]:
    """Consecutive keys, so many at a time."""
    return (order[i : i + size] for i in range(0, len(order), size))
