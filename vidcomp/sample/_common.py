"""What several samplers share: short videos, and random numbers that belong to a video.

Legend: N frames of the video, K frames asked for, J points in time.
"""

import hashlib
from collections.abc import Callable
from random import Random
from typing import Literal

import torch
from torch import Tensor

from vidcomp.errors import DecodeError
from vidcomp.sample.base import Selection, Timeline

__all__ = ["TOLERANCE_S", "Short", "count_frames", "fit", "generator", "shown_at"]

Short = Literal["keep", "repeat", "pad"]
"""What happens when fewer frames exist than are asked for."""

TOLERANCE_S = 1e-6
"""Times nearer than this are equal: floats differ by less, the ticks of any container by more."""


def count_frames(timeline: Timeline) -> int:
    """N, at least 1.

    Raises:
        DecodeError: the timeline is empty.
    """
    if not len(timeline):
        raise DecodeError(
            "a sampler picks from at least one frame, the video or time range has none: check its "
            "start and end"
        )
    return len(timeline)


def fit(num_frames: int, count: int, short: Short, index: Callable[[int], Tensor]) -> Selection:
    """``index(count)`` where the video has that many frames, else what ``short`` says.

    Args:
        num_frames: N.
        count: K, at least 1.
        short: ``keep`` returns each of the N frames once; ``repeat`` calls ``index(count)`` all
            the same, which must then repeat frames; ``pad`` repeats the last one and says so.
        index: K to [K] int64, ascending, in 0..N - 1.
    """
    if count <= num_frames or short == "repeat":
        return Selection(index(count))
    every = torch.arange(num_frames)
    if short == "keep":
        return Selection(every)
    missing = count - num_frames
    return Selection(torch.cat([every, every[-1:].expand(missing)]), num_padded=missing)


def shown_at(pts_s: Tensor, time_s: Tensor) -> Tensor:
    """The frame on screen at each time: the last that has begun, the first before any has.

    Args:
        pts_s: [N] float64, ascending, N at least 1.
        time_s: [J] float64.

    Returns:
        [J] int64 rows of ``pts_s``.
    """
    begun = torch.searchsorted(pts_s.contiguous(), time_s + TOLERANCE_S, right=True)
    return (begun - 1).clamp(min=0)


def generator(seed: int, timeline: Timeline) -> Random:
    """Random numbers fixed by ``seed`` and the times of the frames.

    The same video draws the same numbers wherever it lies and whatever decodes it; videos that
    differ in length or rate draw others.
    """
    elapsed_s = timeline.pts_s - timeline.pts_s[:1]
    # Whole milliseconds, so that another decoder's last digits change nothing; the odd shift keeps
    # the usual frame rates away from the edges between two of them.
    ticks = (elapsed_s * 1000 + 0.137).floor().long()
    text = f"{seed}:{ticks.tolist()}"
    return Random(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big"))
