"""An hour of video at the width of a real encoder: seconds and memory above the input."""

import argparse
from collections.abc import Iterator

import torch
from _memory import Peak

from bench_compress_parts.features import asked, drifting_video, needed_extras
from bench_compress_parts.isolated import Outcome, run_isolated
from bench_compress_parts.report import Table, publish_table
from vidcomp.pipelines.comparison import parse_methods, timed
from vidcomp.registry import COMPRESSORS
from vidcomp.types import Grid

__all__ = ["bench_hour", "one_hour", "whole_video_methods"]

FRAMES, SIDE, DIM, BUDGET = 3600, 14, 1152, 8192
MOST_GB = 3.0


def bench_hour(options: argparse.Namespace) -> None:
    """Seconds and GB of every method that is linear or streaming, one process at a time."""
    frames, dim, budget = (64, 96, 256) if options.quick else (FRAMES, DIM, BUDGET)

    def measured(labels: list[str]) -> list[Outcome]:
        return run_isolated(
            one_hour,
            labels,
            (frames, dim, budget, options.device),
            timeout_s=options.timeout or 900,
            threads=1 if options.device == "cpu" else None,
        )

    outcomes = measured(whole_video_methods(options.methods))
    # A kernel that is busy gives memory back late, and counts it twice: look again at what is much.
    again = {o.label: o for o in measured([o.label for o in outcomes if _gb(o) >= MOST_GB])}
    outcomes = [min(o, again.get(o.label, o), key=_gb) for o in outcomes]
    rows = sorted((_row(o) for o in outcomes), key=lambda row: str(row[1]) + str(row[0]))
    missing = " ".join(f"{o.label}: {o.reason}." for o in outcomes if o.reason)
    above = [str(row[0]) for row in rows if isinstance(row[4], float) and row[4] >= MOST_GB]
    publish_table(
        options,
        Table(
            "hour",
            "Compressors: an hour at the width of a real encoder",
            ("method", "said to be", "tokens", "s", "GB above the input"),
            rows,
            f"{frames} frames of {SIDE} x {SIDE} tokens of {dim} features in bfloat16, "
            f"{frames * SIDE**2} tokens ({frames * SIDE**2 * dim * 2 / 1e9:.2g} GB), to {budget}, "
            f"by the methods said to be linear or streaming; one call in one thread, its first. "
            f"GB: 10^9 bytes at the peak, output included, of the lower of two calls where the "
            f"first said {MOST_GB:g} or more; {MOST_GB:g} GB or more: "
            f"{', '.join(above) or 'none'}. {missing}",
        ),
    )


def whole_video_methods(words: list[str]) -> list[str]:
    """Labels of the methods whose time is to grow with the length of a video and no faster."""
    labels = [method.label for method in parse_methods(words)]
    classes = {label: COMPRESSORS[label.split(":")[0]] for label in labels}
    return [n for n, cls in classes.items() if cls.streaming or cls.about.scaling == "linear"]


def one_hour(
    label: str, frames: int, dim: int, budget: int, device: str
) -> Iterator[tuple[int, float, float]]:
    """Tokens returned, seconds and GB above the input."""
    (method,) = parse_methods([label])
    extras = needed_extras(label)
    small = drifting_video(Grid(4, 4, 4), dim, extras, torch.bfloat16).to(device)
    asked(method.stage, small)(small, 20)  # what is imported and set up once
    video = drifting_video(Grid(frames, SIDE, SIDE), dim, extras, torch.bfloat16).to(device)
    stage = asked(method.stage, video)
    with Peak(device) as peak:
        out, seconds = timed(lambda: stage(video, budget), video.tokens.device, 1)
    yield len(out), seconds, peak.mib * 2**20 / 1e9


def _gb(outcome: Outcome) -> float:
    return float(outcome.values[0][2]) if outcome.values else 0.0


def _row(outcome: Outcome) -> list[object]:
    cls = COMPRESSORS[outcome.label.split(":")[0]]
    found = outcome.values[0] if outcome.values else (None, None, None)
    return [outcome.label, cls.about.scaling + ", streaming" * cls.streaming, *found]
