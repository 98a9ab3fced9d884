"""Still places of the best windows are averaged over time, others stay by importance.

HoliTom: Holistic Token Merging for Fast Video Large Language Models (Shao et al., 2025), what it
does before the language model.
"""

import math
from dataclasses import replace
from typing import ClassVar, Literal, NamedTuple, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from vidcomp.compress._images import Importance, frame_ranks, importances
from vidcomp.compress.base import About, Kind, Merge, Published
from vidcomp.compress.merge._units import (
    Points,
    Stills,
    cluster_units,
    pillars_of,
    points_of,
    stills_within,
)
from vidcomp.errors import BudgetError, ConfigError
from vidcomp.functional.allocate import top_of_each
from vidcomp.functional.change import token_chains
from vidcomp.functional.merge import float_rows, merge, merge_by_assignment, merge_in_order
from vidcomp.functional.reduce import follow, group_max, group_min, group_sum
from vidcomp.functional.runs import joins_above
from vidcomp.functional.segment import spread_shares, static_windows, still_frames
from vidcomp.registry import COMPRESSORS
from vidcomp.types import VideoTokens

__all__ = ["Holitom"]


class _Layout(NamedTuple):
    """Which rows are averaged over time, and the units that share the budget."""

    points: Points
    still: Tensor
    """[N] bool."""
    unit_still: Tensor
    """[U] bool: the still places of a window, not the rest of a frame."""


