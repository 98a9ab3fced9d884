"""Tokens that stand for several: weighted means with everything that belongs to them.

Merging conserves mass and the mass-weighted sum.  Resampling mixes rows by weights that sum to 1
and shares the mass of what it covers.  Reductions run in float64 and return the type they were
given; each group is reduced in the order of its rows.

Legend: N rows, K groups or new rows, D features, P source patches, E entries of a sparse matrix.
"""

from dataclasses import replace

import torch
from torch import Tensor

from vidcomp.errors import ShapeError
from vidcomp.functional.geometry import first_patches, raster_order
from vidcomp.functional.provenance import compose, patch_weights
from vidcomp.functional.reduce import (
    Grouped,
    follow,
    group_max,
    group_min,
    group_sum,
    grouped,
    short_means,
    short_sums,
    wide,
)
from vidcomp.types import VideoTokens

__all__ = ["float_rows", "merge", "merge_by_assignment", "merge_in_order", "resample"]


def merge_by_assignment(
    x_ND: Tensor, mass_N: Tensor, assign_N: Tensor | Grouped, num_groups: int
) -> tuple[Tensor, Tensor]:
    """Mass-weighted means of groups of rows, and their masses.

    Args:
        x_ND: [N, ...] float; safe from overflow in half precision.
        mass_N: [N] float, 0 for structural rows; a group of these alone is their plain mean.
        assign_N: [N] int64 group of each row, in 0..K - 1; negative: dropped.  Or those sorted.
        num_groups: K.

    Returns:
        [K, ...] in the type of ``x_ND`` (a group of one is that row bit for bit; a group of none
        is zeros) and [K] float32 masses.

    Raises:
        ShapeError: ``x_ND`` holds integers, of which there is no mean.
    """
    if not x_ND.is_floating_point():
        raise ShapeError(
            f"rows can be averaged if they are float, got {x_ND.dtype}: prune integer ids, or "
            f"merge before they are quantised"
        )
    found = grouped(assign_N, num_groups) if isinstance(assign_N, Tensor) else assign_N
    mass_K, share_N = _shares(mass_N, found, num_groups)
    # Shares, not masses, multiply the rows: what is between the rows cannot overflow.
    mean_KD = short_means(x_ND, found, num_groups, share_N)
    return mean_KD, mass_K.float()


def merge(video: VideoTokens, assign_N: Tensor) -> VideoTokens:
    """One token a group, in raster order, with all that belongs to it.

    Tokens, positions and extras are averaged by mass, spans united, masses added, provenance
    composed.  The numbers of the groups do not matter.

    Args:
        video: N float tokens.
        assign_N: [N] int64 group of each row, in 0..K - 1, each with at least one row; negative:
            the row is dropped.

    Raises:
        ShapeError: integer ids or extras, a group without rows, or not one entry a row.
    """
    num_groups = _check_groups(video, assign_N)
    mean_K3, _ = _mean_positions(video, assign_N, num_groups)
    first_K = group_min(first_patches(video), assign_N, num_groups)
    order_K = raster_order(mean_K3, first_K)
    rank_K = torch.empty_like(order_K)
    rank_K[order_K] = torch.arange(num_groups, device=order_K.device)
    return merge_in_order(video, follow(assign_N, rank_K))


def merge_in_order(video: VideoTokens, assign_N: Tensor) -> VideoTokens:
    """As ``merge``, but row ``k`` of the result is group ``k``, wherever it lies."""
    num_groups = _check_groups(video, assign_N)
    if torch.equal(assign_N, torch.arange(len(video), device=assign_N.device)):
        return video  # nothing to merge
    found = grouped(assign_N, num_groups)

    def mean(x_ND: Tensor) -> Tensor:
        return short_means(x_ND, found, num_groups, share_N)

    positions_K3, mass_K = _mean_positions(video, found, num_groups)
    _, share_N = _shares(video.mass, found, num_groups)
    start_K = group_min(video.spans[:, 0], assign_N, num_groups)
    stop_K = group_max(video.spans[:, 1], assign_N, num_groups)
    assign, weights = video.assign, video.weights
    if assign is not None:
        assign = follow(assign, assign_N.clamp(min=-1))
    if weights is not None:
        kept_E = (assign_N >= 0).nonzero().squeeze(1)
        weights = compose(weights, assign_N[kept_E], kept_E, share_N[kept_E], num_groups)
    return replace(
        video,
        tokens=mean(video.tokens),
        positions=positions_K3,
        spans=torch.stack([start_K, stop_K], dim=1),
        mass=mass_K,
        assign=assign,
        weights=weights,
        extras={name: mean(float_rows(name, value)) for name, value in video.extras.items()},
    )


