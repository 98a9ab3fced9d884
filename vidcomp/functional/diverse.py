"""Rows that differ from each other: farthest first, or by the volume that they span.

Both selections are greedy, and what a row is worth only falls as more rows are picked.  So a value
that was computed some picks ago is an upper bound, and only the rows whose bound is the highest are
brought up to date (the accelerated greedy of Minoux, 1978): the picks are those of the plain way,
without its matrix of N x N numbers and without touching all rows at every pick.

Cosines are computed in float64 where there is one; what is compared is rounded to float32, so that
duplicates tie exactly, and ties go to the lower row.

Legend: N rows, D features, K picks, B groups of the same size, M a block of rows.
"""

import torch
from torch import Tensor

from vidcomp.errors import BudgetError
from vidcomp.functional.similarity import directions

__all__ = ["cosine_distances", "distinct_first", "greedy_dpp", "max_min", "max_min_of"]

_HELD = 1 << 24
"""Distances that are kept (64 MiB): all of up to 4,096 rows."""
_BATCH = 64
"""Rows that are brought up to date at once."""
_WINDOW = 128
"""Picks that they are compared with at once: after those they may be worth too little to go on."""
_LEAST, _LARGEST = 1e-9, 1e9
"""Lengths of rows of which float32 holds squares."""
_SPANNED = 1e-9
"""Share of a row's squared length below which it lies in the span of others."""


def cosine_distances(x_MD: Tensor, y_ND: Tensor) -> Tensor:
    """[..., M, N] float32 ``1 - cosine``, exactly 0 for rows of the same direction.

    A matrix: for small M * N.  Groups may be given at once, [B, M, D] and [B, N, D].
    """
    return _distances(directions(x_MD.detach()), directions(y_ND.detach()))


def max_min(x_ND: Tensor, k: int, *, scale_N: Tensor | None = None) -> Tensor:
    """Rows picked so that each is as far as can be from those before it.

    The first is the row whose nearest other row is farthest, each further one that whose nearest
    picked row is farthest, by ``1 - cosine``.  No row is picked twice, whatever is equal.

    Args:
        x_ND: [N, D] float features.
        k: 1 to N.
        scale_N: [N] at least 0: distances to a row are multiplied by its entry first, so that of
            rows at the same distance the one with the largest is picked.

    Returns:
        [K] int64 rows in the order in which they are picked.

    Raises:
        BudgetError: ``k`` is out of range.
    """
    _check(len(x_ND), k)
    x_ND = x_ND.detach()
    if len(x_ND) ** 2 <= _HELD:
        picked = _rough_max_min(x_ND, k, scale_N)
        if picked is not None:
            return picked
        distance_NN = _all_distances(directions(x_ND))
        return max_min_of(distance_NN if scale_N is None else distance_NN * scale_N.float(), k)
    unit_ND = directions(x_ND)
    scale_N = x_ND.new_ones(len(x_ND), dtype=torch.float32) if scale_N is None else scale_N.float()
    return _lazy_max_min(unit_ND, scale_N, k)


def max_min_of(distance_NN: Tensor, k: int, *, repeats: bool = False) -> Tensor:
    """As ``max_min``, by a matrix of distances from each row to each candidate (the column).

    Args:
        distance_NN: [N, N] or [B, N, N]; a column may be scaled by its candidate's importance, also
            by a negative one.
        k: 1 to N.
        repeats: let a row be picked again if it has the largest least distance, as published.

    Returns:
        [K] or [B, K] int64 rows in the order in which they are picked.

    Raises:
        BudgetError: ``k`` is out of range.
    """
    _check(distance_NN.shape[-1], k)
    batched_BNN = distance_NN if distance_NN.ndim == 3 else distance_NN[None]
    group_B = torch.arange(len(batched_BNN), device=batched_BNN.device)
    # A row is at distance 0 of itself, so that the second smallest is to its nearest other row.
    least_BN = _second_smallest(batched_BNN)
    free_BN = torch.ones_like(least_BN, dtype=torch.bool)
    picks = []
    for step in range(k):
        row_B = least_BN.masked_fill(~free_BN, -torch.inf).argmax(dim=1)
        picks.append(row_B)
        if not repeats:
            free_BN[group_B, row_B] = False
        found_BN = batched_BNN[group_B, row_B]
        least_BN = torch.minimum(least_BN, found_BN) if step else found_BN
    picked_BK = torch.stack(picks, dim=1)
    return picked_BK if distance_NN.ndim == 3 else picked_BK[0]


