"""What a person sees of a run while it goes on, on standard error.

On a terminal a bar; elsewhere, as in the logs of a cluster, a line a minute.
"""

import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self

import click
from tqdm import tqdm

from ..output import printable
from ..units import format_seconds
from .engine import Waits
from .summary import Receipt, Summary
from .watching import Watcher

if TYPE_CHECKING:
    from .planning import Plan
    from .worker import Runner

__all__ = ["Console"]

_SCREEN = (100, 24)
_MOST_LINES = 10
"""Failures, and as many warnings, that are shown one by one."""


class Console(Watcher):
    """Shows how far a run is, what fails and where the time goes; a context manager.

    Args:
        quiet: show neither bar nor failures; warnings only.
        is_planned: whether a plan will tell how much there is to do.
    """

    def __init__(self, *, quiet: bool, is_planned: bool = True) -> None:
        self._is_quiet = quiet
        self._has_bar = not quiet and sys.stderr.isatty()
        self._has_lines = not quiet and not self._has_bar
        self._is_planned = is_planned
        self._bar: tqdm[Any] | None = None
        self._summary: Summary | None = None
        self._failures, self._warnings = _Few("failures"), _Few("warnings")
        self._waits = Waits()
        self._known_before = 0
        self._started = time.perf_counter()
        self._handler = _Handler(self)

    def __enter__(self) -> Self:
        logging.getLogger().addHandler(self._handler)
        if not self._is_planned and self._has_bar:
            self._bar = self._make_bar(None, 0)
        return self

    def __exit__(self, *_: object) -> None:
        self.ended(None)
        logging.getLogger().removeHandler(self._handler)

    def planned(self, plan: "Plan", summary: Summary) -> None:
        """Say what is odd about the plan."""
        self._summary = summary
        counts = plan.counts()
        if counts["duplicates"] and not self._is_quiet:
            self.say(
                f"{counts['duplicates']} rows repeat a video that another row names: each video is "
                f"made once, each row is counted"
            )
        self._known_before = _known(summary)

    def begun(self, runner: "Runner") -> None:  # noqa: ARG002
        """Show the bar, from where earlier runs have come to."""
        self._started = time.perf_counter()
        if self._has_bar and self._summary is not None:
            self._bar = self._make_bar(self._summary.planned, self._known_before)

    def receipt(self, receipt: Receipt, waits: Waits) -> None:
        """Move the bar; show a failure."""
        self._waits = waits
        if receipt.status == "failed" and not self._is_quiet:
            for line in self._failures.lines(f"failed: {receipt.message}"):
                self.say(line)
        if self._bar is not None:
            known = self._bar.n + 1 if self._summary is None else _known(self._summary)
            shown = [text for text in self._numbers() if not text.endswith((" 0", " 0%"))]
            self._bar.set_postfix_str(", ".join(shown), refresh=False)  # narrow screens cut it
            self._bar.update(known - self._bar.n)

    def draining(self, signal: str) -> None:  # noqa: ARG002
        """Say what is waited for now."""
        if self._bar is not None:
            self._bar.set_description("finishing what has begun")

    def beat(self) -> None:
        """A line, where there is no bar."""
        if self._has_lines and self._summary is not None:
            self.say(self._line(self._summary))

    def ended(self, error: BaseException | None) -> None:  # noqa: ARG002
        """Take the bar away; say how much was not shown."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        for few in (self._failures, self._warnings):
            for line in few.rest():
                self.say(line)

    def say(self, text: str) -> None:
        """A line above the bar."""
        with suppress(OSError, ValueError):  # nobody reads any more
            if self._bar is not None:
                self._bar.clear()
            click.echo(f"vidcomp: {printable(text)}", err=True)
            if self._bar is not None:
                self._bar.refresh()

    def warn(self, text: str) -> None:
        """A warning above the bar, if there were not many."""
        for line in self._warnings.lines(f"warning: {text}"):
            self.say(line)

    def _make_bar(self, total: int | None, initial: int) -> "tqdm[Any]":
        size = _screen_size()
        return tqdm(
            total=total,
            initial=initial,
            unit="video",
            leave=False,
            dynamic_ncols=size is None,
            ncols=size and size[0],
            nrows=size and size[1],
        )

    def _numbers(self) -> list[str]:
        """Counts, and the shares of time that went to waiting."""
        elapsed = max(1e-9, time.perf_counter() - self._started)
        waits = (self._waits.decode_wait_s, self._waits.encode_wait_s, self._waits.write_wait_s)
        shares = [
            f"{name}-wait {value / elapsed:.0%}"
            for name, value in zip(("decode", "encode", "write"), waits, strict=True)
        ]
        summary = self._summary
        if summary is None:
            return []
        skipped = summary.cached + summary.failed_before
        return [f"ok {summary.done}", f"failed {summary.failed}", f"skipped {skipped}", *shares]

    def _line(self, summary: Summary) -> str:
        elapsed = max(1e-9, time.perf_counter() - self._started)
        known = _known(summary)
        rate = (known - self._known_before) / elapsed
        left = f", {format_seconds((summary.planned - known) / rate)} left" if rate else ""
        return (
            f"{known} of {summary.planned} videos, {rate:.2f} a second{left}: "
            f"{', '.join(self._numbers())}"
        )


class _Few:
    """The first lines of a kind; the rest is counted."""

    def __init__(self, kind: str) -> None:
        self._kind, self._count, self._told = kind, 0, 0

    def lines(self, text: str) -> Iterator[str]:
        """What to show of one more."""
        self._count += 1
        if self._count <= _MOST_LINES:
            self._told = self._count
            yield text
        elif self._count == _MOST_LINES + 1:
            yield f"further {self._kind} are counted only"

    def rest(self) -> Iterator[str]:
        """How many were not shown."""
        if self._count > self._told:
            yield f"{self._count - self._told} more {self._kind} were not shown"
            self._told = self._count


class _Handler(logging.Handler):
    """Warnings of Python's logging, above the bar."""

    def __init__(self, console: Console) -> None:
        super().__init__(logging.WARNING)
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._console.warn(record.getMessage())
        except Exception:  # noqa: BLE001  # as logging does with what cannot be formatted
            self.handleError(record)


def _screen_size() -> tuple[int, int] | None:
    """Columns and rows to assume of a terminal that knows none, as in containers."""
    try:
        columns, rows = os.get_terminal_size(sys.stderr.fileno())
    except (OSError, ValueError, AttributeError):
        return _SCREEN
    return None if columns > 0 and rows > 0 else _SCREEN


def _known(summary: Summary) -> int:
    return summary.planned - summary.lost
