"""Qwen's even number of frames: ``smart_nframes`` of qwen_vl_utils (Qwen2-VL, 2024).

Two frames share one row of tokens there, so counts are multiples of two.  The original refuses
videos of one frame and fixed counts above the video's length; here ``short`` says what happens.

Legend: N frames of the video, K frames asked for.
"""

import math
from typing import Self

from pydantic import Field, model_validator

from vidcomp.registry import SAMPLERS
from vidcomp.sample._common import Short, count_frames, fit
from vidcomp.sample.base import Sampler, Selection, Timeline
from vidcomp.sample.uniform import uniform_index

__all__ = ["SmartNFrames", "smart_num_frames"]


def smart_num_frames(
    num_frames: int,
    seconds: float,
    *,
    fps: float = 2.0,
    min_frames: int = 4,
    max_frames: int = 768,
    factor: int = 2,
) -> int:
    """A multiple of ``factor`` near ``seconds * fps``, within the bounds and N.

    Bounds are brought to multiples first: the lower one up, the upper one down.

    Returns:
        At least ``factor``, even if N is less.
    """
    low = math.ceil(min_frames / factor) * factor
    high = min(max_frames, num_frames) // factor * factor
    wish = min(max(seconds * fps, low), high, num_frames)
    # seconds * fps may fall short of a whole number by its last digits
    return max(factor, math.floor(wish / factor + 1e-9) * factor)


@SAMPLERS.add("smart_nframes")
class SmartNFrames(Sampler):
    """Frames at a rate, their count a multiple of ``factor``, evenly spaced by number."""

    fps: float = Field(2.0, gt=0, le=1e6)
    """Frames a second, before rounding and bounds."""
    num_frames: int | None = Field(None, ge=1)
    """A fixed count instead, brought to the nearest multiple, half to even."""
    min_frames: int = Field(4, ge=1)
    """Lower bound, rounded up to a multiple; the video's length is stronger."""
    max_frames: int = Field(768, ge=1)
    """Upper bound, rounded down to a multiple."""
    factor: int = Field(2, ge=1)
    """Frames that share a row of tokens."""
    short: Short = "pad"
    """A video with fewer frames than asked for: ``keep`` rounds its length down to a multiple (if
    it has one), ``repeat`` repeats frames evenly, ``pad`` the last one."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        low = math.ceil(self.min_frames / self.factor) * self.factor
        if self.max_frames < low:
            raise ValueError(
                f"max_frames must be at least {low}, the first multiple of factor={self.factor} "
                f"from min_frames={self.min_frames}, got {self.max_frames}: raise it"
            )
        return self

    def __call__(self, timeline: Timeline) -> Selection:
        """[K] rows, K a multiple of ``factor`` unless a shorter video is kept."""
        total = count_frames(timeline)
        count = self._count(total, timeline.seconds)
        if count > total >= self.factor and self.short == "keep":
            count = total // self.factor * self.factor
        return fit(total, count, self.short, lambda k: uniform_index(total, k, "round"))

    def _count(self, total: int, seconds: float) -> int:
        if self.num_frames is not None:
            return max(1, round(self.num_frames / self.factor)) * self.factor
        return smart_num_frames(
            total,
            seconds,
            fps=self.fps,
            min_frames=self.min_frames,
            max_frames=self.max_frames,
            factor=self.factor,
        )
