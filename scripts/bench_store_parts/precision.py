"""Reading stores of int8 and compressed tokens, against the same records in bfloat16."""

import argparse
import shutil
from pathlib import Path
from typing import Any

from bench_store_parts.raw import RawStore
from bench_store_parts.reading import each, ways
from bench_store_parts.report import report
from bench_store_parts.stores import Corpus, videos, write_cache
from bench_store_parts.synthetic import records, sizes
from bench_store_parts.timing import Case, as_rows, ready, rounds_of, speeds
from vidcomp.config import StoreSettings
from vidcomp.store import TokenCache

__all__ = ["bench_precision"]

_FORMS: dict[str, dict[str, Any]] = {
    "bfloat16": {},
    "int8": {"dtype": "int8"},
    "bfloat16, zstd": {"codec": "zstd"},
    "int8, zstd": {"dtype": "int8", "codec": "zstd"},
}


def bench_precision(options: argparse.Namespace, folder: Path) -> None:
    """A table of sizes, and of ratios to bfloat16 and to raw."""
    rows = []
    for size in sizes(options.large, options.small, options.size):
        corpus = Corpus.make(size, folder)
        stores = {form: folder / "forms" / form.replace(", ", "-") for form in _FORMS}
        for form, path in stores.items():
            settings = StoreSettings(**_FORMS[form])
            write_cache(path, videos(records(size)), settings=settings)
        seconds = rounds_of(form_cases(corpus, stores), options.rounds)
        plain = nbytes(stores["bfloat16"])
        against = speeds(seconds, "bfloat16")
        for _, form, *ratios in as_rows(speeds(seconds, "raw"), size.name):
            share = nbytes(stores[form]) / plain if form in stores else 1.0
            rows.append((size.name, form, share, against[form][0], *ratios))
        shutil.rmtree(folder / "forms")
    report(
        options,
        "precision",
        "int8 and compressed tokens",
        ("records", "form", "bytes", "x bfloat16", "x raw", "lower quartile", "upper quartile"),
        rows,
        "Bytes on disk relative to bfloat16; speed of `get_many(keys, out=...)` in random order, "
        "hashes checked, tokens handed out as bfloat16, relative to the store of bfloat16 and to "
        "`raw` (see random reads) in the same round (more is faster); warm, random "
        f"normals (real features compress alike); medians of {options.rounds} interleaved rounds.",
    )


def form_cases(corpus: Corpus, stores: dict[str, Path]) -> dict[str, Case]:
    """Reading all records of each store, and of the flat file."""
    order = corpus.order()
    raw = RawStore(corpus.raw)
    cases = {"raw": ready(lambda: each(raw.read, order))}
    for form, path in stores.items():
        reader = ways(TokenCache(path), corpus)["get_many(out)"]
        cases[form] = ready(lambda reader=reader: reader(order))
    return cases


def nbytes(path: Path) -> int:
    """Bytes of a store's shards."""
    return sum(file.stat().st_size for file in (path / "shards").iterdir())
