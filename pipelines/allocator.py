"""The C library's allocator, told to keep no more memory than is in use."""

import ctypes
import sys

__all__ = ["keep_little"]

# Parameters of glibc's mallopt.
_MMAP_THRESHOLD, _MOST_ARENAS = -3, -8
_LARGE_BYTES = 4 << 20


def keep_little() -> None:
    """Large blocks go back to the system when they are freed, and threads share two heaps.

    By default glibc raises the size of a large block with use, up to 32 MiB, and gives each thread
    a heap: pixels and tokens of ever other sizes, freed in another thread than they came from, then
    leave gaps that add up to some 70 MB.  To be called before threads are started; nothing happens
    where the C library is another.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _LARGE_BYTES)
        mallopt(_MOST_ARENAS, 2)
