"""Threads of this process for reads and writes that may overlap."""

import os
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

__all__ = ["threads"]

_MOST = 32


def threads() -> ThreadPoolExecutor:
    """The process's own: a fork has none of its parent's threads, so it gets others."""
    return _threads_of(os.getpid())


@lru_cache(maxsize=1)
def _threads_of(pid: int) -> ThreadPoolExecutor:  # noqa: ARG001
    return ThreadPoolExecutor(_MOST, thread_name_prefix="vidcomp-store")