@COMPRESSORS.add("holitom")
class Holitom(Merge):
    """Windows of frames are chosen so that averaging still places over time takes away the most.

    Still places of a window are clustered (DPC-KNN); of the others those of a frame that are most
    important stay, and the rest is dropped, or (a share ``contextual`` of the frame's tokens)
    clustered too.  All get shares of the budget in proportion to their tokens.  Where averaging
    alone would leave too few tokens, only the stillest places are averaged; where the budget has
    not a token for every frame, those evenly spaced in time get one.

    ``published`` has the original's counts, each of which is rounded up by itself, its order, and
    its mixture of a centre and its cluster (``centre_weight``).
    """

    kind: ClassVar[Kind] = "mixed"
    about: ClassVar[About] = About(
        paper="HoliTom: Holistic Token Merging for Fast Video Large Language Models (Shao, 2025), "
        "arXiv 2505.21334",
        needs=("features", "saliency"),
        cost="N n D",
        scaling="parts",
        published=(
            Published("LLaVA-OneVision-7B", 25, 100.6, "UniComp"),
            Published("LLaVA-OneVision-7B", 10, 98.2, "UniComp"),
            Published("LLaVA-OneVision-7B", 2, 87.7, "USTC"),
            Published("LLaVA-Video-7B", 2, 82.5, "USTC"),
            Published("Qwen3-VL-8B", 25, 93.5, "VidCom2"),
        ),
    )

    mode: Literal["exact", "published"] = "exact"
    """``exact``: the budget.  ``published``: the original's counts, order and mixtures."""
    threshold: float = Field(0.8, ge=-1, le=1)
    """A place is still while it is more alike than this from frame to frame; the original has 0.65
    for 10 % of the tokens."""
    importance: Importance = "saliency"
    """What ranks tokens of places that are not still."""
    contextual: float = Field(0.0, ge=0, le=1)
    """Share of a frame's tokens that are clusters of what importance left out; the original breaks
    on any but 0."""
    neighbours: int = Field(7, ge=1)
    """Tokens that vote on a density, itself included."""
    max_frames: int = Field(1024, ge=1)
    """Frames of the longest window."""
    retention: float = Field(0.1, gt=0, le=1)
    """Share of all tokens that is aimed at; has no effect in mode ``exact``."""
    centre_weight: float = Field(0.6, ge=0, le=1)
    """What a centre weighs against the mean of its cluster; has no effect in mode ``exact``."""

    @model_validator(mode="after")
    def _check_contextual(self) -> Self:
        if self.contextual and not self.exact:
            raise ConfigError(
                f"'holitom' as published has no contextual tokens, got "
                f"contextual={self.contextual}: leave it out or use mode='exact'"
            )
        return self

    @property
    def exact(self) -> bool:
        """True in mode ``exact``."""
        return self.mode == "exact"

    def count(self, video: VideoTokens, budget: int) -> int:
        """The budget in mode ``exact``; the other has to look for what is still.

        Raises:
            BudgetError: mode ``published`` leaves more, or nothing.
            ShapeError: integer ids, or no saliency.
        """
        float_rows("tokens", video.tokens)
        importances(video, self.importance, self.name)
        if self.exact:
            return budget
        layout = self._layout(video, budget)
        return int(self._shares(layout, len(video), budget).sum())

    def groups(self, video: VideoTokens, budget: int) -> Tensor:
        """[N] int64 group of each row, -1: dropped; windows one after the other, still places
        first, then frames.
        """
        points, group_P, _ = self._clusters(video, budget)
        return follow(points.point, group_P)

    def reduce(self, video: VideoTokens, budget: int) -> VideoTokens:
        """One token a group."""
        points, group_P, centre_K = self._clusters(video, budget)
        group_N = follow(points.point, group_P)
        if self.exact:
            return merge(video, group_N)
        mean_PD, _ = merge_by_assignment(video.tokens, video.mass, points.point, len(points.unit))
        sum_KD = group_sum(mean_PD, group_P, len(centre_K))
        centre_KD = mean_PD[centre_K].to(sum_KD.dtype)
        others_K1 = (torch.bincount(group_P[group_P >= 0]) - 1)[:, None]
        mixed_KD = torch.lerp(
            (sum_KD - centre_KD) / others_K1.clamp(min=1), centre_KD, self.centre_weight
        )
        token_KD = torch.where(others_K1 > 0, mixed_KD, centre_KD).to(video.tokens.dtype)
        return replace(merge_in_order(video, group_N), tokens=token_KD)

    def _layout(self, video: VideoTokens, budget: int) -> _Layout:
        x_ND, frame_N = float_rows("tokens", video.tokens), frame_ranks(video)
        found = token_chains(video.positions)
        _, alike_N = joins_above(x_ND, video.mass, found, self.threshold, "previous")
        since_N = still_frames(alike_N, found, frame_N, self.threshold)
        window_N = static_windows(since_N, frame_N, self.max_frames)[frame_N]
        num_windows = int(window_N.max()) + 1
        first_N = group_min(frame_N, window_N, num_windows)[window_N]
        last_N = group_max(frame_N, window_N, num_windows)[window_N]
        pillar_N = pillars_of(found, window_N)
        rows_C = torch.bincount(pillar_N)
        # At the end of a window its still places have been so since its first frame.
        is_end_N = (frame_N == last_N) & (since_N >= last_N - first_N)
        still_C = (group_max(is_end_N.long(), pillar_N, len(rows_C)) > 0) & (rows_C > 1)
        if self.exact:
            likeness_C = group_min(alike_N, pillar_N, len(rows_C))
            stills = Stills(pillar_N, likeness_C, rows_C - 1)
            still_C = stills_within(stills, still_C, len(video) - budget)
        still_N = still_C[pillar_N]
        row_N = torch.arange(len(video), device=frame_N.device)
        unit_N = window_N * (int(frame_N.max()) + 2) + torch.where(still_N, 0, frame_N + 1)
        points = points_of(unit_N, torch.where(still_N, pillar_N, len(rows_C) + row_N))
        unit_of_row_N = points.unit[points.point]
        unit_still_U = group_max(still_N.long(), unit_of_row_N, int(points.unit.max()) + 1) > 0
        return _Layout(points, still_N, unit_still_U)

    def _shares(self, layout: _Layout, num_rows: int, budget: int) -> Tensor:
        """[U] int64 tokens of each unit."""
        size_U = layout.points.sizes
        if self.exact:
            return spread_shares(size_U, budget, size_U)
        rate = min(self.retention / (len(layout.points.unit) / num_rows), 1)
        share_U = torch.tensor(
            [
                min(size, round(size * rate) if still else math.ceil(size * rate))
                for size, still in zip(size_U.tolist(), layout.unit_still.tolist(), strict=True)
            ],
            device=size_U.device,
        )
        if not 1 <= (total := int(share_U.sum())) <= budget:
            raise BudgetError(
                f"'holitom' in mode 'published' with retention={self.retention} leaves {total} of "
                f"{num_rows} tokens, not 1 to a budget of {budget}: change retention or use "
                f"mode='exact'"
            )
        return share_U

    def _clusters(self, video: VideoTokens, budget: int) -> tuple[Points, Tensor, Tensor]:
        """Points that do not drop, [P] their groups, and [K] the points that are centres."""
        layout = self._layout(video, budget)
        share_U = self._shares(layout, len(video), budget)
        contextual_U = (share_U.double() * self.contextual).long()
        contextual_U = contextual_U.masked_fill(layout.unit_still, 0)
        unit_N = layout.points.unit[layout.points.point]
        # Among the tokens of a unit that are not averaged, as many as it has left to give.
        rank_N = importances(video, self.importance, self.name)
        salient_U = (share_U - contextual_U).masked_fill(layout.unit_still, 0)
        salient = top_of_each(rank_N, unit_N, salient_U)
        is_salient_N = torch.zeros_like(layout.still).index_fill(0, salient, value=True)
        share_N = torch.where(
            layout.still,
            share_U[unit_N],
            torch.where(is_salient_N, salient_U[unit_N], contextual_U[unit_N]),
        )
        part_N = unit_N * 2 + (~is_salient_N & ~layout.still).long()
        points = points_of(part_N.masked_fill(share_N == 0, -1), layout.points.point)
        rows = points.point >= 0
        part_of_row = points.unit[points.point[rows]]
        share_V = group_max(share_N[rows], part_of_row, int(points.unit.max()) + 1)
        group_P, centre_K = cluster_units(
            float_rows("tokens", video.tokens), video.mass, points, share_V, self.neighbours
        )
        centre_K, order_K = centre_K.sort()  # a window's tokens are in the order of their centres
        rank_K = torch.empty_like(order_K)
        rank_K[order_K] = torch.arange(len(order_K), device=order_K.device)
        return points, follow(group_P, rank_K), centre_K
