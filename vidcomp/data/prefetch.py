"""Threads that read batches ahead of the trainer, in the order they are asked for."""

import atexit
import os
import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar
from weakref import WeakSet

__all__ = ["Crew", "Task"]

T = TypeVar("T")

_EXIT_TIMEOUT_S = 10.0


class Task(Generic[T]):
    """Something to read, and later what was read or why it could not be."""

    __slots__ = ("_error", "_ready", "_value", "work")

    def __init__(self, work: list[int]) -> None:
        self.work = work
        self._value: T | None = None
        self._error: BaseException | None = None
        self._ready = threading.Lock()
        self._ready.acquire()

    def run(self, read: Callable[[list[int]], T]) -> None:
        """Read it, here and now."""
        try:
            self._value = read(self.work)
        except BaseException as error:  # noqa: BLE001  # raised again where the batch is taken
            self._error = error
        self._ready.release()

    def cancel(self, why: BaseException) -> None:
        """Let who waits for it raise ``why``."""
        self._error = why
        self._ready.release()

    def result(self) -> T:
        """What was read, once it is; only once.

        Raises:
            BaseException: what reading it raised.
        """
        self._ready.acquire()
        if self._error is not None:
            try:
                raise self._error
            finally:
                self._error = None  # it holds this frame, which holds the task
        value, self._value = self._value, None
        return value  # type: ignore[return-value]


class Crew(Generic[T]):
    """A few threads that read; they end with it.

    Args:
        read: reads what a task names; called from all threads.
        num_threads: how many; with 0 the one that submits reads.
    """

    def __init__(self, read: Callable[[list[int]], T], num_threads: int) -> None:
        self.pid = os.getpid()
        self._read = read
        self._queue: SimpleQueue[Task[T] | None] = SimpleQueue()
        # They hold the queue and not the crew, so that the crew dies when its owner does.
        self._threads = [
            threading.Thread(
                target=_work, args=(self._queue, read), name=f"vidcomp-loader-{i}", daemon=True
            )
            for i in range(num_threads)
        ]
        _crews.add(self)
        for thread in self._threads:
            thread.start()
            _running.add(thread)

    def submit(self, work: list[int]) -> Task[T]:
        """Have it read after all that was submitted before."""
        task: Task[T] = Task(work)
        if self._threads:
            self._queue.put(task)
        else:
            task.run(self._read)
        return task

    def close(self, wait_s: float | None = None) -> None:
        """End the threads, each after the batch it is at; what was not begun is not read.

        Args:
            wait_s: wait so long for them; by default until they have ended.
        """
        if self.pid != os.getpid():
            return  # the threads stayed with the parent
        while True:
            try:
                task = self._queue.get_nowait()
            except Empty:
                break
            if task is not None:
                task.cancel(RuntimeError("the loader was closed while a batch was waited for"))
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            if wait_s != 0 and thread is not threading.current_thread():
                thread.join(wait_s)

    def __del__(self) -> None:
        # The collector may call this anywhere, even where a thread waits for what is held here.
        self.close(wait_s=0)


_crews: WeakSet[Crew[Any]] = WeakSet()
_running: WeakSet[threading.Thread] = WeakSet()
"""Also those whose crew is gone while they finish what they were at."""


def _work(queue: "SimpleQueue[Task[T] | None]", read: Callable[[list[int]], T]) -> None:
    while (task := queue.get()) is not None:
        task.run(read)
        del task  # else its batch would live until the next task comes


@atexit.register
def _end_all() -> None:
    """No thread may run into the end of the interpreter: one that is in torch then aborts it."""
    for crew in list(_crews):
        crew.close(wait_s=0)
    until = time.monotonic() + _EXIT_TIMEOUT_S
    for thread in list(_running):
        thread.join(max(0.0, until - time.monotonic()))
