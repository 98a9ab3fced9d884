"""How much of the machine there is, and what happens to who wants more.

Reading more than there is memory for ends in one sentence, as any other failure to read does.
"""

import os
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from vidcomp.errors import StoreError

__all__ = ["num_cores", "total_memory", "within_memory"]

P = ParamSpec("P")
T = TypeVar("T")


def num_cores() -> int:
    """Cores that this process may use, which may be fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def total_memory() -> int:
    """Bytes of memory of this machine; where it does not tell, more than any has."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 1 << 50


def within_memory(read: Callable[P, T]) -> Callable[P, T]:
    """``read``, but what numpy or torch say when memory runs out becomes a StoreError.

    An index may speak of any number of tokens, and a file of any size takes no room on the disk if
    it is mostly holes.
    """

    @wraps(read)
    def call(*args: P.args, **options: P.kwargs) -> T:
        try:
            return read(*args, **options)
        except (MemoryError, RuntimeError) as error:
            if not isinstance(error, MemoryError) and "allocate memory" not in str(error):
                raise
            # No more of the message than this: making it must not need much memory either.
            reason = str(error).splitlines()[0][:120] if str(error) else "out of memory"
            raise StoreError(
                f"cannot read what was asked for, as it takes more memory than there is "
                f"({reason}): read fewer videos or fewer rows at a time, or run verify"
            ) from error

    return call
