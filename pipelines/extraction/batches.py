"""Passes of the encoder over chunks of several videos, as large as the device's memory allows."""

import logging
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from vidcomp.api import Prepared
from vidcomp.errors import VidcompError
from vidcomp.types import Frames, VideoTokens

__all__ = ["Batches", "Chunk", "is_out_of_memory", "release_memory"]

_log = logging.getLogger(__name__)


class Chunk(NamedTuple):
    """A chunk that is ready to be encoded."""

    frames: Frames
    keep: Tensor | None
    """Patches to encode; all if ``None``."""


class Batches:
    """Encodes chunks together; what fails together is tried in halves, down to the culprit.

    A device without enough memory is asked for half as much, from then on, unless it lacked the
    memory for a single video only.

    Args:
        max_frames: of one call of the encoder; it makes passes of its own ``batch_size``.
    """

    def __init__(self, max_frames: int) -> None:
        self.max_frames = max_frames
        """Frames that may be encoded together."""

    def encode(self, prepared: Prepared, chunks: Sequence[Chunk]) -> list[VideoTokens | Exception]:
        """Tokens of each chunk, or why it has none.

        Raises:
            VidcompError: the device has failed, whatever it is given.
        """
        if not chunks:
            return []
        encoder = prepared.encoder
        before = self.max_frames, encoder.batch_size
        results = self._encode(prepared, chunks)
        if any(isinstance(r, Exception) and is_out_of_memory(r) for r in results):
            # For such a video no batch is small enough, which tells nothing about the others.
            self.max_frames, encoder.batch_size = before
        elif (self.max_frames, encoder.batch_size) != before:
            _log.warning(
                "the device ran out of memory: from now on at most %d frames are encoded together, "
                "in passes of at most %d",
                self.max_frames,
                encoder.batch_size,
            )
        return results

    def _encode(self, prepared: Prepared, chunks: Sequence[Chunk]) -> list[VideoTokens | Exception]:
        try:
            return [*prepared.encode([c.frames for c in chunks], [c.keep for c in chunks])]
        except Exception as error:  # noqa: BLE001  # told apart below, down to single chunks
            reason = error.with_traceback(None)  # which holds on to what the pass had allocated
        _raise_if_device_failed(reason)
        if is_out_of_memory(reason):
            release_memory()
            if len(chunks) == 1 and not self._shrink_passes(prepared, len(chunks[0].frames)):
                return [reason]
            self._shrink(chunks)
        elif len(chunks) == 1:
            return [reason]
        half = (len(chunks) + 1) // 2
        parts = [chunks] if len(chunks) == 1 else [chunks[:half], chunks[half:]]
        return [result for part in parts for result in self._encode(prepared, part)]

    def _shrink(self, chunks: Sequence[Chunk]) -> None:
        """From now on at most half as many frames together as these."""
        self.max_frames = max(1, min(self.max_frames, sum(len(c.frames) for c in chunks) // 2))

    @staticmethod
    def _shrink_passes(prepared: Prepared, num_frames: int) -> bool:
        """Halve what the encoder ran at once of so many frames; whether that was possible."""
        encoder = prepared.encoder
        num_frames = min(num_frames, encoder.batch_size)
        if num_frames <= encoder.frames_multiple:
            return False
        encoder.batch_size = max(encoder.frames_multiple, num_frames // 2)
        return True


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory was wanting, the device's or this machine's."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and (
        "out of memory" in text or "can't allocate memory" in text or "not enough memory" in text
    )


def release_memory() -> None:
    """Give back what the device's allocator keeps for later."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _raise_if_device_failed(error: Exception) -> None:
    """After such an error a device refuses all work of the process, so no video is to blame."""
    text = str(error)
    if isinstance(error, RuntimeError) and "CUDA error" in text and not is_out_of_memory(error):
        raise VidcompError(
            f"the device has failed ({text.splitlines()[0]}): what was written stays, run the same "
            f"command again to go on"
        ) from error
