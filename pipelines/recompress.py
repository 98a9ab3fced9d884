"""New budgets and stages for a cache that is there: no video is decoded, no encoder is run."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from vidcomp.budget import Budget
from vidcomp.compress.pipeline import Pipeline
from vidcomp.config import (
    CompressSettings,
    Config,
    StoreSettings,
    load_recipe,
    with_overrides,
)
from vidcomp.errors import ConfigError, VidcompError
from vidcomp.store import CacheWriter, TokenCache
from vidcomp.store.storage import open_storage
from vidcomp.types import VideoTokens

from .extraction.engine import Done, Failed, Waits
from .extraction.extract import Progress
from .extraction.planning import cached_receipt
from .extraction.summary import Summary, done_receipt, failed_receipt
from .inputs import Item

if TYPE_CHECKING:
    from vidcomp.projectors.base import ProjectorConfig

__all__ = ["recompress"]


def recompress(
    source: str | Path,
    out: str | Path,
    *,
    recipe: str | None = None,
    overrides: Sequence[str] = (),
    budget: Budget | None = None,
    progress: Progress | None = None,
) -> Summary:
    """Compress every record of the cache ``source`` further, into the cache ``out``.

    Args:
        source: a cache, best one with all tokens (``compress.budget.retention=1``).
        out: another folder or URL; records already in it are left alone.
        recipe: a recipe whose ``compress`` and ``store`` sections are used; by default the
            source's own.
        overrides: ``a.b=c`` changes to those sections.
        budget: the new budget; shares count from the record's own tokens.
        progress: called after each record.

    Raises:
        ConfigError: other sections would change, which needs decoding, or a stage needs a question.
        StoreError: one of the caches cannot be used.
    """
    if _place(source) == _place(out):
        raise ConfigError(f"recompress writes another cache than {source}: pass another --out")
    cache = TokenCache.open(source)
    source_recipe = {**cache.manifest.identity, "store": cache.manifest.settings.dump()}
    settings = _sections(source_recipe, recipe, overrides, budget)
    pipeline = Pipeline(stages=settings.compress.stages)
    pipeline.check_query()
    identity = _identity(cache, settings)
    started = time.perf_counter()
    keys = cache.keys()
    with CacheWriter(
        out, identity=identity, weights=cache.manifest.weights, settings=settings.store
    ) as writer:
        committed, made = writer.committed(), TokenCache.open(out)
        summary = Summary(
            store=str(out),
            recipe=recipe or "of the source",
            fingerprint=writer.fingerprint,
            planned=len(keys),
        )
        for key in keys:
            made_from = cache.info(key).source
            if key in committed and committed[key] == made_from:
                item = Item(key=key, path=str(cache.path))
                summary.add(cached_receipt(made, item, look_up=not summary.is_full))
                continue
            outcome = _one(cache, key, pipeline, settings)
            if isinstance(outcome, Done):
                meta = {**cache.meta(key), "tokens_in": outcome.num_tokens_in}
                writer.add(key, outcome.video, meta, made_from)
                receipt = done_receipt(outcome)
            else:
                receipt = failed_receipt(outcome)
            summary.add(receipt)
            if progress is not None:
                progress(receipt, Waits())
    summary.seconds = time.perf_counter() - started
    return summary


def _identity(cache: TokenCache, settings: "_Sections") -> dict[str, Any]:
    return {
        **cache.manifest.identity,
        "compress": settings.compress.dump(),
        "recompressed_from": cache.manifest.fingerprint,
    }


class _Sections(Config):
    """The sections of a recipe that need no decoding."""

    compress: CompressSettings
    store: StoreSettings = StoreSettings()


def _place(store: str | Path) -> str | Path:
    """The same for every way to write it."""
    path = open_storage(store).path
    return path.resolve() if isinstance(path, Path) else path


def _sections(
    source: dict[str, Any], recipe: str | None, overrides: Sequence[str], budget: Budget | None
) -> _Sections:
    for text in overrides:
        if text.partition("=")[0].split(".")[0] not in _Sections.model_fields:
            raise ConfigError(
                f"recompress changes compress and store only, got {text!r}: other sections need "
                f"vidcomp extract"
            )
    base = source
    if recipe is not None:
        loaded = load_recipe(recipe)
        if loaded.project is not None:
            cast("ProjectorConfig", loaded.project).check_needs()
        base = loaded.dump()
    plain: dict[str, Any] = {k: base[k] for k in _Sections.model_fields if k in base}
    # Records are held whole, however those of the source came about.
    plain["compress"] = {k: v for k, v in (plain.get("compress") or {}).items() if k != "stream"}
    if not plain["compress"]:
        del plain["compress"]
    made = with_overrides(plain, overrides)
    if budget is not None and "compress" in made:
        made["compress"]["budget"] = budget
    if "compress" not in made:
        raise ConfigError(
            "the source was made without a compress section: pass --recipe, or "
            "--set 'compress={budget: 196, stages: [tome]}'"
        )
    sections = _Sections(**made)
    if sections.compress.stream:
        raise ConfigError(
            "a record that is recompressed is held whole, so compress.stream=true has no use: "
            "leave it out"
        )
    return sections


def _one(cache: TokenCache, key: str, pipeline: Pipeline, settings: _Sections) -> Done | Failed:
    started = time.perf_counter()
    meta, item = cache.meta(key), Item(key=key, path=str(cache.path))
    try:
        video: VideoTokens = cache[key]
        seconds = float(meta.get("seconds") or video.num_seconds)
        num_frames = int(meta.get("num_frames") or video.grid.t)
        count = settings.compress.budget.resolve(len(video), num_frames, seconds)
        small = pipeline(video, count)
    except VidcompError as error:
        return Failed(item=item, stage="compress", error=error)
    return Done(
        item=item,
        video=small,
        num_frames=num_frames,
        num_seconds=seconds,
        num_tokens_in=len(video),
        seconds=time.perf_counter() - started,
        source=None,
    )
