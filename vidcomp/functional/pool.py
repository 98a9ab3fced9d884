"""Pooling matrices along one axis, their product over a grid, and the largest value of cells.

Legend: S indices and B bins along one axis, P patches = t * h * w, K cells, M patches of the
largest cell, D features.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from vidcomp.functional.provenance import sparse_matrix
from vidcomp.functional.reduce import wide
from vidcomp.types import Grid

__all__ = [
    "adaptive_edges",
    "adaptive_weights",
    "bilinear_weights",
    "grid_weights",
    "largest",
    "window_weights",
]

_BLOCK = 1 << 24
"""Numbers that a reduction holds at a time."""
_SMALL_BLOCK = 1 << 17
"""The same where they should stay in the processor's cache."""


def adaptive_edges(size: int, bins: int) -> list[tuple[int, int]]:
    """[start, stop) of PyTorch's adaptive pooling: bins of one length or one more, overlapping
    where ``bins`` does not divide ``size``.
    """
    return [(i * size // bins, -(-(i + 1) * size // bins)) for i in range(bins)]


def adaptive_weights(size: int, bins: int) -> Tensor:
    """[B, S] float64 matrix of ``adaptive_avg_pool1d``; rows sum to 1."""
    weights_BS = torch.zeros(bins, size, dtype=torch.float64)
    for i, (start, stop) in enumerate(adaptive_edges(size, bins)):
        weights_BS[i, start:stop] = 1 / (stop - start)
    return weights_BS


def bilinear_weights(size: int, bins: int) -> Tensor:
    """[B, S] float64 matrix of linear interpolation, ``align_corners=False``; rows sum to 1.

    Each bin reads the two indices around its centre, however coarse it is (no antialiasing), as
    ``torch.nn.functional.interpolate`` does by default.
    """
    centre_B = (torch.arange(bins, dtype=torch.float64) + 0.5) * size / bins - 0.5
    centre_B = centre_B.clamp(min=0)
    low_B = centre_B.floor().long().clamp(max=size - 1)
    high_B = (low_B + 1).clamp(max=size - 1)
    weights_BS = torch.zeros(bins, size, dtype=torch.float64)
    row_B = torch.arange(bins)
    weights_BS[row_B, low_B] += 1 - (centre_B - low_B)
    weights_BS[row_B, high_B] += centre_B - low_B
    return weights_BS


def window_weights(size: int, kernel: int, stride: int, padding: int = 0) -> Tensor:
    """[B, S] float64 shares of what the windows of a convolution cover, evenly; rows sum to 1.

    A window that lies in the padding alone counts as the index nearest to it.
    """
    bins = (size + 2 * padding - kernel) // stride + 1
    weights_BS = torch.zeros(max(bins, 0), size, dtype=torch.float64)
    for i in range(bins):
        start = i * stride - padding
        stop = min(max(start + kernel, 1), size)
        start = min(max(start, 0), size - 1)
        weights_BS[i, start:stop] = 1 / (stop - start)
    return weights_BS


def grid_weights(axes: Sequence[Tensor], device: torch.device | None = None) -> Tensor:
    """The pooling matrix of a grid from those of its axes.

    Args:
        axes: [B, S] for t, h and w.
        device: where the result is wanted.

    Returns:
        Sparse [K, P] float64 (float32 on MPS), cells and patches in raster order; rows sum to 1.
        Rounded weights would give cells of one row of the grid different heights.
    """
    row = column = torch.zeros(1, dtype=torch.int64)
    value = torch.ones(1, dtype=torch.float64)
    shape = (1, 1)
    for weights_BS in axes:
        bins, size = weights_BS.shape
        i, j = weights_BS.nonzero().unbind(1)
        row = (row[:, None] * bins + i).flatten()
        column = (column[:, None] * size + j).flatten()
        value = (value[:, None] * weights_BS[i, j]).flatten()
        shape = (shape[0] * bins, shape[1] * size)
    dtype = torch.float32 if device is not None and device.type == "mps" else torch.float64
    return sparse_matrix(row, column, value.to(dtype), shape).to(device)


def largest(x_PD: Tensor, grid: Grid, cells: Grid) -> tuple[Tensor, Tensor]:
    """The largest value of each channel in the cells of PyTorch's adaptive max pooling.

    Args:
        x_PD: [P, D] patches in raster order.
        grid: their grid.
        cells: the coarser grid.

    Returns:
        [K, D] values, bit for bit from ``x_PD``, and sparse [K, P] float64 (float32 on MPS): the
        share of a cell's channels that each patch won, ties to the lower patch.
    """
    patch_KM = _members(grid, cells).to(x_PD.device)
    num_features = max(1, x_PD.shape[1])
    rows = (_BLOCK if x_PD.is_cuda else _SMALL_BLOCK) // num_features
    column_D = torch.arange(x_PD.shape[1], device=x_PD.device)
    values, wins = [], []
    for part_kM in torch.split(patch_KM, max(1, rows)):
        value_kD, winner_kD = _largest_rows(x_PD.detach(), part_kM)
        if x_PD.requires_grad:
            value_kD = x_PD[part_kM.gather(1, winner_kD.long()), column_D]
        values.append(value_kD)
        wins.append(_shares_won(winner_kD, part_kM.shape[1]))
    share_KM = torch.cat(wins)
    cell, member = share_KM.nonzero().unbind(1)
    shape = (cells.num_patches, grid.num_patches)
    weights = sparse_matrix(cell, patch_KM[cell, member], share_KM[cell, member], shape)
    return torch.cat(values), weights


def _largest_rows(x_PD: Tensor, patch_KM: Tensor) -> tuple[Tensor, Tensor]:
    """[K, D] the largest values of rows, and the member that has each, the first of equals."""
    best_KD = x_PD.index_select(0, patch_KM[:, 0])
    narrow = torch.uint8 if patch_KM.shape[1] < 256 else torch.int32
    winner_KD = torch.zeros_like(best_KD, dtype=narrow)
    for member in range(1, patch_KM.shape[1]):
        value_KD = x_PD.index_select(0, patch_KM[:, member])
        # The last to be larger than all before it has the largest number of those that were.
        larger_KD = (value_KD > best_KD).to(narrow).mul_(member)
        torch.maximum(winner_KD, larger_KD, out=winner_KD)
        torch.maximum(best_KD, value_KD, out=best_KD)
    return best_KD, winner_KD


def _shares_won(winner_KD: Tensor, num_members: int) -> Tensor:
    """[K, M] share of the D channels that each member won."""
    num_cells, num_features = winner_KD.shape
    cell_KD = torch.arange(num_cells, device=winner_KD.device)[:, None] * num_members
    won = torch.bincount((cell_KD + winner_KD).flatten(), minlength=num_cells * num_members)
    return wide(won).reshape(num_cells, num_members) / num_features


def _members(grid: Grid, cells: Grid) -> Tensor:
    """[K, M] int64 patches of each cell, ascending; short cells repeat their last patch."""
    index_K = torch.zeros(1, 1, dtype=torch.int64)
    for size, bins in zip(grid, cells, strict=True):
        edges = adaptive_edges(size, bins)
        longest = max(stop - start for start, stop in edges)
        axis_BM = torch.tensor(
            [[min(start + m, stop - 1) for m in range(longest)] for start, stop in edges]
        )
        index_K = (index_K[:, None, :, None] * size + axis_BM[None, :, None, :]).flatten(0, 1)
        index_K = index_K.flatten(1)
    return index_K
