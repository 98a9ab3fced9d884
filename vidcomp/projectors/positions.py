"""Learned vectors for the cells of a frame, on any grid.

Legend: R C rows and columns of the table, H W cells of a frame, B bins along one axis, S indices, D
features.
"""

import torch
from torch import Tensor, nn

from vidcomp.functional.reduce import real
from vidcomp.projectors.blocks import untraced

__all__ = ["GridEmbedding", "bicubic_weights"]


def bicubic_weights(size: int, bins: int) -> Tensor:
    """[B, S] float64 matrix of cubic interpolation as in ``torch.nn.functional.interpolate``:
    a = -0.75, ``align_corners=False``, no antialiasing; rows sum to 1, entries may be negative.
    """
    centre_B = (torch.arange(bins, dtype=torch.float64) + 0.5) * size / bins - 0.5
    first_B = centre_B.floor().long() - 1
    weights_BS = torch.zeros(bins, size, dtype=torch.float64)
    row_B = torch.arange(bins)
    for tap in range(4):
        index_B = first_B + tap
        share_B = _cubic((centre_B - index_B).abs())
        weights_BS.index_put_((row_B, index_B.clamp(0, size - 1)), share_B, accumulate=True)
    return weights_BS


class GridEmbedding(nn.Module):
    """A table for the cells of one grid, stretched over frames of other grids.

    Args:
        grid_hw: rows and columns of the table.
        dim: D.
    """

    def __init__(self, grid_hw: tuple[int, int], dim: int) -> None:
        super().__init__()
        self.grid_hw = grid_hw
        table = torch.zeros(1, grid_hw[0] * grid_hw[1], dim)
        self.weight = nn.Parameter(nn.init.trunc_normal_(table, std=0.02))

    def forward(self, h: int, w: int) -> Tensor:
        """[H, W, D], bicubic between the cells of the table, which fits its own grid as it is."""
        rows, columns = self.grid_hw
        if (h, w) == self.grid_hw:
            return self.weight.view(h, w, -1)
        wide = real(self.weight[0])
        rows_HR, columns_WC = _stretch(self.grid_hw, (h, w), wide)
        with torch.autocast(wide.device.type, enabled=False):
            wide_HCD = (rows_HR @ wide.view(rows, -1)).view(h, columns, -1)
            wide_HWD = columns_WC @ wide_HCD
        return wide_HWD.to(self.weight.dtype)


@untraced
def _stretch(own: tuple[int, int], wanted: tuple[int, int], like: Tensor) -> tuple[Tensor, Tensor]:
    """Matrices for rows and columns, in the type and on the device of ``like``."""
    rows, columns = (bicubic_weights(a, b).to(like) for a, b in zip(own, wanted, strict=True))
    return rows, columns


def _cubic(distance: Tensor, a: float = -0.75) -> Tensor:
    """Keys' kernel at distances of 0..2."""
    near = ((a + 2) * distance - (a + 3)) * distance.square() + 1
    far = a * (((distance - 5) * distance + 8) * distance - 4)
    return torch.where(distance <= 1, near, far)
