"""Whole shares of a budget for the parts of a video, and the best rows of each part.

``vidcomp.budget.apportion`` hands out one total under hard bounds and refuses what cannot be; here
floors give way when the total is too small for them, so that every budget from 1 on has an answer.

Legend: B videos, T parts (frames, segments, groups), N rows, K kept rows.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from vidcomp.budget import apportion
from vidcomp.functional.reduce import real

__all__ = ["rank_in_group", "shares", "top_of_each"]

Counts = Tensor | Sequence[int]


def shares(
    weights: Tensor | Sequence[float],
    total: int | Counts,
    caps: Counts,
    floors: int | Counts | None = None,
) -> Tensor:
    """Whole shares by weight that sum to ``min(total, sum(caps))``, by largest remainder.

    What a cap refuses is shared among the others in proportion; a floor above the cap counts as
    the cap.  If the floors together exceed the total they are the caps of it: the parts of the
    largest weights get theirs.  Ties go to the lower part.

    Args:
        weights: [T] or [B, T], finite and >= 0; all zero means equal.
        total: what is handed out, at least 0: a number, or [B].
        caps: [T] or [B, T] largest shares.
        floors: smallest shares: a number for all, [T] or [B, T]; ``None``: 0.

    Returns:
        [T] or [B, T] int64 on the device of ``weights``.

    Raises:
        BudgetError: a weight is negative or not finite, or counts that do not match the weights.
    """
    if isinstance(weights, Tensor) and weights.ndim == 2:
        rows = [
            shares(w, _row(total, b), _counts(caps, b), None if floors is None else _row(floors, b))
            for b, w in enumerate(weights)
        ]
        return torch.stack(rows) if rows else weights.new_zeros(weights.shape).long()
    high = _listed(caps)
    wanted = min(int(total), sum(high))  # type: ignore[arg-type]  # one video, one total
    low = _floors(floors, high)
    if sum(low) > wanted:
        return apportion(weights, total=wanted, caps=low)
    return apportion(weights, total=wanted, caps=high, minimum=low)


def top_of_each(score_N: Tensor, part_N: Tensor, share_T: Tensor) -> Tensor:
    """[K] int64 the rows with the highest scores of each part, ascending; ties to the lower row.

    Args:
        score_N: finite or infinite, any real type; compared in float32 or better.
        part_N: [N] int64 part of each row, in 0..T - 1.
        share_T: [T] int64 rows that stay of each, at most what it has.
    """
    rank_N = rank_in_group(score_N, part_N, len(share_T))
    return (rank_N < share_T[part_N]).nonzero().squeeze(1)


def rank_in_group(score_N: Tensor, part_N: Tensor, num_parts: int) -> Tensor:
    """[N] int64 how many rows of the same part have a higher score, or an equal one before."""
    order_N = real(score_N).argsort(descending=True, stable=True)
    order_N = order_N[part_N[order_N].argsort(stable=True)]
    size_T = torch.bincount(part_N, minlength=num_parts)
    first_T = size_T.cumsum(0) - size_T
    rank_N = torch.empty_like(order_N)
    rank_N[order_N] = torch.arange(len(order_N), device=order_N.device) - first_T[part_N[order_N]]
    return rank_N


def _listed(counts: Counts) -> list[int]:
    return [int(n) for n in (counts.tolist() if isinstance(counts, Tensor) else counts)]


def _row(counts: int | Counts, b: int) -> int | Counts:
    """What belongs to video ``b``: a number holds for all."""
    if isinstance(counts, int):
        return counts
    row = counts[b]
    return int(row) if isinstance(row, Tensor) and row.ndim == 0 else row


def _counts(counts: Counts, b: int) -> Counts:
    row = _row(counts, b)
    assert not isinstance(row, int)  # noqa: S101  # caps of a batch are [B, T]
    return row


def _floors(floors: int | Counts | None, high: list[int]) -> list[int]:
    if floors is None:
        return [0] * len(high)
    wanted = [floors] * len(high) if isinstance(floors, int) else _listed(floors)
    if len(wanted) != len(high):
        return wanted  # which apportion refuses
    return [min(n, cap) for n, cap in zip(wanted, high, strict=True)]
