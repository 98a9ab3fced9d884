"""Units of a video that share a budget and are clustered each by itself.

A point is what is clustered: a row, or rows that are averaged first.  A unit is a set of points:
the still places of a segment, the rest of a frame.  Units are in the order of time.

Legend: N rows, P points, U units, K groups, T frames, D features.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from vidcomp.errors import ShapeError
from vidcomp.functional.cluster import density_peaks
from vidcomp.functional.geometry import frame_numbers
from vidcomp.functional.reduce import group_min, group_sum, short_means, short_sums, wide
from vidcomp.functional.rough import nearest
from vidcomp.functional.runs import Chains, run_groups
from vidcomp.functional.segment import frame_means
from vidcomp.functional.similarity import directions
from vidcomp.types import VideoTokens

__all__ = [
    "Points",
    "Stills",
    "are_still",
    "averaged",
    "cluster_units",
    "frame_features",
    "hosts",
    "join_idle",
    "likeness_over_time",
    "pillars_of",
    "points_of",
    "stills_within",
]

_ROWS = 256
"""Rows of which a wide copy is made at a time."""
_AT_ONCE = 1 << 19
"""Numbers of small units that are clustered together; the steps of each alone cost more."""
_LEAST, _LARGEST = 1e-9, 1e9
"""Lengths of rows of which float32 holds squares."""


class Points(NamedTuple):
    """Rows in points, points in units; points are sorted by unit, then by their first row."""

    point: Tensor
    """[N] int64 point of each row, -1 for none."""
    unit: Tensor
    """[P] int64 unit of each point; every unit has points."""

    @property
    def sizes(self) -> Tensor:
        """[U] int64 points of each unit."""
        return torch.bincount(self.unit)

    def rows_by_unit(self) -> list[Tensor]:
        """Rows of each unit, sorted by point."""
        order_N = self.point.argsort(stable=True)
        order_N = order_N[int((self.point < 0).sum()) :]
        return list(torch.split(order_N, torch.bincount(self.unit[self.point[order_N]]).tolist()))


class Stills(NamedTuple):
    """Places that may be averaged over a segment."""

    pillar: Tensor
    """[N] int64 place in its segment of each row, without gaps."""
    likeness: Tensor
    """[C] float32 how still each is."""
    saved: Tensor
    """[C] int64 rows that averaging it takes away."""


def frame_features(video: VideoTokens, frame_N: Tensor, name: str | None, user: str) -> Tensor:
    """[T, D] what stands for each frame that has tokens: a frame extra, or the mean of its tokens.

    Raises:
        ShapeError: the video has no such frame extra, or it holds integers.
    """
    if name is None:
        return frame_means(video.tokens, video.mass, frame_N)
    value = video.frame_extras.get(name)
    if value is None or not value.is_floating_point():
        raise ShapeError(
            f"{user!r} needs float frame_extras[{name!r}], got "
            f"{sorted(video.frame_extras) or 'no frame extras'}: let the encoder keep it, or leave "
            f"frame_features out"
        )
    frame = frame_numbers(video)
    return value.detach()[torch.bincount(frame, minlength=len(value)) > 0].flatten(1)


def points_of(unit_N: Tensor, joint_N: Tensor) -> Points:
    """Points of the rows with equal ``joint_N``, which lie in one unit; negative units: none.

    Args:
        unit_N: [N] int64 any numbers; units are counted in their order, without gaps.
        joint_N: [N] int64 any numbers.
    """
    rows = (unit_N >= 0).nonzero().squeeze(1)
    point_R = _dense_rank(joint_N[rows])
    first_P = group_min(rows, point_R, int(point_R.max()) + 1)
    unit_P = _dense_rank(unit_N[first_P])
    order_P = first_P.argsort(stable=True)
    order_P = order_P[unit_P[order_P].argsort(stable=True)]
    rank_P = torch.empty_like(order_P)
    rank_P[order_P] = torch.arange(len(order_P), device=order_P.device)
    point_N = torch.full_like(unit_N, -1)
    point_N[rows] = rank_P[point_R]
    return Points(point_N, unit_P[order_P])


def pillars_of(found: Chains, segment_N: Tensor) -> Tensor:
    """[N] int64 number of each row's place in its segment, without gaps."""
    goes_on_N = torch.zeros_like(found.starts)
    before, later = found.order[:-1], found.order[1:]
    goes_on_N[later] = (segment_N[later] == segment_N[before]) & ~found.starts[later]
    return run_groups(found, goes_on_N)


