"""From pictures of any size to the size an encoder wants.

Five policies, each the rule of a family of image processors:

* ``stretch``: SigLIP and most video language models; the aspect is lost.
* ``crop``: CLIP, DINOv2, V-JEPA 2, X3D, MViT; short side to a length, then the centre.
* ``letterbox``: fit inside, fill the rest (YOLOv3, 2018; LLaVA 1.5's ``pad``, 2023).
* ``smart``: Qwen2-VL's ``smart_resize`` (2024); sides become multiples of a factor, the pixel count
  stays within bounds and the aspect nearly so.
* ``none``: pixels as they come.

Pixels stay uint8 from end to end.  With antialias, results are within one grey level of Pillow's
``Image.resize``, which the processors of transformers use (within two in about one value of
100,000, Lanczos 50,000, where pictures are enlarged, as the picture between the two passes may
round the other way).  Pictures from decoders are rows of interleaved RGB; seen as [T, C, H, W] they
are already in torch's channels-last layout, for which the uint8 kernel is fastest, so nothing is
copied first.

A centre crop is cut from the whole resized picture: computing only the part that remains would
first copy that part of the input, which measured dearer than the rows and columns it saves.

Legend: T frames, C channels, H W pixels before, h w pixels after.
"""

import math
from collections.abc import Callable
from typing import Literal, Self

import torch
import torch.nn.functional as F  # noqa: N812
from pydantic import Field, model_validator
from torch import Tensor

from vidcomp.config import Config
from vidcomp.errors import ShapeError

__all__ = ["Resize", "ResizeRule", "resize_frames", "smart_max_pixels", "target_size"]

Interpolation = Literal["bilinear", "bicubic", "lanczos", "nearest"]
Box = tuple[int, int, int, int]

_MAX_ASPECT = 200
_GREY = 128


