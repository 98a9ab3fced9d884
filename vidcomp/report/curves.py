"""Rate-distortion pictures of compressors: how much they lose at which budget, and how fast.

One panel a kind of method, so that each names its best over a grey ground of all others; below them
coverage, and time against distortion with the front of methods that none beats in both.

Needs matplotlib (the extra ``report``), imported when a picture is drawn.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vidcomp.errors import ConfigError, MissingExtraError, StoreError
from vidcomp.report.labels import Label, name_ends, name_points

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

__all__ = ["Curve", "Point", "check_drawing", "draw_curves", "pareto", "save_picture"]

_INK, _GREY, _PALE = "#18181c", "#77777f", "#d0d0d5"
_COLOURS = ("#1f6fd6", "#d6452b", "#12906a", "#9445c4", "#b87900", "#0e8fa8")
"""Of the curves that a panel names, as many as it names."""
_KINDS = {
    "prune": ("o", "#1f6fd6"),
    "merge": ("s", "#d6452b"),
    "mixed": ("D", "#9445c4"),
    "resample": ("^", "#12906a"),
}
"""Marker and colour of each kind."""
_PANELS = {
    "Prune: rows that stay": ("prune",),
    "Merge: means of groups (or drop and merge)": ("merge", "mixed"),
    "Resample: mixed by weights": ("resample",),
}
"""Kinds that share a panel."""
_LEAST = 1e-4
"""Distortions below are drawn here: a logarithm has no zero."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A method at one budget."""

    budget: str
    retention: float
    """Share of the tokens that came out, more than 0."""
    distortion: float
    low: float | None = None
    """Lower end of the distortion's 95 % interval."""
    high: float | None = None
    coverage: float
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """A method at its budgets."""

    name: str
    kind: str
    """prune, merge, resample or mixed."""
    points: tuple[Point, ...]
    """By rising retention, at least one."""


def check_drawing() -> None:
    """Nothing, if pictures can be drawn.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(
            "a rate-distortion picture needs matplotlib, which is not installed: pip install "
            "'vidcomp[report]', or ask for the numbers only"
        ) from error


def draw_curves(curves: Sequence[Curve], path: str | Path, *, title: str, facts: str = "") -> Path:
    """Draw methods into a png, svg or pdf file; its folder is made.

    Args:
        curves: methods, the best first: the first ones of a kind are named.
        path: of the picture.
        title: largest line.
        facts: the line below it.

    Returns:
        ``path``.

    Raises:
        ConfigError: no curves, or a suffix that matplotlib does not write.
        MissingExtraError: matplotlib is not installed.
        StoreError: the file cannot be written.
    """
    check_drawing()
    path = Path(path)
    if not curves or path.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise ConfigError(
            f"a picture of methods needs curves and a name that ends in .png, .svg or .pdf, got "
            f"{len(curves)} curves and {path.name}: pass both"
        )
    figure = _draw(curves, title, facts)
    return save_picture(figure, path)


def save_picture(figure: "Figure", path: Path) -> Path:
    """Write a figure where it belongs; the folder is made.

    Raises:
        StoreError: the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=130)
    except OSError as error:
        raise StoreError(
            f"the picture {path} cannot be written ({error.strerror or error}): choose another "
            f"place"
        ) from error
    return path


def pareto(seconds: Sequence[float], distortion: Sequence[float]) -> list[int]:
    """Methods that no other beats in both, by rising time; of equals the first."""
    order = sorted(range(len(seconds)), key=lambda i: (seconds[i], distortion[i], i))
    front: list[int] = []
    for i in order:
        if not front or distortion[i] < distortion[front[-1]]:
            front.append(i)
    return front


def _draw(curves: Sequence[Curve], title: str, facts: str) -> "Figure":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15.5, 11), facecolor="white")
    figure.text(0.05, 0.963, title, fontsize=17, color=_INK, weight="bold")
    figure.text(0.05, 0.937, facts, fontsize=11, color=_GREY)
    if max(len(curve.points) for curve in curves) > 1:
        _many_budgets(figure, curves)
    else:
        _one_budget(figure, curves)
    return figure


def _many_budgets(figure: "Figure", curves: Sequence[Curve]) -> None:
    """Curves of distortion by kind above; coverage, and time against distortion, below."""
    panels = {
        title: own
        for title, kinds in _PANELS.items()
        if (own := [curve for curve in curves if curve.kind in kinds])
    }
    room = {"left": 0.06, "right": 0.885}
    top = figure.add_gridspec(1, len(panels), **room, top=0.88, bottom=0.53, wspace=0.5)
    first: Axes | None = None
    for place, (title, own) in enumerate(panels.items()):
        axes = figure.add_subplot(top[0, place], sharey=first, sharex=first)
        first = first or axes
        _panel(axes, curves, own, "distortion")
        _dress(axes, title, "tokens kept", "" if place else "relative distortion")
        axes.tick_params(labelleft=not place)
    ratios = [1, 1.7]
    low = figure.add_gridspec(
        1, 2, **room, top=0.445, bottom=0.06, wspace=0.36, width_ratios=ratios
    )
    axes = figure.add_subplot(low[0, 0])
    asked = max(len(curve.points) for curve in curves)
    best = sorted(curves, key=lambda curve: (asked - len(curve.points), _uncovered(curve)))
    _panel(axes, curves, best, "coverage")
    _dress(axes, "Coverage by tokens of cosine 0.9", "tokens kept", "share of patches")
    _scatter(figure.add_subplot(low[0, 1]), curves, _middle_budget(curves))


