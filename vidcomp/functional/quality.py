"""How much of a video its tokens still hold, judged without any model.

Coverage at a cosine of 0.9 and the squared error of the nearest token (L2-NQE) are what Rethinking
Visual Token Compression for Video Large Language Models: A Simple Yet Strong Baseline (Zhang et
al., 2026) judges methods by.  The rest follows from what ``VideoTokens`` knows of itself: which
token each source patch went to.

No matrix of all rows by all tokens is ever held.

Legend: N source rows, K tokens, D features, E entries (row, token, share), B rows of a block.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from vidcomp.errors import ShapeError
from vidcomp.functional.geometry import first_patches, is_dense, local_positions
from vidcomp.functional.provenance import patch_weights
from vidcomp.functional.reduce import group_sum, wide
from vidcomp.functional.similarity import best_match
from vidcomp.types import VideoTokens

__all__ = ["Quality", "nearest_rows", "quality"]

_BLOCK = 1 << 22
"""Numbers that a step holds at a time beside its inputs and results."""
_FLAT = 1e-12
"""Variance below this share of the mean square is rounding: the video has one colour."""


class Quality(NamedTuple):
    """What is left of a video; a dense grid compared with itself has (0, 0, 1, 0, 1, 1, 1)."""

    distortion: float
    """Squared error of the video rebuilt from its tokens and their places, over its total variance:
    1 is what the mean of all would leave; less is better."""
    nearest_distortion: float
    """The same if every patch could take the token nearest to it, wherever that lies (L2-NQE)."""
    coverage: float
    """Share of patches for which some token has a cosine of at least 0.9; more is better."""
    neighbour_error: float
    """Mean distance of patches to the token nearest to them, over their mean distance to the mean
    of all; less is better.  Distances, not their squares: a few bad patches weigh less."""
    temporal_coverage: float
    """Share of frames that some token stands for."""
    temporal_entropy: float
    """How evenly tokens are spread over frames: their entropy over that of equal shares, 0..1."""
    position_entropy: float
    """How evenly tokens are spread over the places of the picture, likewise."""


def quality(source: VideoTokens, kept: VideoTokens, *, min_cosine: float = 0.9) -> Quality:
    """Compare the tokens of a video with those that it was made from.

    For ``distortion`` each patch is rebuilt from the token that stands for it, or from the mixture
    of those that do where provenance is soft.  Nothing stands for a dropped patch, so it takes the
    most similar of three tokens near it: the nearest at its place of the picture, the nearest in
    its frame, and the nearest of all, a frame counting as far as a cell.  So methods that drop what
    did not change, and methods that drop what the neighbours show, are both taken at their word,
    but none may borrow from the other end of the video.  ``nearest_distortion`` lets all do that.

    Args:
        source: N rows that were compressed, with hard provenance (as encoders give it) or dense;
            a row counts by its mass, and patches without a row (letterbox) are not judged.
        kept: K rows that are left of it.  Without provenance (streams) every patch counts as
            dropped, and a token lies where its position is.
        min_cosine: similarity that counts as covered.

    Raises:
        ShapeError: different grids or widths, integer ids, no rows, or a source with soft
            provenance, or with none and not dense.
    """
    _check(source, kept)
    x_ND, y_KD, mass_N = source.tokens.detach(), kept.tokens.detach(), wide(source.mass)
    first_N = torch.zeros(len(x_ND), dtype=torch.int64, device=x_ND.device)
    mean_1D = group_sum(x_ND, first_N, 1, mass_N) / mass_N.sum()
    entries = _entries(source, kept)
    error_N = _rebuilt(source, kept, entries)
    near_N = _gap(x_ND, y_KD, nearest_rows(x_ND, y_KD))
    # The search rounds: a row may be nearer to its own token by less than that.
    near_N = torch.minimum(near_N, _gap(x_ND, y_KD, entries.strongest))
    spread_N = _gap(x_ND, mean_1D, first_N)
    # Rounding of the mean alone must not be divided by itself.
    floor = _FLAT * float((mass_N * _gap(x_ND, mean_1D * 0, first_N)).sum() / mass_N.sum())
    cosine_N, _ = best_match(x_ND, y_KD)
    return Quality(
        _ratio(error_N, spread_N, mass_N, floor),
        _ratio(near_N, spread_N, mass_N, floor),
        float((mass_N * (cosine_N >= min_cosine)).sum() / mass_N.sum()),
        _ratio(near_N.sqrt(), spread_N.sqrt(), mass_N, math.sqrt(floor)),
        *_spread(source, kept),
    )


def nearest_rows(x_ND: Tensor, y_KD: Tensor) -> Tensor:
    """[N] int64 row of ``y_KD`` at the least Euclidean distance from each row of ``x_ND``.

    Searched in float32, in blocks: of rows whose distances differ by rounding either is given.

    Args:
        x_ND: any float type, finite.
        y_KD: at least one row.
    """
    # Distances do not change if all move or shrink alike, but their rounding does.
    centre_D = sum(wide(part).sum(dim=0) for part, _ in _blocks(y_KD)) / len(y_KD)
    largest = max(float((wide(part) - centre_D).abs().amax()) for part, _ in _blocks(x_ND))
    scale = largest or 1.0

    def scaled(part: Tensor) -> Tensor:
        return ((wide(part) - centre_D) / scale).float()

    columns_KD = torch.cat([scaled(part) for part, _ in _blocks(y_KD)])
    half_K = columns_KD.square().sum(dim=1) / 2
    found = [
        torch.addmm(half_K, scaled(part), columns_KD.mT, alpha=-1).argmin(dim=1)
        for part, _ in _blocks(x_ND, max(len(y_KD), x_ND.shape[1]))
    ]
    return torch.cat(found)


class _Entries(NamedTuple):
    """Of which tokens each row is rebuilt: E entries sorted by row."""

    row: Tensor
    token: Tensor
    share: Tensor
    """Of a row's entries, summing to 1."""
    strongest: Tensor
    """[N] token with the largest share; any for a row that was dropped."""
    dropped: Tensor
    """[N] bool."""


