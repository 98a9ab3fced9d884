"""What every compressor is: settings, a plan of the exact count, and one call."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Literal

from vidcomp.config import Config
from vidcomp.errors import BudgetError
from vidcomp.types import TokenBatch, VideoTokens

__all__ = ["Compressor", "Kind"]

Kind = Literal["prune", "merge", "resample"]


class Compressor(Config, ABC):
    """A parameter-free stage.  Subclasses say their ``kind`` and write ``reduce``."""

    kind: ClassVar[Kind]
    """``prune`` returns a subset of the rows; ``merge`` conserves mass and the mass-weighted sum;
    ``resample`` carries soft provenance."""

    def plan(self, video: VideoTokens, budget: int) -> int:
        """The exact number of tokens that a call will return.

        Raises:
            BudgetError: no count within ``budget`` can be reached.
        """
        _check(budget)
        return min(budget, len(video))

    def __call__(self, video: VideoTokens, budget: int) -> VideoTokens:
        """``plan(video, budget)`` tokens in raster order; the input itself if nothing must go.

        Args:
            video: N tokens; never written to.
            budget: tokens allowed to remain, at least 1.

        Raises:
            BudgetError: ``budget`` is below 1 or cannot be reached.
            ShapeError: the stage needs a dense grid and the video has none.
        """
        _check(budget)
        if budget >= len(video):
            return video
        return self.reduce(video, budget)

    @abstractmethod
    def reduce(self, video: VideoTokens, budget: int) -> VideoTokens:
        """The work behind a call: ``1 <= budget < len(video)`` is already checked."""

    def many(self, batch: TokenBatch, budgets: Sequence[int]) -> TokenBatch:
        """Every video of a batch to its own budget; equal to calling one after another."""
        videos = [self(video, budget) for video, budget in zip(batch, budgets, strict=True)]
        return TokenBatch.pack(videos, batch.keys)


def _check(budget: int) -> None:
    if budget < 1:
        raise BudgetError(f"a budget is at least 1 token, got {budget}: raise it")
