"""Tokens that are like the one before at their place are dropped."""

from typing import ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from vidcomp.compress.base import About, Stream
from vidcomp.compress.prune._change import ChangePrune, float_tokens
from vidcomp.errors import ConfigError
from vidcomp.functional.allocate import shares, top_of_each
from vidcomp.functional.change import changed_above, token_chains
from vidcomp.functional.geometry import nearest_cells
from vidcomp.functional.grids import without_gaps
from vidcomp.functional.runs import Chains
from vidcomp.registry import COMPRESSORS
from vidcomp.types import VideoTokens

__all__ = ["Dtd"]


@COMPRESSORS.add("dtd")
class Dtd(ChangePrune):
    """Differential token drop by features: what is like the frame before goes.

    TimeChat-Online: 80% Visual Tokens are Naturally Redundant in Streaming Videos (Yao et al.,
    2025).  The first frame is kept.  By pixels, before the encoder, it is the frame selector of
    the same name.  The published form keeps what its threshold (or share) keeps, whatever the
    budget, and compares with the frame before even if that was dropped.

    In mode ``exact`` the budget takes the place of the threshold: the largest changes of the video,
    or with ``share`` of every frame, stay.  Online the modes ``at_most`` and ``published`` return
    the same rows as offline with both references, ``exact`` with ``previous`` and without
    ``share``.
    """

    about: ClassVar[About] = About(
        paper="TimeChat-Online: 80% Visual Tokens are Naturally Redundant in Streaming Videos "
        "(Yao, 2025), arXiv 2504.17343",
        cost="N D",
        scaling="linear",
        accuracy="Qwen2.5-VL-7B, not trained for it, 15.4 % of the tokens left by a threshold: "
        "5.7 points above all tokens on the long videos of VideoMME (project page)",
    )

    mode: Literal["exact", "at_most", "published"] = "exact"
    """``exact``: the budget.  ``at_most``: what the threshold or share keeps, cut to the largest
    changes if that is more than the budget.  ``published``: the same, and more is an error."""
    threshold: float = Field(0.98, ge=-1, le=1)
    """Tokens with a higher cosine are dropped; no effect in mode ``exact`` or with ``share``."""
    share: float | None = Field(None, ge=0, lt=1)
    """Instead of a threshold: this share of the tokens of every frame after the first is dropped,
    rounded down, the most alike first.  In mode ``exact``, whatever the number: frames after the
    first divide what the first leaves in proportion to their tokens."""

    @model_validator(mode="after")
    def _check_share(self) -> Self:
        if self.share is not None and self.reference == "last_kept":
            raise ConfigError(
                f"'dtd' with share={self.share} ranks each frame against the one before, got "
                f"reference='last_kept': leave out the share, or the reference"
            )
        return self

    @property
    def ranks(self) -> bool:
        """In mode ``exact``."""
        return self.mode == "exact"

    def total(self, num_rows: int, num_new: int, num_changed: int) -> int:  # noqa: ARG002  # of all that rank
        """What the threshold or the share keeps."""
        return num_changed

    def judge(self, x_ND: Tensor, position_N3: Tensor, found: Chains) -> tuple[Tensor, Tensor]:
        """[N] bool: kept by the threshold or share; and [N] float32 changes."""
        if self.ranks or self.share is None:
            limit = 2.0 if self.ranks else self.threshold
            return changed_above(x_ND, found, limit, self.reference)
        _, change_N = changed_above(x_ND, found, 2.0, self.reference)
        frame_N, size_T = _frames(position_N3)
        dropped = [int(n * self.share) for n in size_T.tolist()]
        left_T = size_T - size_T.new_tensor(dropped)
        kept_N = torch.zeros_like(change_N, dtype=torch.bool)
        kept_N[top_of_each(change_N, frame_N, left_T)] = True
        return kept_N | found.starts, change_N

    def keep(self, video: VideoTokens, budget: int) -> Tensor:
        """[K] int64 rows, ascending.

        Raises:
            BudgetError: mode ``published`` keeps more than the budget.
            ShapeError: the tokens are integer ids.
        """
        first = super().keep(video, budget)
        if self.share is None or not self.exact:
            return first
        found = token_chains(video.positions)
        _, change_N = changed_above(float_tokens(video, self.name), found, 2.0, "previous")
        new_N = change_N == torch.inf
        later_N = (~new_N).nonzero().squeeze(1)
        frame_N, size_T = _frames(video.positions[later_N])
        num_later = int((~new_N[first]).sum())
        share_T = shares(size_T, num_later, size_T)
        best = later_N[top_of_each(change_N[later_N], frame_N, share_T)]
        return torch.cat([first[new_N[first]], best]).sort().values

    def _stream(self, budget: int, grid_hw: tuple[int, int], provenance: bool) -> Stream:
        if self.exact and self.share is not None:
            raise ConfigError(
                "'dtd' in mode 'exact' with a share divides the budget by the number of frames, "
                "which a stream does not know, so it has no online form: leave out the share, or "
                "use mode='at_most'"
            )
        return super()._stream(budget, grid_hw, provenance)


def _frames(position_N3: Tensor) -> tuple[Tensor, Tensor]:
    """[N] int64 number of the frame nearest to each row, without gaps, and [T] their rows."""
    frame_N = without_gaps(nearest_cells(position_N3[:, 0]))
    return frame_N, torch.bincount(frame_N)
