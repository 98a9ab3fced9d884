"""Flat rows of patches with ``grid_thw``: Qwen2-VL to Qwen3.5, GLM-4.xV, VideoLLaMA3.

Their encoders look at the frames of one tubelet at a time, so chunks of whole tubelets give the
tokens of the whole video.

Legend: T frames, C colour channels, H W pixels, t steps, k frames of a tubelet, m patches merged
along a side, p pixels of a patch's side.
"""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor

from vidcomp.encode.vlm.pixels.base import Kind, agree, side_of, stretch, whole
from vidcomp.encode.vlm.pixels.sizes import Bounds, smart_size, volume_size
from vidcomp.errors import ConfigError
from vidcomp.functional.resize import Resize

__all__ = ["Glm4v", "Qwen2Vl", "Qwen3Vl", "Tubelets", "VideoLlama3"]

_SHARE_OF_CONTEXT = 0.9


class Tubelets(Kind):
    """Sides are multiples of patch x merge; each row is the pixels of one patch of a tubelet."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._settings = settings
        self.frames_multiple = int(settings["temporal_patch_size"])
        self._patch, self._merge = int(settings["patch_size"]), int(settings["merge_size"])
        self._bounds = _bounds(settings["size"])

    @classmethod
    def of(cls, settings: Mapping[str, Any], config: Any) -> Self:
        """See ``Kind.of``."""
        kind, vision = cls(settings), config.vision_config
        agree("patch_size", kind._patch, side_of(vision.patch_size))
        if hasattr(vision, "spatial_merge_size"):  # VideoLLaMA3 is told it with every video
            agree("merge_size", kind._merge, vision.spatial_merge_size)
            agree("temporal_patch_size", kind.frames_multiple, vision.temporal_patch_size)
        return kind

    @property
    def _unit(self) -> int:
        return self._patch * self._merge

    @abstractmethod
    def target(self, height: int, width: int, num_frames: int) -> tuple[int, int]:
        """Pixels (height, width)."""

    def resize(self, height: int, width: int, num_frames: int) -> Resize:
        """See ``Kind.resize``."""
        return stretch(self._settings, *self.target(height, width, num_frames))

    def cells(self, height: int, width: int) -> tuple[int, int]:
        """See ``Kind.cells``."""
        return whole(height, width, self._unit)

    def inputs(self, pixels_TCHW: Tensor) -> dict[str, Any]:
        """Patches of one token next to each other, so that the model merges rows in a row."""
        k, m, p = self.frames_multiple, self._merge, self._patch
        frames, channels, height, width = pixels_TCHW.shape
        t, h, w = frames // k, height // (m * p), width // (m * p)
        cut = pixels_TCHW.reshape(t, k, channels, h, m, p, w, m, p)
        rows = cut.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(t * h * m * w * m, -1)
        grid_13 = torch.tensor([[t, h * m, w * m]], device=rows.device)
        return {"pixel_values_videos": rows, "video_grid_thw": grid_13}


class Qwen2Vl(Tubelets):
    """Bounds of a frame, and with ``cap_pixels_per_frame`` a share of ``max_video_tokens``."""

    def target(self, height: int, width: int, num_frames: int) -> tuple[int, int]:
        """Pixels (height, width)."""
        least, most = self._bounds
        if self._settings["cap_pixels_per_frame"]:
            context = int(self._settings["max_video_tokens"] * self._unit**2 * _SHARE_OF_CONTEXT)
            share = context * self.frames_multiple // num_frames
            most = max(min(most, share), int(least * 1.05))
        return smart_size(height, width, self._unit, Bounds(least, most))


class Glm4v(Tubelets):
    """Bounds of the whole video."""

    def target(self, height: int, width: int, num_frames: int) -> tuple[int, int]:
        """Pixels (height, width)."""
        bounds = self.bounds(max(num_frames, 1))
        return volume_size(num_frames, height, width, self._unit, bounds, self.frames_multiple)

    def bounds(self, num_frames: int) -> Bounds:  # noqa: ARG002
        """Pixels of all frames together."""
        return self._bounds


class Qwen3Vl(Glm4v):
    """Bounds of the whole video, and with ``cap_pixels_per_frame`` also of a frame."""

    def bounds(self, num_frames: int) -> Bounds:
        """Pixels of all frames together."""
        least, most = self._bounds
        if self._settings["cap_pixels_per_frame"]:
            of_frame = int(self._settings["max_video_tokens"]) * self._unit**2
            most = max(min(of_frame, most // num_frames), int(least * 1.05)) * num_frames
        return Bounds(least, most)


class VideoLlama3(Tubelets):
    """The upper bound is for the whole video, the lower one for a frame.

    Its processor drops patches that change little before the language model sees them
    (``use_token_compression``); here all are kept, for a compressor to choose from.
    """

    def target(self, height: int, width: int, num_frames: int) -> tuple[int, int]:
        """Pixels (height, width)."""
        bounds = Bounds(self._bounds.least, self._bounds.most // num_frames)
        return smart_size(height, width, self._unit, bounds)

    def inputs(self, pixels_TCHW: Tensor) -> dict[str, Any]:
        """See ``Tubelets.inputs``."""
        inputs = super().inputs(pixels_TCHW)
        return {**inputs, "video_merge_sizes": torch.tensor([self._merge])}


def _bounds(size: Any) -> Bounds:  # as the file has it
    try:
        return Bounds(int(size["shortest_edge"]), int(size["longest_edge"]))
    except (KeyError, TypeError) as error:
        raise ConfigError(
            f"the size of a video was wanted as shortest_edge and longest_edge (numbers of "
            f"pixels), got {size}: correct the preprocessor file"
        ) from error
