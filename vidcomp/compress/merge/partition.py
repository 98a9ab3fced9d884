"""Adaptive pooling in space and time, optimal for its number of tokens."""

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from vidcomp.compress.base import About, Merge, QueryAware, Stream, row_extra
from vidcomp.compress.merge._partition_stream import Moments, PartitionStream
from vidcomp.errors import BudgetError, ConfigError, ShapeError
from vidcomp.functional.geometry import first_t, local_positions
from vidcomp.functional.merge import float_rows, merge
from vidcomp.functional.partition import Patches, Rules, least_tokens, partition
from vidcomp.functional.reduce import group_sum, wide
from vidcomp.functional.similarity import best_match, paired_cosine
from vidcomp.registry import COMPRESSORS
from vidcomp.types import TokenBatch, VideoTokens

__all__ = ["Partition"]

_TOGETHER = 1 << 21
"""Tokens of a batch that are worked on at a time."""


@COMPRESSORS.add("partition")
class Partition(QueryAware, Merge):
    """Means over boxes of patches, large where nothing happens and small where it does.

    The video is divided by splits in two, along time, height or width, wherever they lessen the
    sum of squared distances between patches and their tokens most; at the counts that a price a
    token leads to no other division of this kind is better, and what is left of the budget is
    spent on further splits.  Our own method; the search of one tree of boxes is that of CART and
    Best-Ortho-Basis: A Connection (Donoho, 1997).
    """

    about: ClassVar[About] = About(cost="7 N D + 200 N")
    streaming: ClassVar[bool] = True
    streams_patches: ClassVar[bool] = True

    weight: Literal["none", "saliency", "query"] = "none"
    """What makes the distance of a patch from its token count more.  ``saliency``:
    ``extras["saliency"] ** sharpness``, negative ones as 0.  ``query``: ``exp(sharpness * z)``,
    where z is the largest cosine of the token with a row of the query, in standard deviations from
    its mean over the video, within -3 to 3 (a stream knows the mean so far).  Tokens are plain
    means all the same."""
    embedding: str | None = None
    """Row extra that the query is compared with; ``None``: the tokens themselves."""
    sharpness: float = Field(1.0, ge=0, le=20)
    """How much ``weight`` counts; at 0 all patches weigh the same."""
    time_price: float = Field(1.0, gt=0, le=1e6)
    """What a split along time costs, in splits along height or width: above 1 pools over time
    rather than over space, below 1 the reverse."""
    segment_frames: int = Field(64, ge=1)
    """Frames that boxes are cut to; longer ones hold whole frames of whole segments.  Memory beside
    the tokens is bounded by it."""
    cut_below: float | None = Field(None, ge=-1, le=1)
    """A scene starts where the cosine of a frame's mean token with that of the frame before is
    below this; ``None``: scenes are not looked for."""
    cuts: tuple[int, ...] = ()
    """Frames of the whole video at which a scene starts; those outside of it have no effect.  No
    token belongs to two scenes, unless there are more scenes than tokens: then cuts are what is
    chosen from."""
    min_tokens_per_frame: int = Field(1, ge=1)
    """Tokens that cover each frame, or all its patches if it has fewer; one that spans several
    frames counts in each.  A budget that this exceeds is an error."""

    @property
    def asks(self) -> bool:
        """Whether patches are weighed by a query."""
        return self.weight == "query"

    @property
    def exact(self) -> bool:
        """True unless frames must be covered by several tokens."""
        return self.min_tokens_per_frame == 1

    def count(self, video: VideoTokens, budget: int) -> int:
        """The budget.

        Raises:
            BudgetError: less than what covers each frame by ``min_tokens_per_frame``.
            ConfigError: no query was bound.
            ShapeError: no saliency, or a query of another width.
        """
        self._checked(video, budget)
        return budget

    def groups(self, video: VideoTokens, budget: int) -> Tensor:
        """[N] int64 box of each row."""
        return partition([self._checked(video, budget)], [budget], self._rules)[0]

    def many(self, batch: TokenBatch, budgets: Sequence[int]) -> TokenBatch:
        """Every video of a batch to its own budget, side by side.

        Raises:
            BudgetError: not one budget a video, or one that a call would refuse.
        """
        if len(budgets) != len(batch):
            return super().many(batch, budgets)  # which says so
        videos = list(batch)
        for video, budget in zip(videos, budgets, strict=True):
            self.plan(video, budget)
        todo = [b for b, video in enumerate(videos) if budgets[b] < len(video)]
        while todo:
            some = [todo.pop(0)]
            while todo and sum(len(videos[b]) for b in (*some, todo[0])) <= _TOGETHER:
                some.append(todo.pop(0))
            patches = [self._patches(videos[b], Moments()) for b in some]
            found = partition(patches, [budgets[b] for b in some], self._rules)
            for b, group_N in zip(some, found, strict=True):
                videos[b] = merge(videos[b], group_N)
        return TokenBatch.pack(videos, batch.keys)

    @property
    def _rules(self) -> Rules:
        return Rules(self.segment_frames, self.time_price, self.min_tokens_per_frame)

    def _stream(self, budget: int, grid_hw: tuple[int, int], provenance: bool) -> Stream:
        if self.cut_below is not None or self.cuts or self.min_tokens_per_frame > 1:
            raise ConfigError(
                f"{self.name!r} has no online form with cut_below, cuts or min_tokens_per_frame: "
                f"leave them out, or collect the chunks with VideoTokens.cat and call it"
            )
        if self.weight == "query":
            _ = self.query  # or say that there is none
        return PartitionStream(
            self.name, budget, grid_hw, self._rules, self._patches, provenance=provenance
        )

    def _checked(self, video: VideoTokens, budget: int) -> Patches:
        patches = self._patches(video, Moments())
        if self.min_tokens_per_frame > 1 and (least := least_tokens(patches, self._rules)) > budget:
            raise BudgetError(
                f"'partition' with min_tokens_per_frame={self.min_tokens_per_frame} makes at least "
                f"{least} tokens of this video, more than a budget of {budget}: raise the budget "
                f"or ask for fewer tokens a frame"
            )
        return patches

    def _patches(self, video: VideoTokens, seen: Moments) -> Patches:
        """Where tokens lie and what they weigh; ``seen`` is of the frames before, and goes on."""
        x_ND = float_rows("tokens", video.tokens).detach()
        weight_N = wide(video.mass) * self._importance(video, seen)
        limits = video.mass.new_tensor(video.grid) - 1
        place_N3 = (local_positions(video) + 0.5).floor().clamp(min=0).minimum(limits).long()
        t, h, w = place_N3.unbind(1)
        cell_N = (t * video.grid.h + h) * video.grid.w + w
        return Patches(x_ND, weight_N, cell_N, video.grid, self._starts(video, t))

    def _importance(self, video: VideoTokens, seen: Moments) -> Tensor:
        """[N] wide, not negative."""
        if self.weight == "none":
            return torch.ones_like(wide(video.mass))
        if self.weight == "saliency":
            saliency_N = row_extra(video, "saliency", self.name)
            if saliency_N.ndim != 1:
                raise ShapeError(
                    f"'partition' weighs by one saliency a token, got {list(saliency_N.shape)}: "
                    f"average the other axes"
                )
            return wide(saliency_N.detach()).clamp(min=0) ** self.sharpness
        cosine_N = self._similarity(video)
        mean, deviation = seen.take(cosine_N, wide(video.mass))
        z_N = (cosine_N - mean) / (deviation or 1.0)
        return (self.sharpness * z_N.clamp(-3, 3)).exp()

    def _similarity(self, video: VideoTokens) -> Tensor:
        """[N] wide largest cosine with a row of the query."""
        compared_ND = video.tokens
        if self.embedding is not None:
            extra = row_extra(video, self.embedding, self.name)
            compared_ND = float_rows(self.embedding, extra).detach().flatten(1)
        query_QD = self.query.embedding.to(compared_ND.device)
        if query_QD.shape[1] != compared_ND.shape[1]:
            what = "tokens" if self.embedding is None else f"extras[{self.embedding!r}]"
            raise ShapeError(
                f"'partition' compares {what} of {compared_ND.shape[1]} features with a query of "
                f"{query_QD.shape[1]}: embed both in one space, or name the extra to compare with "
                f"embedding="
            )
        return wide(best_match(compared_ND, query_QD)[0])

    def _starts(self, video: VideoTokens, t_N: Tensor) -> tuple[int, ...]:
        """First frames of scenes."""
        offset = first_t(video) if self.cuts else 0
        starts = {0, *(c - offset for c in self.cuts if 0 < c - offset < video.grid.t)}
        if self.cut_below is not None:
            sum_TD = group_sum(video.tokens.detach(), t_N, video.grid.t, video.mass)
            frame_K = torch.unique(t_N)
            sum_KD = sum_TD[frame_K]
            alike = paired_cosine(sum_KD[1:], sum_KD[:-1])
            starts |= set(frame_K[1:][alike < self.cut_below].tolist())
        return tuple(sorted(starts))
