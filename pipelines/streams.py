"""Standard streams that may be missing, as a daemon starts its programs."""

import os
import sys

__all__ = ["fill_missing_streams"]


def fill_missing_streams() -> None:
    """Give descriptors 0 to 2 that the caller closed to nothing at all.

    Else the next file that is opened gets such a number, be it one of a store, and what a library
    prints lands in it; and Python's own printing fails.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one
            os.set_inheritable(number, True)
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, mode, closefd=False))