def _entries(source: VideoTokens, kept: VideoTokens) -> _Entries:
    """The provenance of ``kept`` in terms of the rows of ``source``."""
    n, device = len(source), source.tokens.device
    patch_N = first_patches(source)
    weights = patch_weights(kept)
    if weights is None:
        empty = torch.zeros(0, dtype=torch.int64, device=device)
        nowhere = torch.zeros(n, dtype=torch.int64, device=device)
        return _Entries(empty, empty, wide(empty), nowhere, nowhere == 0)
    row_P = torch.full((weights.shape[1],), -1, dtype=torch.int64, device=device)
    row_P[patch_N] = torch.arange(n, device=device)
    token_E, patch_E = weights.indices()
    row_E, mass_E = row_P[patch_E], wide(weights.values()) * wide(kept.mass)[token_E]
    used_E = ((row_E >= 0) & (mass_E > 0)).nonzero().squeeze(1)
    used_E = used_E[row_E[used_E].argsort(stable=True)]
    row_E, token_E, mass_E = row_E[used_E], token_E[used_E], mass_E[used_E]
    total_N = group_sum(mass_E, row_E, n)
    share_E = mass_E / total_N[row_E]
    top_N = share_E.new_zeros(n).scatter_reduce(0, row_E, share_E, "amax")
    first_E = (share_E == top_N[row_E]).nonzero().squeeze(1).flip(0)
    strongest_N = torch.zeros(n, dtype=torch.int64, device=device)
    strongest_N[row_E[first_E]] = token_E[first_E]
    return _Entries(row_E, token_E, share_E, strongest_N, total_N == 0)


def _rebuilt(source: VideoTokens, kept: VideoTokens, entries: _Entries) -> Tensor:
    """[N] squared error of each row, rebuilt as ``quality`` says."""
    x_ND, y_KD = source.tokens.detach(), kept.tokens.detach()
    errors, bound_E = [], entries.row.contiguous()
    for part, start in _blocks(x_ND):
        stop = start + len(part)
        low, high = torch.searchsorted(bound_E, bound_E.new_tensor([start, stop])).tolist()
        mine = slice(low, high)
        mixed_BD = group_sum(
            y_KD,
            entries.row[mine] - start,
            len(part),
            entries.share[mine],
            entries.token[mine],
        )
        errors.append((wide(part) - mixed_BD).square().sum(dim=1))
    error_N = torch.cat(errors)
    row_L = entries.dropped.nonzero().squeeze(1)
    if len(row_L):
        near_L3 = _nearest_places(local_positions(source)[row_L], local_positions(kept))
        gaps = [_gap(x_ND, y_KD, near_L, row_L) for near_L in near_L3.unbind(dim=1)]
        error_N[row_L] = torch.stack(gaps).amin(dim=0)
    return error_N


