"""What is published: fleets at work, bytes of recipes, a picture of time over nodes."""

import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from .costs import Costs
from .fleet import FAILED, LOST, Fleet, Result
from .simulation import simulate
from .storage import EXAMPLES, bytes_per_video
from .videos import Corpus, Videos, encode_seconds, make_videos

__all__ = [
    "EXAMPLE",
    "FLEET_HEADER",
    "STORAGE_HEADER",
    "Case",
    "bound_s",
    "cases",
    "decode_seconds",
    "draw",
    "fleet_row",
    "fleet_rows",
    "rate_rows",
    "storage_rows",
    "videos_per_hour",
]

EXAMPLE = Fleet(actors=64, readers=8)
"""64 nodes of one device and 8 readers, all there from the beginning."""

FLEET_HEADER = (
    "work is handed out",
    "nodes lost an hour",
    "slow nodes",
    "hours",
    "x bound",
    "readers busy",
    "encoder busy",
    "videos again",
    "work wasted",
    "idle at the end",
    "node hours",
)
STORAGE_HEADER = (
    "recipe",
    "tokens",
    "width",
    "record kB",
    "on disk, GB per million",
    "tokens' share",
)


@dataclass(frozen=True, slots=True)
class Case:
    """A row of the table."""

    name: str
    fleet: Fleet


