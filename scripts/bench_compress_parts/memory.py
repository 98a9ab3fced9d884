"""How much memory a block takes at its peak."""

import re
from pathlib import Path
from typing import Self

import torch

__all__ = ["Peak"]


class Peak:
    """Most memory that a block takes beyond what was held before: of the process or the device.

    On the CPU it is the kernel's count (Linux).
    """

    def __init__(self, device: str) -> None:
        self._device = device
        self._before = 0.0
        self.mib = 0.0

    def __enter__(self) -> Self:
        if self._device == "cpu":
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
