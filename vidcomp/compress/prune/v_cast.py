"""Tokens that stand out of their frame, more of them where the video turns."""

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from vidcomp.compress._images import frame_ranks
from vidcomp.compress.base import About, Published
from vidcomp.compress.prune._change import FeaturePrune, float_tokens
from vidcomp.errors import BudgetError
from vidcomp.functional.allocate import shares, top_of_each
from vidcomp.functional.outlier import curvature, frame_outliers
from vidcomp.registry import COMPRESSORS
from vidcomp.types import VideoTokens

__all__ = ["VCast", "published_shares"]


@COMPRESSORS.add("v_cast")
class VCast(FeaturePrune):
    """Each frame keeps the tokens that stand out of it; frames where the video turns keep more.

    V-CAST: Video Curvature-Aware Spatio-Temporal Pruning for Efficient Video Large Language Models
    (Lin et al., 2026).  The means of the frames are a path; the softmax of its curvature (1 at both
    ends) divides the budget.  A token stands out by one minus its cosine to the frame's mean, plus
    its norm brought to 0..1 within the frame.

    The published form adds up to ``retention`` of the tokens (more if ``min_tokens`` a frame need
    it) but gives all that rounding leaves over to the frame of the largest remainder, until that
    is full, and does not touch a video of one frame.  Mode ``exact`` gives one token to each of
    the largest remainders.
    """

    about: ClassVar[About] = About(
        paper="V-CAST: Video Curvature-Aware Spatio-Temporal Pruning for Efficient Video Large "
        "Language Models (Lin, 2026), arXiv 2603.27650",
        cost="N D",
        scaling="linear",
        published=(Published("Qwen3-VL-8B", 25, 98.2, "V-CAST: 98.2 to 98.6"),),
    )

    mode: Literal["exact", "published"] = "exact"
    """``exact``: the budget.  ``published``: ``retention`` of the tokens; more than the budget is
    an error."""
    retention: float = Field(0.25, gt=0, le=1)
    """Share of the tokens that stays in mode ``published``."""
    temperature: float = Field(0.7, gt=0)
    """How evenly frames share: curvatures are divided by it before a softmax."""
    min_tokens: int = Field(1, ge=0)
    """Tokens of each frame that stay at least; in mode ``exact`` as long as the budget allows."""

    @property
    def exact(self) -> bool:
        """False in mode ``published``."""
        return self.mode == "exact"

    def keep(self, video: VideoTokens, budget: int) -> Tensor:
        """[K] int64 rows, ascending.

        Raises:
            BudgetError: mode ``published`` keeps more than the budget.
            ShapeError: the tokens are integer ids.
        """
        x_ND, frame_N = float_tokens(video, self.name), frame_ranks(video)
        apart_N, frame_TD = frame_outliers(x_ND, video.mass, frame_N)
        weight_T = (curvature(frame_TD) / self.temperature).softmax(dim=0)
        share_T = self._shares(weight_T, torch.bincount(frame_N), budget)
        return top_of_each(apart_N, frame_N, share_T)

    def _shares(self, weight_T: Tensor, size_T: Tensor, budget: int) -> Tensor:
        if self.exact:
            return shares(weight_T, budget, size_T, self.min_tokens)
        num_rows = int(size_T.sum())
        share_T = size_T
        if len(size_T) > 1:
            wanted = round(num_rows * self.retention)
            given = published_shares(weight_T, wanted, self.min_tokens, size_T.tolist())
            share_T = size_T.new_tensor(given)
        if (total := int(share_T.sum())) > budget:
            raise BudgetError(
                f"'v_cast' in mode 'published' with retention={self.retention} keeps {total} of "
                f"{num_rows} tokens, more than a budget of {budget}: lower the retention or use "
                f"mode='exact'"
            )
        return share_T


def published_shares(weight_T: Tensor, total: int, least: int, caps: Sequence[int]) -> list[int]:
    """T shares as the original rounds them.

    ``least`` each, then the weighted rest rounded down, then one by one what is left to the part
    of the largest remainder, which stays the largest until the part is full.

    Args:
        weight_T: [T] float, not negative, not all zero.
        total: what is handed out; the sum is higher if ``least`` each already is.
        least: smallest share (or the cap).
        caps: T largest shares.
    """
    share = [min(least, cap) for cap in caps]
    left = max(0, total - sum(share))
    part_T = weight_T / weight_T.sum() * left
    remainder = (part_T - part_T.floor()).tolist()
    for i, part in enumerate(part_T.floor().long().tolist()):
        share[i] += min(part, caps[i] - share[i])
    left = min(max(total, sum(share)), sum(caps)) - sum(share)
    for i in sorted(range(len(share)), key=lambda i: -remainder[i]):
        more = min(left, caps[i] - share[i])
        share[i], left = share[i] + more, left - more
    return share
