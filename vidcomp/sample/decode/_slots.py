"""Memory that a program and its decode process share, so that pixels are not sent but stay.

One anonymous file holds a few slots, each large enough for any chunk.  Nobody can name the file, so
nothing is left behind whoever is killed, and its size is sealed, so a process that a video took
over cannot make the program fault.  The program lends slots to whoever receives frames; a slot
comes back when the last reference to its pixels is gone, in whatever thread that happens.
"""

import mmap
import os
import sys
import weakref
from collections import deque

import torch

from vidcomp.sample.decode._memory import LEAST_MAP_BYTES, NUM_SLOTS, SLOT_BYTES, Maps

__all__ = ["OwnSlots", "SlotError", "open_slots"]

# Left to the process however many frames the program keeps: one to be written, one to be read.
_NUM_HELD_BACK = 2
_LENT_BYTES = 256 << 20
_LARGE_BYTES = 32 << 20

_all_slots: "weakref.WeakSet[OwnSlots]" = weakref.WeakSet()


class SlotError(Exception):
    """A slot that does not exist, is not the process's to fill, or is too small."""


def open_slots() -> "OwnSlots | None":
    """Shared memory where the system has it (Linux, unless limits forbid it), else ``None``."""
    if sys.platform != "linux" or sys.maxsize < 1 << 32:
        return None
    import fcntl

    try:
        file = os.memfd_create("vidcomp-frames", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    except OSError:
        return None
    try:
        os.ftruncate(file, NUM_SLOTS * SLOT_BYTES)
        seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
        fcntl.fcntl(file, fcntl.F_ADD_SEALS, seals)
        mmap.mmap(file, LEAST_MAP_BYTES).close()
    except OSError:  # such as a limit on the size of files
        os.close(file)
        return None
    return OwnSlots(file)


class OwnSlots:
    """The program's side: lends what the process has filled, and knows what came back.

    Used by one thread at a time; only pixels may be let go of in any thread.
    """

    def __init__(self, file: int) -> None:
        self.file = file
        """Descriptor, to be inherited by the process."""
        self._maps = Maps(file)
        self._filling = set(range(NUM_SLOTS))  # the process may write to these
        self._lent: dict[int, int] = {}  # bytes of those that frames live in
        self._back: deque[int] = deque()  # free again; any thread may append
        self._free: list[int] = []  # not yet told
        self._worn: set[int] = set()
        self._sizes = dict.fromkeys(range(NUM_SLOTS), 0)  # bytes that the process put there last
        self._is_resting = False
        _all_slots.add(self)

    @property
    def is_worn(self) -> bool:
        """Some slots can never be used again."""
        return bool(self._worn)

    def take(self, slot: int, num_bytes: int) -> torch.Tensor:
        """[num_bytes] uint8 what the process has written to a slot.

        The slot itself, lent until the last reference is gone; a copy if too much is lent already,
        so that the process never waits for frames that somebody keeps.

        Raises:
            SlotError: the process cannot have filled that slot.
        """
        self._check(slot, num_bytes)
        self._collect()
        self._sizes[slot] = num_bytes
        array = self._maps.view(slot, num_bytes)
        pixels = torch.from_numpy(array)
        if not self._may_lend(num_bytes):
            pixels = pixels.clone()
            self.put_back(slot)
            return pixels
        self._filling.discard(slot)
        self._lent[slot] = num_bytes
        # The tensor's memory holds the array, so it goes with the last view of that memory.
        weakref.finalize(array, self._come_back, slot).atexit = False
        return pixels

    def put_back(self, slot: int) -> None:
        """What is in a slot is not wanted.

        Raises:
            SlotError: the process cannot have filled that slot.
        """
        self._check(slot, 1)
        self._filling.discard(slot)
        self._back.append(slot)

    def free(self) -> list[int]:
        """Slots that the process may fill again, each told once."""
        self._is_resting = False
        self._collect()
        slots, self._free = self._free, []
        self._filling.update(slots)
        return slots

    def rest(self) -> None:
        """Holds no large memory, as it may be long until the process is told of free slots."""
        self._is_resting = True
        self._collect()
        for slot in self._free:
            self._empty_if_large(slot)

    def wear_out_lent(self) -> None:
        """Never reuses what is lent now: a forked copy of the program may look at it for ever."""
        # Called in whatever thread forks: copies that nothing can interrupt.
        self._worn.update(set(self._lent).difference(self._back.copy()))

    def close(self) -> None:
        """Lets go of the memory; that of frames that live on goes with them."""
        self._maps.close()
        os.close(self.file)

    def _come_back(self, slot: int) -> None:
        if self._is_resting:
            self._empty_if_large(slot)
        self._back.append(slot)

    def _empty_if_large(self, slot: int) -> None:
        if self._sizes[slot] > _LARGE_BYTES:
            self._maps.empty(slot)

    def _check(self, slot: int, num_bytes: int) -> None:
        if type(slot) is not int or slot not in self._filling or not 0 < num_bytes <= SLOT_BYTES:
            raise SlotError(f"slot {slot!r:.100} that cannot hold {num_bytes} bytes now")

    def _collect(self) -> None:
        while self._back:
            slot = self._back.popleft()
            self._lent.pop(slot, None)
            if slot not in self._worn:
                self._free.append(slot)

    def _may_lend(self, num_bytes: int) -> bool:
        num_busy = len(self._worn | self._lent.keys())
        is_small = sum(self._lent.values()) + num_bytes <= _LENT_BYTES
        # Who goes through frames in a loop still holds the last ones when the next come.
        is_room = is_small or len(self._lent) < 2
        return num_busy < NUM_SLOTS - _NUM_HELD_BACK and is_room


def _wear_out() -> None:
    for slots in list(_all_slots):
        slots.wear_out_lent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_wear_out)
