"""Whole shares of a budget for the parts of a video, and the best rows of each part.

``vidcomp.budget.apportion`` hands out one total under hard bounds and refuses what cannot be; here
floors give way when the total is too small for them, so that every budget from 1 on has an answer.

Legend: B videos, T parts (frames, segments, groups), N rows, K kept rows.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from vidcomp.budget import apportion
from vidcomp.functional.reduce import real

__all__ = ["rank_in_group", "shares", "top_of_each", "top_of_each_closely"]

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
    order_N, first_T = _best_first(score_N, part_N, len(share_T))
    place_N = torch.arange(len(order_N), device=order_N.device)
    taken_N = place_N < (first_T + share_T).repeat_interleave(_sizes(part_N, len(share_T)))
    return order_N[taken_N].sort().values


def top_of_each_closely(
    rough_N: Tensor,
    error: float,
    exactly: Callable[[Tensor], Tensor],
    part_N: Tensor,
    share_T: Tensor,
) -> Tensor:
    """As ``top_of_each`` of exact scores, of which only those near the last kept are computed.

    Args:
        rough_N: scores, none of them farther than ``error`` from the exact one.
        error: at least 0.
        exactly: the exact scores of the rows it is called with.
        part_N: [N] int64 part of each row, in 0..T - 1.
        share_T: [T] int64 rows that stay of each, at most what it has.
    """
    if error == 0:
        return top_of_each(rough_N, part_N, share_T)
    num_parts = len(share_T)
    # The last that is kept by exact scores is within one error of the last by rough ones.
    last_T = _last_kept(real(rough_N), part_N, share_T).masked_fill(share_T == 0, torch.inf)
    last_T = last_T.masked_fill(share_T == _sizes(part_N, num_parts), -torch.inf)
    above_N = (real(rough_N) - last_T[part_N]).nan_to_num(nan=0.0)  # both infinite: equal
    sure_N = above_N > 2 * error
    open_N = (above_N.abs() <= 2 * error).nonzero().squeeze(1)
    share_T = share_T - torch.bincount(part_N[sure_N], minlength=num_parts)
    chosen = top_of_each(exactly(open_N), part_N[open_N], share_T)
    return sure_N.index_fill(0, open_N[chosen], value=True).nonzero().squeeze(1)


def rank_in_group(score_N: Tensor, part_N: Tensor, num_parts: int) -> Tensor:
    """[N] int64 how many rows of the same part have a higher score, or an equal one before."""
    order_N, first_T = _best_first(score_N, part_N, num_parts)
    rank_N = torch.empty_like(order_N)
    rank_N[order_N] = torch.arange(len(order_N), device=order_N.device) - first_T[part_N[order_N]]
    return rank_N


def _best_first(score_N: Tensor, part_N: Tensor, num_parts: int) -> tuple[Tensor, Tensor]:
    """[N] int64 rows, part after part, the highest scores first; and [T] where parts start."""
    size_T = _sizes(part_N, num_parts)
    first_T = size_T.cumsum(0) - size_T
    if _are_rows(part_N, num_parts):  # short rows are sorted faster than all at once
        order_TP = real(score_N).view(num_parts, -1).argsort(dim=1, descending=True, stable=True)
        return (order_TP + first_T[:, None]).flatten(), first_T
    order_N = real(score_N).argsort(descending=True, stable=True)
    return order_N[part_N[order_N].argsort(stable=True)], first_T


def _last_kept(score_N: Tensor, part_N: Tensor, share_T: Tensor) -> Tensor:
    """[T] lowest of the scores that stay; of a part of which none stays, any score."""
    most = int(share_T.max()) if len(share_T) else 0
    if most and _are_rows(part_N, len(share_T)):
        best_TK = score_N.view(len(share_T), -1).topk(most, dim=1).values
        return best_TK.gather(1, (share_T - 1).clamp(min=0)[:, None]).squeeze(1)
    order_N, first_T = _best_first(score_N, part_N, len(share_T))
    return score_N[order_N[(first_T + share_T - 1).clamp(0, max(0, len(order_N) - 1))]]


def _are_rows(part_N: Tensor, num_parts: int) -> bool:
    """Whether parts of one size lie one after the other."""
    if not num_parts or len(part_N) % num_parts:
        return False
    part_T = torch.arange(num_parts, device=part_N.device)
    return bool((part_N.view(num_parts, -1) == part_T[:, None]).all())


def _sizes(part_N: Tensor, num_parts: int) -> Tensor:
    return torch.bincount(part_N, minlength=num_parts)


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
