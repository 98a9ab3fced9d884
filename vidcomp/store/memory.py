"""Memory that batches are read into, used again once nobody looks at the batch any more.

Fresh memory costs a page fault every 4 KiB, which takes about as long as reading the bytes.
"""

import weakref
from collections import deque
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vidcomp.store.disk.format import ALIGN

__all__ = ["Memory"]

_SMALL = 16 << 10
_PAGE = 4096
_MOST = 32


class Memory:
    """Hands out tensors of bytes and takes their memory back when the last view of them is gone.

    A batch that somebody keeps is never written to.  Safe with threads.

    Args:
        pin: page-locked memory, which a GPU copies from without waiting; torch's own allocator
            keeps and reuses it, also for copies that are still under way.
        keep_bytes: unused memory kept at most.

    Raises:
        ConfigError: ``pin`` without a GPU that torch could pin memory for.
    """

    def __init__(self, *, pin: bool = False, keep_bytes: int = 256 << 20) -> None:
        self._pin, self._keep_bytes = pin, keep_bytes
        self._free: deque[npt.NDArray[np.uint8]] = deque()  # atomic, so no lock is needed
        if pin and not torch.cuda.is_available():
            from vidcomp.errors import ConfigError

            raise ConfigError(
                "memory is pinned for a CUDA device, and torch sees none: pass pin_memory=False"
            )

    def take(self, sizes: Sequence[int]) -> list[Tensor]:
        """Tensors of so many bytes each, [size] uint8, with any content, aligned to 64 bytes."""
        starts, total = [], 0
        for size in sizes:
            starts.append(total)
            total += size + -size % ALIGN
        if self._pin:
            flat = torch.empty(total, dtype=torch.uint8, pin_memory=True)
            return [flat[a : a + size] for a, size in zip(starts, sizes, strict=True)]
        block = self._lease(total) if total >= _SMALL else np.empty(total, np.uint8)
        # Each tensor is a storage of its own, so that one can be saved alone.
        return [
            torch.frombuffer(block, dtype=torch.uint8, count=size, offset=a)
            if size
            else torch.empty(0, dtype=torch.uint8)
            for a, size in zip(starts, sizes, strict=True)
        ]

    def __reduce__(self) -> tuple[object, ...]:
        return _make, (self._pin, self._keep_bytes)

    def _lease(self, nbytes: int) -> npt.NDArray[np.uint8]:
        """A view whose death gives its memory back; torch holds it while a tensor needs it."""
        whole = self._reuse(nbytes)
        if whole is None:
            whole = np.empty(nbytes + -nbytes % _PAGE, np.uint8)
        lease = whole[:nbytes]
        weakref.finalize(lease, self._give_back, whole).atexit = False
        return lease

    def _reuse(self, nbytes: int) -> npt.NDArray[np.uint8] | None:
        for _ in range(len(self._free)):
            try:
                block = self._free.pop()  # the one used last may still be in the processor's cache
            except IndexError:
                return None  # another thread was faster
            if nbytes <= len(block) <= max(4 * nbytes, 64 * _SMALL):
                return block
            self._free.appendleft(block)
        return None

    def _give_back(self, block: npt.NDArray[np.uint8]) -> None:
        self._free.append(block)
        while len(self._free) > _MOST or sum(map(len, list(self._free))) > self._keep_bytes:
            try:
                self._free.popleft()
            except IndexError:
                return


def _make(pin: bool, keep_bytes: int) -> Memory:
    return Memory(pin=pin, keep_bytes=keep_bytes)
