"""How much memory a block takes at its peak."""

import ctypes
import gc
import re
from pathlib import Path
from typing import Self

import torch

__all__ = ["Peak"]


class Peak:
    """Most memory that a block takes beyond what was held before: of the process or the device.

    On the CPU it is the kernel's count (Linux).  What was freed before is given back first, as a
    block that found it there would seem to take nothing.
    """

    def __init__(self, device: str) -> None:
        self._device = device
        self._before = 0.0
        self.mib = 0.0

    def __enter__(self) -> Self:
        gc.collect()
        if self._device == "cpu":
            _give_back()
            Path("/proc/self/clear_refs").write_text("5")
        else:
            torch.cuda.reset_peak_memory_stats()
        self._before = self._highest()
        return self

    def __exit__(self, *_: object) -> None:
        self.mib = self._highest() - self._before

    def _highest(self) -> float:
        if self._device != "cpu":
            return torch.cuda.max_memory_allocated() / 2**20
        found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
        assert found is not None
        return int(found.group(1)) / 1024


def _give_back() -> None:
    """Memory that the C library keeps for later goes back to the kernel, if it is glibc."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