def cases(fleet: Fleet) -> Iterator[Case]:
    """Fixed parts against leases: undisturbed, slow nodes, losses; then kinds of leases."""
    plans = {"fixed parts": replace(fleet, is_static=True), "leases": fleet}
    for slow in (0.0, 0.03):
        for name, plan in plans.items():
            yield Case(name, replace(plan, slow_share=slow))
    for losses in (0.01, 0.05):
        for name, plan in plans.items():
            yield Case(name, replace(plan, node_losses_per_hour=losses, slow_share=0.03))
    worst = replace(fleet, node_losses_per_hour=0.05, slow_share=0.03)
    for lease in (16, 512, 8192):
        yield Case(f"leases of {lease}, kept", replace(worst, lease=lease))
    some = max(1, fleet.actors // 8)
    yield Case(f"leases, {some} nodes at first", replace(worst, min_actors=some, ramp_s=30.0))


def bound_s(videos: Videos, fleet: Fleet) -> float:
    """No run can be shorter: start, then the readers' or the encoders' work shared evenly."""
    readers = float(videos.decode_s.sum()) / (fleet.readers * fleet.actors)
    encoders = float(videos.encode_s.sum()) / fleet.actors
    return fleet.node_start_s + fleet.actor_start_s + max(readers, encoders)


def fleet_row(case: Case, videos: Videos, result: Result) -> tuple[object, ...]:
    """Of ``FLEET_HEADER``."""
    fleet = case.fleet
    assert result.count(FAILED) == int((~videos.is_good).sum()) - _lost_broken(videos, result)
    spent = result.decode_s + result.encode_s
    wasted = result.wasted_decode_s + result.wasted_encode_s
    return (
        case.name,
        f"{fleet.node_losses_per_hour:.0%}",
        f"{fleet.slow_share:.0%}",
        result.makespan_s / 3600,
        result.makespan_s / bound_s(videos, fleet),
        f"{result.decode_s / (fleet.readers * result.actor_s):.1%}",
        f"{result.encode_s / result.actor_s:.1%}",
        result.videos_again,
        f"{wasted / spent:.2%}",
        f"{result.tail_s / result.makespan_s:.1%}",
        result.node_s / 3600,
    )


def _lost_broken(videos: Videos, result: Result) -> int:
    return int(((result.outcome == LOST) & ~videos.is_good).sum())


def fleet_rows(
    number: int, costs: Costs, corpus: Corpus, fleet: Fleet, frames_per_s: float | None, seed: int
) -> list[tuple[object, ...]]:
    """All cases over the same videos."""
    rng = np.random.default_rng(seed)
    videos = make_videos(number, costs, corpus, frames_per_s=frames_per_s, rng=rng)
    rows = []
    for case in cases(fleet):
        rows.append(fleet_row(case, videos, simulate(videos, case.fleet, seed=seed)))
        print(*rows[-1], file=sys.stderr, flush=True)
    return rows


def storage_rows(costs: Costs) -> list[tuple[object, ...]]:
    """Of ``STORAGE_HEADER``, for every embedded recipe."""
    rows: list[tuple[object, ...]] = []
    for name, shape in EXAMPLES.items():
        size = bytes_per_video(shape, meta_nbytes=costs.meta_nbytes)
        width = shape.dim or 1
        element = 8 * (shape.packed or 1) if shape.dtype == "I64" else 2
        tokens = shape.tokens * width * element
        share = f"{tokens / size['total']:.0%}"
        rows.append(
            (
                name,
                shape.tokens,
                shape.dim or "ids",
                size["record"] / 1e3,
                size["total"] / 1e3,
                share,
            )
        )
    return rows


# -- the picture ---------------------------------------------------------------------------------


def draw(videos: Videos, fleet: Fleet, nodes: Sequence[int], path: Path, seed: int) -> Path:
    """Hours over nodes: what no run can beat, leases and fixed parts, undisturbed or not."""
    from matplotlib.figure import Figure

    from vidcomp.report.curves import save_picture
    from vidcomp.report.labels import Label, name_ends

    worst = replace(fleet, node_losses_per_hour=0.05, slow_share=0.03)
    lines = {
        "bound": ("#77777f", None),
        "leases, undisturbed": ("#12906a", fleet),
        "fixed parts, undisturbed": ("#b87900", replace(fleet, is_static=True)),
        "leases, disturbed": ("#1f6fd6", worst),
        "fixed parts, disturbed": ("#d6452b", replace(worst, is_static=True)),
    }
    figure = Figure(figsize=(10.5, 6.2), facecolor="white")
    figure.text(
        0.07,
        0.945,
        f"Hours for {len(videos):,} videos",
        fontsize=15,
        color="#18181c",
        weight="bold",
    )
    facts = "simulated; disturbed: 5 % of the nodes lost an hour, 3 % at half speed"
    figure.text(0.07, 0.905, facts, fontsize=10, color="#77777f")
    axes = figure.add_axes((0.07, 0.1, 0.7, 0.77))
    ends = []
    for name, (colour, plan) in lines.items():
        hours = [_hours(videos, fleet, plan, count, seed) for count in nodes]
        style = "--" if plan is None else "-"
        axes.plot(
            nodes, hours, style, marker="" if plan is None else "o", color=colour, lw=1.8, ms=5
        )
        ends.append(Label(name, nodes[-1], hours[-1], colour))
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(nodes, [str(count) for count in nodes])
    axes.minorticks_off()
    ticks = [0.1, 0.2, 0.5, 1, 2, 5]
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xlabel("nodes", fontsize=10, color="#77777f")
    axes.set_ylabel("hours", fontsize=10, color="#77777f")
    axes.grid(color="#eeeef0", lw=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    name_ends(axes, ends)
    return save_picture(figure, path)


def _hours(videos: Videos, fleet: Fleet, plan: Fleet | None, nodes: int, seed: int) -> float:
    """Of one point; the bound where there is no plan."""
    if plan is None:
        return bound_s(videos, replace(fleet, actors=nodes)) / 3600
    return simulate(videos, replace(plan, actors=nodes), seed=seed).makespan_s / 3600


# -- what one device can do ----------------------------------------------------------------------


def videos_per_hour(
    costs: Costs, height: int, length_s: float, *, cores: int, frames_per_s: float | None
) -> float:
    """Of one device with so many cores to decode for it: the slower of the two sets the pace."""
    seconds = decode_seconds(costs, height, length_s)
    return 3600 * min(cores / seconds, 1 / encode_seconds(costs, frames_per_s))


def decode_seconds(costs: Costs, height: int, length_s: float) -> float:
    """Core seconds before a video reaches the encoder."""
    return float(costs.decode[height].of(np.array([length_s]))[0]) + costs.overhead_s


def rate_rows(costs: Costs, *, length_s: float, frames_per_s: float) -> list[tuple[object, ...]]:
    """By height: core seconds, videos an hour of 8, 16 and 32 cores, cores that feed the device."""
    rows: list[tuple[object, ...]] = []
    for height in costs.decode:
        seconds = decode_seconds(costs, height, length_s)
        rates = [
            round(videos_per_hour(costs, height, length_s, cores=c, frames_per_s=frames_per_s), -2)
            for c in (8, 16, 32)
        ]
        needed = math.ceil(seconds / encode_seconds(costs, frames_per_s))
        rows.append((height, f"{seconds:.2f}", *(f"{rate:,.0f}" for rate in rates), needed))
    return rows