def greedy_dpp(x_ND: Tensor, relevance_N: Tensor, k: int) -> Tensor:
    """Rows picked one by one so that the relevant directions that they span are the most.

    Greedy maximum of the determinant of ``r_i cos(x_i, x_j) r_j``, a determinantal point process:
    each pick has the largest relevance times distance to the span of those before it.  At most
    D picks span something new; when no row does any more, the span is forgotten and the method
    begins again among the rows that are left, so that later picks are diverse as well.

    Args:
        x_ND: [N, D] float features.
        relevance_N: [N] finite; those below a millionth of the largest count as that, and all as 1
            if none is above 0.
        k: 1 to N.

    Returns:
        [K] int64 rows in the order in which they are picked, all different.

    Raises:
        BudgetError: ``k`` is out of range.
    """
    _check(len(x_ND), k)
    unit_ND = directions(x_ND.detach())
    weight_N = relevance_N.detach().to(unit_ND.dtype)
    weight_N = weight_N / weight_N.amax().clamp(min=torch.finfo(weight_N.dtype).tiny)
    weight_N = weight_N.clamp(min=1e-6) ** 2
    left_N = torch.ones_like(weight_N, dtype=torch.bool)
    picks: list[int] = []
    while len(picks) < k:
        found = _dpp_round(unit_ND, weight_N, left_N, k - len(picks))
        left_N[found] = False
        picks += found
    return torch.tensor(picks, device=x_ND.device)


def distinct_first(x_ND: Tensor, score_N: Tensor, k: int, max_cosine: float) -> Tensor:
    """Rows visited by falling score, each picked if it is unlike all picked before it.

    Args:
        x_ND: [N, D] float features.
        score_N: [N] any real type; ties go to the lower row.
        k: most rows to pick, at least 0.
        max_cosine: a row with this cosine or more with a picked one is passed over.

    Returns:
        [at most K] int64 rows in the order in which they are picked.
    """
    order_N = score_N.argsort(descending=True, stable=True)
    picked = order_N[:0]
    chosen_KD = directions(x_ND[picked].detach())
    for row_M in torch.split(order_N, 8 * _BATCH):
        if len(picked) >= k:
            break
        unit_MD = directions(x_ND[row_M].detach())
        free_M = torch.ones_like(row_M, dtype=torch.bool)
        for part_KD in _split(chosen_KD, len(row_M)):
            free_M &= ((unit_MD @ part_KD.mT).float() < max_cosine).all(dim=1)
        row_M, unit_MD = row_M[free_M], unit_MD[free_M]
        new_M = _first_of_alike((unit_MD @ unit_MD.mT).float() >= max_cosine)
        picked = torch.cat([picked, row_M[new_M]])
        chosen_KD = torch.cat([chosen_KD, unit_MD[new_M]])
    return picked[:k]


def _check(num_rows: int, k: int) -> None:
    if not 1 <= k <= num_rows:
        raise BudgetError(f"of {num_rows} rows 1 to {num_rows} can be picked, got {k}: change it")


def _first_of_alike(alike_MM: Tensor) -> Tensor:
    """[M] bool: the row is like no earlier row for which this is True."""
    earlier_MM = alike_MM.tril(-1)
    out_M = torch.zeros(len(alike_MM), dtype=torch.bool, device=alike_MM.device)
    undecided_M = ~out_M
    while bool(undecided_M.any()):
        # Rows that only wait for rows passed over are in; rows like one of those are out.
        out_M |= undecided_M & ~(earlier_MM & undecided_M).any(dim=1)
        undecided_M = undecided_M & ~out_M & ~(earlier_MM & out_M).any(dim=1)
    return out_M


def _distances(u_MD: Tensor, v_ND: Tensor) -> Tensor:
    """[..., M, N] float32 from wide rows of length 1."""
    distance_MN = (u_MD @ v_ND.mT).neg_().add_(1)
    unsure = 4096 * torch.finfo(distance_MN.dtype).eps
    return distance_MN.masked_fill_(distance_MN <= unsure, 0).float()


