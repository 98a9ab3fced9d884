"""What each compressor costs on a long video: CPU time of one thread, and memory at its peak.

    python scripts/bench_compress.py [--frames 120 --side 16 --dim 1152 --budget 3072]

Linux only: the peak is the kernel's.  Each method runs in a process of its own.
"""

import argparse
import multiprocessing
import re
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from _bench import publish

from vidcomp.registry import COMPRESSORS
from vidcomp.types import Grid, VideoTokens

VARIANTS: dict[str, list[dict[str, Any]]] = {
    "static_average": [{}, {"reference": "first"}, {"reference": "mean"}],
    "tome": [{}, {"scope": "clip"}, {"scope": "frame"}],
}
ROUNDS = 3


def long_video(grid: Grid, dim: int) -> VideoTokens:
    """One picture that drifts slowly, with noise, in bfloat16."""
    draw = torch.Generator().manual_seed(0)
    tokens = torch.randn(grid.per_frame, dim, generator=draw).repeat(grid.t, 1)
    for frame in torch.split(tokens, grid.per_frame):
        frame += 0.2 * torch.randn(frame.shape, generator=draw)
    start = torch.arange(grid.t, dtype=torch.float32)
    spans = torch.stack([start, start + 1], dim=1)
    return VideoTokens.from_grid(tokens.bfloat16(), grid, spans)


def peak_mib() -> float:
    """Most memory that this process held since the last reset."""
    status = Path("/proc/self/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found is not None
    return int(found.group(1)) / 1024


def measure(name: str, settings: dict[str, Any], grid: Grid, dim: int, budget: int) -> list[object]:
    """A row of the table."""
    torch.set_num_threads(1)
    video, stage = long_video(grid, dim), COMPRESSORS.make(name, **settings)
    stage(long_video(Grid(2, 4, 4), dim), 20)  # what is imported and set up once
    seconds, memory = [], 0.0
    for _ in range(ROUNDS):
        Path("/proc/self/clear_refs").write_text("5")
        before, started = peak_mib(), time.process_time()
        out = stage(video, budget)
        seconds.append(time.process_time() - started)
        memory = max(memory, peak_mib() - before)
    shown = ", ".join(f"{key}={value}" for key, value in settings.items())
    return [name, shown or "default", len(out), statistics.median(seconds), round(memory)]


def main() -> None:
    """Measure and publish."""
    parser = argparse.ArgumentParser(description=__doc__)
    for option, default in {"frames": 120, "side": 16, "dim": 1152, "budget": 3072}.items():
        parser.add_argument(f"--{option}", type=int, default=default)
    given = parser.parse_args()
    grid = Grid(given.frames, given.side, given.side)
    cases = [(n, s) for n in COMPRESSORS.names() for s in VARIANTS.get(n, [{}])]
    rows = []
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        for name, settings in cases:
            rows.append(pool.apply(measure, (name, settings, grid, given.dim, given.budget)))
            print(*rows[-1], flush=True)
    megabytes = grid.num_patches * given.dim * 2 / 2**20
    publish(
        "compress",
        "Compressors on a long video",
        "python scripts/bench_compress.py",
        ("method", "settings", "tokens out", "CPU s", "MiB at the peak"),
        rows,
        f"{given.frames} frames of {given.side} x {given.side} tokens ({grid.num_patches}) of "
        f"{given.dim} features in bfloat16 ({megabytes:.0f} MiB) to a budget of {given.budget}; "
        f"one thread, median of {ROUNDS}; memory above the input's, output included.",
    )


if __name__ == "__main__":
    main()