def likeness_over_time(x_ND: Tensor, pillar_N: Tensor, num_pillars: int) -> Tensor:
    """[C] float32 mean cosine of all pairs of different rows of each pillar, 1 for a single row.

    All pairs by the sum of the unit rows: its square holds every pair twice and every row once.
    """
    x_ND = x_ND.detach()
    if wide(x_ND[:0]).dtype == x_ND.dtype:  # whose squares may overflow
        square_C = group_sum(directions(x_ND), pillar_N, num_pillars).square().sum(dim=1)
    else:
        norm_N = torch.cat([wide(rows).norm(dim=1) for rows in torch.split(x_ND, _ROWS)])
        factor_N = torch.where(norm_N > 0, 1 / norm_N, 0)
        square_C = group_sum(x_ND, pillar_N, num_pillars, factor_N).square_().sum(dim=1)
        zeros_C = torch.bincount(pillar_N[norm_N == 0], minlength=num_pillars)
        square_C += zeros_C.square()  # zero rows have a direction of their own
    n_C = torch.bincount(pillar_N, minlength=num_pillars)
    pairs_C = (n_C * (n_C - 1)).clamp(min=1)
    likeness_C = (square_C - n_C) / pairs_C
    return torch.where(n_C > 1, likeness_C, 1).float()


def stills_within(stills: Stills, candidate_C: Tensor, num_spare: int) -> Tensor:
    """[C] bool: the stillest candidates that take away at most ``num_spare`` rows together.

    So that what is averaged over time never leaves fewer tokens than were asked for; ties to the
    lower pillar.
    """
    order_C = stills.likeness.argsort(descending=True, stable=True)
    order_C = order_C[candidate_C[order_C]]
    fits = stills.saved[order_C].cumsum(0) <= num_spare
    return torch.zeros_like(candidate_C).index_fill(0, order_C[fits], value=True)


def are_still(x_ND: Tensor, pillar_N: Tensor, num_pillars: int, threshold: float) -> Tensor:
    """[C] bool: pillars of more than one row of which ``likeness_over_time`` is above a threshold.

    Sums in float32 tell for all but those that are near to it.
    """
    x_ND = x_ND.detach()
    n_C = torch.bincount(pillar_N, minlength=num_pillars)
    if x_ND.dtype != torch.float32 or x_ND.device.type != "cpu":
        return (likeness_over_time(x_ND, pillar_N, num_pillars) > threshold) & (n_C > 1)
    norm_N = torch.linalg.vector_norm(x_ND, dim=1)
    is_safe_N = (norm_N > _LEAST) & (norm_N < _LARGEST)
    sum_CD = short_sums(x_ND, pillar_N, num_pillars, torch.where(is_safe_N, 1 / norm_N, 0))
    likeness_C = torch.linalg.vector_norm(sum_CD, dim=1).square_().sub_(n_C).div_(n_C * (n_C - 1))
    # A length is wrong by one rounding for each 8 features at most, a sum of n rows by n times
    # that and 18, and its square, which is n * n at most, by twice that and what a length is wrong.
    error = (x_ND.shape[1] + 256) * 2.0**-24
    is_open_C = (likeness_C - threshold).abs() <= error
    is_open_C[pillar_N[~is_safe_N]] = True
    still_C: Tensor = (likeness_C > threshold) & (n_C > 1)
    if open_ := int((is_open_C := is_open_C & (n_C > 1)).sum()):
        rows = is_open_C[pillar_N].nonzero().squeeze(1)
        rank_C = is_open_C.cumsum(0) - 1
        exact_O = likeness_over_time(x_ND[rows], rank_C[pillar_N[rows]], open_)
        still_C[is_open_C] = exact_O > threshold
    return still_C


def averaged(x_ND: Tensor, mass_N: Tensor, rows: Tensor, point_N: Tensor) -> Tensor:
    """[p, D] means of the points of ``rows``, which are sorted by point."""
    _, point_R, count_P = torch.unique_consecutive(
        point_N[rows], return_inverse=True, return_counts=True
    )
    x_ND = x_ND.detach()
    if len(count_P) == len(rows):
        return x_ND.index_select(0, rows)
    mass_R = mass_N[rows]
    share_R = wide(mass_R) / group_sum(mass_R, point_R, len(count_P))[point_R]
    return short_means(x_ND, point_R, len(count_P), share_R, rows)


