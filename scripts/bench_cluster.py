"""Ray's actors against the embedded engine: items a second once both run.

    python scripts/bench_cluster.py [--rounds N] [--trial]

Two nodes of a toy cluster on this machine, an actor of one decode process on each, against one
embedded engine of two decode processes.  The encoder waits as a device would; the embedded
engine's is as fast as both actors' together.  What starting and ending cost is taken out: only the
middle three fifths of the receipts count.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import redirect_stderr
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import waiting_encoder  # noqa: F401  # registers an encoder
from _bench import median_ratio, publish
from bench_extract import FRAMES, make_corpus

from vidcomp.config import Recipe
from vidcomp.pipelines.extraction.run_options import Options, RayOptions
from vidcomp.pipelines.extraction.summary import Receipt
from vidcomp.pipelines.extraction.worker import Worker
from vidcomp.pipelines.inputs import Item, expand
from vidcomp.store.storage import open_storage

WAITS_S = {"a device of 0.2 s a clip": 0.2, "readers (a device of 0.02 s)": 0.02}
"""What limits the run, and what the encoder waits for a clip."""
NUM_CLIPS, NUM_PASSES = 30, 3

Rates = dict[str, dict[str, list[float]]]


def main() -> None:
    """Measure and publish."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--trial", action="store_true", help="only print")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bench_cluster(options, Path(folder))


def bench_cluster(options: argparse.Namespace, scratch: Path) -> None:
    """Items a second of both, in turns."""
    from ray.cluster_utils import Cluster

    clips = expand([str(make_corpus(scratch, count=NUM_CLIPS))])
    items = [replace(c, key=f"{n}/{c.key}") for n in range(NUM_PASSES) for c in clips]
    node: dict[str, Any] = {"object_store_memory": 80 << 20}
    head = node | {"num_cpus": 0, "include_dashboard": False}
    with redirect_stderr(StringIO()):
        cluster = Cluster(initialize_head=True, head_node_args=head)
        for _ in range(2):
            cluster.add_node(num_cpus=1, **node)
        cluster.wait_for_nodes()
    rates: Rates = {limit: {"engine": [], "ray": []} for limit in WAITS_S}
    try:
        for round_ in range(options.rounds):
            for limit, wait_s in WAITS_S.items():
                for name, found in list(rates[limit].items())[:: 1 if round_ % 2 else -1]:
                    out = Path(tempfile.mkdtemp(dir=scratch))
                    address = cluster.address if name == "ray" else None
                    found.append(rate_of(items, wait_s, out, address))
                    print(f"{limit}: {name}: {found[-1]:.2f} items/s", flush=True)
    finally:
        cluster.shutdown()
    report(rates, options)


def rate_of(items: list[Item], wait_s: float, out: Path, address: str | None) -> float:
    """Items a second between the first and the last fifth of the receipts."""
    storage = open_storage(out)
    if address is None:
        with Worker(storage, recipe(wait_s), Options(workers=2)) as worker:
            return steady(worker.run(items), lambda: True)
    from vidcomp.pipelines.cluster import RayRunner

    ray = RayOptions(address=address, min_actors=2, max_actors=2)
    options = Options(workers=1, engine="ray", ray=ray)
    with RayRunner(storage, recipe(2 * wait_s), options, most=len(items)) as runner:
        return steady(runner.run(items), lambda: len(runner.actors) == 2)


def steady(receipts: Iterable[Receipt], all_at_work: Callable[[], bool]) -> float:
    """Receipts a second from the first fifth, or when all are at work, to the last fifth."""
    times, first = [], 0
    for receipt in receipts:
        assert receipt.status == "ok", receipt
        times.append(time.perf_counter())
        if not first and all_at_work():
            first = len(times)
    first, last = max(first, len(times) // 5), 4 * len(times) // 5
    assert last - first > len(times) // 4, "the second actor came too late"
    return (last - first) / (times[last] - times[first])


def recipe(wait_s: float) -> Recipe:
    """A device that takes ``wait_s`` for a clip."""
    return Recipe.model_validate(
        {
            "sample": {"name": "uniform", "num_frames": FRAMES},
            "encode": {"name": "waiting", "frame_s": wait_s / FRAMES},
            "compress": {"budget": {"tokens": 196}, "stages": [{"name": "uniform"}]},
        }
    )


def report(rates: Rates, options: argparse.Namespace) -> None:
    """A table of medians."""
    rows = [
        (
            limit,
            statistics.median(found["engine"]),
            statistics.median(found["ray"]),
            median_ratio(found["ray"], found["engine"]),
        )
        for limit, found in rates.items()
    ]
    print(rows)
    if options.trial:
        return
    publish(
        "cluster",
        "Items a second on a toy cluster of two nodes, start and end taken out",
        "python scripts/bench_cluster.py",
        ("limited by", "embedded engine", "Ray", "Ray / engine"),
        rows,
        f"{NUM_CLIPS * NUM_PASSES} clips of 480x270 and 3 to 6 s; the engine has two decode "
        "processes and a device, the cluster two actors of one decode process and a device of half "
        f"that speed each, all on this machine; medians of {options.rounds} interleaved rounds, "
        "ratios within rounds, as a busy machine is faster in some than in others; only the middle "
        "three fifths of the receipts count.",
    )


if __name__ == "__main__":
    main()
