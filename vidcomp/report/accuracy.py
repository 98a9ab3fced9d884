"""Pictures of answers: how often a model is right at which budget, by method.

Needs matplotlib (the extra ``report``), imported when a picture is drawn.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vidcomp.errors import ConfigError
from vidcomp.report.curves import check_drawing, save_picture
from vidcomp.report.labels import Label, name_ends

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Level", "Score", "ScoreCurve", "draw_accuracy"]

_INK, _GREY, _PALE = "#18181c", "#77777f", "#d0d0d5"
_COLOURS = ("#1f6fd6", "#d6452b", "#12906a", "#9445c4", "#b87900", "#0e8fa8")
_MARKERS = "osD^vP"


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """A method at one budget."""

    tokens: float
    """Mean count that the model read of a video, more than 0."""
    mean: float
    low: float | None = None
    """Lower end of the 95 % interval."""
    high: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreCurve:
    """A method at its budgets."""

    name: str
    scores: tuple[Score, ...]
    """At least one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """A score that has no budget: of all tokens, of none, of guessing."""

    name: str
    mean: float
    low: float | None = None
    high: float | None = None


def draw_accuracy(
    curves: Sequence[ScoreCurve],
    levels: Sequence[Level],
    path: str | Path,
    *,
    title: str,
    facts: str = "",
    up: str = "accuracy",
) -> Path:
    """Draw scores over tokens into a png, svg or pdf file; its folder is made.

    Args:
        curves: methods; each has its own colour, the first six.
        levels: lines across, the first with its interval.
        path: of the picture.
        title: largest line.
        facts: the line below it.
        up: what the scores are.

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
            f"a picture of scores needs methods and a name that ends in .png, .svg or .pdf, got "
            f"{len(curves)} methods and {path.name}: pass both"
        )
    figure = _draw(curves, levels, title, facts, up)
    return save_picture(figure, path)


def _draw(
    curves: Sequence[ScoreCurve], levels: Sequence[Level], title: str, facts: str, up: str
) -> "Figure":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.5, 6.5), facecolor="white")
    figure.text(0.075, 0.945, title, fontsize=15, color=_INK, weight="bold")
    figure.text(0.075, 0.905, facts, fontsize=10, color=_GREY)
    axes = figure.add_axes((0.075, 0.1, 0.74, 0.76))
    ends = [_line(axes, curve, place) for place, curve in enumerate(curves)]
    right = max(score.tokens for curve in curves for score in curve.scores)
    for place, level in enumerate(levels):
        axes.axhline(level.mean, color=_GREY, lw=1.2, ls=(0, (5, 3)) if place else "-", zorder=1)
        if not place and level.low is not None and level.high is not None:
            axes.axhspan(level.low, level.high, color=_PALE, alpha=0.4, lw=0, zorder=0)
        ends.append(Label(level.name, right, level.mean, _GREY))
    _dress(axes, curves, up)
    name_ends(axes, ends)
    return figure


def _line(axes: "Axes", curve: ScoreCurve, place: int) -> Label:
    """A curve with its intervals as bars, which do not hide each other."""
    colour = _COLOURS[place % len(_COLOURS)]
    scores = sorted(curve.scores, key=lambda score: score.tokens)
    x, y = [score.tokens for score in scores], [score.mean for score in scores]
    shift = 1 + 0.012 * (place - 1)  # bars of several methods stand beside each other
    for score in scores:
        if score.low is not None and score.high is not None:
            at = score.tokens * shift
            axes.plot([at, at], [score.low, score.high], color=colour, lw=1, alpha=0.6, zorder=2)
    marker = _MARKERS[place % len(_MARKERS)]
    axes.plot(x, y, marker=marker, color=colour, lw=1.8, ms=5.5, zorder=3)
    return Label(curve.name, x[-1], y[-1], colour)


def _dress(axes: "Axes", curves: Sequence[ScoreCurve], up: str) -> None:
    axes.set_xscale("log")
    counts: list[int] = []
    for count in sorted({round(score.tokens) for curve in curves for score in curve.scores}):
        if not counts or count > 1.15 * counts[-1]:  # numbers would touch
            counts.append(count)
    axes.set_xticks(counts, [f"{count:,}" for count in counts])
    axes.minorticks_off()
    axes.set_xlabel("tokens that the model reads of a video", fontsize=10, color=_GREY)
    axes.set_ylabel(up, fontsize=10, color=_GREY)
    axes.tick_params(labelsize=9.5, colors=_INK, length=3)
    axes.grid(color="#eeeef0", lw=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(_PALE)
