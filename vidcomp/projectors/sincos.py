"""Fixed positions of tokens, whole or between the cells of a grid: sines, cosines and tables.

Legend: B clips, N rows of a clip, D features, G cells of a table, Q quarter or half of D, F bands.
"""

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from vidcomp.projectors.blocks import untraced

__all__ = ["fourier", "grid_table", "read_table", "sincos", "sincos_hw"]


@untraced
def sincos(place: Tensor, dim: int) -> Tensor:
    """[..., dim] float32: sines, then cosines, of places [...] over 10000^(i / half).

    An odd ``dim`` leaves out the last cosine.
    """
    half = -(-dim // 2)
    # Few places differ from each other: a clip has as many as it has rows, columns or frames.
    value, index = torch.unique(place.float(), return_inverse=True)
    rate_Q = 10000 ** -(torch.arange(half, device=place.device, dtype=torch.float32) / half)
    angle_UQ = value[:, None] * rate_Q
    return torch.cat([angle_UQ.sin(), angle_UQ.cos()], dim=1)[:, :dim][index]


def sincos_hw(places: Tensor, dim: int) -> Tensor:
    """[..., dim] float32 of (h, w) places [..., 2]: ``sincos`` of the column, then of the row.

    The column comes first, as in the tables of MAE, on whose order checkpoints rely.
    """
    half = 2 * -(-dim // 4)
    row, column = (sincos(place, half) for place in places.unbind(-1))
    return torch.cat([column, row], dim=-1)[..., :dim]


def grid_table(h: int, w: int, dim: int) -> Tensor:
    """[h * w, dim] float32 ``sincos_hw`` of the cells of a grid, row by row."""
    return sincos_hw(torch.cartesian_prod(torch.arange(h), torch.arange(w)), dim).contiguous()


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
    picture = table_GD.float().view(1, *table_hw, -1).permute(0, 3, 1, 2)
    tables = [_stretched(picture, size) for size in kinds_U2.tolist()]
    rows_UG = torch.tensor([0, *(len(t) for t in tables)], device=kind_B.device).cumsum(0)
    first_B1 = rows_UG[kind_B][:, None]
    found = _between_cells(torch.cat(tables), first_B1, places_BN2, sizes_B2)
    return found.to(table_GD.dtype)


def fourier(places_BN3: Tensor, sizes_B3: Tensor, bands: int, max_freq: float) -> Tensor:
    """[B, N, 3 * (2 F + 1)] float32 Fourier features of places (Perceiver): for t, h and w in turn
    sines and cosines of ``bands`` frequencies, and the place itself, in -1 (the first) to 1 (the
    last).

    Args:
        places_BN3: (t, h, w) of each row in its clip, fractional where tokens were merged.
        sizes_B3: int64 frames, height and width of each clip; a side of one cell is at -1.
        bands: frequencies, evenly from 1 to half of ``max_freq``.
        max_freq: resolution that the highest frequency can tell apart.
    """
    last_B13 = (sizes_B3 - 1).clamp(min=1)[:, None]
    place_BN31 = (places_BN3.float() / last_B13 * 2 - 1)[..., None]
    rate_F = torch.linspace(1.0, max_freq / 2, bands, device=places_BN3.device) * torch.pi
    angle_BN3F = place_BN31 * rate_F
    return torch.cat([angle_BN3F.sin(), angle_BN3F.cos(), place_BN31], dim=-1).flatten(2)


def _stretched(picture_1DHW: Tensor, size: tuple[int, int]) -> Tensor:
    wide_1DHW = interpolate(picture_1DHW, size=tuple(size), mode="bicubic", align_corners=False)
    return wide_1DHW[0].flatten(1).T


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
