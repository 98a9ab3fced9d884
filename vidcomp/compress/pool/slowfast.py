"""A few frames in detail, and all of them coarsely.

"SlowFast-LLaVA: A Strong Training-Free Baseline for Video Large Language Models" (Xu et al., 2024).

Legend: T frames, S slow ones, N rows, K tokens out.
"""

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from vidcomp.compress.base import About
from vidcomp.compress.pool._pathways import Pathway, PathwayStage, fit_pathways
from vidcomp.errors import BudgetError, ShapeError
from vidcomp.functional.geometry import check_dense
from vidcomp.functional.merge import float_rows, resample
from vidcomp.functional.pool import adaptive_weights, grid_weights, largest
from vidcomp.functional.provenance import sparse_matrix
from vidcomp.functional.reduce import wide
from vidcomp.functional.select import evenly_spaced
from vidcomp.registry import COMPRESSORS
from vidcomp.types import Grid, VideoTokens

__all__ = ["SlowFast"]


@COMPRESSORS.add("slowfast")
class SlowFast(PathwayStage):
    """A slow pathway of a few detailed frames beside a fast one of all frames, pooled more.

    From SlowFast-LLaVA.  The slow frames are evenly spaced and have the largest grid for which both
    pathways fit the budget; the cells of the fast one are ``ratio`` times larger along each side.
    Slow frames are in both pathways, so that a patch of theirs counts in two tokens.  The output is
    in raster order, slow and fast tokens of a frame among each other.  Tokens may be pruned, merged
    or letterboxed already.

    Mode ``published`` has the original's fixed sizes: the largest of ``slow_pool`` patches, one
    below the other, in the slow frames, means over ``fast`` x ``fast`` bins in all, and all slow
    tokens before all fast ones, so that the order is not that of time.
    """

    about: ClassVar[About] = About(
        paper="SlowFast-LLaVA: A Strong Training-Free Baseline for Video Large Language Models "
        "(Xu, 2024), arXiv 2407.15841",
        cost="N D",
        scaling="linear",
    )

    slow_frames: int = Field(10, ge=1)
    """Frames of the slow pathway; all, if there are fewer."""
    ratio: int = Field(4, ge=2)
    """How much coarser the fast pathway is along each side; has no effect in mode ``published``."""
    slow_pool: int = Field(2, ge=1)
    """Patches of a column that become one slow token in mode ``published``."""
    fast: int = Field(4, ge=1)
    """Bins along each side of a fast frame in mode ``published``."""

    def count(self, video: VideoTokens, budget: int) -> int:
        """Tokens of both pathways.

        Raises:
            BudgetError: the least that both need is more than the budget.
            ShapeError: mode ``published``, and the grid is not dense or too small.
        """
        if self.mode == "exact":
            return self.fit(video, budget)[1]
        check_dense(video)
        grid, slow = video.grid, min(self.slow_frames, video.grid.t)
        if grid.h < self.slow_pool or min(grid.h, grid.w) < self.fast:
            raise ShapeError(
                f"'slowfast' with slow_pool={self.slow_pool} and fast={self.fast} cannot pool "
                f"frames of {grid.h} x {grid.w} patches: lower them or use mode='exact'"
            )
        count = slow * (grid.h // self.slow_pool) * grid.w + grid.t * self.fast**2
        if count > budget:
            raise BudgetError(
                f"'slowfast' with slow_frames={self.slow_frames}, slow_pool={self.slow_pool} and "
                f"fast={self.fast} makes {count} tokens, more than a budget of {budget}: change "
                f"them or use mode='exact'"
            )
        return count

    def fit(self, video: VideoTokens, budget: int) -> tuple[list[Pathway], int]:
        """The largest pathways within the budget, and their tokens."""
        num_frames = video.grid.t
        slow = torch.zeros(num_frames, dtype=torch.bool)
        slow[evenly_spaced(num_frames, min(self.slow_frames, num_frames))] = True
        frames = (slow, torch.ones_like(slow))
        return fit_pathways(video, budget, frames, self.ratio, "slowfast")

    def published(self, video: VideoTokens) -> VideoTokens:
        """Fixed sizes, as in the original."""
        grid, x_ND = video.grid, float_rows("tokens", video.tokens)
        num_slow, height = min(self.slow_frames, grid.t), grid.h // self.slow_pool
        row_SHW = _slow_rows(grid, num_slow, height * self.slow_pool).to(x_ND.device)
        cells = Grid(num_slow, height, grid.w)
        slow_KD, slow_KM = largest(x_ND[row_SHW.flatten()], Grid(*row_SHW.shape), cells)
        axes = [torch.eye(grid.t, dtype=torch.float64)]
        axes += [adaptive_weights(n, self.fast) for n in (grid.h, grid.w)]
        fast_KN = grid_weights(axes, x_ND.device)
        fast = resample(video, fast_KN)
        (new_E, old_E), num_slow_rows = slow_KM.indices(), cells.num_patches
        (fast_new_E, fast_old_E) = fast_KN.indices()
        weights = sparse_matrix(
            torch.cat([new_E, fast_new_E + num_slow_rows]),
            torch.cat([row_SHW.flatten()[old_E], fast_old_E]),
            torch.cat([wide(slow_KM.values()), wide(fast_KN.values())]),
            (num_slow_rows + len(fast_KN), len(video)),
        )
        return resample(video, weights, torch.cat([slow_KD, fast.tokens]))


def _slow_rows(grid: Grid, num_slow: int, height: int) -> Tensor:
    """[S, h, w] rows of the slow frames, without the rows of patches below ``height``."""
    frame_S = torch.linspace(0, grid.t - 1, num_slow, dtype=torch.float64).long()
    row_THW = torch.arange(grid.num_patches).reshape(*grid)
    return row_THW[frame_S, :height]