def _all_distances(unit_ND: Tensor) -> Tensor:
    """[N, N] float32; those of each pair are found once."""
    num_rows = len(unit_ND)
    distance_NN = torch.empty(num_rows, num_rows, device=unit_ND.device)
    strip = num_rows if unit_ND.is_cuda else max(64, num_rows // 8)
    for start in range(0, num_rows, strip):
        stop = start + strip
        strip_MN = _distances(unit_ND[start:stop], unit_ND[start:])
        distance_NN[start:stop, start:] = strip_MN
        distance_NN[stop:, start:stop] = strip_MN[:, strip:].mT
    return distance_NN


def _rough_max_min(x_ND: Tensor, k: int, scale_N: Tensor | None) -> Tensor | None:
    """The picks of ``max_min``, most of which float32 tells; nothing if it tells too little.

    Where it leaves several rows to choose from, those are compared in the wide type.
    """
    is_narrow = x_ND.device.type == "cpu" and x_ND.dtype != torch.float64
    if not is_narrow or torch.get_float32_matmul_precision() != "highest" or 4 * k > len(x_ND):
        return None
    norm_N1 = torch.linalg.vector_norm(x_ND, dim=1, keepdim=True, dtype=torch.float32)
    if not bool(((norm_N1 > _LEAST) & (norm_N1 < _LARGEST)).all()):
        return None
    distance_NN = _rough_distances(x_ND / norm_N1)
    scale_N = torch.ones_like(norm_N1[:, 0]) if scale_N is None else scale_N.float()
    # A product has one rounding a term, a length half of one for each of 4 partial sums at least.
    error_N = scale_N * ((5 / 4 * x_ND.shape[1] + 32) * 2.0**-24)
    least_N, picks = distance_NN.amin(dim=1) * scale_N, list[int]()
    while len(picks) < k:
        open_J = (least_N + error_N >= (least_N - error_N).max()).nonzero().squeeze(1)
        if not 1 <= len(open_J) <= _BATCH:
            return None
        best = int(open_J[0])
        if len(open_J) > 1:
            best = int(open_J[_farthest(x_ND, open_J, picks, scale_N)])
        found_N = distance_NN[best] * scale_N
        least_N = torch.minimum(least_N, found_N) if picks else found_N
        least_N[best] = -torch.inf
        picks.append(best)
    return torch.tensor(picks)


def _rough_distances(unit_ND: Tensor) -> Tensor:
    """[N, N] as ``_all_distances`` of float32 rows, but infinite from each row to itself."""
    num_rows = len(unit_ND)
    distance_NN = torch.empty(num_rows, num_rows)
    strip = max(64, num_rows // 4)
    for start in range(0, num_rows, strip):
        stop = start + strip
        strip_MN = (unit_ND[start:stop] @ unit_ND[start:].mT).neg_().add_(1)
        distance_NN[start:stop, start:] = strip_MN
        distance_NN[stop:, start:stop] = strip_MN[:, strip:].mT
    return distance_NN.fill_diagonal_(torch.inf)


def _farthest(x_ND: Tensor, open_J: Tensor, picks: list[int], scale_N: Tensor) -> Tensor:
    """The place of the first of some rows that is farthest from the picks, or, before there are
    any, from all other rows.
    """
    distance_JK = cosine_distances(x_ND[open_J], x_ND[picks] if picks else x_ND)
    if not picks:
        distance_JK[torch.arange(len(open_J)), open_J] = torch.inf
    return (distance_JK.amin(dim=1) * scale_N[open_J]).argmax()


def _second_smallest(value_BNN: Tensor) -> Tensor:
    """[B, N] of each column; the smallest if it is there twice or alone."""
    least_BN = value_BNN.amin(dim=1)
    is_least_BNN = value_BNN == least_BN[:, None]
    second_BN = value_BNN.masked_fill(is_least_BNN, torch.inf).amin(dim=1)
    return torch.where((is_least_BNN.sum(dim=1) > 1) | second_BN.isinf(), least_BN, second_BN)


def _lazy_max_min(unit_ND: Tensor, scale_N: Tensor, k: int) -> Tensor:
    first = _most_isolated(unit_ND, scale_N)
    bound_N = torch.cat([_distances(part, unit_ND[first, None]) for part in _split(unit_ND, 1)])
    bound_N = bound_N.squeeze(1) * scale_N
    bound_N[first] = -1  # below all others
    seen_N = torch.ones_like(bound_N, dtype=torch.int64)  # picks that a bound knows of
    picks = [first]
    chosen_KD = unit_ND.new_empty(k, unit_ND.shape[1])
    chosen_KD[0] = unit_ND[first]
    while len(picks) < k:
        best = int(bound_N.argmax())
        if int(seen_N[best]) < len(picks) and float(bound_N[best]) > 0:  # 0 falls no further
            top, stop = _stale_top(bound_N, seen_N, best, len(picks))
            news_KD = chosen_KD[int(seen_N[best]) : stop]
            found = _distances(unit_ND[top], news_KD).amin(dim=1) * scale_N[top]
            bound_N[top] = torch.minimum(bound_N[top], found)
            seen_N[top] = stop
            continue
        chosen_KD[len(picks)] = unit_ND[best]
        bound_N[best] = -1
        picks.append(best)
    return torch.tensor(picks, device=unit_ND.device)


def _stale_top(bound_N: Tensor, seen_N: Tensor, best: int, num_picks: int) -> tuple[Tensor, int]:
    """Rows with high bounds that know of as many picks as row ``best``, or of few more; and the
    number of picks that they are to know of.
    """
    start = int(seen_N[best])
    stop = min(start + _WINDOW, num_picks)
    alike_N = (seen_N >= start) & (seen_N < stop)
    value, row = bound_N.masked_fill(~alike_N, -torch.inf).topk(min(_BATCH, len(bound_N)))
    return row[value >= 0], stop


def _most_isolated(unit_ND: Tensor, scale_N: Tensor) -> int:
    """The row whose nearest other row, scaled, is farthest; ties to the lower row."""
    n = len(unit_ND)
    bound_N = torch.full((n,), torch.inf, device=unit_ND.device)
    exact_N = torch.zeros_like(bound_N, dtype=torch.bool)
    rest = torch.arange(n, device=unit_ND.device)  # rows that others may still be compared with
    rest_MD, top = unit_ND, rest[:: max(1, n // _BATCH)]  # at first all rows are as good
    while True:
        if 4 * int(exact_N[rest].sum()) > len(rest):
            rest = rest[~exact_N[rest]]
            rest_MD = unit_ND[rest]
        exact_N[top] = True
        for part_MD, row_M in zip(_split(rest_MD, len(top)), _split(rest, len(top)), strict=True):
            found_MB = _distances(part_MD, unit_ND[top])
            found_MB.masked_fill_(row_M[:, None] == top, torch.inf)  # itself
            bound_N[row_M] = torch.minimum(bound_N[row_M], found_MB.amin(dim=1) * scale_N[row_M])
            bound_N[top] = torch.minimum(bound_N[top], found_MB.amin(dim=0) * scale_N[top])
        best = int(bound_N.argmax())
        if bool(exact_N[best]):
            return best
        value, top = bound_N.masked_fill(exact_N, -torch.inf).topk(min(4 * _BATCH, n))
        top = top[value >= bound_N[exact_N].amax()]


def _dpp_round(unit_ND: Tensor, weight_N: Tensor, left_N: Tensor, k: int) -> list[int]:
    """At most ``k`` rows of those left, until none has a part outside of the span."""
    rest_N = torch.where(left_N, weight_N, -1)  # weight of the part outside of the span
    seen_N = torch.zeros_like(rest_N, dtype=torch.int64)
    basis_KD = unit_ND.new_empty(min(k, unit_ND.shape[1]), unit_ND.shape[1])
    picks: list[int] = []
    while len(picks) < len(basis_KD):
        best = int(rest_N.float().argmax())
        if float(rest_N[best]) < 0:
            break
        if int(seen_N[best]) < len(picks):
            top, stop = _stale_top(rest_N.float(), seen_N, best, len(picks))
            _leave_span(rest_N, top, unit_ND, weight_N, basis_KD, seen_N, stop)
            continue
        row_D = unit_ND[best]
        for _ in range(2):  # the second time removes what rounding left
            row_D = row_D - basis_KD[: len(picks)].mT @ (basis_KD[: len(picks)] @ row_D)
        basis_KD[len(picks)] = row_D / row_D.norm()
        rest_N[best] = -1
        picks.append(best)
    return picks


def _leave_span(
    rest_N: Tensor,
    top: Tensor,
    unit_ND: Tensor,
    weight_N: Tensor,
    basis_KD: Tensor,
    seen_N: Tensor,
    stop: int,
) -> None:
    """Take from the rows ``top`` what lies along the directions that they do not know of."""
    oldest = int(seen_N[top].min())
    along = (unit_ND[top] @ basis_KD[oldest:stop].mT).square()
    new = torch.arange(oldest, stop, device=top.device) >= seen_N[top, None]
    rest = rest_N[top] - weight_N[top] * along.masked_fill(~new, 0).sum(dim=1)
    rest_N[top] = torch.where(rest > _SPANNED * weight_N[top], rest, -1)
    seen_N[top] = stop


def _split(x_ND: Tensor, columns: int) -> tuple[Tensor, ...]:
    return torch.split(x_ND, max(1, _HELD // 4 // max(1, columns)))
