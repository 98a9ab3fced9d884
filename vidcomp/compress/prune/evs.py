"""Tokens whose place of the picture changed most since the frame before."""

from typing import ClassVar, Literal

from pydantic import Field

from vidcomp.compress.base import About
from vidcomp.compress.prune._change import ChangePrune
from vidcomp.registry import COMPRESSORS

__all__ = ["Evs"]


@COMPRESSORS.add("evs")
class Evs(ChangePrune):
    """The largest changes of the whole video stay: one minus the cosine to the frame before.

    Efficient Video Sampling: Pruning Temporally Redundant Tokens for Faster VLM Inference (Bagrov
    et al., 2025), as serving systems run it.  The first frame counts as changed and is kept whole;
    all others compete, ties to the lower row.  A budget below the tokens of the first frame is half
    spread over it and half given to the largest changes.

    The published form is the same ranking cut at ``pruning_rate``, whose count is rounded as the
    original rounds: 0.9 of 100 tokens leave 9.  With ``reference="last_kept"`` a threshold is
    looked for that keeps about as many as wanted when each token is compared with the last one
    kept at its place; the count is then cut or filled up by the same changes.  Online it keeps the
    same rows as offline, but for ``last_kept``, whose threshold depends on the whole video.
    """

    about: ClassVar[About] = About(
        paper="Efficient Video Sampling: Pruning Temporally Redundant Tokens for Faster VLM "
        "Inference (Bagrov, 2025), arXiv 2510.14624",
        cost="N D",
        scaling="linear",
        accuracy="Qwen3-VL-8B, 20 % of the tokens enter the LLM: VideoMME 75.0, of 78.1 with all "
        "(pull request 20857 of SGLang)",
    )

    mode: Literal["exact", "published"] = "exact"
    """``exact``: the budget.  ``published``: what ``pruning_rate`` leaves, but never less than the
    first frame; more than the budget is an error."""
    pruning_rate: float = Field(0.75, ge=0, lt=1)
    """Share of the tokens that goes in mode ``published``."""

    def total(self, num_rows: int, num_new: int, num_changed: int) -> int:  # noqa: ARG002  # of all that rank
        """What the rate leaves, rounded down in floating point, and at least the first frame."""
        return max(num_new, int(num_rows * (1 - self.pruning_rate)))
