"""The shared memory itself: one anonymous file as slots, mapped by both processes as they need it.

The file is sparse, so a slot takes as much memory as was written to it.
"""

import mmap
import sys
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

__all__ = ["LEAST_MAP_BYTES", "NUM_SLOTS", "SLOT_BYTES", "Maps"]

NUM_SLOTS = 8
SLOT_BYTES = 1 << 36
"""More than any chunk; only addresses, no memory."""
LEAST_MAP_BYTES = 1 << 20


class Maps:
    """Slots as bytes of this process."""

    def __init__(self, file: int) -> None:
        self._file = file
        self._maps: dict[int, mmap.mmap] = {}

    def view(self, slot: int, num_bytes: int) -> NDArray[np.uint8]:
        """[num_bytes] the beginning of a slot; stays valid for as long as the array lives.

        Raises:
            MemoryError: the system gives no more addresses.
        """
        known = self._maps.get(slot)
        if known is None or len(known) < num_bytes:
            size = max(LEAST_MAP_BYTES, 1 << (num_bytes - 1).bit_length())
            try:
                known = mmap.mmap(self._file, size, offset=slot * SLOT_BYTES)
            except OSError as error:
                raise MemoryError(f"{size} bytes cannot be mapped: {error}") from error
            self._maps[slot] = known
        return np.frombuffer(known, np.uint8, num_bytes)

    def empty(self, slot: int) -> None:
        """Gives the slot's memory back to the system."""
        if sys.platform == "linux" and (known := self._maps.get(slot)) is not None:
            with suppress(OSError):  # not all that calls itself Linux can do it
                known.madvise(mmap.MADV_REMOVE)

    def close(self) -> None:
        """Lets go of all that no array needs."""
        for known in self._maps.values():
            try:
                known.close()
            except BufferError:  # ends with the frames that live there
                continue
        self._maps = {}
