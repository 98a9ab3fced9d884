"""A picture's most attended tokens, each mixed with its neighbours, and one token of the rest.

"LLaVA-PruMerge: Adaptive Token Reduction for Efficient Large Multimodal Models" (Shang et al.,
2024).

Legend: N rows, n rows of a picture, k kept ones, K new rows, E entries of the matrix, D features.
"""

import math
from typing import ClassVar, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from vidcomp.compress._images import (
    Importance,
    Metric,
    compared_rows,
    frame_ranks,
    importances,
    pictures,
)
from vidcomp.compress.base import About, Compressor, Kind
from vidcomp.errors import BudgetError
from vidcomp.functional.geometry import first_patches, in_raster_order, raster_order
from vidcomp.functional.merge import float_rows, resample
from vidcomp.functional.provenance import sparse_matrix
from vidcomp.functional.reduce import group_min, group_sum, narrow, wide
from vidcomp.functional.rough import most_similar
from vidcomp.functional.select import evenly_spaced
from vidcomp.registry import COMPRESSORS
from vidcomp.types import VideoTokens

__all__ = ["Prumerge"]


class _Mix(NamedTuple):
    """Entries of the matrix that mixes rows: [E] new row, [E] old row, [E] weight."""

    new: Tensor
    old: Tensor
    value: Tensor


