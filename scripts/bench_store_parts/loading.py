"""Epochs of batches: our loader against copies of the same bytes and torch's own loader."""

import argparse
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from bench_store_parts.raw import RawStore
from bench_store_parts.report import report
from bench_store_parts.stores import Corpus
from bench_store_parts.synthetic import sizes
from bench_store_parts.timing import Case, as_rows, ready, rounds_of, speeds
from vidcomp.data import CachedTokenDataset, TokenLoader, collate_padded
from vidcomp.store import TokenCache

__all__ = ["bench_loader"]

_BATCH = 8
_WORKERS = 2
_RING = 6
"""Batches that are alive at a time: 4 read ahead, one that is read, one at the trainer."""


def bench_loader(options: argparse.Namespace, folder: Path) -> None:
    """A table of the ratios to memcpy and to a DataLoader with worker processes."""
    rows = []
    for size in sizes(options.large, options.small, options.size):
        corpus = Corpus.make(size, folder)
        seconds = rounds_of(loader_cases(corpus, options.passes), options.rounds)
        workers = speeds(seconds, f"DataLoader, {_WORKERS} workers")
        by_name = as_rows(speeds(seconds, "memcpy"), size.name)
        rows += [(*row, workers[row[1]][0]) for row in by_name]
    report(
        options,
        "loader",
        "epochs of shuffled batches",
        ("records", "case", "x memcpy", "lower quartile", "upper quartile", "x DataLoader"),
        rows,
        "Times the speed of `memcpy` in the same round (more is faster): the bytes of the same "
        f"records copied one by one, in random order, into the {_BATCH} slots of one batch that is "
        "used again and stays in the processor's cache where it fits; `memcpy_AA` copies from a "
        f"second file, `memcpy, {_RING} batches` into as many batches in turn as a loader that "
        "reads ahead needs, `memcpy, padded` into the rows of a padded batch, with zeros behind "
        "them. "
        f"Batches of {_BATCH}, everything in the page cache, hashes checked unless said "
        "otherwise, worker processes kept from epoch to epoch; "
        f"{options.passes} epochs a round, medians of {options.rounds} interleaved rounds. "
        "x DataLoader: against torch's own with worker processes over the same data set.",
    )


def loader_cases(corpus: Corpus, passes: int) -> dict[str, Case]:
    """Each runs so many epochs."""
    dataset = CachedTokenDataset(corpus.cache)
    trusting = CachedTokenDataset(TokenCache(corpus.cache, verify=False))
    threads = {"batch_size": _BATCH, "shuffle": True, "num_threads": _WORKERS}
    cases = {
        "memcpy": copies(RawStore(corpus.raw)),
        "memcpy_AA": copies(RawStore(corpus.copy)),
        f"memcpy, {_RING} batches": copies(RawStore(corpus.raw), _RING),
        "memcpy, padded": padded_copies(RawStore(corpus.raw)),
        "TokenLoader, padded": epochs(TokenLoader(dataset, padded=True, **threads)),
        "TokenLoader, packed": epochs(TokenLoader(dataset, **threads)),
        "TokenLoader, padded, unverified": epochs(TokenLoader(trusting, padded=True, **threads)),
        "TokenLoader, padded, 1 thread": epochs(
            TokenLoader(dataset, padded=True, **{**threads, "num_threads": 1})
        ),
        "DataLoader, 0 workers": epochs(torch_loader(dataset, 0)),
        f"DataLoader, {_WORKERS} workers": epochs(torch_loader(dataset, _WORKERS)),
    }
    return {
        name: ready(lambda run=run: [run() for _ in range(passes)]) for name, run in cases.items()
    }


def torch_loader(dataset: CachedTokenDataset, workers: int) -> DataLoader[Any]:
    """As a user writes it."""
    return DataLoader(
        dataset,
        batch_size=_BATCH,
        shuffle=True,
        num_workers=workers,
        collate_fn=collate_padded,
        persistent_workers=workers > 0,
    )


def epochs(loader: Iterable[Any]) -> Callable[[], object]:
    """One epoch; a batch is dropped when the next one comes, as a trainer does."""

    def run() -> None:
        for batch in loader:
            assert batch.tokens.shape[-1]

    return run


def copies(raw: RawStore, num_batches: int = 1) -> Callable[[], object]:
    """The bytes of all records in random order into the slots of so many batches in turn."""
    largest = max(b - a for a, b in zip(raw.offsets, raw.offsets[1:], strict=False))
    slots = [
        torch.zeros(largest, dtype=torch.uint8).numpy().data for _ in range(num_batches * _BATCH)
    ]
    order = torch.randperm(len(raw), generator=torch.Generator().manual_seed(0)).tolist()

    def run() -> None:
        for turn, i in enumerate(order):
            raw.copy_into(i, slots[turn % len(slots)])

    return run


def padded_copies(raw: RawStore) -> Callable[[], object]:
    """The same into padded tensors that are used again, with zeros behind the shorter records."""
    order = torch.randperm(len(raw), generator=torch.Generator().manual_seed(0)).tolist()
    columns = [
        torch.zeros(_BATCH * max(raw.counts), *one.shape[1:], dtype=one.dtype)
        for one in raw.record(0)[:4]
    ]

    def run() -> None:
        for first in range(0, len(order), _BATCH):
            items = order[first : first + _BATCH]
            length = max(raw.counts[i] for i in items)
            for turn, i in enumerate(items):
                n, start = raw.counts[i], turn * length
                for column, field in zip(columns, raw.record(i)[:4], strict=True):
                    column[start : start + n] = field
                    column[start + n : start + length] = 0

    return run
