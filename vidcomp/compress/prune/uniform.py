"""Evenly spaced tokens."""

from typing import ClassVar

from torch import Tensor

from vidcomp.compress.base import About, Prune
from vidcomp.functional.select import evenly_spaced
from vidcomp.registry import COMPRESSORS
from vidcomp.types import VideoTokens

__all__ = ["Uniform"]


@COMPRESSORS.add("uniform")
class Uniform(Prune):
    """The middle row of each of ``budget`` equal parts of the sequence."""

    about: ClassVar[About] = About(needs=(), cost="K")

    def keep(self, video: VideoTokens, budget: int) -> Tensor:
        """[K] int64 rows, ascending."""
        return evenly_spaced(len(video), budget, video.tokens.device)
