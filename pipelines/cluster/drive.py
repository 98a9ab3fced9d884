"""The driver: deals items out to hosts, collects receipts, replaces hosts that die.

One thread, one loop, no state but the ledger and a table of hosts: deal, listen, look at the clock.
"""

import logging
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field, fields, replace
from typing import Literal

from vidcomp.errors import VidcompError

from ..extraction.engine import Waits
from ..extraction.summary import Receipt
from ..inputs import Item
from .ledger import Ledger
from .messages import Report, Started, Trouble
from .pace import Pace
from .pool import Event, Patience, Pool

__all__ = ["Driver", "Rules"]

_log = logging.getLogger(__name__)

_TICK_S = 0.25
_START_S, _LEAST_START_S = 15.0, 5.0
"""Until a host's own start has been measured: a backlog shorter than that needs no more hosts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What a driver decides by."""

    readers: int
    """Videos that a host decodes at once."""
    min_hosts: int = 1
    max_hosts: int | None = None
    """``None``: as many as find room now; a number: so many are asked for while there is work,
    though there is no room yet, which is what makes a cluster grow."""
    patience: Patience = field(default_factory=Patience)
    is_fatal: Callable[[Trouble, bool], bool] = lambda trouble, _: trouble.is_everywhere
    """Whether another host would end the same way; told whether this one had started."""
    check: Callable[[Started], None] = lambda _: None
    """Raises if a host that is ready cannot be used."""
    give_up: Callable[[Item, Trouble, int], Receipt] | None = None
    """Records that hosts kept dying with an item; needed if they may."""


@dataclass(slots=True, eq=False)
class _Host:
    """What is known of a host."""

    pace: Pace
    since: float
    """When it was asked for; later when it was told to end."""
    heard: float
    moved: float
    """When it was last seen to do something."""
    phase: Literal["starting", "ready", "closing"] = "starting"
    is_alone: bool = False
    """It has one suspect and gets nothing else."""
    num_receipts: int = 0
    num_begun: int = 0
    asked_back: bool = False
    is_dry: bool = False
    """All that it has is begun."""
    waits: Waits = field(default_factory=Waits)
    started: Started | None = None


