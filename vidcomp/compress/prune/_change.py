"""Stages that keep what changed since the frame before, and the same for rows that come in chunks.

Legend: N rows, C places of the picture.
"""

from abc import abstractmethod
from typing import ClassVar, Literal

import torch
from torch import Tensor

from vidcomp.compress._online import TopRows
from vidcomp.compress.base import Prune, Stream
from vidcomp.errors import BudgetError, ConfigError, ShapeError
from vidcomp.functional.change import (
    Reference,
    changed_above,
    last_rows,
    most_changed,
    strongest,
    token_chains,
)
from vidcomp.functional.runs import Chains
from vidcomp.types import VideoTokens

__all__ = ["ChangePrune", "ChangedRows", "FeaturePrune", "float_tokens"]


def float_tokens(video: VideoTokens, name: str) -> Tensor:
    """[N, D] tokens without gradients, for the stage called ``name``.

    Raises:
        ShapeError: they are integer ids.
    """
    if not video.tokens.is_floating_point():
        raise ShapeError(
            f"{name!r} compares float tokens, got {video.tokens.dtype} ids: use 'uniform', "
            f"'random' or 'stride'"
        )
    return video.tokens.detach()


class FeaturePrune(Prune):
    """A stage that compares float tokens, and that has to choose to know how many it keeps.

    Subclasses say when the count is the budget: ``exact``.
    """

    def count(self, video: VideoTokens, budget: int) -> int:
        """The budget where the stage is exact; else it has to look.

        Raises:
            BudgetError: mode ``published`` keeps more.
            ShapeError: the tokens are integer ids.
        """
        float_tokens(video, self.name)
        return budget if self.exact else len(self.keep(video, budget))


class ChangePrune(FeaturePrune):
    """Rows are judged by how much their place of the picture changed."""

    streaming: ClassVar[bool] = True

    mode: Literal["exact", "at_most", "published"] = "exact"
    reference: Reference = "previous"
    """What a token is compared with: the frame before (``previous``), which cannot see a slow
    drift, or the last token that was kept at its place (``last_kept``)."""

    @property
    def exact(self) -> bool:
        """True in mode ``exact``."""
        return self.mode == "exact"

    @abstractmethod
    def total(self, num_rows: int, num_new: int, num_changed: int) -> int:
        """Rows that the published form keeps.

        Args:
            num_rows: rows of the video.
            num_new: rows that are the first of their place.
            num_changed: rows that ``judge`` keeps, the new ones included.
        """

    @property
    def ranks(self) -> bool:
        """True if the number of rows decides what stays, and not a rule for each row."""
        return True

    def judge(self, x_ND: Tensor, position_N3: Tensor, found: Chains) -> tuple[Tensor, Tensor]:  # noqa: ARG002  # for subclasses
        """[N] bool: may stay; and [N] float32 changes, infinite for the first row of a place."""
        return changed_above(x_ND, found, 2.0, self.reference)

    def keep(self, video: VideoTokens, budget: int) -> Tensor:
        """[K] int64 rows, ascending.

        Raises:
            BudgetError: mode ``published`` keeps more than the budget.
            ShapeError: the tokens are integer ids.
        """
        x_ND, found = float_tokens(video, self.name), token_chains(video.positions)
        num_new = int(found.starts.sum())
        if self.ranks:
            k = self.within(budget, len(x_ND), num_new, len(x_ND))
            return most_changed(x_ND, found, k, self.reference)
        kept_N, change_N = self.judge(x_ND, video.positions, found)
        k = self.within(budget, len(x_ND), num_new, int(kept_N.sum()))
        return strongest(change_N.masked_fill(~kept_N, -torch.inf), k)

    def within(self, budget: int, num_rows: int, num_new: int, num_changed: int) -> int:
        """Rows that stay.

        Raises:
            BudgetError: mode ``published`` keeps more than the budget.
        """
        if self.exact:
            return budget
        total = self.total(num_rows, num_new, num_changed)
        if total > budget and self.mode == "published":
            raise BudgetError(
                f"{self.name!r} in mode 'published' keeps {total} of {num_rows} tokens, more than "
                f"a budget of {budget}: change its settings or use mode='exact'"
            )
        return min(total, budget)

    def _stream(self, budget: int, grid_hw: tuple[int, int], provenance: bool) -> Stream:
        if self.ranks and self.reference == "last_kept":
            raise ConfigError(
                f"{self.name!r} in mode {self.mode!r} with reference='last_kept' looks for the "
                f"threshold that fits the whole video, so it has no online form: use "
                f"reference='previous', or 'dtd' with mode='at_most'"
            )
        return ChangedRows(self, budget, grid_hw, provenance)


class ChangedRows(TopRows):
    """The rows of a stage that keeps changes, of all that was seen.

    Holds at most a budget of rows and a frame of them, and one row a place to compare with.
    """

    def __init__(
        self, stage: ChangePrune, budget: int, grid_hw: tuple[int, int], provenance: bool
    ) -> None:
        # The first rows of places come before all others, but are not all chosen in the end.
        limit = budget + grid_hw[0] * grid_hw[1]
        super().__init__(stage.name, limit, grid_hw, provenance=provenance)
        self._stage, self._target = stage, budget
        self._held_CD: Tensor | None = None
        self._held_C3 = torch.zeros(0, 3)
        self._num_new = self._num_changed = 0

    def score(self, chunk: VideoTokens) -> Tensor:
        """[N] how much each row changed; minus infinity: not enough to stay."""
        x_ND, position_N3, num_held = float_tokens(chunk, self._stage.name), chunk.positions, 0
        if not len(x_ND):
            return x_ND.new_zeros(0, dtype=torch.float32)
        if self._held_CD is not None:
            num_held = len(self._held_CD)
            x_ND = torch.cat([self._held_CD, x_ND])
            position_N3 = torch.cat([self._held_C3, position_N3])
        found = token_chains(position_N3)
        kept_N, change_N = self._stage.judge(x_ND, position_N3, found)
        last_C = last_rows(found, kept_N if self._stage.reference == "last_kept" else None)
        self._held_CD, self._held_C3 = x_ND[last_C], position_N3[last_C]
        kept_N, change_N = kept_N[num_held:], change_N[num_held:]
        self._num_new += int((change_N == torch.inf).sum())
        self._num_changed += int(kept_N.sum())
        return change_N.masked_fill(~kept_N, -torch.inf)

    def result(self) -> VideoTokens:
        """The rows that changed most so far, in raster order; all of them while they fit.

        Raises:
            BudgetError: mode ``published`` keeps more than the budget.
            ShapeError: nothing was seen yet.
        """
        num_rows = self._seen.num_rows
        if self._kept is None or num_rows <= self._target:
            return super().result()
        k = self._stage.within(self._target, num_rows, self._num_new, self._num_changed)
        return self._seen.result(self._kept.select(strongest(self._score_K, k)))
