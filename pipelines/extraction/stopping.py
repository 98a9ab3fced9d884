"""A run that is asked to stop: the first signal lets it finish what it has begun."""

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

__all__ = ["Stop", "stops_on_signals"]


class Stop:
    """Whether a run was asked to stop, and by which signal."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    @property
    def exit_code(self) -> int:
        """130 for Ctrl-C, 143 for SIGTERM; 0 if nobody asked."""
        return 0 if self.signal is None else 128 + self.signal.value


@contextmanager
def stops_on_signals(drain: Callable[[], None]) -> Iterator[Stop]:
    """Ctrl-C and SIGTERM call ``drain``; the second one ends the run at once.

    Does nothing outside the main thread, which alone may handle signals.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def ask(number: int, _: FrameType | None) -> None:
        if stop.signal is not None:
            _end(number)
        stop.signal = signal.Signals(number)
        drain()
        _tell("finishing what has begun; press again (or send the signal again) to stop at once")

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, ask) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _tell(text: str) -> None:
    """To standard error, if anybody listens there."""
    if sys.stderr is None:
        return
    # Not by logging, which may hold a lock when a signal comes; and a stream that was being written
    # to refuses to be entered anew.
    with suppress(OSError, ValueError, RuntimeError):
        print(f"vidcomp: {text}", file=sys.stderr, flush=True)  # noqa: T201


def _end(number: int) -> NoReturn:
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + number)
