"""Those who are told what happens in a run: the bar, the log file, the run's record."""

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .summary import Receipt, Summary

if TYPE_CHECKING:
    from .engine import Waits
    from .planning import Plan
    from .worker import Runner

__all__ = ["Watcher", "Watchers"]

_BEAT_S = 60.0


class Watcher:
    """Told of a run's events in its main thread; does nothing by itself.

    What is no part of the work must not end it: only ``planned`` and ``begun`` may raise.
    """

    def planned(self, plan: "Plan", summary: Summary) -> None:
        """What there is to do is known.

        Args:
            plan: of the run.
            summary: of the run; it changes as the run goes on.
        """

    def begun(self, runner: "Runner") -> None:
        """All is loaded and the first item is about to be begun; not told if there is none."""

    def receipt(self, receipt: Receipt, waits: "Waits") -> None:
        """An item is over, and counted in the summary; ``waits`` of the run so far."""

    def draining(self, signal: str) -> None:
        """The run was asked to stop."""

    def beat(self) -> None:
        """A minute went by; called in a thread of its own."""

    def ended(self, error: BaseException | None) -> None:
        """The run is over, by itself or by an error; told even if nothing else was."""


class Watchers(Watcher):
    """Several watchers as one.

    Args:
        watchers: told in this order.
        beat_s: seconds between two beats.
    """

    def __init__(self, watchers: Sequence[Watcher], beat_s: float = _BEAT_S) -> None:
        self._watchers, self._beat_s = tuple(watchers), beat_s
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def planned(self, plan: "Plan", summary: Summary) -> None:
        """Tell all."""
        for watcher in self._watchers:
            watcher.planned(plan, summary)

    def begun(self, runner: "Runner") -> None:
        """Tell all, and let the beats begin."""
        for watcher in self._watchers:
            watcher.begun(runner)
        self._thread = threading.Thread(target=self._beats, daemon=True, name="vidcomp-beat")
        self._thread.start()

    def receipt(self, receipt: Receipt, waits: "Waits") -> None:
        """Tell all."""
        for watcher in self._watchers:
            watcher.receipt(receipt, waits)

    def draining(self, signal: str) -> None:
        """Tell all."""
        for watcher in self._watchers:
            watcher.draining(signal)

    def beat(self) -> None:
        """Tell all."""
        for watcher in self._watchers:
            watcher.beat()

    def ended(self, error: BaseException | None) -> None:
        """End the beats, then tell all."""
        self._over.set()
        if self._thread is not None:
            self._thread.join()
        for watcher in self._watchers:
            watcher.ended(error)

    def _beats(self) -> None:
        while not self._over.wait(self._beat_s):
            self.beat()
