"""Fixed positions of tokens, whole or between the cells of a grid: sines and cosines.

Legend: B clips, N rows of a clip, D features, Q quarter or half of D, F bands, U places, R rows and
S columns that differ.
"""

from functools import lru_cache

import torch
from torch import Tensor

from vidcomp.projectors.blocks import untraced

__all__ = ["fourier", "grid_table", "sincos", "sincos_hw", "sine_hw"]


@untraced
def sincos(place: Tensor, dim: int) -> Tensor:
    """[..., dim] float32: sines, then cosines, of places [...] over 10000^(i / half).

    An odd ``dim`` leaves out the last cosine.
    """
    return _rows(*_table(place, dim))


def _table(place: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """[U, dim] of the places that differ, and [...] int64 which of them each is: few differ, as a
    clip has as many as it has rows, columns or frames.
    """
    half = -(-dim // 2)
    value, index = torch.unique(place.float(), return_inverse=True)
    rate_Q = 10000 ** -(torch.arange(half, device=place.device, dtype=torch.float32) / half)
    angle_UQ = value[:, None] * rate_Q
    return torch.cat([angle_UQ.sin(), angle_UQ.cos()], dim=1)[:, :dim], index


def _rows(table_UD: Tensor, index: Tensor) -> Tensor:
    """[..., D] rows of a table; by numbers in one axis, which takes half the time of any shape."""
    return table_UD.index_select(0, index.flatten()).view(*index.shape, table_UD.shape[1])


@untraced
def sincos_hw(places: Tensor, dim: int) -> Tensor:
    """[..., dim] float32 of (h, w) places [..., 2]: ``sincos`` of the column, then of the row.

    The column comes first, as in the tables of MAE, on whose order checkpoints rely.
    """
    half = 2 * -(-dim // 4)
    tables = [_table(place, half) for place in places.unbind(-1)]
    (row_RQ, row), (column_SQ, column) = tables
    sizes = len(row_RQ), len(column_SQ), half
    if sizes[0] * sizes[1] > row.numel():  # merged tokens lie anywhere
        return torch.cat([_rows(column_SQ, column), _rows(row_RQ, row)], dim=-1)[..., :dim]
    pair_RSD = torch.cat([column_SQ.expand(sizes), row_RQ[:, None].expand(sizes)], dim=2)
    return _rows(pair_RSD[..., :dim].flatten(0, 1), row * sizes[1] + column)


def grid_table(h: int, w: int, dim: int) -> Tensor:
    """[h * w, dim] float32 ``sincos_hw`` of the cells of a grid, row by row."""
    # On the processor: modules are also made on the meta device, where nothing is ``unique``.
    row, column = (torch.arange(size, device="cpu") for size in (h, w))
    return sincos_hw(torch.cartesian_prod(row, column), dim).contiguous()


@untraced
def sine_hw(h: int, w: int, dim: int) -> Tensor:
    """[h * w, dim] float32 of the cells of a grid, row by row: of the row, then of the column, sine
    and cosine by turns, the last cell of a side at 2 pi (DETR, SAM 2).

    A ``dim`` that is no multiple of 4 leaves out the last features of the column.  Calls with the
    same sizes share one table, which is not to be written to.
    """
    return _sine_table(h, w, dim)


@lru_cache(maxsize=8)
@torch.inference_mode(mode=False)
def _sine_table(h: int, w: int, dim: int) -> Tensor:
    half = 2 * -(-dim // 4)
    rate_Q = 10000 ** -(torch.arange(0, half, 2, dtype=torch.float32) / half)
    tables = []
    for size in (h, w):
        place_S = torch.arange(1, size + 1, dtype=torch.float32) / (size + 1e-6) * (2 * torch.pi)
        angle_SQ = place_S[:, None] * rate_Q
        tables.append(torch.stack([angle_SQ.sin(), angle_SQ.cos()], dim=2).flatten(1))
    row_HC, column_WC = tables
    row_HWC, column_HWC = (
        row_HC[:, None].expand(h, w, half),
        column_WC[None].expand(h, w, half),
    )
    return torch.cat([row_HWC, column_HWC], dim=2).flatten(0, 1)[:, :dim]


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
