"""The log file of a run: one JSON object a line, for each thing that happened."""

import json
import logging
import os
import socket
import sys
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from vidcomp.errors import ConfigError

from ..options import exit_code
from .engine import Waits
from .provenance import versions, without_secrets
from .records import cause_of, now
from .shards import Shard
from .summary import Receipt, Summary
from .watching import Watcher

if TYPE_CHECKING:
    from .planning import Plan
    from .worker import Runner

__all__ = ["EventLog"]


class EventLog(Watcher):
    """Appends events to a file; a context manager.

    Each line is written at once and whole, so that runs may share a file of one machine.

    Args:
        path: of the file; ``{run}``, ``{shard}``, ``{shards}``, ``{host}`` and ``{pid}`` in it are
            replaced.
        run: name of the run.
        shard: the part of the inputs that this run has.

    Raises:
        ConfigError: it cannot be written; or the path has other braces.
    """

    def __init__(self, path: str, *, run: str, shard: Shard | None = None) -> None:
        self.path = _filled(path, run, shard)
        self._run, self._shard = run, shard
        self._summary: Summary | None = None
        self._waits = Waits()
        self._is_told = False
        self._is_torn = False
        self._handler = _Handler(self)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_CLOEXEC", 0)
            self._fd = os.open(self.path, flags, 0o666)
        except OSError as error:
            raise ConfigError(
                f"the log file {self.path} cannot be written ({error.strerror}): choose another "
                f"--log-file"
            ) from error

    def __enter__(self) -> Self:
        logging.getLogger().addHandler(self._handler)
        logging.captureWarnings(True)
        return self

    def __exit__(self, *_: object) -> None:
        logging.captureWarnings(False)
        logging.getLogger().removeHandler(self._handler)
        with suppress(OSError):
            os.close(self._fd)

    def write(self, event: str, **fields: Any) -> bool:  # any JSON value
        """Append an event; whether that was possible.  The first time that it is not, a warning."""
        line = {"time": now(), "run": self._run, "event": event, **fields}
        data = (json.dumps(line, default=str) + "\n").encode()
        try:
            written = os.write(self._fd, b"\n" + data if self._is_torn else data)
        except OSError as error:
            self._complain(error.strerror)
            return False
        self._is_torn = written < len(data)
        if self._is_torn:
            self._complain("no space left")
        return not self._is_torn

    def planned(self, plan: "Plan", summary: Summary) -> None:
        """The run's beginning.

        Raises:
            ConfigError: not even that can be written.
        """
        self._summary = summary
        is_told, self._is_told = self._is_told, True
        is_written = self.write(
            "run_started",
            argv=[without_secrets(arg) for arg in sys.argv],
            store=summary.store,
            recipe=summary.recipe,
            shard=None if self._shard is None else str(self._shard),
            host=socket.gethostname(),
            pid=os.getpid(),
            versions=versions(),
            planned=plan.counts(),
        )
        self._is_told = is_told
        if not is_written:
            raise ConfigError(
                f"the log file {self.path} cannot be written (is its disk full?): choose another "
                f"--log-file"
            )

    def begun(self, runner: "Runner") -> None:
        """The model is loaded."""
        self.write("work_started", fingerprint=runner.fingerprint, weights=dict(runner.weights))

    def receipt(self, receipt: Receipt, waits: Waits) -> None:
        """What became of an item."""
        self._waits = waits
        known = {k: v for k, v in asdict(receipt).items() if v not in (None, "")}
        self.write("item", **known)

    def draining(self, signal: str) -> None:
        """The run was asked to stop."""
        self.write("stopping", signal=signal)

    def beat(self) -> None:
        """How far it is."""
        counts = {} if self._summary is None else self._summary.counts()
        self.write("progress", **counts, waits=_rounded(self._waits))

    def ended(self, error: BaseException | None) -> None:
        """The run's end."""
        summary = self._summary
        if error is not None:
            self.write(
                "run_failed",
                exit_code=exit_code(error),
                error=type(error).__name__,
                message=str(error),
                details=cause_of(error).details,
                **({} if summary is None else summary.counts()),
            )
        elif summary is not None:
            self.write(
                "run_finished",
                exit_code=summary.exit_code,
                **summary.counts(),
                seconds=round(summary.seconds, 3),
                waits=summary.waits,
                stopped=summary.stopped,
                interrupted=summary.interrupted,
                missing=summary.missing,
            )

    def _complain(self, why: str | None) -> None:
        if not self._is_told:
            self._is_told = True  # first, as the warning comes here as well
            logging.getLogger(__name__).warning(
                "the log file %s has gaps from here on (%s); the run goes on", self.path, why
            )


class _Handler(logging.Handler):
    """Warnings of Python's logging as events."""

    def __init__(self, log: EventLog) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        try:
            fields = {"level": record.levelname.lower(), "logger": record.name}
            self._log.write("log", **fields, message=record.getMessage())
        except Exception:  # noqa: BLE001  # as logging does with what cannot be formatted
            self.handleError(record)


def _filled(path: str, run: str, shard: Shard | None) -> Path:
    names = {
        "run": run,
        "shard": 0 if shard is None else shard.index,
        "shards": 1 if shard is None else shard.count,
        "host": socket.gethostname(),
        "pid": os.getpid(),
    }
    try:
        return Path(path.format(**names))
    except (KeyError, IndexError, ValueError, AttributeError) as error:
        raise ConfigError(
            f"a log file's name may have {', '.join(f'{{{name}}}' for name in names)} in it, got "
            f"{path!r}: write other braces twice"
        ) from error


def _rounded(waits: Waits) -> dict[str, float]:
    return {name: round(value, 3) for name, value in asdict(waits).items()}
