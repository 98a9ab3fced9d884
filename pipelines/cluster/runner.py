"""Extraction on a Ray cluster: descriptors out, receipts in, the store as the only truth.

    driver: ledger ── leases ──▶ actors, each the embedded engine whole: decode, encode, commit
               ▲──── receipts ──────┘

Plain actors and a loop of our own, and not Ray Data, for these reasons.  What travels are
descriptors and receipts of a few hundred bytes, never frames: there is nothing that blocks of a
data set, its backpressure or its object store could help with, and neither pyarrow nor pandas is
needed.
Ray Data's answers to failures are not ours: by default it repeats a task that crashes without end;
told to bear errors it drops rows in silence, by whole blocks; with dead actors it has been seen to
wait for ever.  Here every item has exactly one end: blame goes to the item that killed its actor,
not to its neighbours, attempts are counted by us, and what no receipt can prove is asked of the
store.

* **Leases.**  An actor holds two small leases, some seconds of its work, so that its pipeline never
  runs dry; receipts come as items end; idle actors take over what others have not begun.
* **Deaths.**  Items that were with an actor when it died are leased again, at most three times, the
  last time alone (``ledger``).  Actors that die are replaced; three that cannot start while none
  runs end the run with their own error; one that hangs is ended.
* **Reconcile.**  A receipt says that a record was written on the actor's machine.  When all items
  have theirs and all actors have committed, the store is opened anew: records that are not in it
  (a machine vanished with its disk) are made again, and after three rounds are reported lost.
* **Ends.**  Actors belong to the driver's job: if it dies they do, and their decode processes with
  them.  A new run does the difference; two runs at once on one store do no harm.
"""

import logging
from collections.abc import Generator, Iterable, Mapping
from dataclasses import asdict, replace
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Self

from vidcomp import errors
from vidcomp.config import Recipe
from vidcomp.errors import ConfigError, StoreError, StoreMissError
from vidcomp.store.manifest import read_manifest
from vidcomp.store.storage import Storage, open_storage

from ..extraction.engine import Waits
from ..extraction.records import ErrorLog, ErrorRecord, now
from ..extraction.run_options import Options
from ..extraction.summary import Receipt
from ..inputs import Item
from .connect import Cluster
from .drive import Driver, Rules
from .host import Job
from .ledger import Ledger
from .messages import Started, Trouble
from .needs import resolve
from .pool import Patience
from .ray_pool import RayPool
from .reconcile import Reconciler

__all__ = ["RayRunner"]

_log = logging.getLogger(__name__)

_CLOSE_S = 60.0


