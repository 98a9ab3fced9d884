"""The main job: real videos in, cached tokens out.

plan (what is missing) → decode ahead → encode in mixed batches → compress → commit.  One bad file
never stops the run; running again does only what is missing.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from vidcomp.config import Recipe, differences, identity
from vidcomp.errors import StoreMissError, StoreStaleError
from vidcomp.store import SourceId, TokenCache, recover
from vidcomp.store.storage import Storage, open_storage

from .engine import Waits
from .inputs import Item, source_id
from .records import ErrorLog, ErrorRecord
from .run_options import Options
from .stopping import stops_on_signals
from .summary import Receipt, Summary
from .worker import Runner, Worker, is_current

__all__ = ["Plan", "Progress", "cached_receipt", "extract", "make_plan"]

Progress = Callable[[Receipt, Waits], None]
"""Told of every receipt, and of what the run's time went to so far."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a run would do."""

    cache: TokenCache | None = None
    """What is there already."""
    todo: list[Item] = field(default_factory=list)
    """Each with the identity of its file, taken before it is read: a file that changes while it is
    read is then stale, never taken for what was read."""
    cached: list[Item] = field(default_factory=list)
    failed_before: list[ErrorRecord] = field(default_factory=list)


def make_plan(
    items: Sequence[Item], out: str | Path | Storage, recipe: Recipe, options: Options
) -> Plan:
    """Which items are missing, by the source's identity: nothing is decoded or hashed whole.

    Raises:
        StoreStaleError: the folder holds tokens of another recipe.
        StoreError: the folder is not a cache.
    """
    storage = open_storage(out)
    cache, log = _open(storage, recipe), ErrorLog(storage)
    plan = Plan(cache=cache)
    for item in items:
        item = replace(item, source=source_id(item.path, content=options.content_identity))
        is_there = cache is not None and item.key in cache and not options.overwrite
        if cache is not None and is_there:
            is_there = is_current(item.source, cache.info(item.key).source)
        if is_there:
            plan.cached.append(item)
            continue
        record = None if options.retry_failed or options.overwrite else log.get(item.key)
        if record is not None and record.source == _plain(item.source):
            plan.failed_before.append(record)
        else:
            plan.todo.append(item)
    return plan


def extract(
    items: Sequence[Item],
    out: str | Path,
    recipe: Recipe,
    *,
    recipe_name: str = "recipe",
    options: Options | None = None,
    progress: Progress | None = None,
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
        progress: called after each item.

    Raises:
        VidcompError: the run cannot start or go on; records already written stay.
    """
    options = options or Options()
    storage = open_storage(out)
    started = time.perf_counter()
    with suppress(StoreMissError):
        recover(storage)  # what a run that was killed had finished is not done again
    plan = make_plan(items, storage, recipe, options)
    summary = Summary(store=str(storage.path), recipe=recipe_name, planned=len(items))
    _report_known(plan, summary)
    if plan.todo:
        with Worker(storage, recipe, options, most=len(plan.todo)) as runner:
            summary.fingerprint = runner.fingerprint
            _run(runner, plan, options, summary, progress)
    summary.seconds = time.perf_counter() - started
    return summary


def _run(
    runner: Runner, plan: Plan, options: Options, summary: Summary, progress: Progress | None
) -> None:
    with stops_on_signals(runner.drain) as stop, closing(runner.run(plan.todo)) as receipts:
        for receipt in receipts:
            summary.add(receipt)
            if progress is not None:
                progress(receipt, runner.waits)
            if options.max_failures is not None and summary.failed > options.max_failures:
                summary.stopped = True
                break
    if stop.signal is not None and summary.lost:
        summary.interrupted, summary.signal_code = stop.signal.name, stop.exit_code
    summary.waits = {k: round(v, 3) for k, v in asdict(runner.waits).items()}


def _plain(source: SourceId | None) -> dict[str, Any] | None:
    return None if source is None else asdict(source)


def _open(storage: Storage, recipe: Recipe) -> TokenCache | None:
    """The cache, if there is one, after checking that its recipe is this one."""
    try:
        cache = TokenCache(storage)
    except StoreMissError:
        return None
    changed = differences(cache.manifest.identity, identity(recipe))
    if changed:
        raise StoreStaleError(
            f"{storage.path} holds tokens of another recipe ({'; '.join(changed[:3])}): use "
            f"another folder or the recipe it was made with"
        )
    return cache


def _report_known(plan: Plan, summary: Summary) -> None:
    """What earlier runs have done, or failed to do; only rows that are shown are looked up."""
    if plan.cache is not None:
        summary.fingerprint = plan.cache.manifest.fingerprint
    for item in plan.cached:
        summary.add(cached_receipt(plan.cache, item, look_up=not summary.is_full))
    for record in plan.failed_before:
        summary.add(
            Receipt(
                key=record.key,
                path=record.path,
                status="failed before",
                stage=record.stage,
                error=record.error,
                message=record.message,
            )
        )


def cached_receipt(cache: TokenCache | None, item: Item, *, look_up: bool) -> Receipt:
    """Of an item whose record is there; ``look_up`` reads its numbers."""
    if cache is None or not look_up:
        return Receipt(key=item.key, path=item.path, status="cached")
    meta = cache.meta(item.key)
    return Receipt(
        key=item.key,
        path=item.path,
        status="cached",
        duration_s=meta.get("seconds"),
        frames=meta.get("num_frames"),
        tokens_in=meta.get("tokens_in"),
        tokens_out=cache.info(item.key).num_tokens,
    )
