"""The decode process's side of shared memory: which slots it may fill, and what it put there."""

import os
import weakref
from collections.abc import Sequence
from itertools import count
from typing import NamedTuple

import torch

from vidcomp.sample.decode._memory import NUM_SLOTS, SLOT_BYTES, Maps

__all__ = ["LentSlots"]


class _Reserved(NamedTuple):
    slot: int
    num_bytes: int
    address: int


class LentSlots:
    """The process's side: fills free slots, the one used last first, as its memory is at hand."""

    def __init__(self, file: int) -> None:
        """Takes the program's descriptor over."""
        os.set_inheritable(file, False)
        self._maps = Maps(file)
        self._free = list(range(NUM_SLOTS))
        self._held = dict.fromkeys(self._free, 0)  # bytes that a slot takes of the memory
        self._most_bytes = SLOT_BYTES
        self._reserved: dict[int, _Reserved] = {}
        self._numbers = count()

    @property
    def has_free(self) -> bool:
        """A slot can be filled."""
        return bool(self._free)

    @property
    def reserved_bytes(self) -> int:
        """Pixels that are being written."""
        return sum(each.num_bytes for each in self._reserved.values())

    def reserve(self, num_bytes: int) -> torch.Tensor:
        """[num_bytes] uint8 of a free slot; free again if its memory is let go of unsent."""
        slot = self._free.pop()
        if self._held[slot] > max(num_bytes, self._most_bytes):
            self._empty(slot)
        self._held[slot] = max(self._held[slot], num_bytes)
        array = self._maps.view(slot, num_bytes)
        pixels = torch.from_numpy(array)
        number = next(self._numbers)
        self._reserved[number] = _Reserved(slot, num_bytes, pixels.data_ptr())
        weakref.finalize(array, self._forget, number).atexit = False
        return pixels

    def holds(self, pixels: torch.Tensor) -> bool:
        """The pixels lie in a slot, row by row."""
        return self._place(pixels) is not None

    def send(self, pixels: torch.Tensor) -> int:
        """The slot that holds these pixels; they are copied to a free one if they lie elsewhere."""
        number = self._place(pixels)
        if number is not None:
            return self._reserved.pop(number).slot
        copy = self.reserve(pixels.numel())
        copy.view(pixels.shape).copy_(pixels)
        return self.send(copy)

    def add_free(self, slots: Sequence[int]) -> None:
        """Slots that came back."""
        self._free += slots

    def trim(self, most_bytes: int) -> None:
        """Empties slots that hold more than that: free ones now, others before they are filled."""
        self._most_bytes = most_bytes
        for slot in self._free:
            if self._held[slot] > most_bytes:
                self._empty(slot)

    def _empty(self, slot: int) -> None:
        self._maps.empty(slot)
        self._held[slot] = 0

    def _place(self, pixels: torch.Tensor) -> int | None:
        address, num_bytes = pixels.data_ptr(), pixels.numel()
        for number, each in self._reserved.items():
            if (each.address, each.num_bytes) == (address, num_bytes) and pixels.is_contiguous():
                return number
        return None

    def _forget(self, number: int) -> None:
        if (each := self._reserved.pop(number, None)) is not None:
            self._free.append(each.slot)
