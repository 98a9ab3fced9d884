"""PyTorch's adaptive average pooling of a dense grid."""

from typing import ClassVar

from vidcomp.compress._grid import DenseGridStage
from vidcomp.compress.base import About, Kind
from vidcomp.functional.merge import resample
from vidcomp.functional.pool import adaptive_weights, grid_weights
from vidcomp.registry import COMPRESSORS
from vidcomp.types import VideoTokens

__all__ = ["AdaptivePool"]


@COMPRESSORS.add("adaptive_pool")
class AdaptivePool(DenseGridStage):
    """The mean of each bin of ``adaptive_avg_pool3d``; bins overlap where sizes do not divide.

    ``avg_pool`` has no overlap and takes tokens that are no dense grid.
    """

    kind: ClassVar[Kind] = "resample"
    about: ClassVar[About] = About(cost="N D")

    def reduce(self, video: VideoTokens, budget: int) -> VideoTokens:
        """One token a bin."""
        cells, _ = self.fit(video, budget)
        axes = [adaptive_weights(n, b) for n, b in zip(video.grid, cells, strict=True)]
        return resample(video, grid_weights(axes, video.tokens.device))
