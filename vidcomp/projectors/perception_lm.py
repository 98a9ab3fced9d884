"""PerceptionLM: an MLP on every patch, then means over bins of each frame.

PerceptionLM: Open-Access Data and Models for Detailed Visual Understanding, 2025,
https://arxiv.org/abs/2504.13180.  Transformers and the original take square frames only.
"""

from pydantic import Field

from vidcomp.projectors.base import ProjectorAbout
from vidcomp.projectors.frame_cells import frame_cells
from vidcomp.projectors.pooled import PooledConfig, PooledProjector
from vidcomp.registry import PROJECTORS
from vidcomp.types import Grid

__all__ = ["PerceptionLm", "PerceptionLmConfig"]


@PROJECTORS.add("perception_lm")
class PerceptionLmConfig(PooledConfig):
    """An MLP, then adaptive average pooling of each frame (PerceptionLM)."""

    about = ProjectorAbout(
        paper="PerceptionLM: Open-Access Data and Models for Detailed Visual Understanding "
        "(Cho, 2025)",
        tokens="patches / `pooling_ratio`², or what a budget allows",
        reads="grid",
        checkpoint="transformers' PerceptionLMMultiModalProjector",
    )

    pooling_ratio: int = Field(2, ge=1)
    """Patches along each side of a cell (``projector_pooling_ratio``); a side that it does not
    divide has fewer cells, whose bins overlap."""

    def module(self) -> "PerceptionLm":
        """A ``PerceptionLm`` with torch's default initial weights."""
        return PerceptionLm(self)


class PerceptionLm(PooledProjector):
    """No patch is left out, whatever the ratio."""

    config: PerceptionLmConfig
    reference_names = ((r"^layers\.", ""),)

    def cells(self, grid: Grid, budget: int | None = None) -> Grid:
        """Sides over ``pooling_ratio``, rounded down; with a budget the largest pooled grid that
        all frames can have within it.

        Raises:
            ShapeError: a side is shorter than the ratio.
            BudgetError: ``budget`` is less than one token a frame.
        """
        if budget is None:
            return self._divided(grid, self.config.pooling_ratio)
        return frame_cells("perception_lm", grid.per_frame, grid, budget)
