"""Commands as the command line gives them: options in, a job run, its result printed."""

import os
import sys
import time
from typing import Any

import click
from tqdm import tqdm

from vidcomp.budget import Budget
from vidcomp.config import Recipe, load_recipe

from .engine import Waits
from .extract import Plan, Progress, extract, make_plan
from .inputs import Item, Manifest, expand
from .output import format_summary, print_json
from .run_options import Options
from .shards import choose_shard
from .summary import Receipt, Summary

__all__ = ["run_extract", "run_recompress", "run_show"]


def run_extract(options: dict[str, Any]) -> int:
    """``vidcomp extract``."""
    recipe = _recipe(options)
    items = _items(options)
    out = options["out"]
    settings = Options(
        workers=options["workers"],
        isolation=options["isolation"],
        backend=options["backend"],
        device=options["device"],
        compile=options["compile"],
        batch_frames=options["batch_frames"],
        stall_s=options["stall"],
        content_identity=options["identity"] == "content",
        overwrite=options["overwrite"],
        retry_failed=options["retry_failed"],
        on_error=options["on_error"],
        max_failures=options["max_failures"],
    )
    if options["dry_run"]:
        return _report_plan(make_plan(items, out, recipe, settings), recipe, options)
    with _Progress(len(items), quiet=options["quiet"]) as tick:
        summary = extract(
            items, out, recipe, recipe_name=options["recipe"], options=settings, progress=tick
        )
    _report(summary, as_json=options["as_json"])
    return summary.exit_code


def run_recompress(options: dict[str, Any]) -> int:
    """``vidcomp recompress``."""
    from .recompress import recompress

    budget = None if options["budget"] is None else Budget.parse(options["budget"])
    with _Progress(None, quiet=options["quiet"]) as tick:
        summary = recompress(
            options["source"],
            options["out"],
            recipe=options["recipe"],
            overrides=options["overrides"],
            budget=budget,
            progress=tick,
        )
    _report(summary, as_json=options["as_json"])
    return summary.exit_code


def run_show(options: dict[str, Any]) -> int:
    """``vidcomp show``."""
    from .show import show

    path = show(
        options["source"],
        options["out"],
        recipe=_recipe(options),
        start_s=options["start"],
        end_s=options["end"],
    )
    if options["as_json"]:
        print_json({"picture": str(path)})
    else:
        click.echo(f"wrote {path}")
    return 0


def _recipe(options: dict[str, Any]) -> Recipe:
    recipe = load_recipe(options["recipe"], options["overrides"])
    if options["budget"] is not None:
        recipe = recipe.with_budget(Budget.parse(options["budget"]))
    return recipe


def _items(options: dict[str, Any]) -> list[Item]:
    manifest = None
    if options["manifest"] is not None:
        manifest = Manifest(
            path=options["manifest"], column=options["column"], id_column=options["id_column"]
        )
    items = expand(
        options["inputs"],
        manifest=manifest,
        start_s=options["start"],
        end_s=options["end"],
        limit=options["limit"],
    )
    shard = choose_shard(options["shard"], os.environ)
    return items if shard is None else shard.of(items)


def _report_plan(plan: Plan, recipe: Recipe, options: dict[str, Any]) -> int:
    counts = {
        "todo": len(plan.todo),
        "cached": len(plan.cached),
        "failed_before": len(plan.failed_before),
    }
    if options["as_json"]:
        print_json(counts | {"items": [item.key for item in plan.todo], "recipe": recipe.dump()})
        return 0
    for item in plan.todo:
        click.echo(f"would make  {item.key}")
    click.echo(
        f"{counts['todo']} to do, {counts['cached']} already cached, "
        f"{counts['failed_before']} failed before (add --retry-failed to try them again)"
    )
    return 0


def _report(summary: Summary, *, as_json: bool) -> None:
    if as_json:
        print_json(summary.to_json())
    else:
        click.echo(format_summary(summary))


class _Progress:
    """A tqdm bar on standard error with counts and where the time goes; off when not a terminal."""

    def __init__(self, total: int | None, *, quiet: bool) -> None:
        self._bar = tqdm(total=total, unit="video", disable=True if quiet else None, leave=False)
        self._counts = {"ok": 0, "failed": 0}
        self._started = time.perf_counter()

    def __enter__(self) -> Progress:
        return self._tick

    def __exit__(self, *exc: object) -> None:
        self._bar.close()
        sys.stderr.flush()

    def _tick(self, receipt: Receipt, waits: Waits) -> None:
        is_bad = receipt.status == "failed"
        self._counts["failed" if is_bad else "ok"] += 1
        elapsed = max(1e-9, time.perf_counter() - self._started)
        shares = {
            "decode-wait": waits.decode_wait_s,
            "encode-wait": waits.encode_wait_s,
            "write-wait": waits.write_wait_s,
        }
        shown = self._counts | {name: f"{value / elapsed:.0%}" for name, value in shares.items()}
        self._bar.set_postfix(shown, refresh=False)
        self._bar.update()
        if is_bad and not self._bar.disable:
            self._bar.write(f"failed: {receipt.message}", file=sys.stderr)
