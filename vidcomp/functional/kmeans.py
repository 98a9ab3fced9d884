"""Groups around mean directions: spherical k-means with an exact number of groups.

Concept Decompositions for Large Sparse Text Data using Clustering (Dhillon and Modha, 2001).  It
draws no random number, and no group is ever empty: one that would be takes the row that fits its
own group worst.

Products that decide are added up in float64 where there is one and rounded to float32; ties go to
the lower group.

Legend: N rows, D features, K groups.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from vidcomp.errors import BudgetError
from vidcomp.functional.allocate import rank_in_group, shares
from vidcomp.functional.reduce import group_sum, wide
from vidcomp.functional.select import evenly_spaced
from vidcomp.functional.similarity import unit

__all__ = ["spherical_kmeans", "two_level_kmeans"]

_BLOCK = 1 << 22
"""Products, or numbers of rows in the wide type, that are held at a time (32 MiB)."""
_UNSURE = 1e-4
"""Difference of two products below which float32 does not tell which one is larger."""
_SHARES = 5
"""Parts in which seeds are chosen."""
_SAMPLE = 256
"""Rows a coarse group that the coarse groups are found from."""


def spherical_kmeans(unit_ND: Tensor, weight_N: Tensor, k: int, rounds: int) -> Tensor:
    """[N] int64 group of each row, in 0..K - 1, each with at least one row.

    Time grows with ``rounds * N * K * D``; memory with N + K.

    Args:
        unit_ND: rows of length 1 (or 0), any float type.
        weight_N: [N] more than 0, what a row counts in the mean of its group.
        k: 1 to N.
        rounds: assignments, at least 1; ends earlier if nothing moves any more.

    Raises:
        BudgetError: ``k`` is out of range.
    """
    if not 1 <= k <= len(unit_ND):
        raise BudgetError(
            f"{len(unit_ND)} rows make 1 to {len(unit_ND)} groups, got {k}: change the number"
        )
    centre_KD = wide(unit_ND[_seeds(unit_ND, weight_N, k)])
    group_N = _assign(unit_ND, centre_KD, k)
    for _ in range(rounds - 1):
        centre_KD = unit(group_sum(unit_ND, group_N, k, weight_N))
        before_N, group_N = group_N, _assign(unit_ND, centre_KD, k)
        if torch.equal(before_N, group_N):
            break
    return group_N


def two_level_kmeans(
    rows_of: Callable[[Tensor], Tensor], weight_N: Tensor, k: int, rounds: int
) -> Tensor:
    """As ``spherical_kmeans`` for many rows: coarse groups first, each then split on its own.

    About the square root of K coarse groups are found from evenly spaced rows; they share K in
    proportion to how far their rows are from their directions.  Time grows with
    ``rounds * N * sqrt(K) * D``.

    Args:
        rows_of: [M] int64 row numbers to [M, D] rows of length 1 (or 0); memory holds the rows of
            one coarse group at a time.
        weight_N: [N] more than 0.
        k: 1 to N.
        rounds: assignments of each k-means, at least 1.

    Raises:
        BudgetError: ``k`` is out of range.
    """
    n = len(weight_N)
    if not 1 <= k <= n:
        raise BudgetError(f"{n} rows make 1 to {n} groups, got {k}: change the number")
    coarse_N, spread_N = _coarse(rows_of, weight_N, math.isqrt(k), rounds)
    size_C = torch.bincount(coarse_N)
    share_C = shares(group_sum(spread_N, coarse_N, len(size_C)), k, size_C, 1)
    group_N, first = torch.empty_like(coarse_N), 0
    members = torch.split(coarse_N.argsort(stable=True), size_C.tolist())
    for row_M, share in zip(members, share_C.tolist(), strict=True):
        unit_MD = rows_of(row_M)
        group_N[row_M] = first + spherical_kmeans(unit_MD, weight_N[row_M], share, rounds)
        first += share
    return group_N


def _coarse(
    rows_of: Callable[[Tensor], Tensor], weight_N: Tensor, num_groups: int, rounds: int
) -> tuple[Tensor, Tensor]:
    """[N] coarse group of each row, none empty, and [N] weight times distance to its direction."""
    n, device = len(weight_N), weight_N.device
    sample = evenly_spaced(n, min(n, _SAMPLE * num_groups), device)
    unit_MD = rows_of(sample)
    found = spherical_kmeans(unit_MD, weight_N[sample], num_groups, rounds)
    centre_CD = unit(group_sum(unit_MD, found, num_groups, weight_N[sample]))
    size = max(1, _BLOCK // max(1, unit_MD.shape[1]))
    best, group = [], []
    for row_M in torch.split(torch.arange(n, device=device), size):
        unit_MD = rows_of(row_M)
        group.append(_best(unit_MD, centre_CD))
        best.append(_products(unit_MD, centre_CD, group[-1]))
    best_N, group_N = torch.cat(best), torch.cat(group)
    group_N = _without_empty(best_N, group_N, num_groups)
    return group_N, wide(weight_N) * (1 - best_N).clamp(min=0)


def _seeds(unit_ND: Tensor, weight_N: Tensor, k: int) -> Tensor:
    """[at most K, but nearly] int64 different rows, more of them where rows are unlike the others.

    A first share is evenly spaced, each further one takes even steps of the sum over the rows of
    weight times distance to the seeds so far (k-means||, Bahmani et al., 2012, without the dice).
    """
    seeds = evenly_spaced(len(unit_ND), -(-k // _SHARES), unit_ND.device)
    new, best_N = seeds, torch.full_like(weight_N, -1)
    while len(seeds) < k and len(new):
        centre_KD = wide(unit_ND[new])
        best_N = torch.maximum(best_N, _products(unit_ND, centre_KD, _best(unit_ND, centre_KD)))
        far_N = wide(weight_N) * (1 - best_N).masked_fill_(1 - best_N < _UNSURE / 100, 0)
        sum_N = far_N.cumsum(0)
        count = min(-(-k // _SHARES), k - len(seeds))
        step = (torch.arange(count, device=seeds.device) + 0.5) / count * sum_N[-1]
        new = torch.searchsorted(sum_N, step).clamp(max=len(sum_N) - 1)
        new = torch.unique(new[far_N[new] > 0])  # none if every row is like a seed
        seeds = torch.cat([seeds, new])
    return seeds


def _assign(unit_ND: Tensor, centre_KD: Tensor, k: int) -> Tensor:
    """[N] int64 group with the largest product, none empty."""
    group_N = _best(unit_ND, centre_KD)
    if bool((torch.bincount(group_N, minlength=k) > 0).all()):
        return group_N
    return _without_empty(_products(unit_ND, centre_KD, group_N), group_N, k)


def _best(unit_ND: Tensor, centre_KD: Tensor) -> Tensor:
    """[N] int64 the row of ``centre_KD`` with the largest product, ties to the lower one.

    Float32 finds it where the second largest is clearly less, which is nearly everywhere and takes
    half the time; the other rows are looked at again in the wide type.
    """
    rows = max(1, _BLOCK // max(len(centre_KD), unit_ND.shape[1], 1))
    narrow_KD = centre_KD.float()
    found = []
    for part_MD in torch.split(unit_ND, rows):
        product_MK = part_MD.float() @ narrow_KD.mT
        best = product_MK.max(dim=1)
        product_MK.scatter_(1, best.indices[:, None], -torch.inf)
        unsure = (best.values - product_MK.amax(dim=1) < _UNSURE).nonzero().squeeze(1)
        group_M = best.indices
        if len(unsure):
            exact = (wide(part_MD[unsure]) @ centre_KD.mT).float()
            group_M = group_M.index_copy(0, unsure, exact.max(dim=1).indices)
        found.append(group_M)
    return torch.cat(found)


def _products(unit_ND: Tensor, centre_KD: Tensor, group_N: Tensor) -> Tensor:
    """[N] float32 product of each row with the direction of its group."""
    rows = max(1, _BLOCK // max(1, unit_ND.shape[1]))
    parts = zip(torch.split(unit_ND, rows), torch.split(group_N, rows), strict=True)
    return torch.cat([(wide(x) * centre_KD[g]).sum(dim=1).float() for x, g in parts])


def _without_empty(best_N: Tensor, group_N: Tensor, num_groups: int) -> Tensor:
    """Groups without rows get those that fit worst where they are, but never a group's best one."""
    size_K = torch.bincount(group_N, minlength=num_groups)
    empty = (size_K == 0).nonzero().squeeze(1)
    if not len(empty):
        return group_N
    # The best row of each group has rank 0 and stays.
    spare_N = rank_in_group(best_N, group_N, num_groups) > 0
    worst = best_N.masked_fill(~spare_N, torch.inf).argsort(stable=True)[: len(empty)]
    return group_N.index_copy(0, worst, empty)
