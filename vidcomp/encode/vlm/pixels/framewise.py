"""Frames one by one, each the same square: the LLaVAs, PerceptionLM, InternVL, SmolVLM, Gemma 3.

Legend: T frames, C colour channels, H W pixels.
"""

import math
from collections.abc import Mapping
from typing import Any, Self

from torch import Tensor

from vidcomp.encode.pixels import resize_of
from vidcomp.encode.vlm.pixels.base import Kind, agree, exactly, side_of, stretch
from vidcomp.encode.vlm.pixels.sizes import longest_edge_size
from vidcomp.functional.resize import Resize, resize_frames

__all__ = [
    "Framewise",
    "Gemma3",
    "InternVl",
    "LlavaNextVideo",
    "LlavaOneVision",
    "PerceptionLm",
    "SmolVlm",
    "VideoLlava",
]

_LARGEST = 4096


class Framewise(Kind):
    """Pictures of one size, stretched or cut, none of which sees another.

    Args:
        policy: how they get their size.
        side: tokens along a side.
    """

    name: str = "pixel_values_videos"
    """The model's argument."""
    batched: bool = True
    """Whether that has an axis of videos before the frames."""

    def __init__(self, policy: Resize, side: int) -> None:
        self._policy = policy.model_copy(update={"order": "torch"})
        self._side = side

    @classmethod
    def of(cls, settings: Mapping[str, Any], config: Any) -> Self:
        """See ``Kind.of``: the size must be that of the model's vision tower."""
        policy = resize_of(settings)
        vision = config.vision_config
        if policy.mode != "none":
            for length in (policy.height, policy.width):
                agree("the picture's size", length, side_of(vision.image_size))
        patches = side_of(vision.image_size) // side_of(vision.patch_size)
        return cls(policy, cls.tokens(patches, config))

    @staticmethod
    def tokens(patches: int, config: Any) -> int:  # noqa: ARG004
        """Tokens along a side for that many patches, after the model's own pooling."""
        return patches

    def resize(self, height: int, width: int, num_frames: int) -> Resize:  # noqa: ARG002
        """The same for every size."""
        return self._policy

    def cells(self, height: int, width: int) -> tuple[int, int]:
        """See ``Kind.cells``."""
        exactly(self._policy, height, width)
        return self._side, self._side

    def inputs(self, pixels_TCHW: Tensor) -> dict[str, Any]:
        """See ``Kind.inputs``."""
        return {self.name: pixels_TCHW[None] if self.batched else pixels_TCHW}


class LlavaOneVision(Framewise):
    """Patches are pooled to half of them a side, rounded up."""

    @staticmethod
    def tokens(patches: int, config: Any) -> int:  # noqa: ARG004
        """See ``Framewise.tokens``."""
        return math.ceil(patches / 2)


class LlavaNextVideo(Framewise):
    """Patches are pooled by the config's stride."""

    @staticmethod
    def tokens(patches: int, config: Any) -> int:
        """See ``Framewise.tokens``."""
        return patches // int(config.spatial_pool_stride)


class VideoLlava(Framewise):
    """One token a patch."""


class InternVl(Framewise):
    """Patches are shuffled into fewer, wider ones."""

    name = "pixel_values"
    batched = False

    @staticmethod
    def tokens(patches: int, config: Any) -> int:
        """See ``Framewise.tokens``."""
        return int(patches * config.downsample_ratio)


class Gemma3(Framewise):
    """A fixed number of tokens a picture; frames are pictures without crops of their own."""

    name = "pixel_values"
    batched = False

    @staticmethod
    def tokens(patches: int, config: Any) -> int:  # noqa: ARG004
        """See ``Framewise.tokens``."""
        return math.isqrt(config.mm_tokens_per_image)


class PerceptionLm(Framewise):
    """Patches are pooled; the patch's size is the processor's, as its tower comes from timm."""

    name = "pixel_values"

    @classmethod
    def of(cls, settings: Mapping[str, Any], config: Any) -> Self:
        """See ``Kind.of``."""
        policy = resize_of(settings)
        patches = policy.height // int(settings["patch_size"])
        return cls(policy, patches // int(config.projector_pooling_ratio))


class SmolVlm(Framewise):
    """Sized twice: the long side to a length, then to a square, as the original does.

    The model drops pictures that are exactly 0 after normalising; no grey level of 0..255 is where
    the mean is a half, as in the published checkpoints.
    """

    name = "pixel_values"

    def __init__(self, settings: Mapping[str, Any], square: Resize, side: int) -> None:
        super().__init__(square, side)
        self._settings = settings
        size = settings["size"]
        self._edge = min(_LARGEST, int(size["longest_edge"])) if "longest_edge" in size else None
        self._plain = None if self._edge else (int(size["height"]), int(size["width"]))

    @classmethod
    def of(cls, settings: Mapping[str, Any], config: Any) -> Self:
        """See ``Kind.of``."""
        length = int(settings["max_image_size"]["longest_edge"])
        patches = length // side_of(config.vision_config.patch_size)
        return cls(settings, stretch(settings, length, length), patches // config.scale_factor)

    def resize(self, height: int, width: int, num_frames: int) -> Resize:  # noqa: ARG002
        """The first of the two."""
        size = self._plain or longest_edge_size(height, width, self._edge or _LARGEST)
        return stretch(self._settings, *size)

    def finish(self, data: Tensor) -> Tensor:
        """The second."""
        return resize_frames(data, self._policy)[0]

    def finished(self, height: int, width: int) -> tuple[int, int]:  # noqa: ARG002
        """The square."""
        return self._policy.height, self._policy.width