def resample(video: VideoTokens, weights_KN: Tensor, tokens: Tensor | None = None) -> VideoTokens:
    """Tokens mixed from the rows of a video, in the order of the rows of ``weights_KN``.

    Positions and extras are mixed by the same weights, spans are those of all rows with a weight,
    provenance is composed.  The mass of a row is shared among the new tokens in proportion to the
    weights that they give it, so that the mass of all covered rows is conserved.

    Args:
        video: N tokens.
        weights_KN: sparse COO [K, N], not negative, each row sums to 1 (within 1e-3).
        tokens: [K, D'] tokens that were made from the rows in another way (the largest value, an
            attention); by default ``weights_KN @ video.tokens``.

    Raises:
        ShapeError: weights of another shape, negative or with rows that do not sum to 1; integer
            ids or extras.
    """
    weights_KN = weights_KN.detach().coalesce()
    _check_weights(weights_KN, len(video))
    num_rows, (new_E, old_E) = len(weights_KN), weights_KN.indices()

    def mix(x_ND: Tensor) -> Tensor:
        return _mix(weights_KN, x_ND)

    if tokens is None:
        tokens = mix(float_rows("tokens", video.tokens))
    start_K = group_min(video.spans[old_E, 0], new_E, num_rows)
    stop_K = group_max(video.spans[old_E, 1], new_E, num_rows)
    old = patch_weights(video)
    weights = old
    if old is not None:
        weights = compose(old, new_E, old_E, weights_KN.values(), num_rows)
    return replace(
        video,
        tokens=tokens,
        positions=mix(video.positions),
        spans=torch.stack([start_K, stop_K], dim=1),
        mass=_shared_mass(weights_KN, video.mass),
        assign=None,
        weights=weights,
        extras={name: mix(float_rows(name, value)) for name, value in video.extras.items()},
    )


def float_rows(name: str, value: Tensor) -> Tensor:
    """``value``, if it is float, so that it has a mean.

    Raises:
        ShapeError: it holds integers.
    """
    if not value.is_floating_point():
        what = "tokens are integer ids" if name == "tokens" else f"extra {name!r} is"
        raise ShapeError(
            f"a mean needs float rows, but {what} of {value.dtype}: prune instead of merging, or "
            f"leave the {'quantising to later' if name == 'tokens' else 'extra out'}"
        )
    return value


def _shares(mass_N: Tensor, found: Grouped, num_groups: int) -> tuple[Tensor, Tensor]:
    """[K] mass of each group and [N] each row's share of its group's, in the wide type."""
    mass_K = group_sum(mass_N, found, num_groups)
    part_N = wide(mass_N)[found.order] / mass_K[found.group]
    if bool((mass_K == 0).any()):
        equal_K = 1 / wide(found.lengths)
        part_N = part_N.where(mass_K[found.group] > 0, equal_K[found.group])
    share_N = torch.zeros_like(wide(mass_N))  # of a dropped row: it is left out of the sums
    share_N[found.order] = part_N
    return mass_K, share_N


def _mean_positions(
    video: VideoTokens, assign_N: Tensor | Grouped, num_groups: int
) -> tuple[Tensor, Tensor]:
    return merge_by_assignment(video.positions, video.mass, assign_N, num_groups)


def _mix(weights_KN: Tensor, x_ND: Tensor) -> Tensor:
    """``weights_KN @ x_ND``, added up in the wide type, in the type of ``x_ND``."""
    (new_E, old_E), value_E = weights_KN.indices(), weights_KN.values()
    num_rows = len(weights_KN)
    if 4 * len(value_E) < weights_KN.numel():
        return short_sums(x_ND, new_E, num_rows, value_E, old_E, x_ND.dtype)
    mixed = wide(weights_KN.to_dense()) @ wide(x_ND.reshape(len(x_ND), -1))
    return mixed.to(x_ND.dtype).reshape(num_rows, *x_ND.shape[1:])


def _shared_mass(weights_KN: Tensor, mass_N: Tensor) -> Tensor:
    (new_E, old_E), value_E = weights_KN.indices(), wide(weights_KN.values())
    taken_N = group_sum(value_E, old_E, len(mass_N))
    # An entry of weight 0 covers nothing; 1 keeps its row's quotient finite.
    share_E = value_E * wide(mass_N)[old_E] / torch.where(taken_N > 0, taken_N, 1)[old_E]
    return group_sum(share_E, new_E, len(weights_KN)).float()


def _check_groups(video: VideoTokens, assign_N: Tensor) -> int:
    """The number of groups, all of which have rows."""
    float_rows("tokens", video.tokens)
    if tuple(assign_N.shape) != (len(video),) or assign_N.dtype != torch.int64:
        raise ShapeError(
            f"merging {len(video)} tokens needs [{len(video)}] int64 groups, got "
            f"{list(assign_N.shape)} {assign_N.dtype}: give one group a token"
        )
    kept_N = assign_N[assign_N >= 0]
    rows_K = torch.bincount(kept_N)
    if len(rows_K) and not bool((rows_K > 0).all()):
        empty = int((rows_K == 0).sum())
        raise ShapeError(
            f"each of {len(rows_K)} groups needs a token, got {empty} groups without: number them "
            f"without gaps"
        )
    return len(rows_K)


def _check_weights(weights_KN: Tensor, num_rows: int) -> None:
    if weights_KN.ndim != 2 or weights_KN.shape[1] != num_rows:
        raise ShapeError(
            f"resampling {num_rows} tokens needs weights [K, {num_rows}], got "
            f"{list(weights_KN.shape)}: give one column a token"
        )
    value_E = weights_KN.values()
    total_K = group_sum(value_E, weights_KN.indices()[0], len(weights_KN))
    if bool((value_E < 0).any()) or bool(((total_K - 1).abs() > 1e-3).any()):
        raise ShapeError(
            f"rows of weights must be >= 0 and sum to 1, got sums {float(total_K.min()):g} to "
            f"{float(total_K.max()):g} and a least weight of {float(value_E.min()):g}: divide "
            f"each row by its sum"
        )
