"""Reductions over groups of rows that do not depend on threads, batches or devices.

Rows are sorted stably by group and each group is added up from its first row to its last, in
float64 where the device has it: no atomics, no order that a scheduler decides.

Legend: M N rows, D features, K groups.
"""

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

__all__ = [
    "Grouped",
    "follow",
    "group_max",
    "group_min",
    "group_sum",
    "grouped",
    "narrow",
    "norms",
    "real",
    "short_means",
    "short_sums",
    "wide",
]

_BLOCK = 1 << 22
"""Numbers that a reduction holds at a time beside its input and output (32 MiB)."""
_SMALL_BLOCK = 1 << 17
"""The same where they should stay in the processor's cache (1 MiB)."""
_NARROW = 16
"""Rows of fewer numbers are not worth a step each."""
_BAG = 16
"""Rows that are added up in float32 by ``short_sums``."""
_LOOKED_AT = 16
"""Features that tell whether a mean may be that of equal rows."""
_MISSED = 2e-6
"""Share of its size by which ``short_sums`` may miss a mean of equal numbers."""


def wide(x: Tensor) -> Tensor:
    """``x`` as float64, or as float32 where there is no float64 (Apple's MPS)."""
    return x.float() if x.device.type == "mps" else x.double()


def real(x: Tensor) -> Tensor:
    """``x`` in the type for results that rank: float32, or float64 if it is float64."""
    return x if x.dtype == torch.float64 else x.float()


def narrow(x: Tensor, dtype: torch.dtype) -> Tensor:
    """``x`` in a narrower float type; sums beyond its range end at its largest number."""
    largest = torch.finfo(dtype).max
    return x.clamp(-largest, largest).to(dtype)


def norms(x_ND: Tensor) -> Tensor:
    """[N] float32 Euclidean norms of rows, added up in the wide type; no gradient."""
    return torch.cat([wide(part).norm(dim=-1).float() for part in _parts(x_ND.detach())])


def follow(index_N: Tensor, table_K: Tensor) -> Tensor:
    """[N] int64 ``table_K[index_N]``, or -1 where the index is negative."""
    return torch.cat([table_K, table_K.new_full((1,), -1)])[index_N.clamp(min=-1)]


class Grouped(NamedTuple):
    """Groups of rows, sorted once for several sums."""

    order: Tensor
    """[N] int64 rows, group after group, each group's in their own order; without those that have
    a negative group."""
    group: Tensor
    """[N] int64 their groups, ascending."""
    lengths: Tensor
    """[K] int64 rows of each group."""


def grouped(group_N: Tensor, num_groups: int) -> Grouped:
    """What ``group_sum`` needs to know of [N] int64 groups in 0..K - 1, or negative: left out."""
    if bool((group_N[1:] >= group_N[:-1]).all()):  # to look is far cheaper than to sort
        order_N = torch.arange(len(group_N), device=group_N.device)
    else:
        order_N = group_N.argsort(stable=True)
    order_N = order_N[int((group_N < 0).sum()) :]  # negatives come first
    sorted_N = group_N[order_N]
    return Grouped(order_N, sorted_N, torch.bincount(sorted_N, minlength=num_groups))


