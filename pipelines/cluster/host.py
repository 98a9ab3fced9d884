"""What lives in an actor: the embedded engine, fed by leases, its receipts asked for.

Methods are called by several threads at once.  The engine runs in a thread of its own and is never
waited for: its pipeline runs on from one lease to the next.
"""

import logging
import os
import platform
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata

from vidcomp.config import Recipe
from vidcomp.errors import StoreError
from vidcomp.store.manifest import read_manifest
from vidcomp.store.storage import Storage

from ..extraction.run_options import Options
from ..extraction.summary import Receipt
from ..extraction.worker import Worker
from ..inputs import Item
from .messages import Report, Started, Trouble

__all__ = ["Feed", "Host", "Job"]

_log = logging.getLogger(__name__)

_TICK_S = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """All that a host needs to know; small, and pickled once for each."""

    storage: Storage
    recipe: Recipe
    options: Options
    folder: str
    """The driver's working folder: relative paths count from there."""
    seal_s: float = 120.0
    """A host commits its records at least so often."""


class Feed:
    """Items of leases, one after another, waited for until the feed is closed."""

    def __init__(self) -> None:
        self._items: deque[Item] = deque()
        self._changed = threading.Condition()
        self._is_closed = False
        self.num_begun = 0

    def put(self, items: Sequence[Item]) -> None:
        """Add a lease."""
        with self._changed:
            self._items.extend(items)
            self._changed.notify_all()

    def close(self, *, drop: bool) -> None:
        """Nothing more will come; with ``drop`` what waits is not handed out any more either."""
        with self._changed:
            self._is_closed = True
            if drop:
                self._items.clear()
            self._changed.notify_all()

    def take_back(self) -> list[Item]:
        """Items that nobody has begun, taken out."""
        with self._changed:
            items = list(self._items)
            self._items.clear()
            return items

    def __iter__(self) -> Iterator[Item]:
        return self

    def __next__(self) -> Item:
        with self._changed:
            self._changed.wait_for(lambda: self._items or self._is_closed)
            if not self._items:
                raise StopIteration
            self.num_begun += 1
            return self._items.popleft()


class Host:
    """Runs a ``Worker`` in a process of its own, told by a driver what to do.

    Args:
        job: recipe, store and options.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self._feed = Feed()
        self._outbox: list[Receipt] = []
        self._changed = threading.Condition()
        self._worker: Worker | None = None
        self._trouble: Trouble | None = None
        self._is_over = threading.Event()

    def start(self) -> Started | Trouble:
        """Load the model and open the store; errors come back as words."""
        with suppress(OSError):  # a relative path that is not there will say so itself
            os.chdir(self._job.folder)
        try:
            worker = Worker(self._job.storage, self._job.recipe, self._job.options)
        except Exception as error:  # noqa: BLE001  # the driver decides what it means
            return Trouble.of(error)
        self._worker = worker
        for work in (self._work, self._seal):
            threading.Thread(target=work, args=(worker,), daemon=True).start()
        return Started(
            fingerprint=worker.fingerprint,
            weights=dict(worker.weights),
            store_id=read_manifest(self._job.storage).id,
            version=metadata.version("vidcomp"),
            node=platform.node(),
            pid=os.getpid(),
        )

    def lease(self, items: Sequence[Item]) -> None:
        """Take items on."""
        self._feed.put(items)

    def take_back(self) -> list[str]:
        """Keys of leased items that are not begun, and will not be."""
        return [item.key for item in self._feed.take_back()]

    def poll(self, patience_s: float) -> Report:
        """What happened since the last call; waits for something to happen, up to ``patience_s``.

        The report with ``is_over`` is the last one.
        """
        worker = self._worker
        assert worker is not None  # noqa: S101  # called after start only
        until = time.monotonic() + patience_s
        with self._changed:
            while True:
                is_over = self._is_over.is_set()
                self._outbox += worker.known()
                if self._outbox or is_over or time.monotonic() >= until:
                    break
                self._changed.wait(min(_TICK_S, patience_s))
            receipts, self._outbox = tuple(self._outbox), []
        return Report(
            receipts=receipts,
            waits=worker.waits,
            num_begun=self._feed.num_begun,
            is_over=is_over,
            trouble=self._trouble if is_over else None,
        )

    def finish(self) -> None:
        """No more leases: what was leased is done, then all records are committed."""
        self._feed.close(drop=False)

    def drain(self, grace_s: float) -> None:
        """Begin nothing more; what is begun gets ``grace_s`` seconds; then all is committed."""
        if self._worker is not None:
            self._worker.drain(grace_s)
        self._feed.close(drop=True)

    def _work(self, worker: Worker) -> None:
        try:
            with worker:
                for receipt in worker.run(self._feed):
                    with self._changed:
                        self._outbox.append(receipt)
                        self._changed.notify_all()
        except BaseException as error:  # noqa: BLE001  # the driver decides what it means
            _log.exception("the worker has ended")
            self._trouble = Trouble.of(error)
        with self._changed:
            self._is_over.set()
            self._changed.notify_all()

    def _seal(self, worker: Worker) -> None:
        """Commit what is written though nothing more comes: a writer looks at the clock only when
        it is given a record.
        """
        while not self._is_over.wait(self._job.seal_s):
            try:
                worker.seal()
            except StoreError as error:  # the next record will be refused, which ends the run
                _log.warning("records could not be committed yet: %s", error)
