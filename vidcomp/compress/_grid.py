"""Settings and counts of the stages that reduce a grid to a coarser one."""

from typing import Literal, Self

from pydantic import Field, model_validator

from vidcomp.compress.base import Compressor
from vidcomp.errors import ConfigError
from vidcomp.functional.geometry import check_dense, is_dense, local_positions
from vidcomp.functional.grids import fit_grid, occupied_patches
from vidcomp.types import Grid, VideoTokens

__all__ = ["DenseGridStage", "GridStage"]


class GridStage(Compressor):
    """One token a cell of a coarser grid: the largest within the budget that keeps the aspect.

    Each axis has the floor or the ceiling of its length times one common factor; among those grids
    the largest count wins, ties to the larger t, then h.  Only cells with tokens count.
    """

    axes: Literal["both", "space", "time"] = "both"
    """What shrinks: height and width (``space``), frames (``time``), or all three."""
    t: int | None = Field(None, ge=1)
    """Cells along time; ``None``: what the budget allows."""
    h: int | None = Field(None, ge=1)
    """Cells along height; ``None``: what the budget allows."""
    w: int | None = Field(None, ge=1)
    """Cells along width; ``None``: what the budget allows."""

    @model_validator(mode="after")
    def _check_sizes(self) -> Self:
        for name, free in zip("thw", self._free, strict=True):
            if getattr(self, name) is not None and not free:
                raise ConfigError(
                    f"{self.name!r} with axes={self.axes!r} leaves {name} as it is, so "
                    f"{name}={getattr(self, name)} cannot be: leave it out or use axes='both'"
                )
        return self

    @property
    def _free(self) -> tuple[bool, bool, bool]:
        return (self.axes != "space", self.axes != "time", self.axes != "time")

    @property
    def exact(self) -> bool:
        """False: only the counts of grids are reached."""
        return False

    def count(self, video: VideoTokens, budget: int) -> int:
        """Cells with tokens of the grid that fits."""
        return self.fit(video, budget)[1]

    def fit(self, video: VideoTokens, budget: int) -> tuple[Grid, int]:
        """The coarser grid and its number of tokens.

        Raises:
            BudgetError: even the coarsest has more, or a size that was asked for.
            ShapeError: a size is larger than the grid.
        """
        occupied = None
        if not is_dense(video):
            occupied = occupied_patches(local_positions(video), video.grid)
        return fit_grid(video.grid, budget, self._free, (self.t, self.h, self.w), occupied)


class DenseGridStage(GridStage):
    """A grid stage that reads neighbouring cells, so that every patch must be there."""

    def fit(self, video: VideoTokens, budget: int) -> tuple[Grid, int]:
        """The coarser grid and its number of cells.

        Raises:
            ShapeError: tokens were merged, dropped or reordered.
        """
        check_dense(video)
        return super().fit(video, budget)
