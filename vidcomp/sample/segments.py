"""One frame from each of K equal parts of the video.

Temporal Segment Networks (2016), in the form of mmaction2's ``SampleFrames`` with clips of one
frame: the middle of each part for testing, a random frame of each part for training.

Legend: N frames of the video, K parts.
"""

from itertools import pairwise
from random import Random

import torch
from pydantic import Field
from torch import Tensor

from vidcomp.registry import SAMPLERS
from vidcomp.sample._common import Short, count_frames, fit, generator
from vidcomp.sample.base import Sampler, Selection, Timeline

__all__ = ["SegmentMidpoint", "TsnJitter", "jitter_index", "midpoint_index"]


def midpoint_index(num_frames: int, count: int) -> Tensor:
    """``floor((i + 0.5) N / K)``: the middle of each of K equal parts.

    Args:
        num_frames: N, at least 1.
        count: K; more than N repeats frames.

    Returns:
        [K] int64, ascending.
    """
    return (2 * torch.arange(count) + 1) * num_frames // max(1, 2 * count)


def jitter_index(num_frames: int, count: int, random: Random, *, tail: bool = False) -> Tensor:
    """A random frame of each of K equal parts.

    Parts have ``N // K`` frames, so up to K - 1 frames at the end are never seen; with ``tail``
    they have ``N / K`` and reach the end.  If N < K frames repeat without chance, at
    ``round(i N / K)``, half to even; the original wraps what lies past the end to the first frame,
    here it is the last.

    Returns:
        [K] int64, ascending.
    """
    if num_frames < count:
        places = [min(round(i * num_frames / count), num_frames - 1) for i in range(count)]
    elif tail:
        edges = [i * num_frames // count for i in range(count + 1)]
        places = [random.randrange(a, b) for a, b in pairwise(edges)]
    else:
        size = num_frames // count
        places = [i * size + random.randrange(size) for i in range(count)]
    return torch.tensor(places)


@SAMPLERS.add("segment_midpoint")
class SegmentMidpoint(Sampler):
    """The middle frame of each of ``num_frames`` equal parts."""

    num_frames: int = Field(32, ge=1)
    """Parts, and frames to pick."""
    short: Short = "keep"
    """A shorter video: each frame once, frames repeated evenly, or the last one repeated."""

    def __call__(self, timeline: Timeline) -> Selection:
        """[num_frames] rows, fewer only for a short video that is kept."""
        total = count_frames(timeline)
        return fit(total, self.num_frames, self.short, lambda k: midpoint_index(total, k))


@SAMPLERS.add("tsn_jitter")
class TsnJitter(Sampler):
    """A random frame of each of ``num_frames`` equal parts, fixed by seed and video."""

    num_frames: int = Field(32, ge=1)
    """Parts, and frames to pick."""
    seed: int = 0
    """Another seed, other frames; the same seed and video, the same frames."""
    tail: bool = False
    """Let the parts reach the end of the video (mmaction2's ``keep_tail_frames``)."""
    short: Short = "keep"
    """A shorter video: each frame once, frames repeated evenly, or the last one repeated."""

    def __call__(self, timeline: Timeline) -> Selection:
        """[num_frames] rows, fewer only for a short video that is kept."""
        total = count_frames(timeline)
        random = generator(self.seed, timeline)
        return fit(
            total,
            self.num_frames,
            self.short,
            lambda k: jitter_index(total, k, random, tail=self.tail),
        )
