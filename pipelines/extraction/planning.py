"""What a run has to do: the items asked for, less those that are there or failed before."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from vidcomp.config import Recipe, differences, identity
from vidcomp.errors import StoreMissError, StoreStaleError
from vidcomp.store import SourceId, TokenCache
from vidcomp.store.storage import Storage, open_storage

from ..inputs import Item, source_id
from .live import resumed
from .records import ErrorLog, ErrorRecord
from .run_options import Options
from .summary import Receipt
from .worker import is_current

__all__ = ["Plan", "cached_receipt", "make_plan"]

_LOOKERS = 16
"""Threads that look at files: on a network's disk each look is a wait."""
_LOOKS = 32
"""Files that one of them looks at in a row; few, as each may be a question to a server."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a run would do."""

    cache: TokenCache | None = None
    """What is there already."""
    todo: list[Item] = field(default_factory=list)
    """Each with the identity of its file, taken before it is read: a file that changes while it is
    read is then stale, never taken for what was read."""
    cached: list[Item] = field(default_factory=list)
    failed_before: list[tuple[Item, ErrorRecord]] = field(default_factory=list)
    """With why they failed in an earlier run."""

    def counts(self) -> dict[str, int]:
        """Rows by what is to be done; ``duplicates`` are those that repeat another row's item."""
        before = [item for item, _ in self.failed_before]
        items = len(self.todo) + len(self.cached) + len(before)
        rows = [sum(item.rows for item in part) for part in (self.todo, self.cached, before)]
        return {
            "rows": sum(rows),
            "todo": rows[0],
            "cached": rows[1],
            "failed_before": rows[2],
            "duplicates": sum(rows) - items,
        }


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
    plan, missing = Plan(cache=cache), []
    plan.todo.extend(resumed(item, cache) for item in items if item.live is not None)
    files = [item for item in items if item.live is None]
    for item in _identified(files, content=options.content_identity):
        is_there = cache is not None and not options.overwrite and item.key in cache
        if cache is not None and is_there and is_current(item.source, cache.info(item.key).source):
            plan.cached.append(item)
        else:
            missing.append(item)
    is_anew = options.retry_failed or options.overwrite
    failed = {} if is_anew else log.get_many(item.key for item in missing)
    for item in missing:
        record = failed.get(item.key)
        if record is not None and record.source == _plain(item.source):
            plan.failed_before.append((item, record))
        else:
            plan.todo.append(item)
    return plan


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


def _identified(items: Sequence[Item], *, content: bool) -> Iterator[Item]:
    """The items with the identity of their files; a file of many ranges is looked at once."""

    def look(part: Sequence[str]) -> list[SourceId | None]:
        return [source_id(path, content=content) for path in part]

    paths = list(dict.fromkeys(item.path for item in items if item.source is None))
    parts = [paths[i : i + _LOOKS] for i in range(0, len(paths), _LOOKS)]
    with ThreadPoolExecutor(_LOOKERS) as pool:  # which begins no thread before it has work
        found = [source for part in pool.map(look, parts) for source in part]
    known = dict(zip(paths, found, strict=True))
    for item in items:
        yield item if item.source is not None else replace(item, source=known[item.path])


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
