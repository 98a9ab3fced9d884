"""Frames that decode on their own (I-frames), which are the cheapest to seek to.

Their places follow the encoder's settings, and many files have only one or two: so other frames
fill the count unless told not to.

Legend: N frames of the video, K frames asked for.
"""

import torch
from pydantic import Field
from torch import Tensor

from vidcomp.registry import SAMPLERS
from vidcomp.sample._common import Short, count_frames, fit
from vidcomp.sample.base import Sampler, Selection, Timeline
from vidcomp.sample.segments import midpoint_index
from vidcomp.sample.uniform import uniform_index

__all__ = ["Keyframes", "keyframe_index"]


def keyframe_index(is_key: Tensor, count: int, *, fill: bool = True) -> Tensor:
    """K key frames, evenly spaced among them; if there are fewer, all, and others between.

    Args:
        is_key: [N] bool, N at least 1.
        count: K.
        fill: whether the middles of equal runs of the other frames bring the count to K; if not
            (and no frame is a key frame) the first frame stands in.

    Returns:
        [min(K, N)] int64, ascending; without ``fill`` as many as there are key frames.
    """
    key = is_key.nonzero().squeeze(1)
    if len(key) >= count:
        return key[uniform_index(len(key), count, "round")]
    if not fill:
        return key if len(key) else torch.zeros(1, dtype=torch.int64)
    other = (~is_key).nonzero().squeeze(1)
    missing = min(count - len(key), len(other))
    return torch.cat([key, other[midpoint_index(len(other), missing)]]).sort().values


@SAMPLERS.add("keyframes")
class Keyframes(Sampler):
    """``num_frames`` key frames, evenly spaced among them, filled up with other frames."""

    num_frames: int = Field(32, ge=1)
    """Frames to pick; without ``fill`` the most to pick."""
    fill: bool = True
    """Whether frames between fill the count if there are too few key frames."""
    short: Short = "keep"
    """With ``fill``, a shorter video: each frame once, repeated evenly, or the last one."""

    def __call__(self, timeline: Timeline) -> Selection:
        """[num_frames] rows, fewer for a short video that is kept or without ``fill``."""
        total = count_frames(timeline)
        if not self.fill:
            return Selection(keyframe_index(timeline.is_key, self.num_frames, fill=False))

        def index(count: int) -> Tensor:
            if count > total:
                return uniform_index(total, count)
            return keyframe_index(timeline.is_key, count)

        return fit(total, self.num_frames, self.short, index)
