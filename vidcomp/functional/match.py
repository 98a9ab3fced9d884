"""Bipartite matching of tokens, and the rounds of it that reach any count.

Token Merging: Your ViT But Faster (Bolya et al., 2022): rows at even places look for the most
similar row at an odd place, and the most similar pairs merge.  We rank stably, refuse a count that
one round cannot reach instead of clipping it, and add up in float64.

Legend: N rows, D features.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from vidcomp.errors import BudgetError
from vidcomp.functional.geometry import raster_order
from vidcomp.functional.merge import merge_by_assignment
from vidcomp.functional.reduce import group_min, group_sum, grouped, real, wide
from vidcomp.functional.rough import nearest
from vidcomp.functional.similarity import paired_cosine

__all__ = [
    "bipartite_groups",
    "every_kth_groups",
    "halving_counts",
    "proportional_bias",
    "rounds_of_matching",
]


def bipartite_groups(metric_ND: Tensor, num_merges: int, window: int | None = None) -> Tensor:
    """Groups after one round of matching that takes away exactly ``num_merges`` rows.

    Rows 0, 2, 4 ... are sources, rows 1, 3, 5 ... are targets.  Each source knows its most
    similar target (ties to the lower row); the ``num_merges`` sources that are most similar to
    theirs (ties to the lower row) merge into it.

    Args:
        metric_ND: [N, D] float features to compare, e.g. attention keys.
        num_merges: 0 to N // 2.
        window: sources look for targets among about this many consecutive rows only, in windows
            as equal as possible; at least 2.  ``None``: among all.

    Returns:
        [N] int64 in 0..N - num_merges - 1.  Groups are numbered in the published order: sources
        that stay, by falling similarity, then all targets.

    Raises:
        BudgetError: more merges than half of the rows.
    """
    n = len(metric_ND)
    if not 0 <= num_merges <= n // 2:
        raise BudgetError(
            f"one round of pairwise matching takes away 0 to {n // 2} of {n} tokens, got "
            f"{num_merges}: use more rounds"
        )
    group_N = torch.empty(n, dtype=torch.int64, device=metric_ND.device)
    num_sources, num_targets = (n + 1) // 2, n // 2
    num_kept = num_sources - num_merges
    group_N[1::2] = num_kept + torch.arange(num_targets, device=group_N.device)
    if not num_targets:
        return group_N.zero_()
    best, target = _best_targets(metric_ND.detach(), window)
    order = best.argsort(descending=True, stable=True)
    group_source = torch.empty_like(order)
    group_source[order[:num_merges]] = num_kept + target[order[:num_merges]]
    group_source[order[num_merges:]] = torch.arange(num_kept, device=order.device)
    group_N[0::2] = group_source
    return group_N


def every_kth_groups(metric_ND: Tensor, k: int) -> Tensor:
    """Groups when every k-th row is a target and all other rows merge into their most similar one.

    Args:
        metric_ND: [N, D] float features to compare.
        k: at least 1; rows k - 1, 2k - 1, ... are targets.

    Returns:
        [N] int64 in 0..N // k - 1, or -1 for the last N mod k rows, which are dropped.

    Raises:
        BudgetError: ``k`` is not in 1..N.
    """
    n = len(metric_ND)
    if not 1 <= k <= n:
        raise BudgetError(f"every k-th of {n} tokens needs k in 1..{n}, got {k}: change k")
    group_N = torch.full((n,), -1, device=metric_ND.device)
    row = torch.arange(n // k * k, device=metric_ND.device)
    is_target = row % k == k - 1
    targets, sources = row[is_target], row[~is_target]
    group_N[targets] = torch.arange(len(targets), device=row.device)
    group_N[sources] = nearest(metric_ND, metric_ND[targets], sources)
    return group_N


def halving_counts(num_tokens: int, target: int, num_rounds: int | None = None) -> list[int]:
    """Counts after each round, from ``num_tokens`` down to ``target``; a round at most halves.

    Args:
        num_tokens: rows before the first round.
        target: rows after the last one, at least 1.
        num_rounds: ``None``: as few as possible, all but the last a full halving; else this many,
            each taking about the same share.

    Raises:
        BudgetError: not reached in ``num_rounds``.
    """
    fewest, n = [], num_tokens
    while n > target:
        n = max(target, n - n // 2)
        fewest.append(n)
    if num_rounds is None or not fewest:
        return fewest
    if num_rounds < len(fewest):
        raise BudgetError(
            f"a round of matching at most halves, so {num_tokens} to {target} tokens takes "
            f"{len(fewest)} rounds, got rounds={num_rounds}: raise it or leave it out"
        )
    counts, n = [], num_tokens
    for left in range(num_rounds - 1, -1, -1):
        # The same factor for each round to come, but never below a half or out of reach of target.
        wanted = round(n * (target / n) ** (1 / (left + 1)))
        n = max(target, n - n // 2, min(wanted, target << left))
        counts.append(n)
    return counts


def rounds_of_matching(
    metric_ND: Tensor,
    mass_N: Tensor,
    counts: Sequence[int],
    positions_N3: Tensor | None = None,
    window: int | None = None,
) -> Tensor:
    """Groups after several rounds of bipartite matching; merged rows carry their mass.

    Args:
        metric_ND: [N, D] float features to compare; merged rows compare by their weighted mean.
        mass_N: [N] float.
        counts: rows after each round, each at least half of the one before.
        positions_N3: given: rows are brought to raster order before each round and in the end, so
            that even and odd places are neighbours.  ``None``: the published order, each round's
            result as it comes.
        window: rows that are compared with each other in a round; ``None``: all.

    Returns:
        [N] int64 in 0..counts[-1] - 1.
    """
    group_N = torch.arange(len(metric_ND), device=metric_ND.device)
    first_K, mass_K = group_N, mass_N
    metric_KD, positions_K3 = metric_ND.detach(), positions_N3
    for number, count in enumerate(counts, start=1):
        step = bipartite_groups(metric_KD, len(metric_KD) - count, window)
        first_K = group_min(first_K, step, count)
        if positions_K3 is not None:
            positions_K3, _ = merge_by_assignment(positions_K3, mass_K, step, count)
            order = raster_order(positions_K3, first_K)
            rank = torch.empty_like(order)
            rank[order] = torch.arange(count, device=order.device)
            step, first_K, positions_K3 = rank[step], first_K[order], positions_K3[order]
        if number < len(counts):  # the rows of the last round are compared with nothing
            metric_KD = _merged(metric_KD, mass_K, step, count)
        mass_K = group_sum(mass_K, step, count).float()
        group_N = step[group_N]
    return group_N


def _merged(x_ND: Tensor, mass_N: Tensor, group_N: Tensor, count: int) -> Tensor:
    """[count, D] weighted means, in float32 or better whatever the rows are."""
    found = grouped(group_N, count)
    share_N = wide(mass_N) / group_sum(mass_N, found, count)[group_N]
    return group_sum(x_ND, found, count, share_N, dtype=real(x_ND[:0]).dtype)


def _best_targets(metric_ND: Tensor, window: int | None) -> tuple[Tensor, Tensor]:
    """Similarity of each source to its best target, and the number of that target."""
    sources, targets = metric_ND[0::2], metric_ND[1::2]
    num_windows = -(-len(metric_ND) // window) if window is not None else 1
    values, numbers = [], []
    for i in range(num_windows := min(num_windows, len(targets))):
        first, end = (k * len(targets) // num_windows for k in (i, i + 1))
        # The source beyond the last pair, if there is one, looks into the last window.
        last = end if i < num_windows - 1 else len(sources)
        x_AD, y_BD = sources[first:last], targets[first:end]
        number = nearest(x_AD, y_BD)
        values.append(paired_cosine(x_AD, y_BD, y_row_J=number))
        numbers.append(number + first)
    return torch.cat(values), torch.cat(numbers)


def proportional_bias(mass_N: Tensor) -> Tensor:
    """[...] what is added to attention logits so that a token counts as all that it stands for.

    The logarithm of the mass, as in ToMe's proportional attention; broadcast it over queries.
    """
    return mass_N.log()
