"""``vidcomp compare`` as the command line gives it: options in, a table, JSON and a picture out."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from vidcomp.budget import Budget
from vidcomp.config import load_recipe
from vidcomp.errors import ConfigError, StoreError
from vidcomp.report.curves import Curve, Point, check_drawing, draw_curves

from .compare import Comparison, compare
from .comparison import Method, Result, Trial, parse_methods
from .inputs import expand
from .output import format_table, json_text, print_json

__all__ = ["curves_of", "format_comparison", "run_compare"]

_SHORT = {
    "distortion": "distortion",
    "nearest_distortion": "L2-NQE",
    "coverage": "coverage",
    "neighbour_error": "nearest",
    "temporal_coverage": "frames",
    "temporal_entropy": "time entropy",
    "position_entropy": "place entropy",
}
"""Heads of the columns of one budget."""


def run_compare(options: dict[str, Any]) -> int:
    """``vidcomp compare``."""
    out = None if options["out"] is None else Path(options["out"])
    if out is not None:
        check_drawing()  # before the work, not after it
    items = expand(options["inputs"], start_s=options["start"], end_s=options["end"])
    budgets, methods = _budgets(options["budgets"]), parse_methods(options["methods"])
    recipe = load_recipe(options["recipe"], options["overrides"])
    with _bar(len(items) * len(methods) * len(budgets), quiet=options["quiet"]) as bar:

        def tick(line: str) -> None:
            bar.set_postfix_str(line, refresh=False)
            bar.update()

        done = compare(
            items,
            recipe,
            budgets=budgets,
            methods=methods,
            recipe_name=options["recipe"],
            runs=options["runs"],
            device=options["device"],
            progress=tick,
        )
    files = [] if out is None else _write(done, methods, out)
    if options["as_json"]:
        print_json(done.to_json() | {"files": [str(path) for path in files]})
    else:
        click.echo(format_comparison(done, methods))
        for path in files:
            click.echo(f"wrote {path}")
    return done.exit_code


def format_comparison(done: Comparison, methods: Sequence[Method]) -> str:
    """The table, best method first, and below it what has to be known to read it."""
    kinds = {method.label: method.stage.kind for method in methods}
    rows: dict[str, dict[str, Result]] = {}
    for result in done.results:
        rows.setdefault(result.method, {})[result.budget] = result
    if len(done.budgets) == 1:
        header, cells = _one_budget(rows, done, kinds)
    else:
        header, cells = _many_budgets(rows, done, kinds)
    return "\n".join([format_table(header, cells, digits=3), *_notes(done)])


def curves_of(done: Comparison, methods: Sequence[Method]) -> list[Curve]:
    """The curves of a picture, best method first."""
    kinds = {method.label: method.stage.kind for method in methods}
    points: dict[str, list[Point]] = {}
    for result in done.results:
        mean, low, high = result.quality["distortion"]
        point = Point(
            budget=result.budget,
            retention=result.retention,
            distortion=mean,
            low=low,
            high=high,
            coverage=result.quality["coverage"].mean,
            seconds=result.seconds,
        )
        points.setdefault(result.method, []).append(point)
    return [
        Curve(name=name, kind=kinds[name], points=tuple(sorted(own, key=lambda p: p.retention)))
        for name, own in points.items()
    ]


def _budgets(texts: Sequence[str]) -> list[Budget]:
    words = [word for text in texts for word in text.replace(",", " ").split()]
    budgets = list(dict.fromkeys(Budget.parse(word) for word in words))
    if not budgets:
        raise ConfigError("a comparison needs a budget, got none: pass e.g. --budgets 5% 10%")
    return budgets


def _many_budgets(
    rows: dict[str, dict[str, Result]], done: Comparison, kinds: Mapping[str, str]
) -> tuple[list[str], list[list[Any]]]:
    """Distortion and coverage at every budget, time at the last."""
    last = done.budgets[-1]
    header = ["method", "kind"]
    for name in ("distortion", "coverage"):
        header += [f"{name} {done.budgets[0]}", *done.budgets[1:]]
    header.append(f"s at {last}")
    cells: list[list[Any]] = []
    for method, found in rows.items():
        line: list[Any] = [method + "*" * (method in done.notes), kinds[method]]
        for name in ("distortion", "coverage"):
            line += [found[b].quality[name].mean if b in found else None for b in done.budgets]
        cells.append([*line, found[last].seconds if last in found else None])
    return header, cells


def _one_budget(
    rows: dict[str, dict[str, Result]], done: Comparison, kinds: Mapping[str, str]
) -> tuple[list[str], list[list[Any]]]:
    """Everything that is measured, and the interval of the distortion."""
    (budget,) = done.budgets
    header = ["method", "kind", "tokens", *_SHORT.values(), "s"]
    several = len(done.clips) > 1
    cells: list[list[Any]] = []
    for method, found in rows.items():
        result = found[budget]
        means = [result.quality[name].mean for name in _SHORT]
        name = method + "*" * (method in done.notes)
        line: list[Any] = [name, kinds[method], round(result.tokens), *means, result.seconds]
        if several:
            _, low, high = result.quality["distortion"]
            line.insert(4, None if low is None else f"{low:.3f}-{high:.3f}")
        cells.append(line)
    if several:
        header.insert(4, "95 %")
    return header, cells


def _notes(done: Comparison) -> list[str]:
    tokens = sorted({clip.patches for clip in done.clips})
    size = f"{tokens[0]}" if len(tokens) == 1 else f"{tokens[0]} to {tokens[-1]}"
    clips = "1 clip" if len(done.clips) == 1 else f"{len(done.clips)} clips"
    lines = [f"{clips} of {size} patch tokens ({done.encoder}), {done.device}; best first"]
    for note in dict.fromkeys(done.notes.values()):
        lines.append(f"* {note}: the encoder gives no saliency")
    lines += [f"left out: {line}" for line in _left_out(done)]
    lines += [f"failed: {failure['key']}: {failure['error']}" for failure in done.failures]
    return lines


def _left_out(done: Comparison) -> list[str]:
    """One line a method that could not always run: where, and the first reason."""
    missing: dict[str, list[Trial]] = {}
    for trial in done.trials:
        if trial.reason:
            missing.setdefault(trial.method, []).append(trial)
    lines = []
    for method, trials in missing.items():
        budgets = [b for b in done.budgets if any(t.budget == b for t in trials)]
        where = "" if budgets == done.budgets else f" at {', '.join(budgets)}"
        clips = {trial.clip for trial in trials}
        if len(clips) < len(done.clips):
            where += f" on {len(clips)} of {len(done.clips)} clips"
        lines.append(f"{method}{where}: {trials[0].reason}")
    return lines


def _write(done: Comparison, methods: Sequence[Method], out: Path) -> list[Path]:
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / "compare.json").write_text(json_text(done.to_json(), indent=1) + "\n")
    except OSError as error:
        raise StoreError(
            f"the folder {out} cannot be written ({error.strerror or error}): choose another place"
        ) from error
    clips = done.clips[0].key if len(done.clips) == 1 else f"{len(done.clips)} clips"
    patches = sum(clip.patches for clip in done.clips) // len(done.clips)
    facts = f"{done.encoder} features, {patches} patch tokens a clip, {done.device}"
    if len(done.clips) > 1:
        facts += "; means over clips, for the best of a kind with their 95 % interval"
    picture = draw_curves(
        curves_of(done, methods), out / "compare.png", title=f"Compressors on {clips}", facts=facts
    )
    return [out / "compare.json", picture]


def _bar(total: int, *, quiet: bool) -> "tqdm[Any]":
    return tqdm(total=total, unit="run", disable=True if quiet else None, leave=False)
