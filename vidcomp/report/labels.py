"""Names beside curves and points, placed so that none covers another."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Label", "apart", "name_ends", "name_points"]

_STEP = 0.054
"""Least distance of names at the right edge, as a share of the panel's height."""
_SIDES = (
    (8, 0, "left"),
    (-8, 0, "right"),
    (6, 10, "left"),
    (6, -10, "left"),
    (-6, 10, "right"),
    (-6, -10, "right"),
    (0, 14, "center"),
    (0, -14, "center"),
)
"""Where a name may stand, in points from what it names, the best first."""


class Label(NamedTuple):
    """A name and the place in the panel's own numbers that it names."""

    name: str
    x: float
    y: float
    colour: str
    bold: bool = False


class _Box(NamedTuple):
    left: float
    bottom: float
    right: float
    top: float

    def meets(self, other: "_Box") -> bool:
        return (
            self.left < other.right
            and other.left < self.right
            and self.bottom < other.top
            and other.bottom < self.top
        )


def name_ends(axes: "Axes", labels: Sequence[Label]) -> None:
    """Names right of a panel at the height of the ends of curves, joined to them by a line."""
    heights = [_height(axes, label.y) for label in labels]
    for label, at, place in zip(labels, heights, apart(heights, _STEP), strict=True):
        axes.annotate(
            label.name,
            xy=(1.0, at),
            xytext=(1.05, place),
            xycoords="axes fraction",
            textcoords="axes fraction",
            va="center",
            fontsize=9.5,
            color=label.colour,
            arrowprops={"arrowstyle": "-", "color": label.colour, "lw": 0.7, "shrinkB": 0},
            annotation_clip=False,
        )


def name_points(axes: "Axes", labels: Sequence[Label]) -> None:
    """Names beside points, the first ones first; one that finds no free place is left out.

    The panel's limits are final from here on.
    """
    from matplotlib.patheffects import withStroke

    axes.autoscale_view()
    scale = axes.figure.get_dpi() / 72
    frame = axes.get_window_extent()
    at = [axes.transData.transform((label.x, label.y)) for label in labels]
    taken = [_Box(x - 5, y - 5, x + 5, y + 5) for x, y in at]
    for label, (x, y) in zip(labels, at, strict=True):
        size = 9.5 if label.bold else 8.0
        width, height = 0.7 * size * scale * len(label.name), 1.45 * size * scale
        for dx, dy, align in _SIDES:
            left = x + dx * scale - {"left": 0.0, "center": 0.5, "right": 1.0}[align] * width
            bottom = y + dy * scale - height / 2
            box = _Box(left, bottom, left + width, bottom + height)
            if left < frame.x0 or box.right > frame.x1 or any(map(box.meets, taken)):
                continue
            taken.append(box)
            axes.annotate(
                label.name,
                (label.x, label.y),
                xytext=(dx, dy),
                textcoords="offset points",
                ha=align,
                va="center",
                fontsize=size,
                color=label.colour,
                weight="bold" if label.bold else "normal",
                path_effects=[withStroke(linewidth=3, foreground="white")],
                zorder=4,
            )
            break


def apart(heights: Sequence[float], step: float) -> list[float]:
    """Heights at least ``step`` from each other, in their order, moved as little as that takes.

    The sum of squared moves is the least possible; then all that is above 1 comes down.
    """
    order = sorted(range(len(heights)), key=lambda i: heights[i])
    # With a step taken off for each place, neighbours only have to be in order; those that are
    # not share their mean (pool adjacent violators).
    pools: list[list[float]] = []
    for place, i in enumerate(order):
        pools.append([heights[i] - place * step])
        while len(pools) > 1 and _mean(pools[-2]) >= _mean(pools[-1]):
            pools[-2:] = [pools[-2] + pools[-1]]
    placed = [0.0] * len(heights)
    means = [_mean(pool) for pool in pools for _ in pool]
    top = 1 - step * (len(order) - 1)
    for place, (i, mean) in enumerate(zip(order, means, strict=True)):
        placed[i] = min(mean, top) + place * step
    return placed


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _height(axes: "Axes", y: float) -> float:
    """``y`` as a share of the panel's height."""
    low, high = axes.get_ylim()
    if axes.get_yscale() == "log":
        y, low, high = math.log(y), math.log(low), math.log(high)
    return (y - low) / (high - low)
