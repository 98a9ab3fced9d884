"""Writing and syncing, against an append to one file and a sync."""

import argparse
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from bench_store_parts.raw import write_raw
from bench_store_parts.report import report
from bench_store_parts.stores import videos, write_cache
from bench_store_parts.synthetic import Size, records, sizes
from bench_store_parts.timing import Case, as_rows, rounds_of, speeds

__all__ = ["bench_write"]


def bench_write(options: argparse.Namespace, folder: Path) -> None:
    """A table of the ratios to a raw append."""
    rows = []
    for size in sizes(options.large, options.small, options.size):
        seconds = rounds_of(write_cases(size, folder / "write"), options.rounds)
        rows += as_rows(speeds(seconds, "raw"), size.name)
        shutil.rmtree(folder / "write")
    report(
        options,
        "write",
        "write and sync",
        ("records", "case", "x raw", "lower quartile", "upper quartile"),
        rows,
        "Times the speed of `raw` in the same round (more is faster): one `writev` a record to "
        "the end of one file, and one `fsync`. `raw_AA` is the same again. The writer has its "
        "defaults: journal, hashes, shards and index committed and synced. "
        f"large: {options.large} records of 196 to 1568 x 1152, small: {options.small} of 64 x "
        f"768, bfloat16; medians of {options.rounds} interleaved rounds.",
    )


def write_cases(size: Size, folder: Path) -> dict[str, Case]:
    """Each writes all records to a new folder, on a disk that has nothing else to write."""
    items = list(records(size))
    known = list(videos(items))

    def case(write: Callable[[Path], None]) -> Case:
        def prepare() -> Callable[[], object]:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            os.sync()
            return lambda: write(folder / "out")

        return prepare

    def raw(path: Path) -> None:
        write_raw(path, items, size.dim)

    return {
        "raw": case(raw),
        "raw_AA": case(raw),
        "CacheWriter": case(lambda path: write_cache(path, known)),
    }