class Resize(Config):
    """How pictures are brought to the encoder's size."""

    mode: Literal["stretch", "crop", "letterbox", "smart", "none"] = "stretch"
    """``stretch`` ignores the aspect; ``crop`` resizes the short side and cuts the centre;
    ``letterbox`` fits inside and fills; ``smart`` is Qwen's smart_resize; ``none`` keeps."""
    height: int = Field(224, ge=1)
    """Pixels (not used by ``smart`` and ``none``)."""
    width: int = Field(224, ge=1)
    """Pixels (not used by ``smart`` and ``none``)."""
    interpolation: Interpolation = "bilinear"
    """``nearest`` takes the pixel under the centre, as Pillow does; ``lanczos`` always antialiases
    and needs torch 2.13."""
    antialias: bool = True
    """Widen the filter when shrinking, as Pillow and transformers do; pytorchvideo does not."""
    order: Literal["pillow", "torch"] = "pillow"
    """``bicubic`` and ``lanczos``: which side is filtered first, which shows beside hard edges.
    ``pillow`` decides by the sizes, ``torch`` takes the width, as torchvision and so the video
    processors of transformers do."""
    short_side: int | None = Field(None, ge=1)
    """``crop``: pixels of the short side before the cut (DINOv2: 256 for a crop of 224); ``None``:
    as few as cover height x width."""
    convention: Literal["hf", "torchvision", "pytorchvideo"] = "hf"
    """``crop``: whose rounding.  The long side is ``floor(S * long / short)``, by pytorchvideo
    ``floor(long / short * S)`` in floats; the offset is ``(H - S) // 2``, by torchvision and
    pytorchvideo ``round((H - S) / 2)``, half to even."""
    fill: tuple[int, ...] | None = None
    """``letterbox``: colour of the bars, 0..255 a channel; ``None``: the mean colour of the
    encoder's processor, which normalises to 0, or middle grey (128) without an encoder."""
    factor: int = Field(28, ge=1)
    """``smart``: sides become multiples of it: patch x merge, 28 for Qwen2-VL and 2.5, 32 for 3."""
    min_pixels: int = Field(128 * 28 * 28, ge=1)
    """``smart``: smaller pictures are enlarged to at least this many pixels."""
    max_pixels: int = Field(768 * 28 * 28, ge=1)
    """``smart``: larger pictures are reduced to at most this many pixels."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.mode == "crop" and self.short_side is not None:
            largest = max(self.height, self.width)
            if self.short_side < largest:
                raise ValueError(
                    f"a crop of {self.height} x {self.width} needs a short side of at least "
                    f"{largest}, got short_side={self.short_side}: raise it or leave it out"
                )
        if self.interpolation == "lanczos":
            self._check_lanczos()
        if self.mode == "smart" and self.max_pixels < max(self.min_pixels, self.factor**2):
            raise ValueError(
                f"smart resize needs max_pixels of at least min_pixels={self.min_pixels} and "
                f"factor^2={self.factor**2}, got {self.max_pixels}: raise it"
            )
        if self.fill is not None and not all(0 <= value <= 255 for value in self.fill):
            raise ValueError(
                f"fill is one value of 0..255 a channel, got {self.fill}: give grey levels"
            )
        return self

    def _check_lanczos(self) -> None:
        if not self.antialias:
            raise ValueError(
                "lanczos widens its filter when shrinking, got antialias=False: leave that out, or "
                "choose bicubic"
            )
        if not hasattr(torch._C._nn, "_upsample_lanczos2d_aa"):
            raise ValueError(
                f"lanczos needs torch 2.13, got {torch.__version__}: update it, or choose bicubic"
            )


ResizeRule = Callable[[int, int, int], Resize]
"""The policy for a video by its (height, width, number of frames), where an encoder's pictures
depend on them; plain, so that it can be sent to another process."""


def target_size(height: int, width: int, policy: Resize) -> tuple[int, int]:
    """Pixels (height, width) that a picture of ``height`` x ``width`` has after ``policy``.

    Raises:
        ShapeError: a side is below 1, or ``smart`` meets an aspect above 200.
    """
    if height < 1 or width < 1:
        raise ShapeError(f"a picture has at least 1 x 1 pixels, got {height} x {width}: check it")
    if policy.mode == "none":
        return height, width
    if policy.mode == "smart":
        return _smart_size(height, width, policy)
    return policy.height, policy.width


def resize_frames(data: Tensor, policy: Resize) -> tuple[Tensor, Box | None]:
    """Pictures after ``policy``, and where the real pixels are.

    Args:
        data: [T, C, H, W] uint8; never written to, returned as it is if nothing changes.
        policy: settings.

    Returns:
        [T, C, h, w] uint8 on the same device, ``(h, w) == target_size(H, W, policy)``; for
        ``letterbox`` also (top, left, height, width) of the picture inside the bars, else ``None``.

    Raises:
        ShapeError: ``data`` is not [T, C, H, W] uint8, a size cannot be reached, or ``fill`` has
            not one value a channel.
    """
    if data.ndim != 4 or data.dtype != torch.uint8:
        raise ShapeError(
            f"pictures to resize must be [T, C, H, W] uint8, got {list(data.shape)} {data.dtype}: "
            f"permute and convert them"
        )
    height, width = target_size(data.shape[2], data.shape[3], policy)
    if policy.mode == "crop":
        return _crop(data, policy), None
    if policy.mode == "letterbox":
        return _letterbox(data, policy)
    return _interpolate(data, (height, width), policy), None


def smart_max_pixels(
    num_frames: int,
    *,
    min_pixels: int = 128 * 28 * 28,
    max_pixels: int = 768 * 28 * 28,
    total_pixels: int = int(128_000 * 28 * 28 * 0.9),
) -> int:
    """Pixels a frame that keep a whole video within ``total_pixels``: ``max_pixels`` for ``smart``.

    Qwen2.5-VL's rule (qwen_vl_utils, 2025): two frames share one row of tokens, and a frame never
    falls below 1.05 ``min_pixels``.
    """
    share = total_pixels * 2 // max(1, num_frames)
    return max(min(max_pixels, share), min_pixels * 105 // 100)


def _smart_size(height: int, width: int, policy: Resize) -> tuple[int, int]:
    """Multiples of the factor; unlike upstream never 0 and never above ``max_pixels``."""
    if max(height, width) > _MAX_ASPECT * min(height, width):
        raise ShapeError(
            f"smart resize takes an aspect of at most {_MAX_ASPECT}, got {height} x {width}: crop "
            f"or stretch it"
        )
    factor = policy.factor
    # Python rounds half to even, and so does the original.
    h, w = (max(1, round(side / factor)) * factor for side in (height, width))
    if h * w > policy.max_pixels:
        beta = math.sqrt(height * width / policy.max_pixels)
        h, w = (max(1, math.floor(side / beta / factor)) * factor for side in (height, width))
        # A side lifted to one factor leaves less for the other.
        h = min(h, policy.max_pixels // w // factor * factor) if h > w else h
        w = min(w, policy.max_pixels // h // factor * factor) if w > h else w
    elif h * w < policy.min_pixels:
        beta = math.sqrt(policy.min_pixels / (height * width))
        h, w = (math.ceil(side * beta / factor) * factor for side in (height, width))
    return h, w


def _covering_size(height: int, width: int, policy: Resize) -> tuple[int, int]:
    """Size before the centre is cut out: at least policy.height x policy.width."""
    if policy.short_side is not None:
        return _with_short_side(height, width, policy.short_side, policy)
    if policy.height == policy.width:
        return _with_short_side(height, width, policy.height, policy)
    if policy.height * width >= policy.width * height:  # the height is the tighter side
        return policy.height, max(policy.width, policy.height * width // height)
    return max(policy.height, policy.width * height // width), policy.width


def _with_short_side(height: int, width: int, side: int, policy: Resize) -> tuple[int, int]:
    short, long = min(height, width), max(height, width)
    if policy.convention == "pytorchvideo":
        scaled = math.floor(long / short * side)
    else:
        scaled = side * long // short
    return (side, scaled) if height <= width else (scaled, side)


def _crop(data: Tensor, policy: Resize) -> Tensor:
    size = _covering_size(data.shape[2], data.shape[3], policy)
    resized = _interpolate(data, size, policy)
    if size == (policy.height, policy.width):
        return resized
    spare = (size[0] - policy.height, size[1] - policy.width)
    top, left = (s // 2 if policy.convention == "hf" else round(s / 2) for s in spare)
    cut = resized[:, :, top : top + policy.height, left : left + policy.width]
    return cut.contiguous(memory_format=torch.channels_last)  # frees the borders


def _letterbox(data: Tensor, policy: Resize) -> tuple[Tensor, Box]:
    num_frames, channels, height, width = data.shape
    fill = (_GREY,) * channels if policy.fill is None else policy.fill
    if len(fill) != channels:
        raise ShapeError(
            f"fill must have one value for each of {channels} channels, got {fill}: change it"
        )
    ratio = min(policy.height / height, policy.width / width)
    h = min(policy.height, max(1, round(height * ratio)))
    w = min(policy.width, max(1, round(width * ratio)))
    top, left = (policy.height - h) // 2, (policy.width - w) // 2
    inside = _interpolate(data, (h, w), policy)
    if (h, w) == (policy.height, policy.width):
        return inside, (0, 0, h, w)
    color = torch.tensor(fill, dtype=torch.uint8, device=data.device)
    canvas = color.expand(num_frames, policy.height, policy.width, channels).contiguous()
    framed = canvas.permute(0, 3, 1, 2)
    framed[:, :, top : top + h, left : left + w] = inside
    return framed, (top, left, h, w)


def _interpolate(data: Tensor, size: tuple[int, int], policy: Resize) -> Tensor:
    """[T, C, h, w] uint8; the input itself where the size is right already."""
    if tuple(data.shape[2:]) == size:
        return data
    if policy.interpolation == "nearest":
        return _take_nearest(data, size)
    overshoots = policy.interpolation in ("bicubic", "lanczos") and policy.antialias
    if overshoots and policy.order == "pillow":
        between = (size[0], data.shape[3])
        if _rows_first(data.shape[2], data.shape[3], *size) and size != between:
            data = _filter(data, between, policy)
    return _filter(data, size, policy)


def _take_nearest(data: Tensor, size: tuple[int, int]) -> Tensor:
    """The pixel under each centre, in whole numbers; torch's kernel errs on ties."""
    rows, columns = (
        (2 * torch.arange(new, device=data.device) + 1) * old // (2 * new)
        for old, new in zip(data.shape[2:], size, strict=True)
    )
    return data[:, :, rows[:, None], columns]


def _rows_first(height: int, width: int, new_height: int, new_width: int) -> bool:
    """Whether Pillow (13, 2026) filters along the height before the width; else it is the reverse.

    The order shows where bicubic or Lanczos overshoots black or white and the first pass clips it:
    by up to 30 (55) grey levels beside hard edges.  Bilinear never overshoots.
    """
    return 0 < height - new_height > 2 * (width - new_width)


def _filter(data: Tensor, size: tuple[int, int], policy: Resize) -> Tensor:
    """One call of torch's kernel, which filters along the width, then along the height."""
    mode, antialias = policy.interpolation, policy.antialias
    if data.device.type == "cpu":
        return F.interpolate(data, size=size, mode=mode, antialias=antialias)
    if mode == "lanczos":  # torch has it on the CPU only
        return _filter(data.cpu(), size, policy).to(data.device)
    # Other devices have no uint8 kernel.
    result = F.interpolate(data.float(), size=size, mode=mode, antialias=antialias)
    return result.round_().clamp_(0, 255).to(torch.uint8)
