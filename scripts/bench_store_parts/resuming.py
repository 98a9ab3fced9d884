"""Starting again in the middle of a long epoch, ours and torchdata's."""

import argparse
import json
import pickle
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench_store_parts.large_index import large_store
from bench_store_parts.report import report
from vidcomp.data import CachedTokenDataset, TokenLoader, collate_padded

__all__ = ["bench_resume", "child_resume"]

_BATCH = 8
_DONE = 20_000
_KINDS = {
    "threads": "`TokenLoader`, 2 threads",
    "stateful0": "torchdata `StatefulDataLoader`, shuffle=True, 0 workers",
    "stateful2": "torchdata `StatefulDataLoader`, shuffle=True, 2 workers",
}


def bench_resume(options: argparse.Namespace, folder: Path) -> None:
    """A table of seconds."""
    path = folder / "steps"
    if not path.exists():
        large_store(path, options.steps * _BATCH)
    rows = []
    for kind, shown in _KINDS.items():
        state = folder / f"{kind}.pkl"
        run_child(options.script, f"save-{kind}", path, state)
        found = [
            run_child(options.script, f"load-{kind}", path, state) for _ in range(options.rounds)
        ]
        assert all(one["same"] for one in found), f"{kind} went on with another batch"
        rows.append((shown, *(statistics.median(one[name] for one in found) for name in _COLUMNS)))
    report(
        options,
        "resume",
        f"resume at step {_DONE:,} of {options.steps:,}",
        ("loader", "seconds to load and first batch", "seconds to open before", "bytes of state"),
        rows,
        f"{options.steps * _BATCH:,} records in batches of {_BATCH}, shuffled; a state was saved "
        f"after {_DONE:,} batches; a fresh process opens the store, makes the loader, calls "
        "`load_state_dict` and takes a batch, which is the one that was due. Medians of "
        f"{options.rounds}.",
    )


_COLUMNS = ("seconds", "open_s", "state_bytes")


def run_child(script: str, step: str, path: Path, state: Path) -> dict[str, Any]:
    """Run one step in a process of its own."""
    command = [sys.executable, script, "--child", step, "--dir", str(path), "--state", str(state)]
    done = subprocess.run(command, capture_output=True, check=True, text=True)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def child_resume(step: str, path: Path, state: Path) -> None:
    """The child: save a state, or load it; prints what it took."""
    verb, kind = step.split("-")
    started = time.perf_counter()
    loader = make_loader(kind, path)
    open_s = time.perf_counter() - started
    if verb == "save":
        running = iter(loader)
        for _ in range(_DONE):
            next(running)
        saved = loader.state_dict()
        state.write_bytes(pickle.dumps((saved, list(next(running).keys))))
        print("{}")
        return
    saved, due = pickle.loads(state.read_bytes())  # the parent's own
    started = time.perf_counter()
    loader.load_state_dict(saved)
    batch = next(iter(loader))
    seconds = time.perf_counter() - started
    answer = {"seconds": seconds, "open_s": open_s, "same": list(batch.keys) == due}
    print(json.dumps({**answer, "state_bytes": len(json.dumps(saved, default=_size_of))}))


def make_loader(kind: str, path: Path) -> Any:
    """The loader as a user makes it."""
    makers: dict[str, Callable[[], Any]] = {
        "threads": lambda: TokenLoader(path, _BATCH, shuffle=True, padded=True),
        "stateful0": lambda: stateful(path, 0),
        "stateful2": lambda: stateful(path, 2),
    }
    return makers[kind]()


def stateful(path: Path, workers: int) -> Any:
    """The loader of torchdata over our data set."""
    from torchdata.stateful_dataloader import StatefulDataLoader

    return StatefulDataLoader(
        CachedTokenDataset(path),
        batch_size=_BATCH,
        shuffle=True,
        num_workers=workers,
        collate_fn=collate_padded,
    )


def _size_of(value: Any) -> str:
    """Tensors and bytes of a state as text of their size."""
    return "x" * len(pickle.dumps(value))
