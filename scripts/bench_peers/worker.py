"""One loader in a process of its own: writes its data, then runs a round each time it is told to.

    python worker.py PEER RAW_FOLDER OWN_FOLDER --batch 8 --workers 2 --passes 2

Each line on standard input is a round: the raw control, ``passes`` epochs of the loader, the
control again.  Each answer is a line of JSON on the original standard output.
"""

import argparse
import json
import os
import random
import sys
import time
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from bench_store_parts.raw import RawStore

from bench_peers.loaders import DISTRIBUTIONS, LOADERS, WRITERS


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("peer", choices=sorted(LOADERS))
    parser.add_argument("raw", type=Path)
    parser.add_argument("own", type=Path)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--passes", type=int, default=2)
    options = parser.parse_args()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a peer prints is no answer
    torch.set_num_threads(1)
    raw = RawStore(options.raw)
    if not options.own.exists():
        WRITERS[options.peer](raw, options.own)
    loader = LOADERS[options.peer](options.own, raw, options.batch, options.workers)
    epoch(loader, raw)  # warm: processes started, files in the page cache
    about = {"ready": options.peer, "version": metadata.version(DISTRIBUTIONS[options.peer])}
    print(json.dumps(about), file=answers, flush=True)
    for _ in sys.stdin:
        before = control(raw, options.passes)
        started = time.perf_counter()
        for _ in range(options.passes):
            epoch(loader, raw)
        seconds = time.perf_counter() - started
        answer = {"loader_s": seconds, "raw_s": (before + control(raw, options.passes)) / 2}
        answer["samples"] = options.passes * len(raw)
        print(json.dumps(answer), file=answers, flush=True)


def control(raw: RawStore, passes: int) -> float:
    """Seconds to read all records in random order from the flat file."""
    order = raw.keys * passes
    random.Random(0).shuffle(order)
    started = time.perf_counter()
    for key in order:
        raw.read(key)
    return time.perf_counter() - started


def epoch(loader: Iterable[Any], raw: RawStore) -> None:
    """All batches; each sample must come once, in tensors of the right shape."""
    samples, rows = 0, 0
    for batch in loader:
        tokens, counts = (batch[0], batch[2]) if isinstance(batch, tuple | list) else ours(batch)
        tokens = tokens.view(torch.bfloat16)
        assert tokens.shape == (int(counts.sum()), raw.dim)
        samples, rows = samples + len(counts), rows + len(tokens)
    assert (samples, rows) == (len(raw), sum(raw.counts)), f"{samples} samples of {rows} tokens"


def ours(batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens and counts of a TokenBatch."""
    return batch.tokens, batch.offsets.diff()


if __name__ == "__main__":
    main()
