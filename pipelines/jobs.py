"""Commands as the command line gives them: options in, a job run, its result printed."""

import os
from contextlib import ExitStack
from itertools import islice
from typing import Any

import click

from vidcomp.budget import Budget
from vidcomp.config import Recipe, load_recipe
from vidcomp.errors import ConfigError
from vidcomp.store.storage import open_storage

from .extraction.extract import extract
from .extraction.live import live_items
from .extraction.logfile import EventLog
from .extraction.planning import Plan, make_plan
from .extraction.progress import Console
from .extraction.ray_options import ray_settings
from .extraction.run_options import Options
from .extraction.runs import new_run_id, read_runs, seconds_per_item
from .extraction.shards import Shard, choose_shard
from .extraction.summary import Summary
from .extraction.watching import Watcher
from .extraction.windows import parse_window, split
from .inputs import Item, Manifest, expand
from .output import format_plan, format_summary, print_json, printable
from .units import parse_seconds

__all__ = ["run_extract", "run_recompress", "run_show"]

_SAMPLE = 10_000
"""Records whose size tells that of others."""
_RUNS = 20
"""Earlier runs, the newest, whose speed tells that of others."""


def run_extract(options: dict[str, Any]) -> int:
    """``vidcomp extract``."""
    recipe = _recipe(options)
    settings = _settings(options)
    # A cluster's driver hands out all items itself, whatever job it runs in.
    shard = choose_shard(options["shard"], os.environ if options["engine"] == "local" else {})
    with ExitStack() as stack:
        is_quiet = options["quiet"] or options["as_json"]
        console = stack.enter_context(Console(quiet=is_quiet))
        if shard is not None and not is_quiet:
            console.say(f"this is part {shard} of the videos, by {shard.origin}")
        watchers: list[Watcher] = [console]
        if options["log_file"] is not None and not options["dry_run"]:
            log = EventLog(options["log_file"], run=settings.run_id, shard=shard)
            watchers.append(stack.enter_context(log))
        items = _items(options, shard, settings)
        if options["dry_run"]:
            plan = make_plan(items, options["out"], recipe, settings)
            return _report_plan(plan, recipe, shard, options)
        summary = extract(
            items,
            options["out"],
            recipe,
            recipe_name=options["recipe"],
            options=settings,
            watchers=watchers,
            shard=shard,
        )
    _report(summary, as_json=options["as_json"])
    return summary.exit_code


def run_recompress(options: dict[str, Any]) -> int:
    """``vidcomp recompress``."""
    from .recompress import recompress

    budget = None if options["budget"] is None else Budget.parse(options["budget"])
    is_quiet = options["quiet"] or options["as_json"]
    with Console(quiet=is_quiet, is_planned=False) as console:
        summary = recompress(
            options["source"],
            options["out"],
            recipe=options["recipe"],
            overrides=options["overrides"],
            budget=budget,
            progress=console.receipt,
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


def _settings(options: dict[str, Any]) -> Options:
    most, most_share = _failure_limits(options["max_failures"])
    return Options(
        workers=options["workers"],
        isolation=options["isolation"],
        backend=options["backend"],
        device=options["device"],
        compile=options["compile"],
        batch_frames=options["batch_frames"],
        stall_s=options["stall"],
        recycle_after=options["recycle_after"],
        grace_s=parse_seconds(options["grace"]),
        content_identity=options["identity"] == "content",
        overwrite=options["overwrite"],
        retry_failed=options["retry_failed"],
        on_error=options["on_error"],
        max_failures=most,
        max_failure_share=most_share,
        run_id=new_run_id(),
        engine=options["engine"],
        ray=ray_settings(options),
    )


def _failure_limits(text: str | None) -> tuple[int | None, float | None]:
    """``N`` or ``P%`` as a count or a share."""
    if text is None:
        return None, None
    try:
        if not text.endswith("%"):
            if (most := int(text)) >= 0:
                return most, None
        elif 0 <= (percent := float(text[:-1])) <= 100:
            return None, percent / 100
    except ValueError:
        pass
    raise ConfigError(
        f"--max-failures is a number of videos or a percentage of all, got {text!r}: e.g. 100 or 5%"
    )


def _items(options: dict[str, Any], shard: Shard | None, settings: Options) -> list[Item]:
    if options["live"]:
        followed = _live_items(options)
        return followed if shard is None else shard.of(followed)
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
    items = items if shard is None else shard.of(items)
    if options["window"] is None:
        return items
    return split(items, parse_window(options["window"]), settings)


def _live_items(options: dict[str, Any]) -> list[Item]:
    for name in ("manifest", "start", "end", "limit", "overwrite"):
        if options[name]:
            raise ConfigError(
                f"--live follows inputs from now on, or behind what is there: leave --{name} out"
            )
    return live_items(options["inputs"], parse_window(options["window"] or "60"))


def _report_plan(plan: Plan, recipe: Recipe, shard: Shard | None, options: dict[str, Any]) -> int:
    report = {**plan.counts(), **_estimates(plan, options["out"])}
    if options["as_json"]:
        print_json(
            report
            | {
                "shard": None if shard is None else str(shard),
                "items": [item.key for item in plan.todo],
                "recipe": recipe.dump(),
            }
        )
        return 0
    for item in plan.todo:
        click.echo(f"would make  {printable(item.key)}")
    click.echo(format_plan(report))
    return 0


def _estimates(plan: Plan, out: str) -> dict[str, Any]:
    """What the work will take, judged by the records and the runs that there are."""
    sizes = [item.source.size for item in plan.todo if item.source is not None]
    num_bytes = seconds = None
    if plan.cache is not None:
        known = [entry.nbytes for entry in islice(plan.cache.entries(), _SAMPLE)]
        num_bytes = round(len(plan.todo) * sum(known) / len(known)) if known else None
        runs = read_runs(open_storage(out), newest=_RUNS)
        each = seconds_per_item(runs)
        seconds = None if each is None else round(len(plan.todo) * each, 1)
    return {
        "input_bytes": sum(sizes),
        "estimated_bytes": num_bytes,
        "estimated_seconds": seconds,
    }


def _report(summary: Summary, *, as_json: bool) -> None:
    if as_json:
        print_json(summary.to_json())
    else:
        click.echo(format_summary(summary))
