"""Tokens that are as unlike each other as can be.

DivPrune: Diversity-based Visual Token Pruning for Large Multimodal Models (Alvar et al., 2025).
"""

from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from vidcomp.compress.base import About, Prune
from vidcomp.errors import BudgetError
from vidcomp.functional.diverse import max_min
from vidcomp.functional.merge import float_rows
from vidcomp.registry import COMPRESSORS
from vidcomp.types import VideoTokens

__all__ = ["DivPrune"]


@COMPRESSORS.add("divprune")
class DivPrune(Prune):
    """Each kept token is the one that is least like those kept before it.

    From DivPrune.  The first is the token whose most similar other token is farthest, by
    ``1 - cosine``.  The original keeps a token again when only duplicates are left; here no token
    is kept twice in either mode.  All tokens are compared with all kept ones, so that the time
    grows with the square of the video's length; matrices of that size are not held.
    """

    about: ClassVar[About] = About(
        paper="DivPrune: Diversity-based Visual Token Pruning for Large Multimodal Models "
        "(Alvar, 2025), arXiv 2503.02175",
        cost="N^2 D + N K D, less where tokens repeat",
        scaling="quadratic",
    )

    mode: Literal["exact", "published"] = "exact"
    """``exact``: as many as the budget.  ``published``: ``round(retention * N)``, halves to even; a
    count above the budget is an error."""
    retention: float = Field(0.098, gt=0, le=1)
    """Share that is kept; has no effect in mode ``exact``."""

    @property
    def exact(self) -> bool:
        """False in mode ``published``."""
        return self.mode == "exact"

    def count(self, video: VideoTokens, budget: int) -> int:
        """The budget, or the published count.

        Raises:
            BudgetError: the published count is above the budget.
            ShapeError: integer ids.
        """
        float_rows("tokens", video.tokens)
        if self.mode == "exact":
            return budget
        kept = max(1, round(self.retention * len(video)))
        if kept > budget:
            raise BudgetError(
                f"'divprune' with retention={self.retention} keeps {kept} of {len(video)} tokens, "
                f"more than a budget of {budget}: lower the retention or use mode='exact'"
            )
        return kept

    def keep(self, video: VideoTokens, budget: int) -> Tensor:
        """[K] int64 rows, ascending."""
        x_ND = float_rows("tokens", video.tokens)
        return max_min(x_ND, self.count(video, budget)).sort().values
