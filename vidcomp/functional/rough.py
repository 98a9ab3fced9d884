"""Answers of the cosines in float64 at the price of float32.

Most decisions are not close.  Sums in float32 come with the largest error that they can have, and
what lies nearer to a border than that is computed again as ``functional.similarity`` does, so that
the answer is the same.  Only on the CPU: on a GPU the exact way is as fast, and matrix products in
float32 may be much coarser there than their type, as they may be here if torch was told so.

Legend: N M rows, D features, J pairs of rows, P pairs of them at a time.
"""

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.functional import pad

from vidcomp.functional.reduce import group_max, group_min
from vidcomp.functional.similarity import best_match, cosine, paired_cosine, unit

__all__ = ["most_similar", "near_rows", "nearest", "rough_cosine"]

_BLOCK = 1 << 20
"""Numbers of rows that are compared at a time; they stay in the processor's cache."""
_PRODUCTS = 1 << 20
"""Products that are held at a time."""
_EPSILON = 2.0**-24
"""Relative error of one rounding in float32."""
_LEAST, _LARGEST = 1e-9, 1e9
"""Lengths of rows of which float32 holds squares and products with others."""


def rough_cosine(x_ND: Tensor, row_J: Tensor, other_J: Tensor) -> tuple[Tensor, float]:
    """Cosines of pairs of rows by sums in float32, and how wrong they may be.

    Three times as fast as ``paired_cosine``, and as good for all that is not near a border.  Pairs
    of whose rows float32 cannot hold the squares, and all of them on other devices than the CPU and
    for float64, are those of ``paired_cosine``.  No gradient.

    Args:
        x_ND: any float type.
        row_J: [J] int64 rows.
        other_J: [J] int64 rows that they are compared with.

    Returns:
        [J] float32 cosines, and the largest difference to those of ``paired_cosine``.
    """
    x_ND = x_ND.detach()
    if not _is_narrow(x_ND):
        return paired_cosine(x_ND, x_ND, row_J, other_J), 0.0
    rows = max(1, _BLOCK // max(1, x_ND.shape[1]))
    cosine_J, norm_J = torch.empty(len(row_J)), torch.empty(len(row_J))
    product_PD = torch.empty(rows, x_ND.shape[1])
    for pairs, x_PD, y_PD in _pairs(x_ND, row_J, other_J, rows):
        x_PD = x_PD.float()
        torch.linalg.vector_norm(x_PD, dim=-1, out=norm_J[pairs])
        torch.mul(x_PD, y_PD.float(), out=product_PD[: len(x_PD)])
        torch.sum(product_PD[: len(x_PD)], dim=-1, out=cosine_J[pairs])
    norm_N = _norms(x_ND, row_J, norm_J, other_J)
    other_norm_J = norm_N[other_J]
    cosine_J /= norm_J * other_norm_J
    least_J, most_J = torch.minimum(norm_J, other_norm_J), torch.maximum(norm_J, other_norm_J)
    safe_J = (least_J > _LEAST) & (most_J < _LARGEST)
    if not bool(safe_J.all()):
        again = (~safe_J).nonzero().squeeze(1)
        cosine_J[again] = paired_cosine(x_ND, x_ND, row_J[again], other_J[again])
    # torch adds up products in 16 partial sums at least, and squares in 4, half of whose error is
    # that of a length: a term takes part in so many roundings at most.  Some more for all else.
    return cosine_J, (5 / 16 * x_ND.shape[1] + 32) * _EPSILON


def _norms(x_ND: Tensor, row_J: Tensor, norm_J: Tensor, other_J: Tensor) -> Tensor:
    """[N] float32 lengths of the rows of the pairs, of which some are known."""
    norm_N = torch.full((len(x_ND),), torch.nan)
    norm_N[row_J] = norm_J
    is_missing_N = torch.zeros(len(x_ND), dtype=torch.bool).index_fill_(0, other_J, value=True)
    is_missing_N[row_J] = False
    missing = is_missing_N.nonzero().squeeze(1)
    for part in torch.split(missing, max(1, _BLOCK // max(1, x_ND.shape[1]))):
        rows_PD = x_ND.index_select(0, part).float()
        norm_N[part] = torch.linalg.vector_norm(rows_PD, dim=-1)
    return norm_N


def nearest(x_ND: Tensor, y_MD: Tensor, row_J: Tensor | None = None) -> Tensor:
    """[J] int64 the rows of ``y_MD`` of ``best_match``: the most similar, ties to the lower index.

    Args:
        x_ND: any float type.
        y_MD: at least one row.
        row_J: [J] int64 rows of ``x_ND``; by default all.
    """
    x_ND, y_MD = x_ND.detach(), y_MD.detach()
    if not _is_narrow(x_ND) or torch.get_float32_matmul_precision() != "highest":
        return best_match(x_ND if row_J is None else x_ND[row_J], y_MD)[1]
    # Matrix kernels take whole bundles of rows; a bundle that is not full costs several.
    unit_MD = pad(unit(y_MD).float(), (0, 0, 0, -len(y_MD) % 16))
    rows = max(1, min(_PRODUCTS // len(y_MD), max(1024, _BLOCK // max(1, x_ND.shape[1]))))
    row_J = torch.arange(len(x_ND)) if row_J is None else row_J
    index_J = torch.empty_like(row_J)
    buffer_RD = x_ND.new_empty(min(rows, len(row_J)), x_ND.shape[1])
    for part, index in zip(torch.split(row_J, rows), torch.split(index_J, rows), strict=True):
        torch.index_select(x_ND, 0, part, out=buffer_RD[: len(part)])
        index[:] = _nearest(buffer_RD[: len(part)], y_MD, unit_MD)
    return index_J


def most_similar(x_ND: Tensor, row_J: Tensor, count: int) -> Tensor:
    """[J, count] int64 the other rows that are most similar to each row, ascending.

    By ``similarity.cosine``; ties go to the lower row.

    Args:
        x_ND: any float type.
        row_J: [J] int64 rows.
        count: 0 to N - 1.
    """
    x_ND = x_ND.detach()
    if not count or not len(row_J):
        return row_J.new_empty(len(row_J), count)
    at_J = torch.arange(len(row_J), device=x_ND.device)
    rough_ND = x_ND.float()
    norm_N = torch.linalg.vector_norm(rough_ND, dim=-1)
    is_safe = bool(((norm_N > _LEAST) & (norm_N < _LARGEST)).all())
    if not is_safe or not _is_narrow(x_ND) or torch.get_float32_matmul_precision() != "highest":
        alike_JN = cosine(x_ND[row_J], x_ND)
        alike_JN[at_J, row_J] = -torch.inf
        order_JN = alike_JN.argsort(dim=1, descending=True, stable=True)
        return torch.sort(order_JN[:, :count], dim=1)[0]
    # The length of the row itself does not change the order.
    alike_JN = torch.mm(rough_ND[row_J], rough_ND.mT).div_(norm_N)
    alike_JN[at_J, row_J] = -torch.inf
    # As in ``_nearest``.
    error_J1 = norm_N[row_J, None] * (2 * (x_ND.shape[1] + 16) * _EPSILON)
    last_J1: Tensor = alike_JN.topk(count, dim=1).values[:, -1:]
    is_in_JN = alike_JN >= last_J1 - error_J1
    # Where no more than wanted are so similar, these are the ones.
    open_J = (is_in_JN.sum(dim=1) > count).nonzero().squeeze(1)
    if len(open_J):
        sure_QN = alike_JN[open_J] > (last_J1 + error_J1)[open_J]
        close_P2 = (is_in_JN[open_J] & ~sure_QN).nonzero()
        alike_P = paired_cosine(x_ND, x_ND, *_named(row_J[open_J], close_P2))
        _take_best(sure_QN, close_P2, count, alike_P)
        is_in_JN[open_J] = sure_QN
    column_E: Tensor = is_in_JN.nonzero()[:, 1]
    return column_E.view(len(row_J), count)


def _named(row_J: Tensor, pair_P2: Tensor) -> tuple[Tensor, Tensor]:
    return row_J[pair_P2[:, 0]], pair_P2[:, 1]


def _take_best(is_in_JN: Tensor, close_P2: Tensor, count: int, alike_P: Tensor) -> None:
    """Marks the best of the close ones until each row has ``count``; ties go to the earlier one."""
    row_P = close_P2[:, 0]
    open_J = count - is_in_JN.sum(dim=1)
    order_P = alike_P.argsort(descending=True, stable=True)
    order_P = order_P[row_P[order_P].argsort(stable=True)]
    size_J = torch.bincount(row_P, minlength=len(is_in_JN))
    place_P = torch.arange(len(row_P), device=row_P.device) - (size_J.cumsum(0) - size_J)[row_P]
    chosen_P2 = close_P2[order_P[place_P < open_J[row_P]]]
    is_in_JN[chosen_P2[:, 0], chosen_P2[:, 1]] = True


def near_rows(x_ND: Tensor, unit_ND: Tensor, max_gap: float) -> Tensor:
    """[N, N] bool: rows of which one minus the cosine is below ``max_gap``.

    Cosines are rounded to float32, as ``similarity.cosine`` has them, and those near to the border
    are those of ``paired_cosine``.

    Args:
        x_ND: any float type.
        unit_ND: what ``similarity.directions`` makes of them.
        max_gap: 0 to 2.
    """
    num_rows = len(x_ND)
    exact = not _is_narrow(x_ND) or torch.get_float32_matmul_precision() != "highest"
    if not exact:  # rows without the axis of zeros, if they may, are bundles that kernels can take
        unit_ND = (unit_ND if bool(unit_ND[:, -1].any()) else unit_ND[:, :-1]).float()
    # As in ``_nearest``, for one cosine; and the difference to 1 is rounded, too.
    error = 0.0 if exact else (x_ND.shape[1] + 24) * _EPSILON
    near_NN = torch.empty(num_rows, num_rows, dtype=torch.bool, device=x_ND.device)
    close = []
    strip = num_rows if x_ND.is_cuda else max(64, num_rows // 4)
    for start in range(0, num_rows, strip):
        stop = min(num_rows, start + strip)
        gap_RN = 1 - (unit_ND[start:stop] @ unit_ND[start:].mT).float()
        near_RN = gap_RN < max_gap
        near_NN[start:stop, start:] = near_RN
        near_NN[stop:, start:stop] = near_RN[:, stop - start :].mT
        if not exact:
            is_close_RN = ((gap_RN - max_gap).abs_() <= error).triu_()
            close.append(is_close_RN.nonzero() + start)
    if not exact:
        row_J, other_J = torch.cat(close).unbind(dim=1)
        is_near_J = 1 - paired_cosine(x_ND, x_ND, row_J, other_J) < max_gap
        near_NN[row_J, other_J] = near_NN[other_J, row_J] = is_near_J
    return near_NN


def _nearest(x_ND: Tensor, y_MD: Tensor, unit_MD: Tensor) -> Tensor:
    """As ``nearest``, for rows that fit into the cache."""
    rough_ND = x_ND.float()
    norm_N = torch.linalg.vector_norm(rough_ND, dim=-1)
    product_NM = (rough_ND @ unit_MD.mT)[:, : len(y_MD)]
    best_N, index_N = product_NM.max(dim=1)
    # However a product adds up, a term takes part in D roundings at most; two may be wrong, and
    # rows of length 1 were rounded before.
    close_N1 = (best_N - norm_N * (2 * (x_ND.shape[1] + 16) * _EPSILON))[:, None]
    close_NM = product_NM >= close_N1
    close_NM[(norm_N <= _LEAST) | (norm_N >= _LARGEST)] = True
    again = (close_NM.sum(dim=1) > 1).nonzero().squeeze(1)
    if len(again):
        index_N[again] = _closest(x_ND[again], y_MD, close_NM[again])
    return index_N


def _closest(x_ND: Tensor, y_MD: Tensor, close_NM: Tensor) -> Tensor:
    """[N] int64 the most similar of the rows of ``y_MD`` that are marked, one or more a row."""
    row_J, other_J = close_NM.nonzero().unbind(dim=1)
    if 2 * len(row_J) > close_NM.numel():  # then a product of all costs less
        return best_match(x_ND, y_MD)[1]
    cosine_J = paired_cosine(x_ND, y_MD, row_J, other_J)
    is_best_J = cosine_J == group_max(cosine_J, row_J, len(x_ND))[row_J]
    return group_min(other_J[is_best_J], row_J[is_best_J], len(x_ND))


def _is_narrow(x_ND: Tensor) -> bool:
    return x_ND.device.type == "cpu" and x_ND.dtype != torch.float64


def _pairs(
    x_ND: Tensor, row_J: Tensor, other_J: Tensor, most: int
) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Some pairs at a time, and their rows: views where both follow one another."""
    if not len(row_J):
        return
    breaks = ((row_J.diff() != 1) | (other_J.diff() != 1)).nonzero().squeeze(1) + 1
    if len(breaks) * 64 > len(row_J):
        for start in range(0, len(row_J), most):
            pairs = slice(start, start + most)
            x_PD, y_PD = (x_ND.index_select(0, index[pairs]) for index in (row_J, other_J))
            yield pairs, x_PD, y_PD
        return
    edges = [0, *breaks.tolist(), len(row_J)]
    firsts = zip(row_J[edges[:-1]].tolist(), other_J[edges[:-1]].tolist(), strict=True)
    for (first, after), (row, other) in zip(pairwise(edges), firsts, strict=True):
        for start in range(first, after, most):
            n, skip = min(most, after - start), start - first
            x_PD, y_PD = (x_ND[k + skip : k + skip + n] for k in (row, other))
            yield slice(start, start + n), x_PD, y_PD
