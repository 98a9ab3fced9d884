"""Frames evenly spaced by their number, first and last included.

The rule of LLaVA-NeXT (2024), VideoLLaMA 2 (2024) and AKS (2025), which round down, and of
Qwen2.5-VL (2025), which rounds to nearest.  Both are ``linspace(0, N - 1, K)`` there; here in whole
numbers, so that no float falls just short of one (numpy's does for 1 pair in 100 of N and K).

Legend: N frames of the video, K frames asked for.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from vidcomp.registry import SAMPLERS
from vidcomp.sample._common import Short, count_frames, fit
from vidcomp.sample.base import Sampler, Selection, Timeline

__all__ = ["Rounding", "Uniform", "uniform_index"]

Rounding = Literal["floor", "round"]


def uniform_index(num_frames: int, count: int, rounding: Rounding = "floor") -> Tensor:
    """K frames from the first to the last of N, evenly spaced; K = 1 is the first.

    Args:
        num_frames: N, at least 1.
        count: K; more than N repeats frames.
        rounding: of ``i (N - 1) / (K - 1)``: down, or to nearest and half to even.

    Returns:
        [K] int64, ascending.
    """
    above = torch.arange(count) * (num_frames - 1)
    below = max(1, count - 1)
    whole = above // below
    if rounding == "floor":
        return whole
    twice_rest = 2 * (above - whole * below)
    up = (twice_rest > below) | ((twice_rest == below) & (whole % 2 == 1))
    return whole + up


@SAMPLERS.add("uniform")
class Uniform(Sampler):
    """``num_frames`` frames, evenly spaced, first and last included."""

    num_frames: int = Field(32, ge=1)
    """Frames to pick."""
    rounding: Rounding = "floor"
    """``floor`` as LLaVA, ``round`` as Qwen."""
    short: Short = "keep"
    """A shorter video: each frame once, frames repeated evenly, or the last one repeated."""

    def __call__(self, timeline: Timeline) -> Selection:
        """[num_frames] rows, fewer only for a short video that is kept."""
        total = count_frames(timeline)
        return fit(
            total, self.num_frames, self.short, lambda k: uniform_index(total, k, self.rounding)
        )