@COMPRESSORS.add("prumerge")
class Prumerge(Compressor):
    """Of each frame the tokens that the encoder looks at most, and one mean of all others.

    A kept token takes in its ``neighbors`` most similar tokens, each with the share of the
    encoder's attention that it has; as shares are small, it stays close to what it was.  The
    last token of a frame is the mean, by attention, of what was not kept.  Mode ``exact`` divides
    by the sums of the weights, so that every token is a weighted mean.  A frame's share of the
    budget goes by its tokens; with fewer tokens than frames, runs of frames are one picture.

    Mode ``published`` keeps what the original does: weighted *sums*; as many tokens of each frame
    as the share of outliers of attention (above the third quartile by 1.5 interquartile ranges)
    among all frames together; and with ``plus``, a grid whose step comes from that share by two
    roundings and never reaches the last token.
    """

    kind: ClassVar[Kind] = "resample"
    about: ClassVar[About] = About(
        paper="LLaVA-PruMerge: Adaptive Token Reduction for Efficient Large Multimodal Models "
        "(Shang, 2024), arXiv 2403.15388",
        needs=("features", "saliency"),
        cost="K n D",
        scaling="parts",
    )

    mode: Literal["exact", "published"] = "exact"
    """``published``: the original's sums, its order (by falling attention, then the grid, then the
    mean of the rest) and its count, which outliers decide."""
    plus: bool = False
    """Only a quarter is chosen by attention, the rest stands on a grid (PruMerge+)."""
    neighbors: int = Field(32, ge=0)
    """Most similar tokens that a kept one takes in."""
    importance: Importance = "saliency"
    """``saliency``: the encoder's attention, in ``extras``; ``norm``: the length of a token."""
    metric: Metric = "tokens"
    """What is compared: the tokens, or the attention keys in ``extras["keys"]`` as published."""

    @property
    def exact(self) -> bool:
        """False in mode ``published``."""
        return self.mode == "exact"

    def count(self, video: VideoTokens, budget: int) -> int:
        """The budget, or as many as there are outliers.

        Raises:
            BudgetError: ``published`` needs more than the budget, or finds no step for its grid.
            ShapeError: no saliency or keys.
        """
        score_N, _ = self._inputs(video)
        if self.mode == "exact":
            return budget
        kept = self._kept(video, score_N, budget)
        return self._check(sum(_num_rows(*picture) for picture in kept), budget)

    def reduce(self, video: VideoTokens, budget: int) -> VideoTokens:
        """The kept tokens, mixed with others."""
        mix = self._mix(video, budget)
        num_rows = int(mix.new[-1]) + 1
        if self.mode == "exact":
            mix = _ordered(mix, video, num_rows)
        total_K = group_sum(mix.value, mix.new, num_rows)
        share_E = (mix.value / total_K[mix.new]).float()
        mixing = sparse_matrix(mix.new, mix.old, share_E, (num_rows, len(video)))
        if self.mode == "exact":
            return in_raster_order(resample(video, mixing))
        self._check(num_rows, budget)
        x_ND = float_rows("tokens", video.tokens)
        sums_KD = group_sum(x_ND, mix.new, num_rows, mix.value, mix.old)
        return resample(video, mixing, narrow(sums_KD, x_ND.dtype))

    def _inputs(self, video: VideoTokens) -> tuple[Tensor, Tensor]:
        """[N] importance and [N, D] what is compared."""
        score_N = importances(video, self.importance, self.name)
        return score_N, compared_rows(video, self.metric, self.name)

    def _mix(self, video: VideoTokens, budget: int) -> _Mix:
        """Entries of all pictures, in the order of the new rows."""
        score_N, metric_ND = self._inputs(video)
        weight_N, own_N = score_N.clamp(min=0), torch.ones_like(score_N)
        mixes, first = [], 0
        for rows, kept in self._kept(video, score_N, budget):
            weight_n, own_n = weight_N[rows], own_N[rows]
            if self.mode == "exact":
                own_n = video.mass[rows]
                weight_n = _shares(weight_n * own_n)
            elif self.importance == "norm":
                weight_n = _shares(weight_n)
            mix = _mix_picture(weight_n, own_n, _some(metric_ND, rows), kept, self.neighbors)
            mixes.append(_Mix(mix.new + first, rows[mix.old], mix.value))
            first += _num_rows(rows, kept)
        return _Mix(*(torch.cat(part) for part in zip(*mixes, strict=True)))

    def _kept(
        self, video: VideoTokens, score_N: Tensor, budget: int
    ) -> list[tuple[Tensor, Tensor]]:
        """Rows of each picture, ascending, and which of them are kept, in the order of the mode."""
        if self.mode == "exact":
            shares = pictures(video, budget)
            return [(rows, self._choose(score_N[rows], share - 1)) for rows, share in shares]
        frame_N = frame_ranks(video)
        pieces = torch.split(frame_N.argsort(stable=True), torch.bincount(frame_N).tolist())
        ratio = _outliers(score_N) / len(score_N)
        step = _grid_step(ratio) if self.plus else 0
        return [(r, _choose_published(score_N[r], int(len(r) * ratio), step)) for r in pieces]

    def _choose(self, score_n: Tensor, kept: int) -> Tensor:
        """[kept] rows of a picture: the highest scores, or a quarter of them and a grid."""
        order = score_n.argsort(descending=True, stable=True)
        if not self.plus:
            return order[:kept]
        best = order[: -(-kept // 4)]
        others = order[len(best) :].sort().values
        spread = others[evenly_spaced(len(others), kept - len(best), others.device)]
        return torch.cat([best, spread])

    def _check(self, count: int, budget: int) -> int:
        if count > budget:
            raise BudgetError(
                f"'prumerge' as published keeps {count} tokens, as outliers of attention decide, "
                f"more than a budget of {budget}: raise the budget or use mode='exact'"
            )
        return count


def _ordered(mix: _Mix, video: VideoTokens, num_rows: int) -> _Mix:
    """The same mix with its new rows in raster order, as far as roundings can tell: numbers are
    changed more easily than rows.
    """
    total_K1 = group_sum(mix.value, mix.new, num_rows)[:, None]
    sum_K3 = group_sum(video.positions, mix.new, num_rows, mix.value, mix.old)
    first_K = group_min(first_patches(video)[mix.old], mix.new, num_rows)
    order_K = raster_order((sum_K3 / total_K1).float(), first_K)
    rank_K = torch.empty_like(order_K)
    rank_K[order_K] = torch.arange(num_rows, device=order_K.device)
    return mix._replace(new=rank_K[mix.new])


def _num_rows(rows: Tensor, kept: Tensor) -> int:
    """Kept tokens and, if anything is left, one of the rest."""
    return len(kept) + (len(kept) < len(rows))


def _shares(weight_n: Tensor) -> Tensor:
    """Weights that sum to 1; equal ones if all are zero."""
    total = wide(weight_n).sum()
    if not bool(total > 0):
        return torch.full_like(weight_n, 1 / len(weight_n))
    return (wide(weight_n) / total).to(weight_n.dtype)


def _some(x_ND: Tensor, rows: Tensor) -> Tensor:
    """Rows, ascending; no copy if they follow one another."""
    first, last = int(rows[0]), int(rows[-1])
    return x_ND[first : last + 1] if last - first == len(rows) - 1 else x_ND[rows]


def _mix_picture(
    weight_n: Tensor, own_n: Tensor, metric_nD: Tensor, kept: Tensor, neighbors: int
) -> _Mix:
    """Each kept row with its own weight and its nearest, and then all rows that were not kept."""
    k, device = len(kept), kept.device
    new_k = torch.arange(k, device=device)
    near = most_similar(metric_nD, kept, min(neighbors, len(weight_n) - 1))
    is_rest = torch.ones_like(weight_n, dtype=torch.bool)
    is_rest[kept] = False
    rest = is_rest.nonzero().squeeze(1)
    rest_weight = weight_n[rest]
    if not bool((rest_weight > 0).any()):
        rest_weight = torch.ones_like(rest_weight)  # nobody looks at any of them: a plain mean
    return _Mix(
        torch.cat([new_k, new_k.repeat_interleave(near.shape[1]), torch.full_like(rest, k)]),
        torch.cat([kept, near.flatten(), rest]),
        torch.cat([own_n[kept], weight_n[near.flatten()], rest_weight]),
    )


def _outliers(score_N: Tensor) -> int:
    """How many scores lie above the third quartile by 1.5 interquartile ranges."""
    sorted_N = wide(score_N).sort().values
    first, third = (_quantile(sorted_N, q) for q in (0.25, 0.75))
    return int((sorted_N > third + 1.5 * (third - first)).sum())


def _quantile(sorted_N: Tensor, q: float) -> float:
    place = q * (len(sorted_N) - 1)
    low, high = sorted_N[math.floor(place)], sorted_N[math.ceil(place)]
    return float(torch.lerp(low, high, place - math.floor(place)))


def _grid_step(ratio: float) -> int:
    step = int(int(1 / ratio) / 3) if ratio else 0
    if not step:
        raise BudgetError(
            f"PruMerge+ as published makes a grid from the share of outliers of attention, which "
            f"must be more than 0 and at most a third, got {ratio:g}: use mode='exact'"
        )
    return step


def _choose_published(score_n: Tensor, kept: int, step: int) -> Tensor:
    best = score_n.argsort(descending=True, stable=True)[:kept]
    if not step:
        return best
    grid = torch.arange(0, len(score_n) - 1, step, device=best.device)
    return torch.cat([best, grid[~torch.isin(grid, best)]])
