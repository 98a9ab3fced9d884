"""A picture's most attended tokens, and means of the rest.

"VisionZip: Longer is Better but Not Necessary in Vision Language Models" (Yang et al., 2024).

Legend: N rows, D features, K groups.
"""

from dataclasses import replace
from typing import ClassVar, Literal

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
from vidcomp.compress.base import About, Merge, Published
from vidcomp.errors import BudgetError
from vidcomp.functional.merge import float_rows, merge, merge_by_assignment, merge_in_order
from vidcomp.functional.reduce import narrow, wide
from vidcomp.functional.rough import nearest
from vidcomp.functional.select import evenly_spaced, stable_topk
from vidcomp.registry import COMPRESSORS
from vidcomp.types import VideoTokens

__all__ = ["Visionzip"]


@COMPRESSORS.add("visionzip")
class Visionzip(Merge):
    """Of each frame the tokens that the encoder looks at most stay; the others merge.

    Among the others, evenly spaced ones are anchors, and each of the rest joins the anchor that is
    most similar.  A frame's share of the budget goes by its tokens; with fewer tokens than frames,
    runs of frames are taken as one picture.

    Mode ``published`` keeps what the original does: every frame gets the same whole number of
    tokens, anchors stand at a fixed step and leave the end of the frame without any, and a merged
    token is the *sum* of the anchor and the mean of those that joined it, about twice as long as
    others.  The class token that the original keeps too is none of our rows.
    """

    about: ClassVar[About] = About(
        paper="VisionZip: Longer is Better but Not Necessary in Vision Language Models "
        "(Yang, 2024), arXiv 2412.04467",
        needs=("features", "saliency"),
        cost="K n D",
        scaling="parts",
        published=(
            Published("LLaVA-OneVision-7B", 25, 100.0, "UniComp"),
            Published("LLaVA-OneVision-7B", 5, 82.0, "SimpleCluster"),
            Published("LLaVA-OneVision-7B", 1, 74.4, "SimpleCluster"),
            Published("LLaVA-Video-7B", 25, 94.2, "SimpleCluster"),
            Published("LLaVA-Video-7B", 10, 93.0, "SimpleCluster"),
            Published("Qwen2.5-VL-7B", 10, 93.7, "FlashVID: mean over layers"),
            Published("Qwen3-VL-8B", 25, 94.0, "VidCom2"),
        ),
    )

    mode: Literal["exact", "published"] = "exact"
    """``published``: the original's sums, anchors, order (each frame's important tokens before its
    merged ones) and counts, the budget divided by the frames, rounded down."""
    dominant: float = Field(27 / 32, ge=0, lt=1)
    """Share of a frame's tokens that stay as they are; 54 of 64 in the original."""
    importance: Importance = "saliency"
    """``saliency``: the encoder's attention, in ``extras``; ``norm``: the length of a token."""
    metric: Metric = "tokens"
    """What is compared: the tokens, or the attention keys in ``extras["keys"]`` as published."""

    @property
    def exact(self) -> bool:
        """False in mode ``published``."""
        return self.mode == "exact"

    def count(self, video: VideoTokens, budget: int) -> int:
        """The budget, or what equal whole shares of it come to.

        Raises:
            BudgetError: ``published``, and fewer tokens than frames.
            ShapeError: no saliency or keys.
        """
        importances(video, self.importance, self.name)
        compared_rows(video, self.metric, self.name)
        return sum(kept for _, kept in self._pictures(video, budget))

    def groups(self, video: VideoTokens, budget: int) -> Tensor:
        """[N] int64 group of each row: of each frame the important tokens, then the anchors."""
        return self._groups(video, budget)[0]

    def reduce(self, video: VideoTokens, budget: int) -> VideoTokens:
        """One token a group."""
        group_N, anchor_K = self._groups(video, budget)
        if self.mode == "exact":
            return merge(video, group_N)
        joins_N = group_N.clone()
        joins_N[anchor_K] = -1
        x_ND = float_rows("tokens", video.tokens)
        ones_N = torch.ones_like(video.mass)
        joined_KD, _ = merge_by_assignment(x_ND, ones_N, joins_N, len(anchor_K))
        tokens = narrow(wide(x_ND[anchor_K]) + joined_KD, x_ND.dtype)
        return replace(merge_in_order(video, group_N), tokens=tokens)

    def _groups(self, video: VideoTokens, budget: int) -> tuple[Tensor, Tensor]:
        """[N] group of each row, and [K] the row that each group began with."""
        score_N = importances(video, self.importance, self.name)
        metric_ND = compared_rows(video, self.metric, self.name)
        group_N = torch.empty(len(video), dtype=torch.int64, device=score_N.device)
        anchors, first = [], 0
        for rows, kept in self._pictures(video, budget):
            anchor_K, group = self._one(score_N[rows], metric_ND, rows, kept)
            group_N[rows] = first + group
            anchors.append(rows[anchor_K])
            first += kept
        return group_N, torch.cat(anchors)

    def _one(
        self, score_N: Tensor, metric_ND: Tensor, rows: Tensor, kept: int
    ) -> tuple[Tensor, Tensor]:
        """Anchors and groups of one picture, the rows of ``metric_ND`` that are named."""
        n = len(score_N)
        num_dominant = min(kept - 1, int(self.dominant * kept + 0.5))
        dominant = stable_topk(score_N, num_dominant)
        is_other = torch.ones_like(score_N, dtype=torch.bool)
        is_other[dominant] = False
        others = is_other.nonzero().squeeze(1)
        anchors = others[self._spread(len(others), kept - num_dominant, others.device)]
        group = torch.empty(n, dtype=torch.int64, device=score_N.device)
        group[others] = num_dominant + nearest(metric_ND, metric_ND[rows[anchors]], rows[others])
        chosen = torch.cat([dominant, anchors])
        group[chosen] = torch.arange(kept, device=group.device)
        return chosen, group

    def _spread(self, n: int, k: int, device: torch.device) -> Tensor:
        if self.mode == "exact":
            return evenly_spaced(n, k, device)
        return torch.arange(k, device=device) * (n // k)

    def _pictures(self, video: VideoTokens, budget: int) -> list[tuple[Tensor, int]]:
        if self.mode == "exact":
            return pictures(video, budget)
        frame_N = frame_ranks(video)
        sizes = torch.bincount(frame_N)
        if budget < len(sizes):
            raise BudgetError(
                f"'visionzip' as published keeps as many tokens of each of {len(sizes)} frames, at "
                f"least one, more than a budget of {budget}: raise the budget or use mode='exact'"
            )
        rows = torch.split(frame_N.argsort(stable=True), sizes.tolist())
        return [(row, min(len(row), budget // len(sizes))) for row in rows]
