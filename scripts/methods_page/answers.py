"""Which methods to take, by what one has and wants: follows from the registry and measurements."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from math import isfinite
from pathlib import Path
from typing import NamedTuple

import yaml

from methods_page.method import BUDGETS, Method
from methods_page.text import markdown

__all__ = ["answers", "default_name"]

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
FEW = 2
"""Methods that an answer names."""


class Wish(NamedTuple):
    """A row of the table of answers."""

    text: str
    fits: Callable[[Method], bool]
    models: str = ""
    """Published figures are those of models whose names begin like this."""


WISHES = (
    Wish("an encoder's tokens, no more", lambda m: m.by_features and m.exact),
    Wish(
        "the same, in less than 1 % of the encoder's time",
        lambda m: m.by_features and m.exact and m.time is not None and m.time < 1,
    ),
    Wish(
        "the encoder's attention (`saliency: true` of `hf`)",
        lambda m: "saliency" in m.about.needs,
    ),
    Wish("the question beforehand", lambda m: "query" in m.about.needs),
    Wish("a stream, or a video too long to be held", lambda m: m.streaming),
    Wish(
        "real tokens, each at its own (t, h, w), as M-RoPE (Qwen-VL) expects",
        lambda m: m.kind == "prune" and "query" not in m.about.needs,
        "Qwen",
    ),
    Wish("means that drop nothing, of any shape", lambda m: m.kind == "merge" and m.exact),
    Wish("a regular grid, for a convolution or 2-D positions", lambda m: m.grid),
    Wish("no computation, or a baseline", lambda m: not m.about.needs),
)


def answers(found: Sequence[Method]) -> str:
    """The table of decisions."""
    rows = []
    for wish in WISHES:
        given = [m for m in found if wish.fits(m)]
        if given:
            rows.append([wish.text, *(_least(given, b) for b in BUDGETS), _told(given, wish)])
    header = ["you have, or want", *(f"least distortion at {b}" for b in BUDGETS)]
    return markdown([*header, "best published answers"], rows)


def default_name() -> str:
    """The method that most recipes end with."""
    recipes = [yaml.safe_load(path.read_text()) for path in sorted(CONFIGS.glob("*.yaml"))]
    last = [one["compress"]["stages"][-1]["name"] for one in recipes if one.get("compress")]
    return max(sorted(set(last)), key=last.count)


def _least(given: Sequence[Method], budget: str) -> str:
    """The best at a budget; all, if nothing was measured."""
    ranked = sorted(given, key=lambda m: m.rank_at(budget))
    measured = [m for m in ranked if isfinite(m.loss(budget))]
    return ", ".join(f"`{m.name}`" for m in (measured or ranked)[:FEW])


def _told(given: Sequence[Method], wish: Wish) -> str:
    """The best of the model and budget that most of the methods have figures for."""
    figures: dict[tuple[str, float], dict[str, float]] = defaultdict(dict)
    for method in given:
        for one in method.about.published:
            if one.model.startswith(wish.models):
                figures[one.model, one.share].setdefault(method.name, one.score)
    if not figures:
        return "-"
    (model, share), scores = max(figures.items(), key=lambda at: (len(at[1]), at[0]))
    best = sorted(scores, key=lambda name: (-scores[name], name))[:FEW]
    named = ", ".join(f"`{name}` {scores[name]:g}" for name in best)
    return f"{named} ({model}, {share:g} %)"
