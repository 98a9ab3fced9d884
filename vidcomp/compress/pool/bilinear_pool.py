"""Linear interpolation of a dense grid, as LLaVA-OneVision brings 27 x 27 patches to 14 x 14.

LLaVA-OneVision: Easy Visual Task Transfer (Li et al., 2024).
"""

from typing import ClassVar

from vidcomp.compress._grid import DenseGridStage
from vidcomp.compress.base import About, Kind
from vidcomp.functional.merge import resample
from vidcomp.functional.pool import bilinear_weights, grid_weights
from vidcomp.registry import COMPRESSORS
from vidcomp.types import VideoTokens

__all__ = ["BilinearPool"]


@COMPRESSORS.add("bilinear_pool")
class BilinearPool(DenseGridStage):
    """The patches around the centre of each cell, interpolated (``align_corners=False``).

    At most two patches along an axis are read, however large the cell is; what no cell reads is
    dropped, mass and all.
    """

    kind: ClassVar[Kind] = "resample"
    about: ClassVar[About] = About(
        paper="LLaVA-OneVision: Easy Visual Task Transfer (Li, 2024), arXiv 2408.03326",
        cost="K D",
    )

    def reduce(self, video: VideoTokens, budget: int) -> VideoTokens:
        """One token a cell."""
        cells, _ = self.fit(video, budget)
        axes = [bilinear_weights(n, b) for n, b in zip(video.grid, cells, strict=True)]
        return resample(video, grid_weights(axes, video.tokens.device))
