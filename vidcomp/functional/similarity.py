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
_NOISE = 1e-12
"""Cosines below this are 0 but for roundings of float64."""
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
    """[N, M] float32 cosines, the same for equal rows; a matrix: for small N * M."""
    cosine_NM = directions(x_ND) @ directions(y_MD).mT
    # What is left where all cancels is noise, which differs between equal rows.
    return cosine_NM.masked_fill(cosine_NM.abs() < _NOISE, 0).float()


def paired_cosine(
    x_ND: Tensor, y_ND: Tensor, x_row_J: Tensor | None = None, y_row_J: Tensor | None = None
) -> Tensor:
    """[...] float32 cosines of rows at the same place, or of the pairs of rows that are named.

    No gradient.

    Args:
        x_ND: [..., D] any float type.
        y_ND: [..., D]; of the same shape where no rows are named.
        x_row_J: [J] int64 rows of ``x_ND`` [N, D]; by default all, one by one.
        y_row_J: the same of ``y_ND``.
    """
    dim = x_ND.shape[-1]
    x, y = (v.detach().reshape(-1, dim) for v in (x_ND, y_ND))
    total = next((len(row_J) for row_J in (x_row_J, y_row_J) if row_J is not None), len(x))
    cosine_J = torch.empty(total, device=x.device)
    rows = max(1, (_BLOCK if x.is_cuda else _SMALL_BLOCK) // max(1, dim))
    for start in range(0, total, rows):
        part = slice(start, start + rows)
        cosine_J[part] = _paired(_part(x, x_row_J, part), _part(y, y_row_J, part))
    named = x_row_J is not None or y_row_J is not None
    return cosine_J if named else cosine_J.reshape(x_ND.shape[:-1])


def best_match(x_ND: Tensor, y_MD: Tensor) -> tuple[Tensor, Tensor]:
    """For each row of ``x_ND`` the most similar row of ``y_MD``; ties go to the lower index.

    Works in blocks: memory grows with N + M, not with N * M.  No gradient.

    Args:
        x_ND: any float type.
        y_MD: at least one row.

    Returns:
        [N] float32 cosines and [N] int64 rows of ``y_MD``.
    """
    x_ND, y_MD = x_ND.detach(), y_MD.detach()
    columns_DM, rows = _columns(y_MD), _rows_at_a_time(x_ND, len(y_MD))
    is_zero_M = (columns_DM == 0).all(dim=0)
    has_zero = bool(is_zero_M.any())
    # One buffer for all blocks: large blocks that come and go leave holes in the heap.
    wide_NM = columns_DM.new_empty(min(rows, len(x_ND)), len(y_MD))
    cosine_NM = torch.empty_like(wide_NM, dtype=torch.float32)
    value_N = torch.empty(len(x_ND), device=x_ND.device)
    index_N = torch.empty(len(x_ND), dtype=torch.int64, device=x_ND.device)
    for start in range(0, len(x_ND), rows):
        block_ND = _scaled(x_ND[start : start + rows])
        n, norm_N1 = len(block_ND), torch.linalg.vector_norm(block_ND, dim=-1, keepdim=True)
        # Products are divided by the length, not rows: there are fewer of them.
        torch.mm(block_ND, columns_DM, out=wide_NM[:n])
        wide_NM[:n] /= torch.where(norm_N1 > 0, norm_N1, 1)
        if has_zero:
            wide_NM[:n].masked_fill_((norm_N1 == 0) & is_zero_M, 1)
        value, index = cosine_NM[:n].copy_(wide_NM[:n]).max(dim=1)
        value_N[start : start + n], index_N[start : start + n] = value, index
    return value_N, index_N


def directions(x_ND: Tensor) -> Tensor:
    """[..., D + 1] unit rows, wide; a zero row points along an axis of its own, the last one.

    Products of these rows are the cosines that all stages use: a zero row is like zero rows only.
    """
    wide_ND = _scaled(x_ND)
    norm_N1 = wide_ND.norm(dim=-1, keepdim=True)  # 0 for zero rows only
    unit_ND = wide_ND / torch.where(norm_N1 > 0, norm_N1, 1)
    return torch.cat([unit_ND, (norm_N1 == 0).to(unit_ND.dtype)], dim=-1)


def _columns(y_MD: Tensor) -> Tensor:
    """[D, M] unit rows as columns, so that no step copies all of them."""
    rows = max(1, (_BLOCK if y_MD.is_cuda else _SMALL_BLOCK) // max(1, y_MD.shape[1]))
    return torch.cat([unit(part) for part in torch.split(y_MD, rows)]).mT


def _rows_at_a_time(x_ND: Tensor, num_columns: int) -> int:
    """Few enough for the cache, enough to keep a matrix product busy."""
    rows = max(1, _BLOCK // num_columns)
    if x_ND.is_cuda:
        return rows
    return min(rows, max(256, _SMALL_BLOCK // max(1, x_ND.shape[1])))


def _part(x_ND: Tensor, row_J: Tensor | None, part: slice) -> Tensor:
    return x_ND[part] if row_J is None else x_ND.index_select(0, row_J[part])


def _paired(x_ND: Tensor, y_ND: Tensor) -> Tensor:
    """[N] float32 cosines of rows that fit into the cache."""
    cosine_N, longer_N, shorter_N = _quotients(wide(x_ND), wide(y_ND))
    if not _may_overflow(x_ND) and not _may_overflow(y_ND):
        return cosine_N
    # Lengths at which squares, and products of lengths, neither overflow nor vanish.
    least = torch.finfo(longer_N.dtype).tiny ** 0.25
    safe_N = (shorter_N > least) & (longer_N < 1 / least)
    if not bool(safe_N.all()):
        row = (~safe_N).nonzero().squeeze(1)
        cosine_N[row] = _quotients(_scaled(x_ND[row]), _scaled(y_ND[row]))[0]
    return cosine_N


def _quotients(x_ND: Tensor, y_ND: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """[N] float32 cosines of wide rows, and the lengths of the longer and the shorter ones."""
    x_N, y_N = (torch.linalg.vector_norm(v, dim=-1) for v in (x_ND, y_ND))
    length_N = x_N * y_N
    cosine_N = (x_ND * y_ND).sum(dim=-1) / torch.where(length_N > 0, length_N, 1)
    cosine_N = torch.where((x_N == 0) & (y_N == 0), 1, cosine_N).float()
    return cosine_N, torch.maximum(x_N, y_N), torch.minimum(x_N, y_N)


def _may_overflow(x_ND: Tensor) -> bool:
    """Whether the wide type cannot hold the squares of all values of the type."""
    return bool(x_ND.shape[-1]) and wide(x_ND[:0]).dtype == x_ND.dtype


def _scaled(x_ND: Tensor) -> Tensor:
    """Rows in the wide type, at lengths whose squares it can hold."""
    wide_ND = wide(x_ND)
    if not _may_overflow(x_ND):
        return wide_ND
    largest_N1 = wide_ND.abs().amax(dim=-1, keepdim=True)
    return wide_ND / torch.where(largest_N1 > 0, largest_N1, 1)
