"""What runs between the threads of a job: a queue bounded by bytes, and a writer."""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from queue import Queue
from typing import Generic, Protocol, TypeVar

__all__ = ["ByteQueue", "Sized", "WriterThread"]


class Sized(Protocol):
    """Something that knows how many bytes it holds."""

    @property
    def num_bytes(self) -> int:
        """Bytes of its data."""


E = TypeVar("E", bound=Sized)
S = TypeVar("S")
T = TypeVar("T")


class ByteQueue(Generic[E]):
    """A queue bounded by the bytes it holds; one oversized entry may always enter."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit, self._held = limit_bytes, 0
        self._events: deque[E] = deque()
        self._changed = threading.Condition()
        self.closed = False

    def put(self, event: E) -> bool:
        """Wait for room; ``False`` if the queue was closed instead."""
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    self.closed or self._held == 0 or self._held + event.num_bytes <= self._limit
                )
            )
            if self.closed:
                return False
            self._events.append(event)
            self._held += event.num_bytes
            self._changed.notify_all()
            return True

    def get(self, patience_s: float = 0.0) -> E | None:
        """The next event; ``None`` if none comes within ``patience_s`` seconds."""
        with self._changed:
            if patience_s and not self._events:
                self._changed.wait_for(lambda: self._events or self.closed, patience_s)
            if not self._events:
                return None
            event = self._events.popleft()
            self._held -= event.num_bytes
            self._changed.notify_all()
            return event

    @property
    def is_over(self) -> bool:
        """Whether it is empty and nothing more will come."""
        return self.closed and not self._events

    def close(self) -> None:
        """Nothing more goes in; what waits is woken."""
        with self._changed:
            self.closed = True
            self._changed.notify_all()


class WriterThread(threading.Thread, Generic[S, T]):
    """Finishes and writes what it is given in order; its first error is raised in the run's own
    thread.
    """

    def __init__(self, write: Callable[[S], T]) -> None:
        super().__init__(daemon=True)
        self._write = write
        # Few: what waits is not compressed yet.
        self._todo: Queue[S | None] = Queue(maxsize=4)
        self._written: deque[T] = deque()
        self._error: BaseException | None = None
        self._abandoned = False

    def run(self) -> None:
        """Write until there is nothing more to come."""
        while (done := self._todo.get()) is not None:
            if self._error is None and not self._abandoned:
                try:
                    self._written.append(self._write(done))
                except BaseException as error:  # noqa: BLE001  # raised again in `outcomes`
                    self._error = error

    def put(self, done: S) -> None:
        """Hand over something to write; waits while the writer is far behind."""
        self._todo.put(done)

    def outcomes(self) -> Iterator[T]:
        """What became of all that was written since the last call.

        Raises:
            StoreError: a write failed; everything written before it stays.
        """
        while self._written:
            yield self._written.popleft()
        if self._error is not None:
            raise self._error

    def finish(self) -> None:
        """Wait until everything handed over is written."""
        self._todo.put(None)
        self.join()

    def abandon(self) -> None:
        """Write nothing more."""
        self._abandoned = True
        if self.is_alive():
            self._todo.put(None)
