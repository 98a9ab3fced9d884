"""Frames at a steady rate of real time.

Other code steps through frame numbers by ``round(average fps / fps)`` (LLaVA-Video, LongVU, 2024),
which fails for rates above the video's and drifts where the frame rate varies.  Here a time grid is
laid over the presentation times and each point takes the frame shown at that moment.

Legend: N frames of the video, K frames picked, j counts the points of the time grid.
"""

import math
from typing import Literal, Self

from pydantic import Field, model_validator
from torch import Tensor

from vidcomp.registry import SAMPLERS
from vidcomp.sample._common import TOLERANCE_S, Short, count_frames, fit, shown_at
from vidcomp.sample.base import Sampler, Selection, Timeline
from vidcomp.sample.uniform import uniform_index

__all__ = ["Fps", "fps_index"]

_MOST_FPS = 1e6


def fps_index(
    pts_s: Tensor, start_s: float, end_s: float, fps: float, *, offset: float = 0.0
) -> Tensor:
    """Each frame shown at ``start_s + (j + offset) / fps``, once, for all j before the end.

    Args:
        pts_s: [N] float64 seconds, ascending, N at least 1.
        start_s: where the grid starts, not before the first frame.
        end_s: end of the last frame.
        fps: points a second; the work depends on N only.
        offset: 0 starts with the first frame, 0.5 takes the middle of each interval.

    Returns:
        [K] int64, strictly ascending, 1 <= K <= N; the frame in the middle of a video that ends
        before the first point.
    """
    elapsed_s = pts_s - start_s
    seconds = end_s - start_s
    num_points = math.ceil((seconds - TOLERANCE_S) * fps - offset)
    if num_points < 1:
        return shown_at(elapsed_s, elapsed_s.new_tensor([seconds / 2]))
    # The first point that sees each frame; a frame is picked if the next one's is another.
    first_N = ((elapsed_s - TOLERANCE_S) * fps - offset).ceil().clamp(0, num_points)
    end = first_N.new_tensor([num_points])
    return (first_N.diff(append=end) > 0).nonzero().squeeze(1)


@SAMPLERS.add("fps")
class Fps(Sampler):
    """One frame every ``1 / fps`` seconds of presentation time, between two bounds."""

    fps: float = Field(1.0, gt=0, le=_MOST_FPS)
    """Frames a second; above the video's own rate every frame is taken once."""
    by_length: tuple[tuple[float, float], ...] | None = Field(None, min_length=1)
    """Other rates for shorter videos: pairs (seconds, frames a second), ascending, of which the
    first with at least the video's length counts (GLM-4.6V looks closer at short ones)."""
    max_frames: int | None = Field(None, ge=1)
    """If there were more, this many of them, evenly spaced, first and last included."""
    min_frames: int = Field(1, ge=1)
    """If there were fewer, this many of all frames, evenly spaced."""
    point: Literal["start", "middle"] = "start"
    """The frame shown at the start or in the middle of each interval of ``1 / fps`` seconds."""
    short: Short = "keep"
    """A video with less than ``min_frames``: each frame once, repeated evenly, or the last one."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.max_frames is not None and self.max_frames < self.min_frames:
            raise ValueError(
                f"max_frames must be at least min_frames={self.min_frames}, got "
                f"{self.max_frames}: raise it"
            )
        pairs = self.by_length or ()
        lengths = [seconds for seconds, _ in pairs]
        if lengths != sorted(set(lengths)) or not all(0 < fps <= _MOST_FPS for _, fps in pairs):
            raise ValueError(
                f"by_length is pairs of ascending lengths and rates above 0, got {pairs}: sort it"
            )
        return self

    def rate(self, seconds: float) -> float:
        """Frames a second for a video of that length."""
        pairs = self.by_length or ()
        return next((fps for most, fps in pairs if seconds <= most), self.fps)

    def __call__(self, timeline: Timeline) -> Selection:
        """[K] rows, strictly ascending unless ``short`` repeats."""
        total = count_frames(timeline)
        offset = 0.0 if self.point == "start" else 0.5
        fps = self.rate(timeline.seconds)
        picked = fps_index(timeline.pts_s, timeline.origin_s, timeline.end_s, fps, offset=offset)
        if len(picked) < self.min_frames:
            return fit(total, self.min_frames, self.short, lambda k: uniform_index(total, k))
        if self.max_frames is not None and len(picked) > self.max_frames:
            picked = picked[uniform_index(len(picked), self.max_frames)]
        return Selection(picked)
