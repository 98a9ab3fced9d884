"""Tokens that matter to a question and differ from each other.

Beyond Attention or Similarity: Maximizing Conditional Diversity for Token Pruning in MLLMs
(Zhang et al., 2025).
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from vidcomp.compress.base import About, Prune, QueryAware, row_extra
from vidcomp.errors import BudgetError, ShapeError
from vidcomp.functional.diverse import greedy_dpp
from vidcomp.functional.geometry import frame_numbers
from vidcomp.functional.grids import without_gaps
from vidcomp.functional.merge import float_rows
from vidcomp.functional.reduce import wide
from vidcomp.functional.similarity import cosine
from vidcomp.registry import COMPRESSORS
from vidcomp.types import VideoTokens

__all__ = ["CdPruner"]


@COMPRESSORS.add("cdpruner")
class CdPruner(Prune, QueryAware):
    """Tokens picked by relevance to a question times what they add to the picked ones.

    From CDPruner: greedy picks of a determinantal point process whose kernel is the cosine of two
    tokens times the relevance of both.  The relevance is the mean cosine with the rows of the
    query, brought to 0..1 over the video.  The original ends in NaN and repeats once no token adds
    anything (smooth videos have few independent directions); here the span is forgotten then, and
    picking begins again among the rest.

    As published the relevance is negated, because patches of the CLIP towers of the original are
    the less similar to a text the more they show of it; check your encoder and set
    ``relevance="similar"`` where that is not so.  Mode ``published`` also keeps ``frame_tokens`` of
    every frame, as the original treats frames as a batch of images, whose relevances it scales
    together.
    """

    about: ClassVar[About] = About(
        paper="Beyond Attention or Similarity: Maximizing Conditional Diversity for Token Pruning "
        "in MLLMs (Zhang, 2025), arXiv 2506.10967",
        needs=("features", "query"),
        cost="N min(K, D) D, again for every D kept",
        scaling="quadratic",
    )

    mode: Literal["exact", "published"] = "exact"
    """``exact``: the budget is spent over the whole video.  ``published``: ``frame_tokens`` of each
    frame; a count above the budget is an error."""
    frame_tokens: int = Field(64, ge=1)
    """Tokens of a frame (all of one that has fewer); has no effect in mode ``exact``."""
    embedding: str | None = None
    """Row extra that the query is compared with; ``None``: the tokens themselves."""
    relevance: Literal["dissimilar", "similar"] = "dissimilar"
    """Which tokens count more: the least (as published) or the most similar to the query."""

    @property
    def exact(self) -> bool:
        """False in mode ``published``."""
        return self.mode == "exact"

    def count(self, video: VideoTokens, budget: int) -> int:
        """The budget, or what the frames keep.

        Raises:
            BudgetError: the published count is above the budget.
            ConfigError: no query was bound.
            ShapeError: integer ids, or a query of another width than what it is compared with.
        """
        self._compared(video)
        if self.mode == "exact":
            return budget
        size_F = torch.bincount(frame_numbers(video))
        kept = int(size_F.clamp(max=self.frame_tokens).sum())
        if kept > budget:
            raise BudgetError(
                f"'cdpruner' with frame_tokens={self.frame_tokens} keeps {kept} tokens, more than "
                f"a budget of {budget}: lower frame_tokens or use mode='exact'"
            )
        return kept

    def keep(self, video: VideoTokens, budget: int) -> Tensor:
        """[K] int64 rows, ascending."""
        self.count(video, budget)
        x_ND, relevance_N = video.tokens, self.scores(video)
        if self.mode == "exact":
            return greedy_dpp(x_ND, relevance_N, budget).sort().values
        frame_N = without_gaps(frame_numbers(video))
        members = torch.split(frame_N.argsort(stable=True), torch.bincount(frame_N).tolist())
        picks = [
            row[greedy_dpp(x_ND[row], relevance_N[row], min(len(row), self.frame_tokens))]
            for row in members
        ]
        return torch.cat(picks).sort().values

    def scores(self, video: VideoTokens) -> Tensor:
        """[N] relevances, 1e-6 and up: at most about 1, and 1 for all if they are equal."""
        compared_ND = self._compared(video).detach()
        query_QD = self.query.embedding.to(compared_ND.device)
        rows = torch.split(compared_ND, 1 << 16)
        alike_N = wide(torch.cat([wide(cosine(part, query_QD)).mean(dim=1) for part in rows]))
        value_N = -alike_N if self.relevance == "dissimilar" else alike_N
        low, high = value_N.aminmax()
        if bool(high - low < 1e-6):
            return torch.ones_like(value_N)
        return (value_N - low + 1e-6) / (high - low)

    def _compared(self, video: VideoTokens) -> Tensor:
        x_ND = float_rows("tokens", video.tokens)
        if self.embedding is not None:
            x_ND = float_rows(self.embedding, row_extra(video, self.embedding, self.name))
            x_ND = x_ND.flatten(1)
        if x_ND.shape[1] != (width := self.query.embedding.shape[1]):
            what = "tokens" if self.embedding is None else f"extras[{self.embedding!r}]"
            raise ShapeError(
                f"'cdpruner' compares {what} of {x_ND.shape[1]} features with a query of {width}: "
                f"embed both in one space, or name the extra to compare with embedding="
            )
        return x_ND
