"""Maps whose features lie last, pooled to fewer cells; tensors only, no videos.

Everything is reduced in float32 or better, outside of autocast, and returned in the type that came
in.  On the processor these are PyTorch's own pools, which see the maps as ``channels_last``; on an
accelerator overlapping means are matrix products, whose gradients do not depend on a scheduler, and
so they are when compiled, as PyTorch's compiler fails on adaptive pools whose sizes vary.

Legend: B videos, T H W patches, I J K cells (over time, height, width), D features.
"""

import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import (
    adaptive_avg_pool2d,
    adaptive_max_pool2d,
    avg_pool2d,
    interpolate,
    max_pool2d,
)

from vidcomp.functional.pool import adaptive_weights, bilinear_weights
from vidcomp.functional.reduce import real
from vidcomp.projectors.blocks import untraced
from vidcomp.types import Grid

__all__ = [
    "between_cells",
    "largest_cells",
    "largest_windows",
    "mean_cells",
    "mean_windows",
    "stacked_windows",
]


def mean_cells(x_BTHWD: Tensor, cells: Grid) -> Tensor:
    """[B, I, J, K, D] means of the bins of PyTorch's adaptive average pooling."""
    if not x_BTHWD.is_cpu or torch.compiler.is_compiling():
        return _mixed(x_BTHWD, cells, _adaptive)
    x_BTJKD = _framewise(x_BTHWD, cells, adaptive_avg_pool2d)
    if cells.t == x_BTHWD.shape[1]:
        return x_BTJKD
    # Time as the height of maps as wide as a frame has cells.
    x_B1TND = x_BTJKD.flatten(2, 3).unsqueeze(1)
    frame = Grid(1, cells.t, cells.per_frame)
    return _framewise(x_B1TND, frame, adaptive_avg_pool2d).view(len(x_BTHWD), *cells, -1)


def between_cells(x_BTHWD: Tensor, cells: Grid) -> Tensor:
    """[B, T, J, K, D] patches of each frame interpolated at the centres of cells, as PyTorch's
    bilinear ``interpolate`` without ``align_corners`` and ``antialias``.
    """
    if not x_BTHWD.is_cpu:
        return _mixed(x_BTHWD, cells, _bilinear)
    return _framewise(x_BTHWD, cells, lambda x, size: interpolate(x, size, mode="bilinear"))


def mean_windows(x_BTHWD: Tensor, window: tuple[int, int, int]) -> Tensor:
    """[B, I, J, K, D] means of windows side by side, of so many frames, rows and columns; what is
    left over drops out.
    """
    _, t, h, w, _ = x_BTHWD.shape
    step, *size = window
    x_BTJKD = _framewise(
        real(x_BTHWD), Grid(t, h // size[0], w // size[1]), lambda x, _: avg_pool2d(x, size)
    )
    # Sums of the first, the second ... frames of all windows: a mean along an axis between others
    # is many times slower.
    frames = [x_BTJKD[:, first : t // step * step : step] for first in range(step)]
    return (functools.reduce(torch.add, frames) / step).to(x_BTHWD.dtype)


@untraced
def largest_cells(x_BTHWD: Tensor, cells: Grid) -> Tensor:
    """[B, T, J, K, D] largest of each feature in the bins of PyTorch's adaptive pooling."""
    return _framewise(x_BTHWD, cells, adaptive_max_pool2d)


def largest_windows(x_BTHWD: Tensor, size: int) -> Tensor:
    """[B, T, J, K, D] the largest of each feature in squares of ``size`` patches; rows and columns
    left over drop out.
    """
    return _framewise(x_BTHWD, _floor(x_BTHWD, size), lambda x, _: max_pool2d(x, size))


def stacked_windows(x_BTHWD: Tensor, size: int) -> Tensor:
    """[B, T, H / size, W / size, size * size * D] the patches of each square side by side, row by
    row (``torch.pixel_unshuffle`` puts them feature by feature); sides must divide.
    """
    b, t, h, w, _ = x_BTHWD.shape
    x = x_BTHWD.reshape(b, t, h // size, size, w // size, size, -1)
    return x.transpose(3, 4).flatten(4)


def _floor(x_BTHWD: Tensor, size: int) -> Grid:
    _, t, h, w, _ = x_BTHWD.shape
    return Grid(t, h // size, w // size)


def _framewise(
    x_BTHWD: Tensor, cells: Grid, pool: Callable[[Tensor, tuple[int, int]], Tensor]
) -> Tensor:
    """A pool of PyTorch's on every frame; frames that keep their size stay as they are."""
    b, t, h, w, _ = x_BTHWD.shape
    if (h, w) == cells[1:]:
        return x_BTHWD
    with torch.autocast(x_BTHWD.device.type, enabled=False):  # means stay means in half
        x_NDHW = real(x_BTHWD).flatten(0, 1).permute(0, 3, 1, 2)
        x_NJKD = pool(x_NDHW, (cells.h, cells.w)).permute(0, 2, 3, 1)
    return x_NJKD.to(x_BTHWD.dtype).reshape(b, t, cells.h, cells.w, -1)


def _mixed(
    x_BTHWD: Tensor, cells: Grid, matrices: Callable[[Tensor, Grid], Sequence[Tensor]]
) -> Tensor:
    """The maps times a matrix along each axis, the last first."""
    frames_IT, rows_JH, columns_KW = matrices(x_BTHWD, cells)
    with torch.autocast(x_BTHWD.device.type, enabled=False):
        x = columns_KW @ real(x_BTHWD)
        x = rows_JH @ x.flatten(3)
        if cells.t != x_BTHWD.shape[1]:
            x = frames_IT @ x.flatten(2)
    return x.to(x_BTHWD.dtype).reshape(len(x_BTHWD), *cells, -1)


@untraced
def _adaptive(x_BTHWD: Tensor, cells: Grid) -> list[Tensor]:
    like = real(x_BTHWD.new_empty(0))
    sizes = zip(x_BTHWD.shape[1:4], cells, strict=True)
    return [adaptive_weights(size, bins).to(like) for size, bins in sizes]


@untraced
def _bilinear(x_BTHWD: Tensor, cells: Grid) -> list[Tensor]:
    like = real(x_BTHWD.new_empty(0))
    sizes = zip(x_BTHWD.shape[1:4], cells, strict=True)
    return [bilinear_weights(size, bins).to(like) for size, bins in sizes]
