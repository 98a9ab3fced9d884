"""Still places of a segment are averaged over time, and what remains is clustered in space.

PruneVid: Visual Token Pruning for Efficient Video Large Language Models (Huang et al., 2024), what
it does before the language model.
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from vidcomp.compress._images import frame_ranks
from vidcomp.compress.base import About, Merge, Published
from vidcomp.compress.merge._units import (
    Points,
    Stills,
    are_still,
    cluster_units,
    frame_features,
    join_idle,
    likeness_over_time,
    pillars_of,
    points_of,
    stills_within,
)
from vidcomp.errors import BudgetError
from vidcomp.functional.change import token_chains
from vidcomp.functional.merge import float_rows, merge, merge_in_order
from vidcomp.functional.segment import frame_clusters, split_long, spread_shares
from vidcomp.registry import COMPRESSORS
from vidcomp.types import VideoTokens

__all__ = ["Prunevid"]

_COMPARED = 1024
"""Frames that are clustered together, so that time grows with the length of a video and not with
its square."""
_FEW = 14
"""Tokens that the original does not cluster."""


@COMPRESSORS.add("prunevid")
class Prunevid(Merge):
    """Segments by clusters of frames; in each, still places become one token over time.

    Still places of a segment and the other tokens of each frame are then clustered (DPC-KNN), each
    to a share of the budget in proportion to its tokens.  Where averaging over time alone would
    leave too few tokens, only the stillest places are averaged; where the budget has not a token
    for every frame, those evenly spaced in time get one, and the tokens of the others join them.

    ``published`` has the original's counts (``retention`` of more than 14 tokens, all of fewer) and
    order.  In neither mode is there noise in the densities, and frames that are a segment of their
    own are not divided by zero: they have no still places.
    """

    about: ClassVar[About] = About(
        paper="PruneVid: Visual Token Pruning for Efficient Video Large Language Models "
        "(Huang, 2024), arXiv 2412.16117",
        cost="N n D + T T D",
        scaling="parts",
        published=(Published("LLaVA-OneVision-7B", 10, 97.0, "UniComp"),),
    )

    mode: Literal["exact", "published"] = "exact"
    """``exact``: the budget.  ``published``: the original's counts and order."""
    threshold: float = Field(0.8, ge=-1, le=1)
    """A place is still if the mean cosine of all pairs of its tokens in a segment is above this."""
    clusters_per_frame: float = Field(0.25, gt=0, le=1)
    """Clusters of frames that segments are made of, for each frame."""
    neighbours: int = Field(7, ge=1)
    """Frames or tokens that vote on a density, itself included."""
    retention: float = Field(0.5, gt=0, le=1)
    """Share of the tokens that clustering leaves; has no effect in mode ``exact``."""
    frame_features: str | None = None
    """Frame extra that frames are compared by; ``None``: the mean of their tokens."""

    @property
    def exact(self) -> bool:
        """True in mode ``exact``."""
        return self.mode == "exact"

    def count(self, video: VideoTokens, budget: int) -> int:
        """The budget in mode ``exact``; the other has to look for what is still.

        Raises:
            BudgetError: mode ``published`` leaves more.
            ShapeError: integer ids, or no such frame extra.
        """
        if not self.exact:
            points, _ = self._points(video, budget)
            return int(self._shares(points, len(video), budget).sum())
        float_rows("tokens", video.tokens)
        frame_features(video, frame_ranks(video), self.frame_features, self.name)
        return budget

    def groups(self, video: VideoTokens, budget: int) -> Tensor:
        """[N] int64 group of each row: segments one after the other, still places first."""
        x_ND, mass_N = float_rows("tokens", video.tokens), video.mass
        points, segment_N = self._points(video, budget)
        share_U = self._shares(points, len(video), budget)
        group_P, centre_K = cluster_units(x_ND, mass_N, points, share_U, self.neighbours)
        joined_P = join_idle(x_ND, mass_N, points, group_P, centre_K, segment_N)
        return joined_P[points.point]

    def reduce(self, video: VideoTokens, budget: int) -> VideoTokens:
        """One token a group."""
        arrange = merge if self.exact else merge_in_order
        return arrange(video, self.groups(video, budget))

    def _points(self, video: VideoTokens, budget: int) -> tuple[Points, Tensor]:
        """Points, in units that are the still places of a segment and the rest of each frame, and
        [N] the segment of each row.
        """
        x_ND = float_rows("tokens", video.tokens)
        frame_N = frame_ranks(video)
        features_TD = frame_features(video, frame_N, self.frame_features, self.name)
        segment_N = self._segments(features_TD)[frame_N]
        pillar_N = pillars_of(token_chains(video.positions), segment_N)
        rows_C = torch.bincount(pillar_N)
        still_C = are_still(x_ND, pillar_N, len(rows_C), self.threshold)
        if self.exact and int((rows_C - 1)[still_C].sum()) > len(video) - budget:
            likeness_C = likeness_over_time(x_ND, pillar_N, len(rows_C))
            stills = Stills(pillar_N, likeness_C, rows_C - 1)
            still_C = stills_within(stills, still_C, len(video) - budget)
        still_N = still_C[pillar_N]
        row_N = torch.arange(len(video), device=frame_N.device)
        width = int(frame_N.max()) + 2
        unit_N = segment_N * width + torch.where(still_N, 0, frame_N + 1)
        points = points_of(unit_N, torch.where(still_N, pillar_N, len(rows_C) + row_N))
        return points, segment_N

    def _segments(self, features_TD: Tensor) -> Tensor:
        """[T] int64 segment of each frame."""
        part_T = torch.zeros(len(features_TD), dtype=torch.int64, device=features_TD.device)
        if self.exact:
            part_T = split_long(part_T, _COMPARED)
        segments, done = [], 0
        for part_TD in torch.split(features_TD, torch.bincount(part_T).tolist()):
            # The original wants no clusters of three frames and breaks.
            wanted = max(1, int(len(part_TD) * self.clusters_per_frame))
            segments.append(done + frame_clusters(part_TD, wanted, self.neighbours))
            done = int(segments[-1][-1]) + 1
        return torch.cat(segments)

    def _shares(self, points: Points, num_rows: int, budget: int) -> Tensor:
        """[U] int64 groups of each unit."""
        size_U = points.sizes
        if self.exact:
            return spread_shares(size_U, budget, size_U)
        share_U = torch.where(size_U > _FEW, (size_U.double() * self.retention).long(), size_U)
        share_U = share_U.clamp(min=1)
        if (total := int(share_U.sum())) > budget:
            raise BudgetError(
                f"'prunevid' in mode 'published' with retention={self.retention} leaves {total} of "
                f"{num_rows} tokens, more than a budget of {budget}: lower retention or use "
                f"mode='exact'"
            )
        return share_U
