"""Connected components of similar tokens, in frames and then over all of them.

"LLaVA-Scissor: Token Compression with Semantic Connected Components for Video LLMs" (Sun et al.,
2025).

Legend: N rows, D features, M components within frames, K components of all.
"""

from dataclasses import replace
from typing import ClassVar, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from vidcomp.compress._images import frame_ranks
from vidcomp.compress.base import About, Merge
from vidcomp.errors import BudgetError
from vidcomp.functional.allocate import top_of_each
from vidcomp.functional.components import best_joins, components_above, similarity_forest
from vidcomp.functional.merge import float_rows, merge, merge_in_order
from vidcomp.functional.reduce import group_sum, wide
from vidcomp.functional.rough import nearest
from vidcomp.functional.similarity import paired_cosine
from vidcomp.registry import COMPRESSORS
from vidcomp.types import VideoTokens

__all__ = ["Scissor"]

_LEAST_FIRST = 1024
"""Components that are compared over all frames at no price worth mentioning."""


class _Found(NamedTuple):
    """[N] component of each row, over all frames, and [K, D] the means."""

    component: Tensor
    mean: Tensor


@COMPRESSORS.add("scissor")
class Scissor(Merge):
    """Tokens that hang together by chains of similar ones are one; then each goes to its nearest.

    Similar tokens of a frame are joined, then the means of what was joined in all frames, and
    every token of the video is merged into the mean that is nearest to it.  Mode ``exact`` makes
    joins in the order of their similarity, a component fewer with each, until about ``first``
    times the budget are left in frames and the budget in all; the token nearest to each mean stays
    with it, so that none is without tokens.

    Mode ``published`` joins whatever is more similar than ``threshold`` and keeps what the
    original does: means that count a joined part as one token however large it is, the mean once
    more as a member of what is merged into it, and components in the order of the first row with
    the most neighbours.  Of the original's random parts we keep none: where a tree of joins is
    deep it forgets some members, which ones depends on a drawn order, and from about 3,300 tokens
    on it looks at a sample of them.
    """

    about: ClassVar[About] = About(
        paper="LLaVA-Scissor: Token Compression with Semantic Connected Components for Video LLMs "
        "(Sun, 2025), arXiv 2506.21862",
        cost="N K D + K² D",
        scaling="quadratic",
    )

    mode: Literal["exact", "published"] = "exact"
    """``published``: as many tokens as ``threshold`` leaves; more than the budget are an error."""
    threshold: float = Field(0.95, ge=-1, le=1)
    """Cosine above which tokens are joined; has no effect in mode ``exact``."""
    first: float = Field(2.0, ge=1)
    """Components left within frames, as a multiple of the budget, but no fewer than 1,024, so that
    small budgets do not join what differs within a frame; only in mode ``exact``."""

    @property
    def exact(self) -> bool:
        """False in mode ``published``."""
        return self.mode == "exact"

    def count(self, video: VideoTokens, budget: int) -> int:
        """The budget, or the number of components at the threshold.

        Raises:
            BudgetError: ``published`` leaves more than the budget.
        """
        if self.mode == "exact":
            return budget
        return self._check(len(self._published(video).mean), len(video), budget)

    def groups(self, video: VideoTokens, budget: int) -> Tensor:
        """[N] int64 group of each row, the component whose mean is nearest."""
        found = self._exact(video, budget) if self.mode == "exact" else self._published(video)
        return _assign(video.tokens.detach(), found, every=self.mode == "exact")[1]

    def reduce(self, video: VideoTokens, budget: int) -> VideoTokens:
        """One token a group."""
        x_ND = float_rows("tokens", video.tokens)
        if self.mode == "exact":
            return merge(video, self.groups(video, budget))
        found = self._published(video)
        num_groups = self._check(len(found.mean), len(video), budget)
        nearest_N, group_N = _assign(x_ND.detach(), found, every=False)
        count_K = torch.bincount(nearest_N, minlength=num_groups)
        sum_KD = group_sum(x_ND, nearest_N, num_groups) + found.mean
        tokens = (sum_KD / (count_K + 1)[:, None]).to(x_ND.dtype)
        return replace(merge_in_order(video, group_N), tokens=tokens)

    def _exact(self, video: VideoTokens, budget: int) -> _Found:
        x_ND, frame_N = float_rows("tokens", video.tokens).detach(), frame_ranks(video)
        n, num_frames = len(video), int(frame_N.max()) + 1
        left = max(budget, num_frames, min(n, max(_LEAST_FIRST, int(self.first * budget))))
        part_N = best_joins(similarity_forest(x_ND, frame_N), n, n - left)
        mean_MD = _means(x_ND, video.mass, part_N)
        component_M = best_joins(similarity_forest(mean_MD), left, left - budget)
        component_N = component_M[part_N]
        return _Found(component_N, _means(x_ND, video.mass, component_N))

    def _published(self, video: VideoTokens) -> _Found:
        x_ND, frame_N = float_rows("tokens", video.tokens).detach(), frame_ranks(video)
        part_N = components_above(x_ND, self.threshold, frame_N)
        mean_MD = _means(x_ND, torch.ones_like(video.mass), part_N)
        component_M = components_above(mean_MD, self.threshold)
        mean_KD = _means(mean_MD, torch.ones_like(mean_MD[:, 0]), component_M)
        return _Found(component_M[part_N], mean_KD)

    def _check(self, count: int, num_tokens: int, budget: int) -> int:
        if count > budget:
            raise BudgetError(
                f"'scissor' with threshold={self.threshold} leaves {count} of {num_tokens} tokens, "
                f"more than a budget of {budget}: lower the threshold or use mode='exact'"
            )
        return count


def _means(x_ND: Tensor, mass_N: Tensor, group_N: Tensor) -> Tensor:
    """[K, D] weighted mean of each group in the wide type."""
    num_groups = int(group_N.max()) + 1
    share_N = wide(mass_N) / group_sum(mass_N, group_N, num_groups)[group_N]
    return group_sum(x_ND, group_N, num_groups, share_N)


def _assign(x_ND: Tensor, found: _Found, *, every: bool) -> tuple[Tensor, Tensor]:
    """[N] nearest mean of each row, and [N] the same with a row in every group.

    The row of a component that is nearest to its mean belongs to it: always (``every``), or only
    where no other row does.
    """
    component_N, mean_KD = found
    nearest_N = nearest(x_ND, mean_KD)
    rows = torch.arange(len(x_ND), device=x_ND.device)
    own_N = paired_cosine(x_ND, mean_KD, None, component_N)
    num_groups = len(mean_KD)
    core = top_of_each(own_N, component_N, torch.ones_like(rows[:num_groups]))
    group_N = nearest_N.clone()
    if not every:
        core = core[torch.bincount(nearest_N, minlength=num_groups)[component_N[core]] == 0]
    group_N[core] = component_N[core]
    return nearest_N, group_N
