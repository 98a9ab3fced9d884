"""The tokens with the largest norm."""

from typing import ClassVar

from torch import Tensor

from vidcomp.compress.base import About, Prune
from vidcomp.errors import ShapeError
from vidcomp.functional.reduce import norms
from vidcomp.functional.select import stable_topk
from vidcomp.registry import COMPRESSORS
from vidcomp.types import VideoTokens

__all__ = ["NormTopK"]


@COMPRESSORS.add("norm_topk")
class NormTopK(Prune):
    """The rows with the largest Euclidean norm, ties to the lower row."""

    about: ClassVar[About] = About(cost="N D")

    def keep(self, video: VideoTokens, budget: int) -> Tensor:
        """[K] int64 rows, ascending."""
        if not video.tokens.is_floating_point():
            raise ShapeError(
                f"{self.name!r} ranks by the norm of float tokens, got {video.tokens.dtype} ids: "
                f"use 'uniform', 'random' or 'stride'"
            )
        return stable_topk(norms(video.tokens), budget)
