"""Token merging by bipartite matching, to any count.

Token Merging: Your ViT But Faster (Bolya et al., 2022); over clips as in VideoChat-Flash:
Hierarchical Compression for Long-Context Video Modeling (Li et al., 2025).
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from vidcomp.budget import apportion
from vidcomp.compress.base import About, Merge, row_extra
from vidcomp.errors import BudgetError, ShapeError
from vidcomp.functional.geometry import frame_numbers
from vidcomp.functional.grids import without_gaps
from vidcomp.functional.match import halving_counts, rounds_of_matching
from vidcomp.functional.merge import float_rows, merge, merge_in_order
from vidcomp.functional.reduce import real
from vidcomp.registry import COMPRESSORS
from vidcomp.types import VideoTokens

__all__ = ["Tome"]


@COMPRESSORS.add("tome")
class Tome(Merge):
    """The most similar pairs merge, round after round; merged tokens weigh what they stand for.

    A round compares every other token with those between and removes at most half; all rounds
    together give one weighted mean of the input's rows.

    HiCo, the clip compression of VideoChat-Flash, is ``scope="clip"`` with ``clip_frames=4``, the
    number of ``heads`` of the encoder, and a budget of 16 tokens a frame.  That merged tokens weigh
    more in attention, as in the original, is ``functional.match.proportional_bias``.
    """

    about: ClassVar[About] = About(
        paper="Token Merging: Your ViT But Faster (Bolya, 2022), arXiv 2210.09461; "
        "VideoChat-Flash: Hierarchical Compression for Long-Context Video Modeling (Li, 2025), "
        "arXiv 2501.00574",
        cost="N W D, W tokens of a window",
        scaling="linear",
    )

    mode: Literal["exact", "published"] = "exact"
    """``exact``: raster order before each round and in the end.  ``published``: the original's
    order, merged tokens at the end of each round; the counts are the same."""
    scope: Literal["window", "video", "clip", "frame"] = "window"
    """Which tokens are compared.  ``window``: those of about ``window_tokens`` consecutive ones, in
    every round anew, so that windows span more and more time as tokens become fewer; videos of no
    more tokens than that are compared as a whole, and longer ones take time in proportion to their
    length (mode ``published`` compares all).  ``video``: all, in time that grows with the square of
    their number.  ``clip`` and ``frame``: within these only, which share out the budget in
    proportion to their tokens."""
    window_tokens: int = Field(4096, ge=2)
    """Tokens of a window; has no effect in other scopes."""
    clip_frames: int = Field(4, ge=1)
    """Frames of a clip; has no effect in other scopes."""
    metric: Literal["tokens", "keys"] = "tokens"
    """What is compared: the tokens, or the attention keys in ``extras["keys"]``."""
    heads: int = Field(1, ge=1)
    """The features are this many heads, whose mean is compared."""
    rounds: int | None = Field(None, ge=1)
    """Rounds of about equal factors; ``None``: as few as possible, each a halving."""

    @property
    def exact(self) -> bool:
        """True unless parts of the video or a number of rounds set a limit."""
        return self.scope in ("window", "video") and self.rounds is None

    def count(self, video: VideoTokens, budget: int) -> int:
        """The budget.

        Raises:
            BudgetError: fewer tokens than clips or frames, or not reached in ``rounds``.
            ShapeError: there are no keys, or they do not split into heads.
        """
        self._metric(video)
        for rows, target in self._parts(video, budget):
            halving_counts(len(rows), target, self.rounds)
        return budget

    def groups(self, video: VideoTokens, budget: int) -> Tensor:
        """[N] int64 group of each row, part after part, in the order of the mode."""
        metric_ND = self._metric(video)
        by_window = self.scope == "window" and self.mode == "exact"
        group_N = torch.empty(len(video), dtype=torch.int64, device=video.tokens.device)
        first = 0
        for rows, target in self._parts(video, budget):
            group_N[rows] = first + rounds_of_matching(
                metric_ND if len(rows) == len(metric_ND) else metric_ND[rows],
                video.mass[rows],
                halving_counts(len(rows), target, self.rounds),
                video.positions[rows] if self.mode == "exact" else None,
                self.window_tokens if by_window else None,
            )
            first += target
        return group_N

    def reduce(self, video: VideoTokens, budget: int) -> VideoTokens:
        """One token a group."""
        arrange = merge if self.mode == "exact" else merge_in_order
        return arrange(video, self.groups(video, budget))

    def _metric(self, video: VideoTokens) -> Tensor:
        """[N, D] what is compared, the mean over heads."""
        x_ND = float_rows("tokens", video.tokens)
        if self.metric == "keys":
            x_ND = float_rows("keys", row_extra(video, "keys", self.name)).flatten(1)
        if x_ND.shape[1] % self.heads:
            raise ShapeError(
                f"{x_ND.shape[1]} features do not split into heads={self.heads}: give the number "
                f"of heads of the encoder, or 1"
            )
        if self.heads == 1:
            return x_ND
        return real(x_ND.detach()).reshape(len(x_ND), self.heads, -1).mean(dim=1)

    def _parts(self, video: VideoTokens, budget: int) -> list[tuple[Tensor, int]]:
        """Rows of each part, ascending, and the tokens that remain of it."""
        if self.scope in ("window", "video"):
            return [(torch.arange(len(video), device=video.tokens.device), budget)]
        frames = self.clip_frames if self.scope == "clip" else 1
        time_N = frame_numbers(video)
        part_N = without_gaps(time_N // frames)
        sizes = torch.bincount(part_N)
        if budget < len(sizes):
            raise BudgetError(
                f"'tome' with scope={self.scope!r} keeps at least one token of each of "
                f"{len(sizes)} parts, more than a budget of {budget}: raise the budget or use "
                f"scope='window'"
            )
        targets = apportion(sizes, total=budget, caps=sizes, minimum=1)
        rows = torch.split(part_N.argsort(stable=True), sizes.tolist())
        return list(zip(rows, targets.tolist(), strict=True))
