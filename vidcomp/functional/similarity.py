"""Cosine similarities that rank alike with any number of threads, blocks and devices.

Products are added up in float64 and rounded to float32, so that equal vectors have equal
similarities wherever they lie: matrix kernels treat rows at their edges differently, and without
the rounding the last bit would decide ties.  A zero vector is like other zero vectors (1) and
unlike all else (0): black patches that do not change are static.

Legend: N M rows, D features.
"""

import torch
from torch import Tensor

from vidcomp.functional.reduce import wide

__all__ = ["best_match", "cosine", "directions", "paired_cosine", "unit"]

_BLOCK = 1 << 22
"""Similarities that are held at a time."""
_SMALL_BLOCK = 1 << 17
"""Numbers of rows that are compared at a time; they stay in the processor's cache."""


def unit(x_ND: Tensor) -> Tensor:
    """[..., D] rows of length 1 in float64 (float32 on MPS); zero rows stay zero.

    Safe for values whose squares overflow or underflow.
    """
    wide_ND = _scaled(x_ND)
    norm_N1 = wide_ND.norm(dim=-1, keepdim=True)
    return wide_ND / torch.where(norm_N1 > 0, norm_N1, 1)


def cosine(x_ND: Tensor, y_MD: Tensor) -> Tensor:
    """[N, M] float32 cosines; a matrix: for small N * M."""
    return (directions(x_ND) @ directions(y_MD).mT).float()


def paired_cosine(x_ND: Tensor, y_ND: Tensor) -> Tensor:
    """[...] float32 cosines of rows at the same place.

    Args:
        x_ND: [..., D] any float type.
        y_ND: [..., D] of the same shape.
    """
    dim = x_ND.shape[-1]
    rows = max(1, (_BLOCK if x_ND.is_cuda else _SMALL_BLOCK) // max(1, dim))
    pairs = zip(*(torch.split(v.reshape(-1, dim), rows) for v in (x_ND, y_ND)), strict=True)
    return torch.cat([_paired(x, y) for x, y in pairs]).reshape(x_ND.shape[:-1])


def best_match(x_ND: Tensor, y_MD: Tensor) -> tuple[Tensor, Tensor]:
    """For each row of ``x_ND`` the most similar row of ``y_MD``; ties go to the lower index.

    Works in blocks: memory grows with N + M, not with N * M.

    Args:
        x_ND: any float type.
        y_MD: at least one row.

    Returns:
        [N] float32 cosines and [N] int64 rows of ``y_MD``.
    """
    x_ND, y_MD = x_ND.detach(), y_MD.detach()
    rows = max(1, _BLOCK // max(1, y_MD.shape[1]))  # so that no step copies all of them
    columns_DM = torch.cat([directions(part) for part in torch.split(y_MD, rows)]).mT
    rows = min(len(x_ND), max(1, _BLOCK // len(y_MD)))
    # One buffer for all blocks: large blocks that come and go leave holes in the heap.
    wide_NM = columns_DM.new_empty(rows, len(y_MD))
    cosine_NM = torch.empty_like(wide_NM, dtype=torch.float32)
    value_N = torch.empty(len(x_ND), device=x_ND.device)
    index_N = torch.empty(len(x_ND), dtype=torch.int64, device=x_ND.device)
    for start in range(0, len(x_ND), max(1, rows)):
        block_ND = directions(x_ND[start : start + rows])
        n = len(block_ND)
        torch.mm(block_ND, columns_DM, out=wide_NM[:n])
        value, index = cosine_NM[:n].copy_(wide_NM[:n]).max(dim=1)
        value_N[start : start + n], index_N[start : start + n] = value, index
    return value_N, index_N


def directions(x_ND: Tensor) -> Tensor:
    """[..., D + 1] unit rows, wide; a zero row points along an axis of its own, the last one.

    Products of these rows are the cosines that all stages use: a zero row is like zero rows only.
    """
    unit_ND = unit(x_ND)
    is_zero_N1 = (x_ND == 0).all(dim=-1, keepdim=True)
    return torch.cat([unit_ND, is_zero_N1.to(unit_ND.dtype)], dim=-1)


def _paired(x_ND: Tensor, y_ND: Tensor) -> Tensor:
    x_ND, y_ND = _scaled(x_ND), _scaled(y_ND)
    x_N, y_N = x_ND.norm(dim=-1), y_ND.norm(dim=-1)
    length_N = x_N * y_N
    cosine_N = (x_ND * y_ND).sum(dim=-1) / torch.where(length_N > 0, length_N, 1)
    return torch.where((x_N == 0) & (y_N == 0), 1, cosine_N).float()


def _scaled(x_ND: Tensor) -> Tensor:
    """Rows in the wide type, at lengths whose squares it can hold."""
    wide_ND = wide(x_ND)
    if not x_ND.shape[-1] or (wide_ND.dtype == torch.float64 and x_ND.dtype != torch.float64):
        return wide_ND  # float64 holds the squares of all narrower types
    largest_N1 = wide_ND.abs().amax(dim=-1, keepdim=True)
    return wide_ND / torch.where(largest_N1 > 0, largest_N1, 1)
