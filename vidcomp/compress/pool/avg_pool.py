"""Averages over the cells of a coarser grid."""

from typing import ClassVar

from torch import Tensor

from vidcomp.compress._grid import GridStage
from vidcomp.compress.base import About, Merge, Published
from vidcomp.functional.geometry import local_positions
from vidcomp.functional.grids import cell_numbers, without_gaps
from vidcomp.registry import COMPRESSORS
from vidcomp.types import VideoTokens

__all__ = ["AvgPool"]


@COMPRESSORS.add("avg_pool")
class AvgPool(GridStage, Merge):
    """The mass-weighted mean of each cell; cells are as equal as possible and do not overlap.

    Goes by positions: tokens may be merged, dropped or letterboxed already.
    """

    about: ClassVar[About] = About(
        cost="N D",
        published=(Published("LLaVA-OneVision-7B", 10, 94.0, "SimpleCluster"),),
    )

    def groups(self, video: VideoTokens, budget: int) -> Tensor:
        """[N] int64 cell of each row, cells without rows left out."""
        cells, _ = self.fit(video, budget)
        return without_gaps(cell_numbers(local_positions(video), video.grid, cells))
