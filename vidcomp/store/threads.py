"""Threads of this process for reads and writes that may overlap."""

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from typing import ParamSpec, TypeVar

__all__ = ["threads"]

_MOST = 32

P = ParamSpec("P")
T = TypeVar("T")


class _Threads(ThreadPoolExecutor):
    """Takes work even when the interpreter is ending, and does it in the thread that asks.

    Python ends these threads before it waits for those of the program, which may read on.
    """

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        try:
            return super().submit(fn, *args, **kwargs)
        except RuntimeError as error:
            if "cannot schedule" not in str(error):  # others come after the work was taken
                raise
        future: Future[T] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001  # whoever waits for the future gets it
            future.set_exception(error)
        return future


def threads() -> ThreadPoolExecutor:
    """The process's own: a fork has none of its parent's threads, so it gets others."""
    return _threads_of(os.getpid())


@lru_cache(maxsize=1)
def _threads_of(pid: int) -> ThreadPoolExecutor:  # noqa: ARG001
    return _Threads(_MOST, thread_name_prefix="vidcomp-store")