def cluster_units(
    x_ND: Tensor, mass_N: Tensor, points: Points, share_U: Tensor, neighbours: int
) -> tuple[Tensor, Tensor]:
    """As many clusters of each unit's points as its share (DPC-KNN).

    A unit whose share is all of its points is left as it is.

    Args:
        x_ND: [N, D] float features.
        mass_N: [N] float.
        points: rows in points in units.
        share_U: [U] int64 0 to the unit's points.
        neighbours: points that vote on a density, itself included.

    Returns:
        [P] int64 group of each point, -1 in units without a share; units one after the other, in
        each the centres in the published order.  And [K] int64 the point that is the centre.
    """
    size_U = points.sizes
    first_U, done_U = (count_U.cumsum(0) - count_U for count_U in (size_U, share_U))
    rows_U = points.rows_by_unit()
    group_P = torch.full_like(points.unit, -1)
    centre_K = torch.empty(int(share_U.sum()), dtype=torch.int64, device=group_P.device)
    for units, size, share in _alike(size_U.tolist(), share_U.tolist(), x_ND.shape[1]):
        each = torch.arange(size, device=group_P.device).expand(len(units), -1)
        centre_BK, assign_Bp = each[:, :share], each
        if share < size:
            means = [averaged(x_ND, mass_N, rows_U[unit], points.point) for unit in units]
            centre_BK, assign_Bp = density_peaks(torch.stack(means), share, neighbours)
        first_B1, done_B1 = first_U[units, None], done_U[units, None]
        group_P[first_B1 + each] = done_B1 + assign_Bp
        centre_K[done_B1 + each[:, :share]] = first_B1 + centre_BK
    return group_P, centre_K


def _alike(
    sizes: list[int], shares: list[int], num_features: int
) -> Iterator[tuple[list[int], int, int]]:
    """Units of the same size and share, not too many at a time, and those numbers."""
    alike: dict[tuple[int, int], list[int]] = {}
    for unit, (size, share) in enumerate(zip(sizes, shares, strict=True)):
        if share:
            alike.setdefault((size, share), []).append(unit)
    for (size, share), units in alike.items():
        most = max(1, _AT_ONCE // max(1, size * num_features))
        for start in range(0, len(units), most):
            yield units[start : start + most], size, share


def hosts(has_share_U: Tensor) -> Tensor:
    """[U] int64 the unit itself if it has a share, else the nearest that has (the earlier one)."""
    served = has_share_U.nonzero().squeeze(1)
    unit_U = torch.arange(len(has_share_U), device=served.device)
    later = torch.searchsorted(served, unit_U).clamp(max=len(served) - 1)
    earlier = (later - 1).clamp(min=0)
    is_nearer = (served[earlier] - unit_U).abs() <= (served[later] - unit_U).abs()
    return torch.where(is_nearer & ~has_share_U, served[earlier], served[later])


def join_idle(
    x_ND: Tensor,
    mass_N: Tensor,
    points: Points,
    group_P: Tensor,
    centre_K: Tensor,
    region_N: Tensor,
) -> Tensor:
    """[P] int64 groups in which the points without a group have joined others.

    Each goes to the most similar centre of its region, or, if that has none, of the nearest region
    that has (the earlier of two), so that nothing is lost when a budget has not a token for all.

    Args:
        x_ND: [N, D] float features.
        mass_N: [N] float.
        points: rows in points; each is in one region.
        group_P: [P] int64 group of each point, -1 for none.
        centre_K: [K] int64 the point that is the centre of each group.
        region_N: [N] int64 region (segment) of each row, in the order of time, without gaps.
    """
    idle_P = group_P < 0
    rows = points.point.argsort(stable=True)
    rows = rows[points.point[rows] >= 0]
    region_P = torch.empty_like(group_P)
    region_P[points.point[rows]] = region_N[rows]
    has_centre_R = torch.bincount(region_P[centre_K], minlength=int(region_N.max()) + 1) > 0
    host_P = hosts(has_centre_R)[region_P]
    joined_P, is_centre_P = group_P.clone(), torch.zeros_like(idle_P)
    is_centre_P[centre_K] = True
    for region in torch.bincount(host_P[idle_P]).nonzero().squeeze(1).tolist():
        mine_P, into_P = idle_P & (host_P == region), is_centre_P & (region_P == region)
        mine, into = (
            averaged(x_ND, mass_N, rows[chosen[points.point[rows]]], points.point)
            for chosen in (mine_P, into_P)
        )
        joined_P[mine_P] = group_P[into_P][nearest(mine, into)]
    return joined_P


def _dense_rank(number_N: Tensor) -> Tensor:
    """[N] int64 the same groups, numbered 0, 1, 2 ... in the same order, whatever the numbers."""
    sorted_N, order_N = number_N.sort(stable=True)
    rank_N = torch.zeros_like(order_N)
    rank_N[order_N[1:]] = (sorted_N.diff() != 0).long().cumsum(0)
    return rank_N
