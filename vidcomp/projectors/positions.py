"""Tables of vectors for the cells of a frame, learned or not, on any grid.

Legend: R C rows and columns of a table, G all its cells, H W cells of a frame, T frames, B bins or
clips, S indices along one axis, N rows of a clip, D features.
"""

import torch
from torch import Tensor, nn

from vidcomp.functional.reduce import real
from vidcomp.projectors.blocks import FrameEmbedding, untraced

__all__ = ["GridEmbedding", "bicubic_weights", "embedded_maps", "read_table", "stretched_table"]


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


def stretched_table(table_GD: Tensor, own: tuple[int, int], wanted: tuple[int, int]) -> Tensor:
    """[H * W, D] of a table, bicubic between its cells; its own grid has it as it is.

    Args:
        table_GD: cells row by row; a matrix product in float32 or better, whose gradients do not
            depend on a scheduler, as those of PyTorch's ``interpolate`` do.
        own: rows and columns of the table.
        wanted: those of the frame.
    """
    if own == wanted:
        return table_GD
    wide = real(table_GD)
    rows_HR, columns_WC = _stretch(own, wanted, wide)
    with torch.autocast(wide.device.type, enabled=False):
        wide_HCD = (rows_HR @ wide.view(own[0], -1)).view(wanted[0], own[1], -1)
        wide_HWD = columns_WC @ wide_HCD
    return wide_HWD.flatten(0, 1).to(table_GD.dtype)


@untraced
def read_table(
    table_GD: Tensor, table_hw: tuple[int, int], places_BN2: Tensor, sizes_B2: Tensor
) -> Tensor:
    """[B, N, D] of a table that is stretched over the grid of each clip by bicubic interpolation
    (``align_corners=False``); linear between the cells of that grid.

    Args:
        table_GD: float, cells of a grid of ``table_hw``, row by row.
        table_hw: rows and columns of the table.
        places_BN2: (h, w) of each row in its clip's grid, fractional where tokens were merged.
        sizes_B2: int64 height and width of each clip's grid.
    """
    kinds_U2, kind_B = torch.unique(sizes_B2, dim=0, return_inverse=True)
    tables = [stretched_table(table_GD.float(), table_hw, (h, w)) for h, w in kinds_U2.tolist()]
    rows_UG = torch.tensor([0, *(len(t) for t in tables)], device=kind_B.device).cumsum(0)
    first_B1 = rows_UG[kind_B][:, None]
    found = _between_cells(torch.cat(tables), first_B1, places_BN2, sizes_B2)
    return found.to(table_GD.dtype)


class GridEmbedding(nn.Module):
    """A learned table for the cells of one grid, stretched over frames of other grids.

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
        """[H, W, D] of the cells of a frame."""
        return stretched_table(self.weight[0], self.grid_hw, (h, w)).view(h, w, -1)

    def at(self, places_BN2: Tensor, sizes_B2: Tensor) -> Tensor:
        """[B, N, D] of rows at (h, w) in frames of these sizes; see ``read_table``."""
        found: Tensor = read_table(self.weight[0], self.grid_hw, places_BN2, sizes_B2)
        return found


def embedded_maps(
    x_BTHWD: Tensor, cell_table: GridEmbedding | None, frame_table: FrameEmbedding | None
) -> Tensor:
    """Patches with the embeddings of their place in the frame and of their frame, if any."""
    _, t, h, w, _ = x_BTHWD.shape
    if cell_table is not None:
        x_BTHWD = x_BTHWD + cell_table(h, w)
    if frame_table is not None:
        frame_T = torch.arange(t, device=x_BTHWD.device)
        x_BTHWD = x_BTHWD + frame_table(frame_T, t)[:, None, None]
    return x_BTHWD


def _between_cells(
    table_GD: Tensor, first_B1: Tensor, places_BN2: Tensor, sizes_B2: Tensor
) -> Tensor:
    """Rows of the tables that begin at ``first_B1``, bilinear at fractional places."""
    last_B12 = (sizes_B2 - 1)[:, None]
    place = places_BN2.clamp(min=0).minimum(last_B12.to(places_BN2.dtype))
    low = place.floor().long()
    high = (low + 1).minimum(last_B12)
    share = place - low
    width_B1 = sizes_B2[:, 1:]

    def cell(row: Tensor, column: Tensor) -> Tensor:
        return table_GD[first_B1 + row * width_B1 + column]

    if not share.any():  # the rows of an encoder's own grid
        return cell(low[..., 0], low[..., 1])
    down, right = share[..., :1], share[..., 1:]
    above = torch.lerp(cell(low[..., 0], low[..., 1]), cell(low[..., 0], high[..., 1]), right)
    below = torch.lerp(cell(high[..., 0], low[..., 1]), cell(high[..., 0], high[..., 1]), right)
    return torch.lerp(above, below, down)


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
