"""Runs of patches that stay alike at one place of the picture.

Rows at the same (h, w) form a chain in the order of time.  Each row but the first of a chain may
be joined to the run before it; how alike they are is the row's score.

Legend: N rows, D features, C chains, L rows of the longest chain, J joins.
"""

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from vidcomp.functional.reduce import wide
from vidcomp.functional.select import stable_topk
from vidcomp.functional.similarity import paired_cosine

__all__ = [
    "Chains",
    "Reference",
    "best_joins",
    "chains",
    "joins_above",
    "joins_around",
    "run_groups",
]

Reference = Literal["previous", "first", "mean"]
"""What a row is compared with: the row before it, the first row of the run that it would join, or
the mass-weighted mean of that run.  ``previous`` cannot see a slow drift."""


class Chains(NamedTuple):
    """Rows at the same place of the picture, in the order of time."""

    order: Tensor
    """[N] int64 rows, chain after chain."""
    starts: Tensor
    """[N] bool: the row is the first of its chain."""
    rows: Tensor
    """[L, C] int64: row ``l`` of chain ``c``, -1 past its end."""


def chains(positions_N3: Tensor) -> Chains:
    """The chains of rows with equal (h, w)."""
    if (num_places := _places_of_grid(positions_N3)) > 0:
        rows_LC = torch.arange(len(positions_N3), device=positions_N3.device).view(-1, num_places)
        return Chains(rows_LC.T.flatten(), (rows_LC < num_places).flatten(), rows_LC)
    order_N = torch.arange(len(positions_N3), device=positions_N3.device)
    for axis in (0, 2, 1):  # the key sorted last counts most
        order_N = order_N[positions_N3[order_N, axis].argsort(stable=True)]
    place_N2 = positions_N3[order_N, 1:]
    starts = torch.ones_like(order_N, dtype=torch.bool)
    starts[1:] = (place_N2[1:] != place_N2[:-1]).any(dim=1)
    chain = starts.cumsum(0) - 1
    first = starts.nonzero().squeeze(1)
    step = torch.arange(len(order_N), device=order_N.device) - first[chain]
    longest = int(step.max()) + 1 if len(step) else 0
    rows_LC = order_N.new_full((longest, len(first)), -1)
    rows_LC[step, chain] = order_N
    starts_N = torch.empty_like(starts)
    starts_N[order_N] = starts
    return Chains(order_N, starts_N, rows_LC)


def _places_of_grid(positions_N3: Tensor) -> int:
    """Rows of each time, if every time has the same ones in raster order; else 0."""
    if not len(positions_N3):
        return 0
    num_places = int((positions_N3[:, 0] == positions_N3[0, 0]).sum())
    if len(positions_N3) % num_places:
        return 0
    grid_LC3 = positions_N3.view(-1, num_places, 3)
    t_L, places_C2 = grid_LC3[:, 0, 0], grid_LC3[0, :, 1:]
    down_c, right_c = places_C2.diff(dim=0).unbind(dim=1)
    is_grid = (grid_LC3[:, :, 1:] == places_C2).all() & (grid_LC3[:, :, 0] == t_L[:, None]).all()
    is_grid &= (t_L.diff() > 0).all() & ((down_c > 0) | (down_c == 0) & (right_c > 0)).all()
    return num_places if bool(is_grid) else 0


def run_groups(found: Chains, joined_N: Tensor) -> Tensor:
    """[N] int64 run of each row, in 0..N - J - 1, from [N] bool: it is joined to the one before."""
    run = (~joined_N[found.order]).cumsum(0) - 1
    group_N = torch.empty_like(run)
    group_N[found.order] = run
    return group_N


def joins_above(
    x_ND: Tensor, mass_N: Tensor, found: Chains, min_cosine: float, reference: Reference
) -> tuple[Tensor, Tensor]:
    """Each row joins the run before it if it is alike enough.

    Args:
        x_ND: [N, D] float features.
        mass_N: [N] float, weights of the mean.
        found: chains of the rows.
        min_cosine: least similarity of a join.
        reference: what a row is compared with.

    Returns:
        [N] bool: joined; and [N] similarity that each row was judged by, -inf where a chain
        starts.
    """
    return _joins(x_ND.detach(), mass_N, found, min_cosine, reference, None)


