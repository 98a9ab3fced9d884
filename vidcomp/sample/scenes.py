"""Frames from every shot: cuts are found in thumbnails, then each shot is sampled at mid-points.

The cut test is the idea of PySceneDetect's AdaptiveDetector (2021): a change is a cut if it is
large and stands out from the changes around it, so that a pan or a shaking camera is none.  We
differ in three points: hue differences go the short way round the circle, the first and last frames
of the video may be cuts too (their windows are cut short), and there is no shortest shot.

A static video is one shot, and sampling it is mid-point sampling.

Legend: N frames of the video, M shots, K frames asked for; C H W of the thumbnails.
"""

import torch
import torch.nn.functional as F  # noqa: N812
from pydantic import Field
from torch import Tensor

from vidcomp.budget import apportion
from vidcomp.errors import ConfigError, ShapeError
from vidcomp.registry import SAMPLERS
from vidcomp.sample._common import Short, count_frames, fit
from vidcomp.sample.base import Sampler, Selection, Timeline
from vidcomp.sample.segments import midpoint_index
from vidcomp.sample.uniform import uniform_index

__all__ = ["SceneAdaptive", "frame_changes", "scene_index", "shot_starts"]

_CHUNK = 256


def frame_changes(data_NCHW: Tensor) -> Tensor:
    """How much each frame differs from the one before: mean of the three HSV differences.

    Args:
        data_NCHW: [N, 3, H, W] uint8 RGB thumbnails.

    Returns:
        [N] float32 in 0..255, the first one 0.  Hue counts 180 steps for the circle, so at most 90;
        saturation and value 255.
    """
    changes, last = [torch.zeros(min(1, len(data_NCHW)))], None
    for start in range(0, len(data_NCHW), _CHUNK):
        hsv = _hsv(data_NCHW[start : start + _CHUNK])
        if last is not None:
            hsv = torch.cat([last, hsv])
        step = (hsv[1:] - hsv[:-1]).abs()
        step[:, 0] = torch.minimum(step[:, 0], 180 - step[:, 0])
        changes.append(step.mean(dim=(1, 2, 3)))
        last = hsv[-1:]
    return torch.cat(changes)


def shot_starts(
    change_N: Tensor, *, ratio: float = 3.0, min_change: float = 15.0, window: int = 2
) -> Tensor:
    """First frames of the shots: 0 and every cut.

    A cut is where the change is at least ``min_change`` and at least ``ratio`` times the mean of
    its neighbours, up to ``window`` to each side without itself.

    Args:
        change_N: [N] change from the frame before; the first entry means nothing.
        ratio: how far a cut stands out.
        min_change: smallest change that can be a cut.
        window: neighbours to each side.

    Returns:
        [M] int64, ascending, the first one 0.
    """
    if len(change_N) < 2:
        return torch.zeros(1, dtype=torch.int64)
    change = change_N[1:].double()
    kernel = torch.ones(1, 1, 2 * window + 1, dtype=torch.float64)
    kernel[0, 0, window] = 0  # itself
    near = F.conv1d(torch.stack([change, torch.ones_like(change)])[:, None], kernel, padding=window)
    total, num_near = near[:, 0]
    is_cut = (change >= min_change) & (change * num_near >= ratio * total)
    return torch.cat([torch.zeros(1, dtype=torch.int64), is_cut.nonzero().squeeze(1) + 1])


def scene_index(num_frames: int, start_M: Tensor, count: int) -> Tensor:
    """K frames at mid-points of equal parts of the shots.

    Each shot gets one; the others are shared in proportion to the shots' lengths in frames (largest
    remainder, none gets more than it has).  With more shots than K the longest are taken, the
    earlier of equals.

    Args:
        num_frames: N, at least 1.
        start_M: [M] first frames of the shots, ascending, the first one 0.
        count: K, at most N.

    Returns:
        [K] int64, strictly ascending.
    """
    length_M = start_M.diff(append=start_M.new_tensor([num_frames]))
    if len(start_M) > count:
        share_M = torch.zeros_like(length_M)
        share_M[length_M.argsort(descending=True, stable=True)[:count]] = 1
    else:
        rest = count - len(start_M)
        share_M = 1 + apportion(length_M.double(), total=rest, caps=length_M - 1)
    shots = zip(start_M.tolist(), length_M.tolist(), share_M.tolist(), strict=True)
    return torch.cat([start + midpoint_index(length, share) for start, length, share in shots])


def _hsv(data_NCHW: Tensor) -> Tensor:
    """[N, 3, H, W] float32: hue 0..180, saturation and value 0..255, as OpenCV scales them."""
    r, g, b = data_NCHW.float().unbind(1)
    value = torch.maximum(torch.maximum(r, g), b)
    chroma = value - torch.minimum(torch.minimum(r, g), b)
    safe = chroma.clamp(min=1)  # a grey pixel has chroma 0 and gets hue 0
    hue = torch.where(value == g, 60 + 30 * (b - r) / safe, 120 + 30 * (r - g) / safe)
    hue = torch.where(value == r, (30 * (g - b) / safe) % 180, hue)
    return torch.stack([hue, 255 * chroma / value.clamp(min=1), value], dim=1)


@SAMPLERS.add("scene_adaptive")
class SceneAdaptive(Sampler):
    """``num_frames`` frames, at least one of each shot; decodes every frame at thumbnail size."""

    num_frames: int = Field(32, ge=1)
    """Frames to pick."""
    ratio: float = Field(3.0, ge=1)
    """How many times the changes around it a cut must be."""
    min_change: float = Field(15.0, ge=0)
    """The least change of a cut, mean of the differences of hue, saturation and value, 0..255."""
    window: int = Field(2, ge=1)
    """Changes to each side that a cut is compared with."""
    short: Short = "keep"
    """A shorter video: each frame once, frames repeated evenly, or the last one repeated."""

    def __call__(self, timeline: Timeline) -> Selection:
        """[num_frames] rows, fewer only for a short video that is kept.

        Raises:
            ConfigError: the timeline cannot show thumbnails.
            ShapeError: it shows other than one for each frame.
        """
        total = count_frames(timeline)

        def index(count: int) -> Tensor:
            if count >= total:  # no choice, so no need to look
                return uniform_index(total, count)
            return scene_index(total, self._shots(timeline), count)

        return fit(total, self.num_frames, self.short, index)

    def _shots(self, timeline: Timeline) -> Tensor:
        if timeline.thumbnails is None:
            raise ConfigError(
                "scene_adaptive looks at thumbnails and this timeline has none: give it a reader's "
                "timeline, or use segment_midpoint"
            )
        data = timeline.thumbnails()
        if data.ndim != 4 or data.shape[:2] != (len(timeline), 3):
            raise ShapeError(
                f"thumbnails must be [{len(timeline)}, 3, h, w], one for each frame, got "
                f"{list(data.shape)}: decode every frame"
            )
        return shot_starts(
            frame_changes(data), ratio=self.ratio, min_change=self.min_change, window=self.window
        )
