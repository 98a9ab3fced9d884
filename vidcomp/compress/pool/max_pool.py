"""PyTorch's adaptive max pooling of a dense grid."""

from typing import ClassVar

from vidcomp.compress._grid import DenseGridStage
from vidcomp.compress.base import About, Kind
from vidcomp.functional.geometry import dense, in_raster_order
from vidcomp.functional.merge import float_rows, resample
from vidcomp.functional.pool import largest
from vidcomp.registry import COMPRESSORS
from vidcomp.types import VideoTokens

__all__ = ["MaxPool"]


@COMPRESSORS.add("max_pool")
class MaxPool(DenseGridStage):
    """The largest value of each channel in each bin of ``adaptive_max_pool3d``.

    A patch counts in a token by the share of channels that it won, which decides positions, mass
    and extras; a patch that won none is dropped.  Rows are in raster order of those positions.
    """

    kind: ClassVar[Kind] = "resample"
    about: ClassVar[About] = About(cost="N D")

    def reduce(self, video: VideoTokens, budget: int) -> VideoTokens:
        """One token a bin."""
        cells, _ = self.fit(video, budget)
        float_rows("tokens", video.tokens)
        tokens, weights = largest(dense(video).flatten(0, 2), video.grid, cells)
        return in_raster_order(resample(video, weights, tokens))