def _one_budget(figure: "Figure", curves: Sequence[Curve]) -> None:
    """All methods by name on the left, time against distortion on the right."""
    grid = figure.add_gridspec(1, 2, left=0.13, right=0.97, top=0.88, bottom=0.06, wspace=0.16)
    axes = figure.add_subplot(grid[0, 0])
    for row, curve in enumerate(curves):
        marker, colour = _KINDS[curve.kind]
        point = curve.points[0]
        if point.low is not None and point.high is not None:
            axes.plot([_drawn(point.low), _drawn(point.high)], [row, row], color=colour, lw=1.5)
        axes.plot(_drawn(point.distortion), row, marker, color=colour, ms=6)
    axes.set_yticks(range(len(curves)), [curve.name for curve in curves])
    axes.set_ylim(len(curves) - 0.4, -0.6)
    axes.set_xscale("log")
    budget = curves[0].points[0].budget
    _dress(axes, f"Distortion at {budget}, 95 % over clips", "relative distortion", "")
    _plain_numbers(axes.xaxis)
    _scatter(figure.add_subplot(grid[0, 1]), curves, budget)


def _panel(axes: "Axes", curves: Sequence[Curve], best: Sequence[Curve], value: str) -> None:
    """Curves over retention: the first of ``best`` in colour and named, all as a ground."""
    for curve in curves:
        axes.plot(*_line(curve, value), color=_PALE, lw=1, zorder=1)
    ends = []
    for colour, curve in zip(_COLOURS, best, strict=False):
        x, y = _line(curve, value)
        if value == "distortion" and curve is best[0]:  # those of all would hide each other
            _band(axes, curve, colour)
        axes.plot(x, y, marker=_KINDS[curve.kind][0], color=colour, lw=1.8, ms=5, zorder=3)
        ends.append(Label(curve.name, x[-1], y[-1], colour))
    axes.set_xscale("log")
    if value == "distortion":
        axes.set_yscale("log")
        drawn = [_drawn(p.distortion) for one in curves for p in one.points]
        axes.set_ylim(0.8 * min(drawn), 1.25 * max(drawn))  # intervals may leave the panel
        _plain_numbers(axes.yaxis)
    asked = {p.budget: p.retention for curve in reversed(curves) for p in curve.points}
    axes.set_xticks(list(asked.values()), list(asked))
    axes.xaxis.minorticks_off()
    name_ends(axes, ends)


def _band(axes: "Axes", curve: Curve, colour: str) -> None:
    """The 95 % interval, if there are several clips."""
    ranges = [(p.low, p.high) for p in curve.points if p.low is not None and p.high is not None]
    if len(ranges) == len(curve.points):
        low, high = ([_drawn(end) for end in ends] for ends in zip(*ranges, strict=True))
        axes.fill_between(_line(curve, "distortion")[0], low, high, color=colour, alpha=0.1, lw=0)


def _scatter(axes: "Axes", curves: Sequence[Curve], budget: str) -> None:
    """Time against distortion at one budget; the front in colour."""
    found = [(c, p) for c in curves for p in c.points if p.budget == budget]
    x, y = [p.seconds for _, p in found], [_drawn(p.distortion) for _, p in found]
    front = pareto(x, y)
    edge = [*front, front[-1]]
    axes.step([x[i] for i in edge], [y[i] for i in edge], where="post", color=_PALE, lw=1.5)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.margins(0.09)
    for kind in dict.fromkeys(curve.kind for curve in curves):
        marker, colour = _KINDS[kind]
        axes.plot([], [], marker, color=colour, label=kind)
    for i, (curve, _) in enumerate(found):
        marker, colour = _KINDS[curve.kind]
        ahead = i in front
        fill, edge_colour = (colour, colour) if ahead else (_PALE, _GREY)
        axes.plot(x[i], y[i], marker, color=fill, mec=edge_colour, ms=8 if ahead else 6)
    title = f"Time and distortion at {budget}: in colour what no other beats in both"
    _dress(axes, title, "seconds a clip", "relative distortion")
    _plain_numbers(axes.yaxis)
    _plain_numbers(axes.xaxis)
    axes.legend(loc="upper right", frameon=False, ncols=len(_KINDS), handletextpad=0)
    behind = [i for i in range(len(found)) if i not in front]
    name_points(
        axes,
        [Label(found[i][0].name, x[i], y[i], _INK, bold=True) for i in front]
        + [Label(found[i][0].name, x[i], y[i], _GREY) for i in behind],
    )


def _dress(axes: "Axes", title: str, across: str, up: str) -> None:
    axes.set_title(title, loc="left", fontsize=11.5, color=_INK, pad=9)
    axes.set_xlabel(across, fontsize=10, color=_GREY)
    axes.set_ylabel(up, fontsize=10, color=_GREY)
    axes.tick_params(labelsize=9.5, colors=_INK, length=3)
    axes.grid(color="#eeeef0", lw=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(_PALE)


def _plain_numbers(axis: "Axis") -> None:
    """0.02, 0.05, 0.1 ... instead of powers of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5) if high < 500 * low else (1,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _line(curve: Curve, value: str) -> tuple[list[float], list[float]]:
    points = curve.points
    values = [p.coverage if value == "coverage" else _drawn(p.distortion) for p in points]
    return [p.retention for p in points], values


def _drawn(distortion: float) -> float:
    return max(distortion, _LEAST)


def _uncovered(curve: Curve) -> float:
    """Mean share of patches that are not covered, over the budgets."""
    return 1 - statistics.fmean(point.coverage for point in curve.points)


def _middle_budget(curves: Sequence[Curve]) -> str:
    """The budget in the middle of those that most methods reached."""
    longest = max(curves, key=lambda curve: len(curve.points)).points
    return longest[(len(longest) - 1) // 2].budget
