"""One thread for the model, and the questions that wait for it.

A question whose client has gone leaves the queue, or is stopped after the token under way.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from vidcomp.errors import VidcompError

from .limits import RefusedError

__all__ = ["Job", "ModelThread"]

Event = Any  # what the work of a job yields

_END = object()


class Job:
    """Work of the model for one client, read event by event in the client's own event loop.

    Args:
        work: yields events; it is closed when nobody wants them any more.
    """

    def __init__(self, work: Callable[[], Iterator[Event]]) -> None:
        self.work = work
        self.cancelled = threading.Event()
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Event] = asyncio.Queue()

    def put(self, event: Event) -> None:
        """Hand an event over, from any thread."""
        try:
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)
        except RuntimeError:  # the loop is closed: nobody waits
            self.cancelled.set()

    def end(self) -> None:
        """There is nothing more."""
        self.put(_END)

    async def next(self, timeout_s: float) -> tuple[bool, Event]:
        """(whether it has ended, the next event or ``None`` if there is none in that time).

        Raises:
            VidcompError: what the work raised.
        """
        try:
            event = await asyncio.wait_for(self._events.get(), timeout_s)
        except TimeoutError:
            return False, None
        if isinstance(event, BaseException):
            raise event
        return (True, None) if event is _END else (False, event)


class ModelThread:
    """Does one job after another.

    Args:
        waiting: most jobs that wait.
    """

    def __init__(self, waiting: int) -> None:
        self._most = waiting
        self._jobs: deque[Job] = deque()
        self._change = threading.Condition()
        self._now: Job | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Let a job wait for its turn.

        Raises:
            RefusedError: too many wait, or the server is about to stop.
        """
        with self._change:
            if self._closed:
                raise RefusedError(
                    "the server is stopping: ask again later", status=503, code="stopping"
                )
            if len(self._jobs) >= self._most:
                raise RefusedError(
                    f"{self._most} questions wait for the model already: ask again in a moment",
                    status=429,
                    code="queue_full",
                )
            self._jobs.append(job)
            self._change.notify()

    def cancel(self, job: Job) -> None:
        """Nobody wants the job any more."""
        job.cancelled.set()
        with self._change:
            if job in self._jobs:
                self._jobs.remove(job)

    @property
    def num_waiting(self) -> int:
        """Jobs that wait for their turn."""
        return len(self._jobs)

    @property
    def is_busy(self) -> bool:
        """Whether a job is done right now."""
        return self._now is not None

    def close(self, timeout_s: float = 30.0) -> None:
        """Stop after the token under way; jobs that wait are told."""
        with self._change:
            self._closed = True
            left = list(self._jobs)
            self._jobs.clear()
            if self._now is not None:
                self._now.cancelled.set()
            self._change.notify()
        for job in left:
            job.put(
                RefusedError("the server is stopping: ask again later", status=503, code="stopping")
            )
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while True:
            with self._change:
                self._change.wait_for(lambda: bool(self._jobs) or self._closed)
                if self._closed:
                    return
                self._now = self._jobs.popleft()
            try:
                _do(self._now)
            finally:
                self._now = None


def _do(job: Job) -> None:
    events: Iterator[Event] = iter(())
    try:
        if not job.cancelled.is_set():
            events = job.work()
            for event in events:
                job.put(event)
                if job.cancelled.is_set():
                    break
        job.end()
    except VidcompError as error:
        job.put(error)
    except Exception as error:  # noqa: BLE001  # one question must not end the thread
        job.put(_fault(error))
    finally:
        close = getattr(events, "close", None)
        if close is not None:
            close()


def _fault(error: Exception) -> RefusedError:
    """Our own mistake, or the machine's: the client learns its kind only."""
    import logging

    logging.getLogger("vidcomp.serve").error("a question failed", exc_info=error)
    return RefusedError(
        f"the model could not answer ({type(error).__name__}): see the server's log",
        status=500,
        code="internal_error",
    )