def best_joins(
    x_ND: Tensor, mass_N: Tensor, found: Chains, num_joins: int, reference: Reference
) -> Tensor:
    """Exactly ``num_joins`` joins, the most alike first.

    With ``previous`` the rows with the highest scores are joined, ties to the lower row.  With the
    other references scores depend on the joins made before: a threshold that makes enough joins
    and few more is looked for, and the weakest of its joins beyond ``num_joins`` are undone, ties
    from the higher row.

    Args:
        x_ND: [N, D] float features.
        mass_N: [N] float, weights of the mean.
        found: chains of the rows.
        num_joins: 0 to N - C.
        reference: what a row is compared with.

    Returns:
        [N] bool: the row is joined to the one before it in its chain.
    """
    if reference == "previous":
        joined_N, score_N = joins_above(x_ND, mass_N, found, -2.0, reference)
    else:
        joined_N, score_N, _ = joins_around(x_ND, mass_N, found, num_joins, reference)
    best = stable_topk(score_N.masked_fill(~joined_N, -torch.inf), num_joins)
    return torch.zeros_like(joined_N).index_fill(0, best, value=True)


def joins_around(
    x_ND: Tensor,
    mass_N: Tensor,
    found: Chains,
    num_joins: int,
    reference: Reference,
    *,
    both: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Joins by a threshold that makes at least ``num_joins``, and by one that makes fewer.

    Args:
        x_ND: [N, D] float features.
        mass_N: [N] float, weights of the mean.
        found: chains of the rows.
        num_joins: 0 to N - C.
        reference: what a row is compared with.
        both: stop when both counts are near; by default only the larger has to be.  Near is 1/64
            of the joins or of what is not joined, or thresholds that differ by a thousandth of
            their distance to 1.

    Returns:
        [N] bool: joined, at least ``num_joins``; their scores as of ``joins_above``; and [N] bool:
        joined, fewer (or the same, if there are just as many).
    """
    x_ND = x_ND.detach()
    known = _Known(x_ND) if reference == "first" else None

    def joins(least: float) -> tuple[Tensor, Tensor]:
        return _joins(x_ND, mass_N, found, least, reference, known)

    joined_N, score_N = joins(-2.0)  # all that there can be
    fewer_N, most, least = torch.zeros_like(joined_N), int(joined_N.sum()), 0
    total, close_by = most, min(num_joins, most - num_joins) // 64
    # Regula falsi (Illinois) on the logarithms of thresholds and of the rows that are not joined.
    far, near, goal = _log_change(-1.0), _log_change(1.0), math.log1p(total - num_joins)
    below, above, last = goal, math.log1p(total) - goal, ""
    while most > num_joins > 0 and far - near > 1e-3:
        if most - (least if both else num_joins) <= close_by:
            break
        middle = far + (near - far) * min(max(below / (below + above), 1e-3), 1 - 1e-3)
        joined, score = joins(1 + 1e-7 - math.exp(middle))
        gap = math.log1p(total - int(joined.sum())) - goal
        if gap <= 0:
            far, most, joined_N, score_N = middle, int(joined.sum()), joined, score
            below, above = -gap, above / 2 if last == "far" else above
        else:
            near, least, fewer_N = middle, int(joined.sum()), joined
            above, below = gap, below / 2 if last == "near" else below
        last = "far" if gap <= 0 else "near"
    return joined_N, score_N, joined_N if most == num_joins else fewer_N


def _log_change(cosine: float) -> float:
    """Thresholds are looked for on this scale: neighbours of a video differ by powers of ten."""
    return math.log(1 + 1e-7 - cosine)


class _Known:
    """Cosines of rows with rows before them, a few of each remembered.

    Thresholds that lie near to each other start most runs at the same rows.
    """

    def __init__(self, x_ND: Tensor) -> None:
        self._x_ND = x_ND
        self._other_NS = torch.full((len(x_ND), 8), -1, device=x_ND.device)
        self._cosine_NS = torch.zeros(self._other_NS.shape, device=x_ND.device)
        self._next_N = torch.zeros_like(self._other_NS[:, 0])

    def cosine(self, row_J: Tensor, other_J: Tensor) -> Tensor:
        """[J] float32; no row is there twice."""
        same_JS = self._other_NS[row_J] == other_J[:, None]
        cosine_J = torch.where(same_JS, self._cosine_NS[row_J], 0).sum(dim=1)
        new = (~same_JS.any(dim=1)).nonzero().squeeze(1)
        if len(new):
            row, other = row_J[new], other_J[new]
            cosine_J[new] = paired_cosine(self._x_ND, self._x_ND, row, other)
            slot = self._next_N[row]
            self._other_NS[row, slot], self._cosine_NS[row, slot] = other, cosine_J[new]
            self._next_N[row] = (slot + 1) % self._other_NS.shape[1]
        return cosine_J


def _joins(
    x_ND: Tensor,
    mass_N: Tensor,
    found: Chains,
    min_cosine: float,
    reference: Reference,
    known: _Known | None,
) -> tuple[Tensor, Tensor]:
    """As ``joins_above``; ``known`` is used for ``first``."""
    if reference == "previous":
        score_N = _scores_to_previous(x_ND, found)
    elif reference == "first":
        score_N = _scores_to_firsts(x_ND, found, min_cosine, known)
    else:
        score_N = _scores_to_means(x_ND, mass_N, found, min_cosine)
    return (score_N >= min_cosine) & ~found.starts, score_N


def _scores_to_previous(x_ND: Tensor, found: Chains) -> Tensor:
    score_N = torch.full((len(x_ND),), -torch.inf, device=x_ND.device)
    row_J = found.rows[1:][present := found.rows[1:] >= 0]
    score_N[row_J] = paired_cosine(x_ND, x_ND, row_J, found.rows[:-1][present])
    return score_N


def _scores_to_firsts(
    x_ND: Tensor, found: Chains, min_cosine: float, known: _Known | None
) -> Tensor:
    """All chains at once, one step of time after the other."""
    score_N = torch.full((len(x_ND),), -torch.inf, device=x_ND.device)
    first_C = found.rows[:1].flatten()
    for row_C in found.rows[1:]:
        present = (row_C >= 0).nonzero().squeeze(1)  # a chain that has ended is never read again
        row_J, first_J = row_C[present], first_C[present]
        if known is None:
            score_J = paired_cosine(x_ND, x_ND, row_J, first_J)
        else:
            score_J = known.cosine(row_J, first_J)
        score_N[row_J] = score_J
        first_C = first_C.index_copy(0, present, torch.where(score_J >= min_cosine, first_J, row_J))
    return score_N


def _scores_to_means(x_ND: Tensor, mass_N: Tensor, found: Chains, min_cosine: float) -> Tensor:
    """The same, with the mean of a run in the place of its first row."""
    score_N = torch.full((len(x_ND),), -torch.inf, device=x_ND.device)
    if not len(found.rows):
        return score_N
    mass_N1 = wide(mass_N)[:, None]
    first_C = found.rows[0]
    run_CD, run_mass_C1 = wide(x_ND[first_C]), mass_N1[first_C]
    for row_C in found.rows[1:]:
        row, present = row_C.clamp(min=0), row_C >= 0  # a chain that has ended is never read again
        x_CD = wide(x_ND[row])
        score_C = _cosine(x_CD, run_CD).float()
        score_N[row_C[present]] = score_C[present]
        joins_C1 = (score_C >= min_cosine)[:, None]
        mass_C1 = torch.where(joins_C1, run_mass_C1, 0) + mass_N1[row]
        joint_CD = torch.lerp(run_CD, x_CD, mass_N1[row] / mass_C1)
        run_mass_C1 = mass_C1
        run_CD = torch.where(joins_C1, joint_CD, x_CD)
    return score_N


def _cosine(x_CD: Tensor, y_CD: Tensor) -> Tensor:
    """As ``similarity.paired_cosine``, without its care for squares that overflow in float64."""
    norms_C = x_CD.norm(dim=1) * y_CD.norm(dim=1)
    alike_C = (x_CD * y_CD).sum(dim=1) / torch.where(norms_C > 0, norms_C, 1)
    both_zero_C = (x_CD == 0).all(dim=1) & (y_CD == 0).all(dim=1)
    return torch.where(both_zero_C, 1, alike_C)
