"""Clips of a fixed length in seconds, each sampled evenly: what clip encoders are fed with.

The three clip samplers of pytorchvideo (2021), in exact fractions.  We differ where it is not
right: clips are half-open, so the frame at the end of one clip is not in it too; the constant
sampler spreads its starts over ``n - 1`` steps and reaches the end, as pytorchvideo's main branch
does and its release 0.1.5 does not.  Random starts are sorted.

A video shorter than a clip gives one clip of all its frames.

Legend: N frames of the video, M clips, F frames a clip.
"""

from abc import abstractmethod
from collections.abc import Sequence
from fractions import Fraction
from random import Random
from typing import NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from vidcomp.registry import SAMPLERS
from vidcomp.sample._common import TOLERANCE_S, Short, count_frames, fit, generator, shown_at
from vidcomp.sample.base import Sampler, Selection, Timeline
from vidcomp.sample.uniform import uniform_index

__all__ = [
    "Clip",
    "ClipsConstant",
    "ClipsRandom",
    "ClipsUniform",
    "clip_frames",
    "constant_clips",
    "random_clips",
    "uniform_clips",
]

Seconds = float | Fraction
_EPSILON = Fraction(1, 1_000_000)


class Clip(NamedTuple):
    """[start, stop) seconds after the start of the video or time range."""

    start_s: Fraction
    stop_s: Fraction


def uniform_clips(
    seconds: Seconds, clip_s: Seconds, stride_s: Seconds | None = None, *, backpad: bool = False
) -> list[Clip]:
    """A clip every ``stride_s`` seconds, as many as end before the video does, at least one.

    Args:
        seconds: length of the video.
        clip_s: length of a clip.
        stride_s: from start to start; ``None``: clip after clip.
        backpad: if a rest is left, one more clip that ends with the video.
    """
    total, clip = Fraction(seconds), Fraction(clip_s)
    stride = clip if stride_s is None else Fraction(stride_s)
    steps = max(0, (total + _EPSILON - clip) // stride)
    clips = [Clip(i * stride, i * stride + clip) for i in range(steps + 1)]
    if backpad and clips[-1].stop_s < total - _EPSILON:
        clips.append(Clip(total - clip, total))
    return clips


def random_clips(seconds: Seconds, clip_s: Seconds, count: int, random: Random) -> list[Clip]:
    """``count`` clips that start anywhere between 0 and ``seconds - clip_s``, in order."""
    clip = Fraction(clip_s)
    latest = float(max(Fraction(seconds) - clip, Fraction(0)))
    starts = sorted(Fraction(random.uniform(0, latest)) for _ in range(count))
    return [Clip(start, start + clip) for start in starts]


def constant_clips(seconds: Seconds, clip_s: Seconds, count: int) -> list[Clip]:
    """``count`` clips, evenly spaced; the first starts, the last ends with the video."""
    clip = Fraction(clip_s)
    step = max(Fraction(seconds) - clip, Fraction(0)) / max(count - 1, 1)
    return [Clip(i * step, i * step + clip) for i in range(count)]


def clip_frames(elapsed_s: Tensor, clip: Clip) -> Tensor:
    """Frames that begin inside a clip; the one on screen if none does.

    Args:
        elapsed_s: [N] float64 times on the clip's clock, ascending, N at least 1.
        clip: from and to.

    Returns:
        [F] int64 consecutive rows, F at least 1.
    """
    edges_s = elapsed_s.new_tensor([float(clip.start_s), float(clip.stop_s)])
    start, stop = torch.searchsorted(elapsed_s, edges_s - TOLERANCE_S).tolist()
    return torch.arange(start, stop) if start < stop else shown_at(elapsed_s, edges_s[:1])


class _Clips(Sampler):
    """Clips, one after another, each of ``frames_per_clip`` frames."""

    clip_s: float = Field(2.0, gt=0, le=1e6)
    """Seconds of a clip; for models that take every n-th of F frames at r fps: ``F n / r``."""
    frames_per_clip: int = Field(16, ge=1)
    """Frames of a clip, evenly spaced, first and last included, rounded down."""
    short: Short = "repeat"
    """A clip with fewer frames: each once, frames repeated evenly, or the last one repeated.  Only
    repeats at the very end count as padding."""

    @abstractmethod
    def clips(self, timeline: Timeline) -> Sequence[Clip]:
        """Where the clips are, in order."""

    def __call__(self, timeline: Timeline) -> Selection:
        """[M * frames_per_clip] rows, clip after clip, ascending in each; fewer if kept."""
        count_frames(timeline)
        clips = self.clips(timeline)
        elapsed_s = timeline.pts_s - timeline.origin_s
        picks = [self._pick(clip_frames(elapsed_s, clip)) for clip in clips]
        return Selection(torch.cat([rows for rows, _ in picks]), picks[-1].num_padded)

    def _pick(self, rows: Tensor) -> Selection:
        total = len(rows)
        chosen = fit(total, self.frames_per_clip, self.short, lambda k: uniform_index(total, k))
        return Selection(rows[chosen.indices], chosen.num_padded)


@SAMPLERS.add("clips_uniform")
class ClipsUniform(_Clips):
    """The whole video, clip after clip: pytorchvideo's ``UniformClipSampler``."""

    stride_s: float | None = Field(None, gt=0, le=1e6)
    """From the start of one clip to the start of the next; ``None``: clip after clip."""
    backpad: bool = False
    """If a rest is left, one more clip that ends with the video; else the rest is dropped."""

    def clips(self, timeline: Timeline) -> list[Clip]:
        """All that fit, at least one."""
        return uniform_clips(timeline.seconds, self.clip_s, self.stride_s, backpad=self.backpad)


@SAMPLERS.add("clips_random")
class ClipsRandom(_Clips):
    """Clips anywhere, fixed by seed and video: pytorchvideo's ``RandomClipSampler``."""

    num_clips: int = Field(1, ge=1)
    """Clips; they may overlap."""
    seed: int = 0
    """Another seed, other clips; the same seed and video, the same clips."""

    def clips(self, timeline: Timeline) -> list[Clip]:
        """``num_clips``, in order of time."""
        random = generator(self.seed, timeline)
        return random_clips(timeline.seconds, self.clip_s, self.num_clips, random)


@SAMPLERS.add("clips_constant")
class ClipsConstant(_Clips):
    """A fixed number of clips, evenly spaced: ``ConstantClipsPerVideoSampler``."""

    num_clips: int = Field(3, ge=1)
    """Clips; they overlap where the video is short."""

    def clips(self, timeline: Timeline) -> list[Clip]:
        """``num_clips``, the first at the start, the last at the end."""
        return constant_clips(timeline.seconds, self.clip_s, self.num_clips)