def group_sum(
    x_MD: Tensor,
    group_N: Tensor | Grouped,
    num_groups: int,
    factor_N: Tensor | None = None,
    row_N: Tensor | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Sums of the rows of each group.

    Args:
        x_MD: [M, ...] any float or integer type.
        group_N: [N] int64 in 0..K - 1; entries with a negative group are left out.
        num_groups: K.
        factor_N: [N] each entry's row is multiplied by this first, in the wide type.
        row_N: [N] the row of ``x_MD`` that each entry means; by default N is M, row by row.
        dtype: of the result, rounded once; by default float64 (float32 on MPS).

    Returns:
        [K, ...] zeros for a group without rows.
    """
    found = grouped(group_N, num_groups) if isinstance(group_N, Tensor) else group_N
    factor_N1 = None if factor_N is None else wide(factor_N)[found.order, None]
    source_N = found.order if row_N is None else row_N[found.order]
    flat_MD = x_MD.reshape(len(x_MD), math.prod(x_MD.shape[1:]))
    # The processor adds whole rows fastest; on a GPU their order would be anybody's.
    learns = x_MD.requires_grad or (factor_N is not None and factor_N.requires_grad)
    by_columns = x_MD.is_cuda or learns or flat_MD.shape[1] < _NARROW
    add = _sum_columns if by_columns else _add_rows
    sum_KD = add(flat_MD, source_N, factor_N1, found, dtype or wide(x_MD[:0]).dtype)
    return sum_KD.reshape(num_groups, *x_MD.shape[1:])


def short_sums(
    x_MD: Tensor,
    group_N: Tensor | Grouped,
    num_groups: int,
    factor_N: Tensor,
    row_N: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """As ``group_sum``, but on the CPU several times as fast for float32 rows and sums.

    For these, factors are rounded to float32, and at most 16 rows are added up in float32, one
    after the other, and such sums in float64: wrong by 18 roundings of the largest terms at most,
    and the same for equal groups and for any number of threads.  For means, and for what ranks by
    float32.

    Args:
        x_MD: [M, ...] float.
        group_N: [N] int64 in 0..K - 1; entries with a negative group are left out.
        num_groups: K.
        factor_N: [N] each entry's row is multiplied by this.
        row_N: [N] the row of ``x_MD`` that each entry means; by default N is M, row by row.
        dtype: of the result.
    """
    found = grouped(group_N, num_groups) if isinstance(group_N, Tensor) else group_N
    learns = x_MD.requires_grad or factor_N.requires_grad
    is_plain = x_MD.ndim == 2 and x_MD.shape[1] >= _NARROW and x_MD.is_contiguous()
    is_short = is_plain and x_MD.dtype == dtype == torch.float32 and x_MD.device.type == "cpu"
    if learns or not is_short or not len(found.order):
        return group_sum(x_MD, found, num_groups, factor_N, row_N, dtype)
    bags_K = (found.lengths + _BAG - 1) // _BAG
    bag = torch.arange(int(bags_K.sum())) - (bags_K.cumsum(0) - bags_K).repeat_interleave(bags_K)
    first_K = found.lengths.cumsum(0) - found.lengths
    sum_BD = embedding_bag(
        found.order if row_N is None else row_N[found.order],
        x_MD,
        first_K.repeat_interleave(bags_K) + bag * _BAG,
        mode="sum",
        per_sample_weights=factor_N[found.order].float(),
    )
    if bool((bags_K == 1).all()):
        return sum_BD
    group_B = torch.arange(num_groups).repeat_interleave(bags_K)
    return group_sum(sum_BD, group_B, num_groups, dtype=torch.float32)


def short_means(
    x_MD: Tensor,
    group_N: Tensor | Grouped,
    num_groups: int,
    share_N: Tensor,
    row_N: Tensor | None = None,
) -> Tensor:
    """``short_sums`` by shares that add up to 1; the mean of equal rows (not float64) is that row.

    Args:
        x_MD: [M, ...] float.
        group_N: [N] int64 in 0..K - 1; entries with a negative group are left out.
        num_groups: K.
        share_N: [N] of each entry in its group, in the wide type.
        row_N: [N] the row of ``x_MD`` that each entry means; by default N is M, row by row.

    Returns:
        [K, ...] in the type of ``x_MD``.
    """
    found = grouped(group_N, num_groups) if isinstance(group_N, Tensor) else group_N
    mean_KD = short_sums(x_MD, found, num_groups, share_N, row_N, x_MD.dtype)
    if x_MD.dtype != torch.float32 or x_MD.ndim != 2 or mean_KD.requires_grad:
        return mean_KD
    # What may be the mean of equal rows, missed by some roundings, is added up again.
    source_N = found.order if row_N is None else row_N[found.order]
    several = (found.lengths > 1).nonzero().squeeze(1)
    first_K = found.lengths.cumsum(0) - found.lengths
    one_Kd = x_MD[:, :_LOOKED_AT].index_select(0, source_N[first_K[several]])
    missed_Kd = (mean_KD[:, :_LOOKED_AT].index_select(0, several) - one_Kd).abs_()
    again = several[(missed_Kd <= _MISSED * one_Kd.abs()).all(dim=1)]
    if len(again):
        rank_K = torch.full_like(found.lengths, -1)
        rank_K[again] = torch.arange(len(again), device=again.device)
        rank_N, factor_N = rank_K[found.group], share_N[found.order]
        mean_KD[again] = group_sum(x_MD, rank_N, len(again), factor_N, source_N, x_MD.dtype)
    return mean_KD


def group_min(x_N: Tensor, group_N: Tensor, num_groups: int) -> Tensor:
    """[K] smallest value of each group, in the type of ``x_N``; every group has rows."""
    return _extreme(x_N, group_N, num_groups, "amin")


def group_max(x_N: Tensor, group_N: Tensor, num_groups: int) -> Tensor:
    """[K] largest value of each group, in the type of ``x_N``; every group has rows."""
    return _extreme(x_N, group_N, num_groups, "amax")


def _whole_groups(lengths_K: Tensor, x_MD: Tensor) -> Iterator[tuple[slice, slice]]:
    """Groups that are reduced together, and their rows: so few that they stay in the cache.

    No group is cut, so what is added up in which order does not depend on it.
    """
    rows = max(1, (_BLOCK if x_MD.is_cuda else _SMALL_BLOCK) // max(1, x_MD.shape[1]))
    stop_K = lengths_K.cumsum(0)
    total = int(stop_K[-1]) if len(stop_K) else 0
    wanted = torch.arange(rows, max(rows, total), rows, device=stop_K.device)
    edges = sorted({0, *torch.searchsorted(stop_K, wanted).tolist(), len(lengths_K)})
    if len(edges) == 1:
        yield slice(0, 0), slice(0, 0)  # no groups
        return
    ends = [0, *stop_K[torch.tensor(edges[1:], device=stop_K.device) - 1].tolist()]
    for (k, after), (start, stop) in zip(pairwise(edges), pairwise(ends), strict=True):
        yield slice(k, after), slice(start, stop)


def _sum_columns(
    x_MD: Tensor, source_N: Tensor, factor_N1: Tensor | None, found: Grouped, dtype: torch.dtype
) -> Tensor:
    """[K, D] sums of the rows ``source_N`` of ``x_MD``, group after group."""
    sums = []
    for groups, rows in _whole_groups(found.lengths, x_MD):
        row_n, parts = source_N[rows], []
        for part_MD in torch.split(x_MD, max(1, _BLOCK // max(1, len(row_n))), dim=1):
            rows_nD = wide(part_MD[row_n])
            rows_nD = rows_nD if factor_N1 is None else rows_nD * factor_N1[rows]
            parts.append(_segment_sum(rows_nD, found.lengths[groups]).to(dtype))
        sums.append(torch.cat(parts, dim=1))
    return torch.cat(sums)


def _add_rows(
    x_MD: Tensor, source_N: Tensor, factor_N1: Tensor | None, found: Grouped, dtype: torch.dtype
) -> Tensor:
    """The same, one row after the other; no gradient.

    All that is held lies in buffers: blocks that come and go cost more than what is done to them.
    """
    blocks = list(_whole_groups(found.lengths, x_MD))
    step = max(1, _SMALL_BLOCK // x_MD.shape[1])
    row_nD = x_MD.new_empty(step, x_MD.shape[1])
    wide_nD = wide(row_nD)
    sum_kD = wide_nD.new_empty(max(k.stop - k.start for k, _ in blocks), x_MD.shape[1])
    out_KD = x_MD.new_empty(len(found.lengths), x_MD.shape[1], dtype=dtype)
    first = int(source_N[0]) if len(source_N) and bool((source_N.diff() == 1).all()) else None
    for groups, rows in blocks:
        sum_kD.zero_()
        for start in range(rows.start, rows.stop, step):
            some = slice(start, min(start + step, rows.stop))
            n = some.stop - start
            if first is None:
                torch.index_select(x_MD, 0, source_N[some], out=row_nD[:n])
                wide_nD[:n] = row_nD[:n]
            else:  # rows that follow one another need not be gathered
                wide_nD[:n] = x_MD[first + start : first + some.stop]
            if factor_N1 is not None:
                wide_nD[:n] *= factor_N1[some]
            sum_kD.index_add_(0, found.group[some] - groups.start, wide_nD[:n])
        out_KD[groups] = sum_kD[: groups.stop - groups.start]
    return out_KD


def _segment_sum(rows_ND: Tensor, lengths_K: Tensor) -> Tensor:
    if not rows_ND.numel():  # segment_reduce refuses data without rows
        return rows_ND.new_zeros(len(lengths_K), rows_ND.shape[1])
    return torch.segment_reduce(rows_ND, "sum", lengths=lengths_K, axis=0, unsafe=True)


def _extreme(x_N: Tensor, group_N: Tensor, num_groups: int, how: str) -> Tensor:
    # The smallest of a set does not depend on the order in which it is looked for.
    kept_N = group_N >= 0
    out_K = x_N.new_zeros(num_groups)
    return out_K.scatter_reduce(0, group_N[kept_N], x_N[kept_N], how, include_self=False)


def _parts(x_ND: Tensor) -> tuple[Tensor, ...]:
    """Runs of rows, so that a wide copy of all of them is never there."""
    block = _BLOCK if x_ND.is_cuda else _SMALL_BLOCK
    return torch.split(x_ND, max(1, block // max(1, x_ND.shape[1:].numel())))
