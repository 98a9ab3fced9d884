"""Opening a store of a million records: seconds and memory of fresh processes."""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench_store_parts.large_index import large_store, synthetic_key
from bench_store_parts.report import report

__all__ = ["bench_open", "child_open"]

_STEPS = {
    "open": "`TokenCache(path)`, `len`, one look-up",
    "read": "the same, and one record read",
    "select": "the same as open, and `select()`",
    "committed": "`CacheWriter(path)`, `committed()`, one look-up",
    "planned": "the same, and every record looked up and its source compared",
}


def bench_open(options: argparse.Namespace, folder: Path) -> None:
    """A table of seconds and megabytes."""
    path = folder / "million"
    if not path.exists():
        large_store(path, options.records)
    rows = []
    for step, shown in _STEPS.items():
        found = [fresh(options.script, step, path, options.records) for _ in range(options.rounds)]
        columns = ("seconds", "grown_mb", "peak_mb")
        rows.append((shown, *(statistics.median(one[name] for one in found) for name in columns)))
    nbytes = sum(file.stat().st_size for file in (path / "index").iterdir())
    report(
        options,
        "open",
        f"opening a store of {options.records:,} records",
        ("step", "seconds", "MB more", "MB more at the peak"),
        rows,
        f"A synthetic index in one snapshot of {nbytes / 1e6:.0f} MB, in the page cache; each "
        "step in a fresh process that has imported vidcomp and torch; resident memory above what "
        f"it had before; medians of {options.rounds}.",
    )


def fresh(script: str, step: str, path: Path, count: int) -> dict[str, float]:
    """Run one step in a process of its own."""
    command = [sys.executable, script, "--child", step, "--dir", str(path), "--records", str(count)]
    done = subprocess.run(command, capture_output=True, check=True, text=True)
    answer: dict[str, float] = json.loads(done.stdout)
    return answer


def child_open(step: str, path: Path, count: int) -> None:
    """The child: do the step and print what it took."""
    from vidcomp.store import CacheWriter, TokenCache

    key = synthetic_key(count // 3)

    def opened() -> TokenCache:
        cache = TokenCache(path)
        assert len(cache) == count
        assert cache.info(key).num_tokens
        return cache

    def committed() -> tuple[CacheWriter, Any]:
        writer = CacheWriter(path, identity={"sample": {"name": "uniform"}})
        done = writer.committed()
        assert len(done) == count
        assert key in done
        return writer, done

    def planned() -> object:
        writer, done = committed()
        source = done[key]
        assert source is not None
        assert all(source.matches(done.get(synthetic_key(i))) for i in range(count))
        return writer, done

    def more(then: Callable[[TokenCache], object]) -> Callable[[], object]:
        def run() -> object:
            cache = opened()
            return cache, then(cache)  # both count as memory

        return run

    steps: dict[str, Callable[[], object]] = {
        "open": opened,
        "read": more(lambda cache: cache[key]),
        "select": more(lambda cache: cache.select()),
        "committed": committed,
        "planned": planned,
    }
    before = memory_mb("VmRSS")
    started = time.perf_counter()
    kept = steps[step]()
    seconds = time.perf_counter() - started
    after, peak = memory_mb("VmRSS"), memory_mb("VmHWM")
    del kept
    print(json.dumps({"seconds": seconds, "grown_mb": after - before, "peak_mb": peak - before}))


def memory_mb(name: str) -> float:
    """A line of /proc/self/status in megabytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) / 1024
    raise OSError(f"/proc/self/status says nothing of {name}")
