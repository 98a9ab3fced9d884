"""How time and memory of all methods grow with the length of a video."""

import argparse
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence

import torch
from _memory import Peak

from bench_compress_parts.features import asked, drifting_video, needed_extras
from bench_compress_parts.isolated import Outcome, run_isolated
from bench_compress_parts.report import Table, publish_table
from vidcomp.pipelines.comparison import parse_methods
from vidcomp.registry import COMPRESSORS
from vidcomp.types import Grid

__all__ = ["bench_scale", "grow"]

FRAMES, SIDE, DIM, BUDGET = (256, 900, 3600), 14, 64, 8192
CALLS, ENOUGH_S = 7, 3.0
"""Calls that are timed: so many, or as many as fit into these seconds, one at least."""


def bench_scale(options: argparse.Namespace) -> None:
    """Seconds and MiB of every method for 256, 900 and 3,600 frames to one budget."""
    frames = (16, 32, 64) if options.quick else FRAMES
    budget = 256 if options.quick else BUDGET
    labels = [method.label for method in parse_methods(options.methods)]
    timeout_s = options.timeout or 120
    on_cpu = options.device == "cpu"
    outcomes = run_isolated(
        grow,
        labels,
        (frames, budget, options.device, timeout_s),
        timeout_s=timeout_s,
        workers=2 if on_cpu else 1,
        threads=1 if on_cpu else None,
    )
    rows = sorted((_row(o, frames) for o in outcomes), key=lambda row: str(row[1]) + str(row[0]))
    missing = " ".join(f"{o.label}: {o.reason}." for o in outcomes if o.reason)
    header = (
        "method",
        "said to be",
        *(f"s, {count} frames" for count in frames),
        "exponent",
        "of the last two",
        *(f"MiB, {count} frames" for count in frames),
    )
    publish_table(
        options,
        Table(
            "scale",
            "Compressors: growth with the length of the video",
            header,
            rows,
            f"Frames of {SIDE} x {SIDE} tokens of {DIM} features in float32, up to "
            f"{frames[-1] * SIDE**2} tokens ({frames[-1] * SIDE**2 * DIM * 4 / 2**20:.0f} MiB), to "
            f"{budget} tokens at every length, in one thread. Seconds"
            f"{' of the processor' * on_cpu}: median of up to {CALLS} calls after a first one, "
            f"which meets memory that the system has not handed out yet. MiB: at the peak of the "
            f"first, above the input, output included. Exponent: of seconds, by least squares "
            f"over all lengths, and between the last two. Methods whose next length would not "
            f"end within {timeout_s:g} s were stopped. {missing}",
        ),
    )


def grow(
    label: str, frames: tuple[int, ...], budget: int, device: str, limit_s: float
) -> Iterator[tuple[int, float, float]]:
    """Frames, seconds and MiB, length after length, as long as the next will end in time."""
    (method,) = parse_methods([label])
    extras, began = needed_extras(label), time.monotonic()
    small = drifting_video(Grid(4, 4, 4), DIM, extras).to(device)
    asked(method.stage, small)(small, 20)  # what is imported and set up once
    done: list[tuple[int, float]] = []
    for count in frames:
        if done:
            growth = max(1.0, _exponent(done[-2:]) if len(done) > 1 else 1.0)
            expected = 2 * done[-1][1] * (count / done[-1][0]) ** growth
            if time.monotonic() - began + expected > limit_s:
                return
        video = drifting_video(Grid(count, SIDE, SIDE), DIM, extras).to(device)
        stage = asked(method.stage, video)
        with Peak(device) as peak:
            stage(video, budget)
        seconds = _seconds(lambda: stage(video, budget), device)  # noqa: B023
        done.append((count, seconds))
        yield count, seconds, peak.mib


def _seconds(call: Callable[[], object], device: str) -> float:
    """Median time of some calls: of the processor, which neighbours delay least, or the clock's."""
    clock = time.process_time if device == "cpu" else _clock_of_the_device
    seconds: list[float] = []
    while len(seconds) < CALLS and sum(seconds) < ENOUGH_S:
        started = clock()
        call()
        seconds.append(clock() - started)
    return statistics.median(seconds)


def _clock_of_the_device() -> float:
    torch.cuda.synchronize()
    return time.perf_counter()


def _row(outcome: Outcome, frames: tuple[int, ...]) -> list[object]:
    found = {count: (seconds, mib) for count, seconds, mib in outcome.values}
    points = [(count, found[count][0]) for count in frames if count in found]
    cls = COMPRESSORS[outcome.label.split(":")[0]]
    return [
        outcome.label,
        cls.about.scaling + ", streaming" * cls.streaming,
        *(found[count][0] if count in found else None for count in frames),
        _exponent(points) if len(points) > 1 else None,
        _exponent(points[-2:]) if len(points) > 1 else None,
        *(round(found[count][1]) if count in found else None for count in frames),
    ]


def _exponent(points: Sequence[tuple[int, float]]) -> float:
    """Of the power of the length with which seconds grow: least squares of (frames, seconds)."""
    frames, seconds = (
        [math.log(value) for value in values] for values in zip(*points, strict=True)
    )
    return statistics.linear_regression(frames, seconds).slope
