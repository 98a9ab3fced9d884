"""Tokens unlike the middle of their frame and video, more of them in frames that stand out."""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from vidcomp.compress._images import frame_ranks
from vidcomp.compress.base import About, Published
from vidcomp.compress.prune._change import FeaturePrune, float_tokens
from vidcomp.errors import BudgetError
from vidcomp.functional.allocate import shares, top_of_each
from vidcomp.functional.outlier import centre_similarity, steady_channels
from vidcomp.functional.reduce import group_sum, wide
from vidcomp.registry import COMPRESSORS
from vidcomp.types import VideoTokens

__all__ = ["Vidcom2"]


@COMPRESSORS.add("vidcom2")
class Vidcom2(FeaturePrune):
    """Each frame keeps the tokens least similar to the means of the video and of the frame.

    Video Compression Commander: Plug-and-Play Inference Acceleration for Video Large Language
    Models (Liu et al., 2025).  Similarity is a sum of Gaussians on the half of the channels that
    vary least.  A frame whose tokens are less similar to the video's mean gets more, at most about
    twice an even share.  At the original's temperature of 0.01 one frame nearly always gets that
    and all others the same; a higher one spreads it.

    The published form rounds the share of each frame for itself, so that its count is only near
    ``retention``.  Mode ``exact`` divides the budget by the same rates, at least one token a frame
    as long as there are enough.
    """

    about: ClassVar[About] = About(
        paper="Video Compression Commander: Plug-and-Play Inference Acceleration for Video Large "
        "Language Models (Liu, 2025), arXiv 2505.14454",
        cost="N D",
        scaling="linear",
        published=(
            Published("LLaVA-OneVision-7B", 25, 99.6, "VidCom2"),
            Published("LLaVA-Video-7B", 25, 93.6, "VidCom2"),
            Published("Qwen3-VL-8B", 25, 96.3, "VidCom2"),
        ),
    )

    mode: Literal["exact", "published"] = "exact"
    """``exact``: the budget.  ``published``: about ``retention`` of the tokens; more than the
    budget is an error."""
    retention: float = Field(0.25, gt=0, le=1)
    """Share of the tokens that stays in mode ``published``, before rounding frame by frame."""
    temperature: float = Field(0.01, gt=0)
    """How evenly frames share: the scores of frames are divided by it before a softmax."""

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
        channels = steady_channels(x_ND, frame_N, max(1, x_ND.shape[1] // 2))
        to_video_N, to_frame_N = centre_similarity(x_ND, video.mass, frame_N, channels)
        rate_T = self._rates(to_video_N, frame_N)
        size_T = torch.bincount(frame_N)
        share_T = self._shares(rate_T, size_T, budget)
        return top_of_each(-(to_video_N + to_frame_N), frame_N, share_T)

    def _rates(self, to_video_N: Tensor, frame_N: Tensor) -> Tensor:
        """[T] share of each frame, relative to an even one: 1 on average."""
        size_T = torch.bincount(frame_N)
        score_T = -group_sum(to_video_N, frame_N, len(size_T)) / size_T
        soft_T = (score_T / self.temperature).softmax(dim=0)
        return 1 + soft_T - 1 / len(soft_T)

    def _shares(self, rate_T: Tensor, size_T: Tensor, budget: int) -> Tensor:
        if self.exact:
            return shares(rate_T * size_T, budget, size_T, 1)
        wanted_T = (wide(rate_T) * self.retention).clamp(max=1) * size_T
        share_T = wanted_T.round().long().clamp(min=1)
        if (total := int(share_T.sum())) > budget:
            raise BudgetError(
                f"'vidcom2' in mode 'published' with retention={self.retention} keeps {total} of "
                f"{int(size_T.sum())} tokens, more than a budget of {budget}: lower the retention "
                f"or use mode='exact'"
            )
        return share_T
