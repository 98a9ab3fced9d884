"""Every n-th patch along each axis."""

from typing import ClassVar

from torch import Tensor

from vidcomp.compress._grid import GridStage
from vidcomp.compress.base import About, Prune, Published
from vidcomp.functional.geometry import local_positions
from vidcomp.functional.grids import cell_numbers, nearest_to_centres
from vidcomp.registry import COMPRESSORS
from vidcomp.types import VideoTokens

__all__ = ["Stride"]


@COMPRESSORS.add("stride")
class Stride(GridStage, Prune):
    """The token nearest to the centre of each cell of a coarser grid, ties to the lower row.

    Cells of two patches keep the first: ``x[::2]``.  Goes by positions: tokens may be merged,
    dropped or letterboxed already.
    """

    about: ClassVar[About] = About(
        needs=(),
        cost="N",
        published=(Published("LLaVA-OneVision-7B", 10, 95.2, "SimpleCluster: space only"),),
    )

    def keep(self, video: VideoTokens, budget: int) -> Tensor:
        """[K] int64 rows, ascending."""
        cells, _ = self.fit(video, budget)
        positions = local_positions(video)
        numbers = cell_numbers(positions, video.grid, cells)
        return nearest_to_centres(positions, numbers, video.grid, cells)
