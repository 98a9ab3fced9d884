"""PyTorch's adaptive max pooling of a dense grid."""

from typing import ClassVar

from vidcomp.compress._grid import DenseGridStage
from vidcomp.compress.base import Kind
from vidcomp.functional.geometry import dense
from vidcomp.functional.merge import resample
from vidcomp.functional.pool import largest
from vidcomp.registry import COMPRESSORS
from vidcomp.types import VideoTokens

__all__ = ["MaxPool"]


@COMPRESSORS.add("max_pool")
class MaxPool(DenseGridStage):
    """The largest value of each channel in each bin of ``adaptive_max_pool3d``.

    A patch counts in a token by the share of channels that it won, which decides positions, mass
    and extras; a patch that won none is dropped.
    """

    kind: ClassVar[Kind] = "resample"

    def reduce(self, video: VideoTokens, budget: int) -> VideoTokens:
        """One token a bin."""
        cells, _ = self.fit(video, budget)
        tokens, weights = largest(dense(video).flatten(0, 2), video.grid, cells)
        return resample(video, weights, tokens)
