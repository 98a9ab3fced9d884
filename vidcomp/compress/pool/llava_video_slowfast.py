"""Every so many frames in detail, those between coarsely.

"LLaVA-Video: Video Instruction Tuning With Synthetic Data" (Zhang et al., 2024).

Legend: T frames, N rows, K tokens out.
"""

from typing import ClassVar

import torch
from pydantic import Field

from vidcomp.compress.base import About
from vidcomp.compress.pool._pathways import Pathway, PathwayStage, fit_pathways, joined
from vidcomp.errors import BudgetError
from vidcomp.functional.geometry import check_dense, in_raster_order
from vidcomp.functional.merge import resample
from vidcomp.functional.pool import bilinear_weights, grid_weights
from vidcomp.registry import COMPRESSORS
from vidcomp.types import VideoTokens

__all__ = ["LlavaVideoSlowFast"]


@COMPRESSORS.add("llava_video_slowfast")
class LlavaVideoSlowFast(PathwayStage):
    """Every ``stride``-th frame pooled little, the frames between pooled ``ratio`` times more.

    From LLaVA-Video.  The frames 0, stride, 2 stride ... have the largest grid for which all frames
    fit the budget.  Each patch counts in one token.  Tokens may be pruned, merged or letterboxed
    already.

    Mode ``published`` interpolates with fixed strides: ``pool`` patches along each side in slow
    frames, ``pool * ratio`` in the others, as the original does for the first video of a batch; its
    strides double with every further video of the batch, which is not imitated.
    """

    about: ClassVar[About] = About(
        paper="LLaVA-Video: Video Instruction Tuning With Synthetic Data (Zhang, 2024), "
        "arXiv 2410.02713",
        cost="N D",
        scaling="linear",
    )

    stride: int = Field(10, ge=1)
    """Frames from one slow frame to the next."""
    ratio: int = Field(2, ge=2)
    """How much coarser the other frames are along each side."""
    pool: int = Field(2, ge=1)
    """Patches along each side of a slow token in mode ``published``."""

    def count(self, video: VideoTokens, budget: int) -> int:
        """Tokens of all frames.

        Raises:
            BudgetError: the least that they need is more than the budget.
            ShapeError: mode ``published``, and the grid is not dense.
        """
        if self.mode == "exact":
            return self.fit(video, budget)[1]
        check_dense(video)
        count = sum(int(frames.sum()) * h * w for frames, h, w in self._fixed(video))
        if count > budget:
            raise BudgetError(
                f"'llava_video_slowfast' with stride={self.stride}, pool={self.pool} and "
                f"ratio={self.ratio} makes {count} tokens, more than a budget of {budget}: change "
                f"them or use mode='exact'"
            )
        return count

    def _frames(self, num_frames: int) -> tuple[torch.Tensor, torch.Tensor]:
        slow = torch.arange(num_frames) % self.stride == 0
        return slow, ~slow

    def fit(self, video: VideoTokens, budget: int) -> tuple[list[Pathway], int]:
        """The largest pathways within the budget, and their tokens."""
        frames = self._frames(video.grid.t)
        return fit_pathways(video, budget, frames, self.ratio, "llava_video_slowfast")

    def _fixed(self, video: VideoTokens) -> list[Pathway]:
        slow, fast = self._frames(video.grid.t)
        _, h, w = video.grid
        strides = ((slow, self.pool), (fast, self.pool * self.ratio))
        return [Pathway(frames, -(-h // n), -(-w // n)) for frames, n in strides]

    def published(self, video: VideoTokens) -> VideoTokens:
        """Fixed sizes, as in the original."""
        grid, entries, num_rows = video.grid, [], 0
        for frames, h, w in self._fixed(video):
            if not bool(frames.any()):
                continue
            axes = [torch.eye(grid.t, dtype=torch.float64)[frames]]
            axes += [bilinear_weights(grid.h, h), bilinear_weights(grid.w, w)]
            part = grid_weights(axes, video.tokens.device)
            new_E, old_E = part.indices()
            entries.append((new_E + num_rows, old_E, part.values()))
            num_rows += len(part)
        return in_raster_order(resample(video, joined(entries, (num_rows, len(video)))))
