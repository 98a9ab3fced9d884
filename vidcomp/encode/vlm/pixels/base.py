"""What the kinds of families share: settings in, sizes and tensors for the model out.

Legend: T frames, C colour channels, H W pixels, t h w grid of tokens, k frames of a tubelet.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from vidcomp.encode.pixels import resize_of
from vidcomp.errors import ConfigError, ShapeError
from vidcomp.functional.resize import Resize
from vidcomp.types import Grid

__all__ = ["Kind", "Prepared", "agree", "exactly", "pad_frames", "side_of", "stretch", "whole"]


class Prepared(NamedTuple):
    """One chunk of frames as the model's encoder takes it, and what its tokens will be."""

    inputs: dict[str, Any]
    """Arguments of the model's ``get_video_features`` (or ``get_image_features``)."""
    grid: Grid
    """Of the tokens, after the model's own merging of patches."""
    spans: Tensor
    """[t, 2] float32 [start, stop) seconds in which the frames of each tubelet are shown."""
    pts_s: Tensor
    """[t, k] float64 presentation times of the frames of each tubelet, a repeated frame's too."""
    first_t: int
    """Index of the grid's first step in the whole video."""


class Kind(ABC):
    """How the families of one kind size pictures and cut them up."""

    frames_multiple: int = 1
    """Frames of a tubelet: they become one step of the grid."""

    @classmethod
    @abstractmethod
    def of(cls, settings: Mapping[str, Any], config: Any) -> Self:  # a transformers config
        """Of a processor's settings and the model's config.

        Raises:
            ConfigError: the two do not fit each other.
        """

    @abstractmethod
    def resize(self, height: int, width: int, num_frames: int) -> Resize:
        """How pictures of that size are brought to the model's, in a video of ``num_frames``.

        Raises:
            ShapeError: the processor refuses the aspect.
        """

    @abstractmethod
    def cells(self, height: int, width: int) -> tuple[int, int]:
        """Tokens (h, w) of a step of the grid for pictures that are resized.

        Raises:
            ShapeError: pictures of that size cannot be cut up.
        """

    @abstractmethod
    def inputs(self, pixels_TCHW: Tensor) -> dict[str, Any]:
        """What the model takes.

        Args:
            pixels_TCHW: [T, C, H, W] normalised, T a multiple of ``frames_multiple``, of a size
                that ``cells`` takes.
        """

    def finish(self, data: Tensor) -> Tensor:
        """[T, C, H, W] levels: what is left to do for the size after ``resize``."""
        return data

    def finished(self, height: int, width: int) -> tuple[int, int]:
        """Pixels (height, width) after ``finish``."""
        return height, width


def stretch(settings: Mapping[str, Any], height: int, width: int) -> Resize:
    """To that size, by the processor's filter as torchvision runs it."""
    policy = {"size": {"height": height, "width": width}, "resample": settings["resample"]}
    return resize_of(policy).model_copy(update={"order": "torch"})


def side_of(size: Any) -> int:  # an int, or a pair of equal ones
    """A length that configs write once or for both sides.

    Raises:
        ConfigError: the sides differ.
    """
    if isinstance(size, int):
        return size
    sides = set(size)
    if len(sides) != 1:
        raise ConfigError(f"one length for both sides was wanted, got {list(size)}: check config")
    return int(sides.pop())


def agree(name: str, of_processor: int, of_model: int) -> int:
    """The value that the processor's file and the model's config must both have.

    Raises:
        ConfigError: they differ.
    """
    if of_processor != of_model:
        raise ConfigError(
            f"{name} is {of_processor} in the checkpoint's preprocessor file and {of_model} in its "
            f"config.json: take both from one checkpoint"
        )
    return of_processor


def whole(height: int, width: int, unit: int) -> tuple[int, int]:
    """(height, width) in units.

    Raises:
        ShapeError: they are no multiples of it.
    """
    if height % unit or width % unit or not height or not width:
        raise ShapeError(
            f"pictures must have sides that are multiples of {unit} pixels here, got {height} x "
            f"{width}: decode them with the size that Pixels.resize gives"
        )
    return height // unit, width // unit


def exactly(policy: Resize, height: int, width: int) -> None:
    """Pictures have the one size that a model takes.

    Raises:
        ShapeError: they have not.
    """
    if policy.mode != "none" and (height, width) != (policy.height, policy.width):
        raise ShapeError(
            f"pictures of {policy.height} x {policy.width} pixels were wanted, got {height} x "
            f"{width}: decode them with the size that Pixels.resize gives"
        )


def pad_frames(data: Tensor, multiple: int) -> Tensor:
    """[T', ...]: the last row repeated until their number is a multiple."""
    missing = -len(data) % multiple
    return data if not missing else torch.cat([data, data[-1:].expand(missing, *data.shape[1:])])
