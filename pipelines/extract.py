"""The main job: real videos in, cached tokens out.

plan (what is missing) → decode ahead → encode in mixed batches → compress → commit.  One bad file
never stops the run; running again does only what is missing.
"""

import platform
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from vidcomp.api import Prepared, prepare
from vidcomp.config import Recipe, differences, fingerprint, identity
from vidcomp.errors import ConfigError, MissingExtraError, StoreMissError, StoreStaleError
from vidcomp.functional.resize import Resize
from vidcomp.sample.decode import Backend
from vidcomp.store import FORMAT_VERSION, CacheWriter, SourceId, TokenCache, recover
from vidcomp.store.room import num_cores
from vidcomp.store.storage import Storage, open_storage

from .engine import Done, Engine, Failed
from .inputs import Item, source_id
from .records import ErrorLog, ErrorRecord
from .summary import Summary, sentence

__all__ = ["Options", "Plan", "extract", "make_plan"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How to run, never what comes out."""

    workers: int = 0
    """Videos decoded at once; 0: one a core, at most 8."""
    isolation: Literal["process", "thread"] = "process"
    backend: Backend = "auto"
    device: str = "cpu"
    compile: bool = False
    batch_frames: int = 64
    """Most frames of one pass of the encoder; they may come from several videos."""
    stall_s: float = 60.0
    content_identity: bool = False
    """Recognise a changed file by its bytes too, not by size and time only."""
    overwrite: bool = False
    retry_failed: bool = False
    on_error: Literal["skip", "raise"] = "skip"
    max_failures: int | None = None
    """Stop after more than this many failures."""

    @property
    def num_workers(self) -> int:
        """The resolved number of readers."""
        return self.workers or min(8, num_cores())


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a run would do."""

    cache: TokenCache | None = None
    """What is there already."""
    todo: list[Item] = field(default_factory=list)
    cached: list[Item] = field(default_factory=list)
    failed_before: list[ErrorRecord] = field(default_factory=list)
    sources: dict[str, SourceId | None] = field(default_factory=dict)
    """Identity of each item's file by key, taken before it is read: a file that changes while it
    is read is then stale, never taken for what was read."""


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
        source = source_id(item.path, content=options.content_identity)
        plan.sources[item.key] = source
        if cache is not None and item.key in cache and not options.overwrite:
            known = cache.info(item.key).source
            if source is None or known is None or source.matches(known):
                plan.cached.append(item)
                continue
        record = None if options.retry_failed or options.overwrite else log.get(item.key)
        if record is not None and record.source == (None if source is None else asdict(source)):
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
    progress: Callable[[Done | Failed, Engine], None] | None = None,
) -> Summary:
    """Make the records of ``items`` in the cache ``out``; those already there are left alone.

    Args:
        items: videos and ranges, see ``inputs.expand``.
        out: folder or URL of the cache, made if it is not there.
        recipe: everything that decides the tokens.
        recipe_name: for the report.
        options: how to run.
        progress: called after each outcome.

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
    _report_cached(plan, summary)
    for record in plan.failed_before:
        summary.add_failed_before(record.key, record.path, record.stage, record.message)
    if plan.todo:
        _run(plan, storage, recipe, options, summary, progress)
    summary.seconds = time.perf_counter() - started
    return summary


def _run(
    plan: Plan,
    storage: Storage,
    recipe: Recipe,
    options: Options,
    summary: Summary,
    progress: Callable[[Done | Failed, Engine], None] | None,
) -> None:
    log = ErrorLog(storage)
    with Engine(
        workers=min(options.num_workers, len(plan.todo)),
        isolation=options.isolation,
        backend=options.backend,
        batch_frames=options.batch_frames,
        stall_s=options.stall_s,
    ) as engine:
        prepared = prepare(
            recipe,
            device=options.device,
            compile=options.compile,
            batch_size=options.batch_frames,
        )
        prepared.check_budget()
        summary.fingerprint = fingerprint(recipe, prepared.weights, FORMAT_VERSION)
        versions = _versions()
        with CacheWriter(
            storage, identity=identity(recipe), weights=prepared.weights, settings=recipe.store
        ) as writer:

            def write(done: Done) -> None:
                key = done.item.key
                meta = {**_meta(done, prepared), "versions": versions}
                writer.add(key, done.video, meta, plan.sources[key])
                log.discard(key)

            with closing(engine.run(prepared, plan.todo, write)) as outcomes:
                for outcome in outcomes:
                    if isinstance(outcome, Failed):
                        if options.on_error == "raise" or _is_fatal(outcome, summary):
                            raise outcome.error
                        _log(outcome, log, summary, plan.sources[outcome.item.key])
                    summary.add(outcome)
                    if progress is not None:
                        progress(outcome, engine)
                    if options.max_failures is not None and summary.failed > options.max_failures:
                        summary.stopped = True
                        break
    summary.waits = {k: round(v, 3) for k, v in asdict(engine.waits).items()}


def _is_fatal(failed: Failed, summary: Summary) -> bool:
    """Whether the settings are at fault, not the file: something to install, or nothing works."""
    wrong_settings = isinstance(failed.error, ConfigError) and summary.done == 0
    return wrong_settings or isinstance(failed.error, MissingExtraError)


def _log(failed: Failed, log: ErrorLog, summary: Summary, source: SourceId | None) -> None:
    item, before = failed.item, log.get(failed.item.key)
    log.add(
        ErrorRecord(
            key=item.key,
            path=item.path,
            stage=failed.stage,
            error=type(failed.error).__name__,
            message=sentence(failed.error),
            source=None if source is None else asdict(source),
            fingerprint=summary.fingerprint,
            attempts=1 if before is None else before.attempts + 1,
        )
    )


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


def _report_cached(plan: Plan, summary: Summary) -> None:
    cache = plan.cache
    if cache is None:
        return
    summary.cached = len(plan.cached)
    summary.fingerprint = cache.manifest.fingerprint
    for item in plan.cached:
        if summary.is_full:
            break
        summary.add_cached(item.key, cache.info(item.key).num_tokens, cache.meta(item.key))


def _meta(done: Done, prepared: Prepared) -> dict[str, Any]:
    source, resize = done.source, prepared.encoder.resize
    if source is not None:
        resize = prepared.resize_of(source, done.num_frames)
    return {
        **({"resize": resize.dump()} if isinstance(resize, Resize) else {}),
        "source": None if done.source is None else asdict(done.source),
        "start_s": done.item.start_s,
        "end_s": done.item.end_s,
        "seconds": done.num_seconds,
        "num_frames": done.num_frames,
        "tokens_in": done.num_tokens_in,
    }


def _versions() -> dict[str, str]:
    """Library versions that touched the numbers: provenance, not part of the fingerprint."""
    found = {"python": platform.python_version()}
    for package in ("vidcomp", "torch", "transformers", "av", "decord"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