def _nearest_places(place_L3: Tensor, place_K3: Tensor) -> Tensor:
    """[L, 3] int64 token nearest at the place of the picture, in the frame, and of all.

    The first two look for the least distance in space (time) and among those for the least in
    time (space); ties go to the lower row.
    """
    place_L3, place_K3 = wide(place_L3), wide(place_K3)
    found = []
    for part, _ in _blocks(place_L3, 4 * len(place_K3)):
        time_BK = (part[:, None, 0] - place_K3[:, 0]).square()
        space_BK = (part[:, None, 1] - place_K3[:, 1]).square()
        space_BK += (part[:, None, 2] - place_K3[:, 2]).square()
        keys = (_within(space_BK, time_BK), _within(time_BK, space_BK), time_BK + space_BK)
        found.append(torch.stack([key.argmin(dim=1) for key in keys], dim=1))
    return torch.cat(found)


def _within(first_BK: Tensor, second_BK: Tensor) -> Tensor:
    """``second_BK`` where ``first_BK`` is least in its row, else infinite."""
    return second_BK.masked_fill(first_BK > first_BK.amin(dim=1, keepdim=True), math.inf)


def _spread(source: VideoTokens, kept: VideoTokens) -> tuple[float, float, float]:
    """Share of frames with tokens; evenness over frames; evenness over places of the picture."""
    grid, weights = source.grid, patch_weights(kept)
    if weights is None:
        cell_K3 = local_positions(kept).round().long()
        patch_E = (cell_K3[:, 0] * grid.h + cell_K3[:, 1]) * grid.w + cell_K3[:, 2]
        weight_E = torch.ones_like(patch_E)
    else:
        patch_E, weight_E = weights.indices()[1], weights.values()
    per_frame, patch_N = grid.per_frame, first_patches(source)
    share_T = group_sum(weight_E, patch_E // per_frame, grid.t)
    share_S = group_sum(weight_E, patch_E % per_frame, per_frame)
    judged_T = torch.bincount(patch_N // per_frame, minlength=grid.t) > 0
    judged_S = torch.bincount(patch_N % per_frame, minlength=per_frame) > 0
    num_frames = int(judged_T.sum())
    return (
        int(((share_T > 0) & judged_T).sum()) / num_frames,
        _evenness(share_T, num_frames),
        _evenness(share_S, int(judged_S.sum())),
    )


def _evenness(share: Tensor, num: int) -> float:
    """Entropy of shares over the entropy of ``num`` equal ones; 1 where there is but one."""
    share = share[share > 0] / share.sum()
    if num <= 1:
        return 1.0
    return min(1.0, max(0.0, float(-(share * share.log()).sum()) / math.log(num)))


def _gap(x_ND: Tensor, y_KD: Tensor, index_L: Tensor, row_L: Tensor | None = None) -> Tensor:
    """[L] squared distance of rows of ``x_ND`` (all by default) to the rows ``index_L`` of y."""
    gaps = []
    for index_B, start in _blocks(index_L, x_ND.shape[1]):
        mine = slice(start, start + len(index_B))
        x_BD = x_ND[mine] if row_L is None else x_ND[row_L[mine]]
        gaps.append((wide(x_BD) - wide(y_KD[index_B])).square().sum(dim=1))
    return torch.cat(gaps)


def _ratio(error_N: Tensor, spread_N: Tensor, mass_N: Tensor, floor: float) -> float:
    """Mean over mean, 0 for no error at all."""
    error = float((error_N * mass_N).sum() / mass_N.sum())
    spread = float((spread_N * mass_N).sum() / mass_N.sum())
    return error / max(spread, floor) if error else 0.0


def _blocks(x: Tensor, width: int | None = None) -> Iterator[tuple[Tensor, int]]:
    """Runs of rows and where they start, as long as ``_BLOCK`` numbers of ``width`` a row."""
    width = x.shape[1:].numel() if width is None else width
    step = max(1, _BLOCK // max(1, width))
    for start in range(0, len(x), step):
        yield x[start : start + step], start


def _check(source: VideoTokens, kept: VideoTokens) -> None:
    for video in (source, kept):
        if not video.tokens.is_floating_point() or not len(video):
            raise ShapeError(
                f"quality compares rows of float features, got {len(video)} tokens of "
                f"{video.tokens.dtype}: compare before quantising"
            )
    shapes = [(tuple(v.grid), v.tokens.shape[1]) for v in (source, kept)]
    if shapes[0] != shapes[1]:
        raise ShapeError(
            f"quality compares a video with what is left of it, got grids and widths {shapes[0]} "
            f"and {shapes[1]}: pass the tokens that the stage was given"
        )
    if source.weights is not None or (source.assign is None and not is_dense(source)):
        raise ShapeError(
            "quality needs to know which row each patch of the source is, got a source with soft "
            "provenance or none: judge against the dense tokens"
        )
