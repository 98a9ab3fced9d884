"""The main job: real videos in, cached tokens out.

plan (what is missing) → decode ahead → encode in mixed batches → compress → commit.  One bad file
never stops the run; running again does only what is missing.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, replace
from pathlib import Path

from vidcomp.config import Recipe
from vidcomp.errors import StoreMissError
from vidcomp.store import recover
from vidcomp.store.storage import Storage, open_storage

from ..inputs import Item
from .engine import Waits
from .live import check_live
from .planning import Plan, cached_receipt, make_plan
from .records import ErrorRecord
from .run_options import Options
from .runs import RunRecord, new_run_id
from .shards import Shard
from .stopping import Stop, stops_on_signals
from .summary import Receipt, Summary
from .watching import Watcher, Watchers
from .worker import Runner, Worker

__all__ = ["Progress", "extract"]

Progress = Callable[[Receipt, Waits], None]
"""Told of every receipt, and of what the run's time went to so far."""

_HEAVY = 0.02
"""Share of one reader's bytes from which on a file is begun before lighter ones."""


def extract(
    items: Sequence[Item],
    out: str | Path | Storage,
    recipe: Recipe,
    *,
    recipe_name: str = "recipe",
    options: Options | None = None,
    watchers: Sequence[Watcher] = (),
    shard: Shard | None = None,
) -> Summary:
    """Make the records of ``items`` in the cache ``out``; those already there are left alone.

    Ctrl-C or SIGTERM let it finish what has begun, for ``options.grace_s`` at most; a second one
    ends it at once.  What was written stays either way.

    Args:
        items: videos and ranges, see ``inputs.expand``.
        out: folder or URL of the cache, made if it is not there.
        recipe: everything that decides the tokens.
        recipe_name: for the report.
        options: how to run.
        watchers: told what happens.
        shard: the part of all items that these are, for the run's record.

    Raises:
        VidcompError: the run cannot start or go on; records already written stay.
    """
    options = options or Options()
    options = replace(options, run_id=options.run_id or new_run_id())
    options = check_live(items, recipe, options)
    storage = open_storage(out)
    record = RunRecord(storage, recipe, recipe_name, options, shard)
    watch = Watchers((record, *watchers))
    summary = Summary(
        store=str(storage.path),
        recipe=recipe_name,
        planned=sum(item.rows for item in items),
        run=options.run_id,
    )
    try:
        _extract(items, storage, recipe, options, summary, watch)
    except BaseException as error:
        watch.ended(error)
        raise
    watch.ended(None)
    return summary


def _extract(
    items: Sequence[Item],
    storage: Storage,
    recipe: Recipe,
    options: Options,
    summary: Summary,
    watch: Watchers,
) -> None:
    started = time.perf_counter()
    with suppress(StoreMissError):
        recover(storage)  # what a run that was killed had finished is not done again
    plan = make_plan(items, storage, recipe, options)
    _report_known(plan, summary)
    watch.planned(plan, summary)
    waiting = {item.key: item for item in plan.todo}
    if plan.todo:
        with _runner(storage, recipe, options, len(plan.todo)) as runner:
            summary.fingerprint = runner.fingerprint
            watch.begun(runner)
            _run(runner, waiting, options, summary, watch)
    if waiting:
        _reconcile(waiting, storage, recipe, options, summary)
    if not summary.lost:
        summary.interrupted, summary.signal_code = "", 0
    summary.seconds = time.perf_counter() - started


def _runner(storage: Storage, recipe: Recipe, options: Options, most: int) -> Runner:
    """What does the work: this process, or a cluster."""
    if options.engine == "local":
        return Worker(storage, recipe, options, most=most)
    from ..cluster import RayRunner

    return RayRunner(storage, recipe, options, most=most)


def _run(
    runner: Runner,
    waiting: dict[str, Item],
    options: Options,
    summary: Summary,
    watch: Watchers,
) -> None:
    """Do what is planned; what is over is taken out of ``waiting``."""
    rows = {key: item.rows for key, item in waiting.items()}
    todo = _heavy_first(list(waiting.values()), options.num_workers)
    with stops_on_signals(runner.drain) as stop, closing(runner.run(todo)) as receipts:
        for receipt in receipts:
            if receipt.status == "ended":  # all of its windows were told
                summary.planned -= waiting.pop(receipt.key).rows
                continue
            if waiting.pop(receipt.key, None) is None:
                if receipt.key not in rows:
                    summary.planned += 1  # an item that came up on the way
                elif not receipt.replaces:
                    continue  # told twice, as when a worker dies after its work
            summary.add(receipt, rows.get(receipt.key, 1))
            watch.receipt(receipt, runner.waits)
            _tell_stop(stop, summary, watch)
            if summary.has_too_many_failures(options.max_failures, options.max_failure_share):
                summary.stopped = True
                break
    _tell_stop(stop, summary, watch)
    summary.waits = {k: round(v, 3) for k, v in asdict(runner.waits).items()}


def _tell_stop(stop: Stop, summary: Summary, watch: Watchers) -> None:
    if stop.signal is not None and not summary.interrupted:
        summary.interrupted, summary.signal_code = stop.signal.name, stop.exit_code
        watch.draining(stop.signal.name)


def _reconcile(
    waiting: dict[str, Item], storage: Storage, recipe: Recipe, options: Options, summary: Summary
) -> None:
    """Find out what became of items of which no receipt came; the store knows."""
    if not options.overwrite:  # where a record is there, nobody can tell whether it is new
        plan = make_plan(
            list(waiting.values()), storage, recipe, replace(options, retry_failed=False)
        )
        for item in plan.cached:
            summary.add(Receipt(key=item.key, path=item.path, status="ok"), item.rows)
            waiting.pop(item.key)
        for item, record in plan.failed_before:
            if record.run == options.run_id:
                summary.add(_failed_before(record, "failed"), item.rows)
                waiting.pop(item.key)
    if not summary.interrupted and not summary.stopped:
        for item in waiting.values():
            summary.add(Receipt(key=item.key, path=item.path, status="lost"), item.rows)


def _heavy_first(items: list[Item], workers: int) -> list[Item]:
    """The order in which items are begun: as given, but that a run does not end waiting for one
    large file that was begun last.
    """
    sizes = [0 if item.source is None else item.source.size for item in items]
    least = max(1.0, _HEAVY * sum(sizes) / workers)
    places = range(len(items))
    heavy = sorted((i for i in places if sizes[i] >= least), key=lambda i: -sizes[i])
    return [items[i] for i in [*heavy, *(i for i in places if sizes[i] < least)]]


def _report_known(plan: Plan, summary: Summary) -> None:
    """What earlier runs have done, or failed to do; only rows that are shown are looked up."""
    if plan.cache is not None:
        summary.fingerprint = plan.cache.manifest.fingerprint
    for item in plan.cached:
        receipt = cached_receipt(plan.cache, item, look_up=not summary.is_full)
        summary.add(receipt, item.rows)
    for item, record in plan.failed_before:
        summary.add(_failed_before(record, "failed before"), item.rows)


def _failed_before(record: ErrorRecord, status: str) -> Receipt:
    return Receipt(
        key=record.key,
        path=record.path,
        status=status,
        stage=record.stage,
        error=record.error,
        message=record.message,
    )
