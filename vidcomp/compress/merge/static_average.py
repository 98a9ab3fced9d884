"""Averages over time of patches that do not change."""

from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from vidcomp.compress.base import About, Merge
from vidcomp.errors import BudgetError
from vidcomp.functional.merge import float_rows
from vidcomp.functional.runs import (
    Chains,
    Reference,
    best_joins,
    chains,
    joins_above,
    run_groups,
)
from vidcomp.registry import COMPRESSORS
from vidcomp.types import VideoTokens

__all__ = ["StaticAverage"]


@COMPRESSORS.add("static_average")
class StaticAverage(Merge):
    """Runs of similar tokens at one place of the picture become their mean.

    Only tokens with equal (h, w) merge, so that one token a place is the least that can remain.
    """

    about: ClassVar[About] = About(cost="N D")

    mode: Literal["exact", "at_most", "published"] = "exact"
    """``exact``: the most similar neighbours in time merge until the budget is met.  ``at_most``:
    all neighbours above ``threshold`` merge, and more if the budget needs it.  ``published``: those
    above ``threshold`` and no others; a count above the budget is an error."""
    threshold: float = Field(0.9, ge=-1, le=1)
    """Least cosine of neighbours that merge; has no effect in mode ``exact``."""
    reference: Reference = "previous"
    """What a token is compared with: the one before it in time (``previous``), the first of its run
    (``first``), or the mean of its run (``mean``).  Only the last two notice a slow drift."""

    @property
    def exact(self) -> bool:
        """False: how far it can go depends on the places that there are."""
        return False

    def count(self, video: VideoTokens, budget: int) -> int:
        """The budget in mode ``exact``; the others have to look for similar tokens.

        Raises:
            BudgetError: fewer than one token a place, or ``published`` leaves more.
        """
        found = chains(video.positions)
        if self.mode == "exact":
            self._check_reach(found, len(video), budget)
            return budget
        return len(video) - int(self._joins(video, found, budget).sum())

    def groups(self, video: VideoTokens, budget: int) -> Tensor:
        """[N] int64 run of each row."""
        found = chains(video.positions)
        return run_groups(found, self._joins(video, found, budget))

    def _joins(self, video: VideoTokens, found: Chains, budget: int) -> Tensor:
        x_ND, mass_N = float_rows("tokens", video.tokens), video.mass
        wanted = len(video) - budget
        if self.mode != "exact":
            joined, _ = joins_above(x_ND, mass_N, found, self.threshold, self.reference)
            enough = int(joined.sum())
            if enough >= wanted:
                return joined
            if self.mode == "published":
                raise BudgetError(
                    f"'static_average' with threshold={self.threshold} leaves "
                    f"{len(video) - enough} of {len(video)} tokens, more than a budget of "
                    f"{budget}: lower the threshold or use mode='at_most'"
                )
        self._check_reach(found, len(video), budget)
        return best_joins(x_ND, mass_N, found, wanted, self.reference)

    def _check_reach(self, found: Chains, num_tokens: int, budget: int) -> None:
        if budget < (least := int(found.starts.sum())):
            raise BudgetError(
                f"'static_average' merges over time only, so {num_tokens} tokens at {least} places "
                f"leave at least {least}, more than a budget of {budget}: raise the budget or pool "
                f"space first"
            )