class Driver:
    """Runs items on the hosts of a pool; every item has exactly one end, or the run has an error.

    Args:
        pool: makes hosts.
        rules: how many, and how patient to be.
        clock: seconds.
    """

    def __init__(
        self, pool: Pool, rules: Rules, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._pool, self._rules, self._clock = pool, rules, clock
        self._hosts: dict[int, _Host] = {}
        self._ledger = Ledger(())
        self._grace_s: float | None = None
        self._num_failed = self._num_fruitless = 0
        self._not_before = self._without = clock()
        self._start_s = _START_S
        self._is_told = False
        self.started: Started | None = None
        """The first host that was ready."""
        self.waits = Waits()
        """What the time of a host went to, on average over those at work."""

    def begin(self, num_items: int) -> Started:
        """Start the first hosts, and wait until one is ready.

        Raises:
            VidcompError: none can start, or there is no room for one.
        """
        for _ in range(max(1, min(self._rules.min_hosts, num_items))):
            self._start()
        while self.started is None:
            if not self._hosts and self._clock() >= self._not_before:
                self._start()
            for event in self._pool.events(_TICK_S):
                list(self._handle(event))
            self._watch(needed=True)
        return self.started

    def drain(self, grace_s: float) -> None:
        """Begin no more items; takes no lock, a signal's handler may call it."""
        self._grace_s = grace_s

    @property
    def at_work(self) -> list[Started]:
        """The hosts that are ready and have not ended."""
        return [host.started for host in self._hosts.values() if host.started is not None]

    @property
    def is_draining(self) -> bool:
        """Whether no more items are begun."""
        return self._grace_s is not None

    def run(self, ledger: Ledger) -> Generator[Receipt, None, None]:
        """Receipts as they come; ends when all items have theirs and all hosts have committed.

        Raises:
            VidcompError: hosts cannot start, or die without having done anything, or one has met
                what all would meet.
        """
        self._ledger = ledger
        self._without = self._clock()
        while self._hosts or (ledger.num_open and self._grace_s is None):
            if self._grace_s is not None:
                self._end_all(self._grace_s)
            else:
                self._deal()
                self._scale()
            for event in self._pool.events(_TICK_S):
                yield from self._handle(event)
            yield from self._watch(needed=ledger.num_open > 0 and self._grace_s is None)

    def close(self, patience_s: float) -> None:
        """End all hosts: let them commit what they have, for so many seconds; 0 kills them."""
        until = self._clock() + patience_s
        while self._hosts and self._clock() < until:
            self._end_all(0.0)
            for event in self._pool.events(_TICK_S):
                if isinstance(event.what, Trouble) or (
                    isinstance(event.what, Report) and event.what.is_over
                ):
                    self._forget(event.host)
        for number in list(self._hosts):
            self._forget(number)

    # -- dealing -----------------------------------------------------------------------------------

    def _scale(self) -> None:
        """Start hosts: the least that there shall be, and more while the backlog is worth it."""
        now, ledger = self._clock(), self._ledger
        num_free = ledger.num_waiting + ledger.num_suspects
        counts = self._count()
        alive = counts["starting"] + counts["ready"]
        if not num_free or now < self._not_before:
            return
        for _ in range(max(1, min(self._rules.min_hosts, num_free)) - alive):
            self._start()
            alive += 1
        most = self._rules.max_hosts
        is_asking = counts["starting"] >= max(1, counts["ready"])
        if alive == 0 or is_asking or (most is not None and alive >= most):
            return
        if self._is_backlog_long(now) and (most is not None or self._pool.has_room()):
            self._start()

    def _is_backlog_long(self, now: float) -> bool:
        """Whether what waits would keep the hosts busy for longer than another takes to start."""
        ready = [host for host in self._hosts.values() if host.phase == "ready"]
        if not ready or self._ledger.num_waiting < self._rules.readers:
            return False
        per_s = sum(host.pace.per_s for host in ready)
        if not per_s:
            return now - min(host.since for host in ready) > 2 * self._start_s
        return self._ledger.num_waiting / per_s > 2 * self._start_s

    def _deal(self) -> None:
        """Lease items to hosts that have few; close hosts for which there is nothing."""
        ledger = self._ledger
        ready = {n: host for n, host in self._hosts.items() if host.phase == "ready"}
        for number, host in ready.items():
            host.is_alone &= ledger.held(number) > 0
        reserved = self._deal_suspects(ready)
        for number in sorted(ready, key=ledger.held):  # what was taken back is for the idle
            host = ready[number]
            if host.is_alone or number == reserved:
                continue
            most = host.pace.lease(ledger.held(number), ledger.num_waiting, len(ready))
            if items := ledger.lease(number, most):
                self._give(number, host, items)
            elif not ledger.held(number) and not ledger.num_suspects:
                self._level(number, host, ready)
        if not ledger.num_waiting and not ledger.num_suspects:
            for number in [n for n, h in self._hosts.items() if h.phase == "starting"]:
                self._forget(number)

    def _deal_suspects(self, ready: dict[int, _Host]) -> int | None:
        """Lease suspects to hosts that have nothing; the host to be emptied if there is none."""
        for number, host in ready.items():
            if not self._ledger.held(number) and (items := self._ledger.lease_suspect(number)):
                host.is_alone = True
                self._give(number, host, items)
        if not self._ledger.num_suspects or not ready:
            return None
        return min(ready, key=self._ledger.held)

    def _level(self, number: int, host: _Host, ready: dict[int, _Host]) -> None:
        """An idle host gets what another has and has not begun; if there is nothing, it ends."""
        if any(other.asked_back for other in ready.values()):
            return
        others = [n for n, other in ready.items() if not other.is_alone and not other.is_dry]
        fullest = max(others, key=self._ledger.held, default=number)
        if self._ledger.held(fullest) > self._rules.readers:
            ready[fullest].asked_back = True
            self._pool.take_back(fullest)
        else:
            host.phase, host.since = "closing", self._clock()
            self._pool.finish(number)

    def _give(self, number: int, host: _Host, items: list[Item]) -> None:
        if self._ledger.held(number) == len(items):
            host.moved = self._clock()  # it had nothing to do until now
        host.is_dry = False
        self._pool.lease(number, items)

    # -- listening ---------------------------------------------------------------------------------

    def _handle(self, event: Event) -> Iterator[Receipt]:
        host = self._hosts.get(event.host)
        if host is None:
            return
        now = host.heard = self._clock()
        what = event.what
        if isinstance(what, Trouble):
            yield from self._died(event.host, host, what)
        elif isinstance(what, Started):
            self._rules.check(what)
            self.started = self.started or what
            self._start_s = max(_LEAST_START_S, now - host.since)
            self._num_failed = 0
            host.phase, host.since, host.moved, host.started = "ready", now, now, what
            host.pace = Pace(self._rules.readers, now)
        elif isinstance(what, Report):
            yield from self._reported(event.host, host, what)
        else:
            host.asked_back, host.is_dry = False, True
            self._ledger.take_back(event.host, what)

    def _reported(self, number: int, host: _Host, report: Report) -> Iterator[Receipt]:
        now = self._clock()
        if self._note_waits(host, report) or report.num_begun > host.num_begun:
            host.moved, host.num_begun = now, report.num_begun
        settled = 0
        for receipt in report.receipts:
            item = self._ledger.settle(number, receipt.key)
            if item is not None:
                settled += 1
                yield replace(receipt, path=item.path)
        if settled:
            host.moved, host.num_receipts = now, host.num_receipts + settled
            self._num_fruitless = 0
        host.pace.note(settled, now)
        if report.is_over and report.trouble is not None:
            yield from self._died(number, host, report.trouble)
        elif report.is_over:
            self._ledger.take_back(number)  # what a drain has left
            self._forget(number)

    def _note_waits(self, host: _Host, report: Report) -> bool:
        """Add what is new, shared among the hosts at work; whether the host has encoded."""
        num_ready = max(1, self._count()["ready"])
        for entry in fields(Waits):
            new = getattr(report.waits, entry.name) - getattr(host.waits, entry.name)
            total = getattr(self.waits, entry.name)
            setattr(self.waits, entry.name, total + max(0.0, new) / num_ready)
        has_encoded = report.waits.encode_s > host.waits.encode_s + 1e-3
        host.waits = report.waits
        return has_encoded

    def _died(self, number: int, host: _Host, trouble: Trouble) -> Iterator[Receipt]:
        """Take a host's items back; its error is ours if others would meet it too."""
        self._forget(number)
        _log.warning("a host has ended (%s: %s)", trouble.kind, trouble.message)
        if self._rules.is_fatal(trouble, host.phase != "starting"):
            raise trouble.error()
        if host.phase == "starting":
            self._num_failed += 1
            pause = self._rules.patience.backoff_s * 2 ** min(6, self._num_failed - 1)
            self._not_before = self._clock() + pause
            is_last = self._num_failed >= self._rules.patience.init_failures
            if is_last and not self._count()["ready"]:
                raise trouble.error()
        elif not host.num_receipts and host.phase == "ready" and not trouble.is_blameless:
            self._num_fruitless += 1
            if self._num_fruitless > self._rules.patience.fruitless + 2 * len(self._hosts):
                raise trouble.error()
        if trouble.is_blameless:
            self._ledger.take_back(number)
        for item in self._ledger.lose(number):
            assert self._rules.give_up is not None  # noqa: S101
            yield self._rules.give_up(item, trouble, self._ledger.deaths(item))

    # -- the clock ---------------------------------------------------------------------------------

    def _watch(self, *, needed: bool) -> list[Receipt]:
        """End hosts that hang; say what is waited for while there is none, and for how long."""
        now, patience = self._clock(), self._rules.patience
        receipts: list[Receipt] = []
        for number, host in list(self._hosts.items()):
            if host.phase == "starting":
                continue
            is_idle = not self._ledger.held(number)
            if now - host.heard > patience.reply_s:
                reason = f"it has not answered for {patience.reply_s:g} s"
            elif host.phase == "closing" and now - host.since > patience.close_s:
                reason = f"it has not committed its records for {patience.close_s:g} s"
            elif host.phase == "ready" and not is_idle and now - host.moved > patience.silence_s:
                reason = f"it has items and did nothing for {patience.silence_s:g} s"
            else:
                continue
            receipts += self._died(number, host, Trouble(kind="TimeoutError", message=reason))
        self._watch_start(now, needed=needed)
        return receipts

    def _watch_start(self, now: float, *, needed: bool) -> None:
        if not needed or any(host.phase != "starting" for host in self._hosts.values()):
            self._without, self._is_told = now, False
            return
        waited = now - self._without
        if waited > self._rules.patience.first_s:
            raise VidcompError(
                f"no host has started for {waited:.0f} s ({self._pool.describe()}): ask for less, "
                f"or make the cluster larger; what was written stays"
            )
        if waited > self._rules.patience.notice_s and not self._is_told:
            self._is_told = True
            _log.warning("waiting for a host to start: %s", self._pool.describe())

    # -- hosts -------------------------------------------------------------------------------------

    def _start(self) -> None:
        now = self._clock()
        host = _Host(pace=Pace(self._rules.readers, now), since=now, heard=now, moved=now)
        self._hosts[self._pool.start()] = host

    def _end_all(self, grace_s: float) -> None:
        for number, host in list(self._hosts.items()):
            if host.phase == "starting":
                self._forget(number)
            elif host.phase == "ready":
                host.phase, host.since = "closing", self._clock()
                self._pool.drain(number, grace_s)

    def _forget(self, number: int) -> None:
        self._hosts.pop(number, None)
        self._pool.kill(number)

    def _count(self) -> dict[str, int]:
        counts = {"starting": 0, "ready": 0, "closing": 0}
        for host in self._hosts.values():
            counts[host.phase] += 1
        return counts