class RayRunner:
    """A ``Runner`` on a Ray cluster; as a context manager it ends all that it has started.

    Args:
        storage: where the cache lies; a folder must be one that all nodes share.
        recipe: everything that decides the tokens.
        options: how to run; ``options.ray`` where.
        most: items that there will be, if known.
        rounds: how often records that are not in the store are made again.
        patience: with actors.

    Raises:
        MissingExtraError: Ray is not installed.
        ConfigError: no such cluster, or none that could hold an actor; a node that does not see
            the store, or has another vidcomp.
        VidcompError: no actor can start.
    """

    def __init__(
        self,
        storage: Storage,
        recipe: Recipe,
        options: Options,
        *,
        most: int | None = None,
        rounds: int = 3,
        patience: Patience | None = None,
    ) -> None:
        self._storage = _absolute(storage)
        self._options, self._rounds = options, rounds
        self._reconciler = Reconciler(self._storage, overwrite=options.overwrite)
        self._cluster = Cluster(options.ray)
        try:
            needs = resolve(options, self._cluster.nodes(), can_grow=self._cluster.can_grow)
            self._job = Job(
                storage=self._storage,
                recipe=recipe,
                options=replace(options, workers=needs.workers),
                folder=str(Path.cwd()),
            )
            self._driver = Driver(
                RayPool(self._cluster, needs, self._job),
                Rules(
                    readers=needs.workers,
                    min_hosts=options.ray.min_actors,
                    max_hosts=options.ray.max_actors,
                    patience=patience or Patience(),
                    is_fatal=self._is_fatal,
                    check=self._check,
                    give_up=self._give_up,
                ),
            )
            try:
                first = self._driver.begin(1 if most is None else most)
            except BaseException:
                self._driver.close(0)
                raise
        except BaseException:
            self._cluster.close()
            raise
        self.fingerprint: str = first.fingerprint
        self.weights: Mapping[str, str] = first.weights

    @property
    def waits(self) -> Waits:
        """What the time of an actor went to, on average over those at work."""
        return self._driver.waits

    @property
    def actors(self) -> list[Started]:
        """Those that are at work now."""
        return self._driver.at_work

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            # An error of one item or actor leaves the others' records to be committed; whoever
            # presses Ctrl-C twice does not want to wait for them.
            self._driver.close(_CLOSE_S if error is None or isinstance(error, Exception) else 0)
        finally:
            self._cluster.close()

    def drain(self) -> None:
        """Begin no more items; what is begun may go on for the options' ``grace_s``."""
        self._driver.drain(self._options.grace_s)

    def run(self, items: Iterable[Item]) -> Generator[Receipt, None, None]:
        """One receipt an item, as they come; then another, with ``replaces``, for each item of
        which the store says otherwise in the end.

        Keys of items are their own; of several with one key the last is done.

        Raises:
            VidcompError: as a ``Worker``'s; or actors die without having done anything.
        """
        planned = {item.key: item for item in items}
        todo: Iterable[Item] = planned.values()
        ends: dict[str, str] = {}
        for _ in range(self._rounds + 1):
            ledger = Ledger(todo)
            for receipt in self._driver.run(ledger):
                before, ends[receipt.key] = ends.get(receipt.key), receipt.status
                if before is None:
                    yield receipt
                elif receipt.status == "failed":
                    yield replace(receipt, replaces=before)
            made = [item for key, item in planned.items() if ends.get(key, "failed") != "failed"]
            self._forget_failures(ledger.retried() & {item.key for item in made})
            todo = self._reconciler.missing(made)
            if not todo or self._driver.is_draining:
                break
            _log.warning("%d records are not in the store: they are made again", len(todo))
        for item in todo:
            yield self._lost(item, ends[item.key])

    def _lost(self, item: Item, status: str) -> Receipt:
        return Receipt(
            key=item.key,
            path=item.path,
            status="lost",
            stage="write",
            error=StoreError.__name__,
            message=f"the record of {item.path} was written and is not in {self._storage.path}: "
            f"see whether the machines that wrote it are still there, and run again",
            replaces=status,
        )

    def _forget_failures(self, keys: Iterable[str]) -> None:
        """An item may have failed at an actor that died before it said so, and then not again."""
        if keys := list(keys):
            log = ErrorLog(self._storage)
            for key in keys:
                log.discard(key)

    def _is_fatal(self, trouble: Trouble, is_running: bool) -> bool:
        """Whether every actor would end like this: a full disk that all write to, settings that are
        at fault, a first failure that is to be raised.
        """
        error = trouble.error()
        if isinstance(error, StoreError) and self._storage.is_local:
            return True
        is_settings = is_running and isinstance(error, ConfigError)
        is_first = self._options.on_error == "raise" and hasattr(errors, trouble.kind)
        return trouble.is_everywhere or is_settings or is_first

    def _check(self, started: Started) -> None:
        """An actor that is ready sees the same store, with the same weights and code."""
        here = metadata.version("vidcomp")
        if started.version != here:
            raise ConfigError(
                f"the node {started.node} has vidcomp {started.version} and this one {here}: "
                f"install the same on all, or name an environment with --ray-runtime-env"
            )
        try:
            store_id = read_manifest(self._storage).id
        except StoreMissError:
            store_id = ""
        if started.store_id != store_id:
            raise ConfigError(
                f"the node {started.node} does not see the folder {self._storage.path} of this "
                f"machine: put the cache on a file system that all nodes share, or on s3://"
            )
        first = self._driver.started
        if first is not None and first.fingerprint != started.fingerprint:
            raise ConfigError(
                f"the node {started.node} has other weights (fingerprint {started.fingerprint}) "
                f"than {first.node} ({first.fingerprint}): give all nodes the same model"
            )

    def _give_up(self, item: Item, trouble: Trouble, deaths: int) -> Receipt:
        """Record an item that actors kept dying with."""
        message = (
            f"{item.path} was with {deaths} actors when they died, with the last one alone "
            f"({trouble.kind}: {trouble.message}): leave the file out, or give actors more memory"
        )
        receipt = Receipt(
            key=item.key,
            path=item.path,
            status="failed",
            stage="actor",
            error=trouble.kind,
            message=message,
        )
        ErrorLog(self._storage).add(
            ErrorRecord(
                key=item.key,
                path=item.path,
                stage=receipt.stage,
                error=receipt.error,
                message=message,
                source=None if item.source is None else asdict(item.source),
                fingerprint=self.fingerprint,
                attempts=deaths,
                run=self._options.run_id,
                time=now(),
            )
        )
        return receipt


def _absolute(storage: Storage) -> Storage:
    """The storage by a path that means the same on every machine that has the folder."""
    return open_storage(Path(storage.path).absolute()) if storage.is_local else storage
