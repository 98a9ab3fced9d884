"""Tokens drawn by lot: the baseline that a method has to beat."""

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from vidcomp.compress.base import About, Prune, Published
from vidcomp.functional.select import random_rows
from vidcomp.registry import COMPRESSORS
from vidcomp.types import VideoTokens

__all__ = ["Random"]


@COMPRESSORS.add("random")
class Random(Prune):
    """Rows drawn without replacement; videos of one length keep the same places.

    Does not touch the global random state.  The tokens of a smaller budget are among those of a
    larger one.
    """

    about: ClassVar[About] = About(
        needs=(),
        cost="N",
        published=(Published("LLaVA-OneVision-7B", 25, 94.8, "VidCom2"),),
    )

    seed: int = Field(0, ge=0, lt=2**63)
    """Another seed draws other rows."""

    def keep(self, video: VideoTokens, budget: int) -> Tensor:
        """[K] int64 rows, ascending."""
        return random_rows(len(video), budget, self.seed, video.tokens.device)
