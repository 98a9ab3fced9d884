"""The embedded engine with its recipe, its store and its error records: items in, receipts out."""

import math
import socket
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import asdict
from types import TracebackType
from typing import Any, Protocol, Self

from vidcomp.api import Prepared, prepare
from vidcomp.config import Recipe, identity
from vidcomp.errors import ConfigError, MissingExtraError
from vidcomp.functional.resize import Resize
from vidcomp.store import CacheWriter, SourceId
from vidcomp.store.storage import Storage

from ..inputs import Item
from .engine import Engine, Waits
from .outcomes import Done, Failed, Followed
from .provenance import versions
from .records import ErrorLog, ErrorRecord, cause_of, now
from .run_options import Options
from .summary import Receipt, done_receipt, failed_receipt

__all__ = ["Runner", "Worker", "is_current"]

_SEAL_S = 10.0
"""Windows of many live sources that end within so many seconds share a shard."""


class Runner(Protocol):
    """What makes records of items, here or elsewhere."""

    fingerprint: str
    """16 hex digits of recipe, weights and format."""
    weights: Mapping[str, str]
    """Content hashes of the loaded weights by section of the recipe."""

    @property
    def waits(self) -> Waits:
        """What the time went to so far."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def run(self, items: Iterable[Item]) -> Generator[Receipt, None, None]:
        """One receipt an item, as they come."""

    def drain(self) -> None:
        """Begin no more items; what is begun is finished, if it takes no longer than the grace."""


class Worker:
    """Makes records of items in one process; closing it commits them.

    Args:
        storage: where the cache lies.
        recipe: everything that decides the tokens.
        options: how to run.
        most: items that there will be, if known: so many readers are enough.

    Raises:
        ConfigError: weights cannot be found or do not fit.
        BudgetError: the stages cannot reach the budget.
        StoreStaleError: the store holds tokens of other weights or settings.
        StoreError: it cannot be written.
    """

    def __init__(
        self, storage: Storage, recipe: Recipe, options: Options, *, most: int | None = None
    ) -> None:
        self._options = options
        workers = options.num_workers
        self._engine = Engine(
            workers=workers if most is None else max(1, min(workers, most)),
            isolation=options.isolation,
            backend=options.backend,
            batch_frames=options.batch_frames,
            stall_s=options.stall_s,
            recycle_after=options.recycle_after,
        )
        try:
            self._prepared = prepare(
                recipe,
                device=options.device,
                compile=options.compile,
                batch_size=options.batch_frames,
            )
            self._prepared.check_budget()
            self.weights: Mapping[str, str] = self._prepared.weights
            self._log = ErrorLog(storage)
            self._writer = CacheWriter(
                storage,
                identity=identity(recipe),
                weights=self._prepared.weights,
                settings=recipe.store,
            )
        except BaseException:
            self._engine.close()
            raise
        self.fingerprint = self._writer.fingerprint
        self._versions = versions()
        self._committed = self._writer.committed()
        self._there: deque[Receipt] = deque()
        self._num_done = 0
        self._sealed_at = -math.inf

    @property
    def waits(self) -> Waits:
        """What the time went to."""
        return self._engine.waits

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._engine.close()
        self._writer.__exit__(kind, error, trace)

    def seal(self) -> None:
        """Make all that was written visible to readers.

        Raises:
            StoreError: the disk is full.
        """
        self._writer.seal()

    def drain(self, grace_s: float | None = None) -> None:
        """Begin no more items; what is begun may go on for ``grace_s``, by default the options'."""
        self._engine.drain(self._options.grace_s if grace_s is None else grace_s)

    def run(self, items: Iterable[Item]) -> Generator[Receipt, None, None]:
        """One receipt an item, as they come; failures are recorded in the store.

        An item whose record came into the store since it was planned (by a worker that died, or by
        another run) is not made again.

        Raises:
            StoreError: a record cannot be written; what was written before stays.
            VidcompError: the settings are at fault, not the files; or with ``on_error="raise"``
                the first failure.
        """
        outcomes = self._engine.run(self._prepared, self._missing(items), self._write)
        with closing(outcomes):
            for outcome in outcomes:
                yield from self.known()
                yield self._receipt(outcome)
        yield from self.known()

    def known(self) -> list[Receipt]:
        """Receipts of items that had a record, since the last call; ``run`` gives them with the
        next outcome, and whoever cannot wait for one asks here, from any thread.
        """
        receipts = []
        with suppress(IndexError):
            while True:
                receipts.append(self._there.popleft())
        return receipts

    def _missing(self, items: Iterable[Item]) -> Iterator[Item]:
        """Items that have no record yet; called from the readers' threads, one at a time."""
        for item in items:
            key = item.key
            is_there = not self._options.overwrite and key in self._committed
            if is_there and is_current(item.source, self._committed[key]):
                self._there.append(Receipt(key=key, path=item.path, status="cached"))
            else:
                yield item

    def _write(self, done: Done) -> None:
        key, meta = done.item.key, _meta(done, self._prepared)
        self._writer.add(key, done.video, {**meta, "versions": self._versions}, done.item.source)
        self._log.discard(key)
        if done.item.live is not None:
            self._log.discard(done.item.live.name)
            self._seal_window(done.item.live.window_s)

    def _seal_window(self, window_s: float) -> None:
        """Show a window to readers no later than its own length after it was written."""
        if time.monotonic() - self._sealed_at >= min(_SEAL_S, 0.5 * window_s):
            self._writer.seal()
            self._sealed_at = time.monotonic()

    def _receipt(self, outcome: Done | Failed | Followed) -> Receipt:
        if isinstance(outcome, Followed):
            return Receipt(key=outcome.item.key, path=outcome.item.path, status="ended")
        if isinstance(outcome, Done):
            self._num_done += 1
            return done_receipt(outcome)
        if self._options.on_error == "raise" or self._is_fatal(outcome):
            raise outcome.error
        receipt = failed_receipt(outcome)
        self._record(outcome, receipt)
        return receipt

    def _is_fatal(self, failed: Failed) -> bool:
        """Whether the settings are at fault: something to install, or nothing works."""
        wrong_settings = isinstance(failed.error, ConfigError) and not self._num_done
        return wrong_settings or isinstance(failed.error, MissingExtraError)

    def _record(self, failed: Failed, receipt: Receipt) -> None:
        before, cause = self._log.get(receipt.key), cause_of(failed.error)
        source = failed.item.source
        self._log.add(
            ErrorRecord(
                key=receipt.key,
                path=receipt.path,
                stage=receipt.stage,
                error=receipt.error,
                message=receipt.message,
                source=None if source is None else asdict(source),
                fingerprint=self.fingerprint,
                attempts=1 if before is None else before.attempts + 1,
                details=cause.details,
                exit_code=cause.exit_code,
                signal=cause.signal,
                run=self._options.run_id,
                host=socket.gethostname(),
                time=now(),
                versions=self._versions,
            )
        )


def is_current(source: SourceId | None, known: SourceId | None) -> bool:
    """Whether a record made of ``known`` is still that of ``source``; what is unknown has not
    changed.
    """
    return source is None or known is None or source.matches(known)


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
