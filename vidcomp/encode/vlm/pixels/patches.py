"""Patches with places of their own: Gemma 4, Molmo2, MiniCPM-V 4.6, Nemotron-H Omni.

All look at one frame at a time, Nemotron at one pair.

Legend: T frames, C colour channels, H W pixels, h w patches, p pixels of a patch's side.
"""

import math
from collections.abc import Mapping
from typing import Any, Self

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from vidcomp.encode.vlm.pixels.base import Kind, agree, exactly, side_of, stretch, whole
from vidcomp.encode.vlm.pixels.sizes import fitting_size, in_area, patch_target
from vidcomp.errors import ConfigError, ShapeError
from vidcomp.functional.resize import Resize

__all__ = ["Gemma4", "MiniCpmV", "Molmo2", "NemotronOmni", "pooling_windows"]


def _rows(pixels_TCHW: Tensor, p: int) -> Tensor:
    """[T, h * w, p * p * C]: patches in raster order, colours innermost."""
    frames, channels, height, width = pixels_TCHW.shape
    cut = pixels_TCHW.reshape(frames, channels, height // p, p, width // p, p)
    return cut.permute(0, 2, 4, 3, 5, 1).reshape(frames, -1, p * p * channels)


class Gemma4(Kind):
    """Rows of patches with their places (x, y), filled up to the most a frame may have."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._settings = settings
        self._patch = int(settings["patch_size"])
        self._pool = int(settings["pooling_kernel_size"])
        self._most = int(settings["max_soft_tokens"])

    @classmethod
    def of(cls, settings: Mapping[str, Any], config: Any) -> Self:
        """See ``Kind.of``."""
        kind, vision = cls(settings), config.vision_config
        agree("patch_size", kind._patch, side_of(vision.patch_size))
        agree("pooling_kernel_size", kind._pool, vision.pooling_kernel_size)
        return kind

    def resize(self, height: int, width: int, num_frames: int) -> Resize:  # noqa: ARG002
        """The largest size of that aspect with at most ``max_soft_tokens``."""
        size = fitting_size(height, width, self._patch * self._pool, self._most)
        return stretch(self._settings, *size)

    def cells(self, height: int, width: int) -> tuple[int, int]:
        """See ``Kind.cells``."""
        h, w = whole(height, width, self._patch * self._pool)
        if h * w > self._most:
            raise ShapeError(
                f"a frame has at most {self._most} tokens here, {height} x {width} pixels are "
                f"{h * w}: decode it with the size that Pixels.resize gives"
            )
        return h, w

    def inputs(self, pixels_TCHW: Tensor) -> dict[str, Any]:
        """See ``Kind.inputs``."""
        rows = _rows(pixels_TCHW, self._patch)
        num_frames, num_patches, _ = rows.shape
        wide = pixels_TCHW.shape[3] // self._patch
        patch = torch.arange(num_patches, device=rows.device)
        places = torch.stack([patch % wide, patch // wide], dim=-1).repeat(num_frames, 1, 1)
        missing = self._most * self._pool**2 - num_patches
        return {
            "pixel_values_videos": F.pad(rows, (0, 0, 0, missing)),
            "video_position_ids": F.pad(places, (0, 0, 0, missing), value=-1),
            "num_frames_per_video": torch.tensor([num_frames]),
        }


def pooling_windows(side: int, pool: tuple[int, int]) -> tuple[Tensor, tuple[int, int]]:
    """The patches of each window of a square of ``side`` x ``side`` of them.

    Returns:
        [rows * columns, pool_h * pool_w] int64, -1 where a window reaches over the edge (half of
        what is missing on either side, the larger half at the end); (rows, columns).
    """
    rows, columns = (math.ceil(side / length) for length in pool)
    spare_h, spare_w = rows * pool[0] - side, columns * pool[1] - side
    edges = (spare_w // 2, spare_w - spare_w // 2, spare_h // 2, spare_h - spare_h // 2)
    padded = F.pad(torch.arange(side * side).view(side, side), edges, value=-1)
    windows = padded.view(rows, pool[0], columns, pool[1]).transpose(1, 2)
    return windows.reshape(rows * columns, -1), (rows, columns)


class Molmo2(Kind):
    """Rows of patches of a square, and which of them each token attends to.

    Its processor resizes without antialias.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        size = settings["size"]
        length = agree("height and width", int(size["height"]), int(size["width"]))
        self._policy = stretch(settings, length, length).model_copy(update={"antialias": False})
        self._patch = int(settings["patch_size"])
        pool_h, pool_w = settings["pooling_size"]
        self._windows, self._cells = pooling_windows(length // self._patch, (pool_h, pool_w))

    @classmethod
    def of(cls, settings: Mapping[str, Any], config: Any) -> Self:
        """See ``Kind.of``."""
        kind, vision = cls(settings), config.vision_config
        agree("patch_size", kind._patch, side_of(vision.patch_size))
        agree("the picture's size", kind._policy.height, side_of(vision.image_size))
        return kind

    def resize(self, height: int, width: int, num_frames: int) -> Resize:  # noqa: ARG002
        """The same for every size."""
        return self._policy

    def cells(self, height: int, width: int) -> tuple[int, int]:
        """See ``Kind.cells``."""
        exactly(self._policy, height, width)
        return self._cells

    def inputs(self, pixels_TCHW: Tensor) -> dict[str, Any]:
        """See ``Kind.inputs``."""
        rows = _rows(pixels_TCHW, self._patch)
        num_frames, num_patches, _ = rows.shape
        windows = self._windows.to(rows.device)
        first_T11 = torch.arange(num_frames, device=rows.device)[:, None, None] * num_patches
        in_video = torch.where(windows < 0, windows, windows + first_T11)
        return {
            "pixel_values_videos": rows,
            "video_token_pooling": in_video.flatten(0, 1),
            "video_grids": torch.tensor([[num_frames, *self._cells]]),
        }


class MiniCpmV(Kind):
    """All patches of all frames in one row of pixels.

    One picture a frame: the processor's slices of large frames are more pictures beside the frame,
    which one grid a frame cannot hold, so frames are sized as it does with ``max_slice_nums`` 1.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        if int(settings["stack_frames"]) > 1:
            raise ConfigError(
                f"stack_frames={settings['stack_frames']} draws several frames into one picture, "
                f"whose tokens have no time of their own: pass stack_frames=1 and sample more "
                f"frames"
            )
        self._settings = settings
        self._patch = int(settings["patch_size"])
        self._merge = 2 if settings["downsample_mode"] == "4x" else 4

    @classmethod
    def of(cls, settings: Mapping[str, Any], config: Any) -> Self:
        """See ``Kind.of``."""
        kind = cls(settings)
        agree("patch_size", kind._patch, side_of(config.vision_config.patch_size))
        return kind

    def resize(self, height: int, width: int, num_frames: int) -> Resize:  # noqa: ARG002
        """The area of a square of ``scale_resolution``."""
        side = int(self._settings["scale_resolution"])
        return stretch(self._settings, *in_area(height, width, side, self._patch * self._merge))

    def cells(self, height: int, width: int) -> tuple[int, int]:
        """See ``Kind.cells``."""
        return whole(height, width, self._patch * self._merge)

    def inputs(self, pixels_TCHW: Tensor) -> dict[str, Any]:
        """See ``Kind.inputs``."""
        p = self._patch
        frames, channels, height, width = pixels_TCHW.shape
        cut = pixels_TCHW.reshape(frames, channels, height // p, p, width // p, p)
        row = cut.permute(1, 3, 0, 2, 4, 5).reshape(1, channels, p, -1)
        sizes = torch.tensor([[height // p, width // p]] * frames, dtype=torch.int32)
        return {
            "pixel_values_videos": row,
            "target_sizes_videos": sizes.to(row.device),
            "downsample_mode": self._settings["downsample_mode"],
        }


class NemotronOmni(Kind):
    """Pictures of one aspect near a number of patches, in pairs.

    Frames come as they are stored: bicubic works on floats here and what it overshoots is kept,
    which a reader's grey levels could not hold.
    """

    def __init__(self, settings: Mapping[str, Any], tubelet: int) -> None:
        self._settings = settings
        self.frames_multiple = tubelet
        self._patch = int(settings["patch_size"])
        self._merge = round(1 / settings["downsample_ratio"])

    @classmethod
    def of(cls, settings: Mapping[str, Any], config: Any) -> Self:
        """See ``Kind.of``."""
        return cls(settings, int(config.video_temporal_patch_size))

    def resize(self, height: int, width: int, num_frames: int) -> Resize:  # noqa: ARG002
        """Nothing for the reader to do."""
        return Resize(mode="none")

    def finish(self, data: Tensor) -> Tensor:
        """[T, C, H, W] float32 levels, some below 0 or above 255."""
        size = self.finished(data.shape[2], data.shape[3])
        if tuple(data.shape[2:]) == size:
            return data
        return F.interpolate(data.float(), size=size, mode="bicubic", antialias=True)

    def finished(self, height: int, width: int) -> tuple[int, int]:
        """Pixels (height, width) that the model gets."""
        h, w = patch_target(
            height,
            width,
            int(self._settings["video_target_num_patches"]),
            self._merge,
            keep_aspect=bool(self._settings["video_maintain_aspect_ratio"]),
        )
        return h * self._patch, w * self._patch

    def cells(self, height: int, width: int) -> tuple[int, int]:
        """See ``Kind.cells``."""
        return whole(height, width, self._patch * self._merge)

    def inputs(self, pixels_TCHW: Tensor) -> dict[str, Any]:
        """See ``Kind.inputs``."""
        return {"pixel_values_videos": pixels_TCHW}
