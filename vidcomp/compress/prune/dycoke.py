"""Tokens that are unlike those of a frame before, over two distances in time.

DyCoke: Dynamic Compression of Tokens for Fast Video Large Language Models (Tao et al., 2024), its
first stage, which is called merging and drops.  The second one works on a language model's memory
while it writes, and is no compressor of tokens.
"""

from typing import ClassVar, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from vidcomp.compress._images import frame_ranks
from vidcomp.compress.base import About, Prune, Published
from vidcomp.errors import BudgetError, ShapeError
from vidcomp.functional.allocate import rank_in_group, top_of_each_closely
from vidcomp.functional.change import token_chains
from vidcomp.functional.merge import float_rows
from vidcomp.functional.rough import rough_cosine
from vidcomp.functional.segment import frame_means, row_in_frame, spread_shares
from vidcomp.functional.similarity import paired_cosine
from vidcomp.registry import COMPRESSORS
from vidcomp.types import VideoTokens

__all__ = ["Dycoke"]


class _Compared(NamedTuple):
    """What the rows are compared with."""

    features: Tensor
    """[N, D]."""
    frame: Tensor
    """[N] int64."""
    other: Tensor
    """[N] int64 row that each is compared with; -1: none, or the mean."""
    mean: Tensor | None
    """[1, D] what rows of the first frame are compared with."""

    def news(self, row_J: Tensor) -> Tensor:
        """[J] float32 one minus the cosine; infinite where there is nothing to compare with."""
        other_J = self.other[row_J]
        news_J = torch.full(other_J.shape, torch.inf, device=other_J.device)
        found = (other_J >= 0).nonzero().squeeze(1)
        named = (row_J[found], other_J[found])
        news_J[found] = 1 - paired_cosine(self.features, self.features, *named)
        if self.mean is not None:
            first = (self.frame[row_J] == 0).nonzero().squeeze(1)
            none = torch.zeros_like(first)
            news_J[first] = 1 - paired_cosine(self.features, self.mean, row_J[first], none)
        return news_J

    def rough_news(self) -> tuple[Tensor, float]:
        """[N] float32 the news of all rows, and how far they may be from it."""
        found_N = self.other >= 0
        found, rest = found_N.nonzero().squeeze(1), (~found_N).nonzero().squeeze(1)
        cosine_J, error = rough_cosine(self.features, found, self.other[found])
        news_N = torch.empty(len(found_N), device=found_N.device)
        news_N[found], news_N[rest] = 1 - cosine_J, self.news(rest)
        return news_N, error


@COMPRESSORS.add("dycoke")
class Dycoke(Prune):
    """In groups of four frames, frame 1 is compared with frame 0, 3 with 2, and 2 with 0.

    Of a compared frame the tokens stay that are the least like those at their place.  ``exact``
    takes the shares of the original, all of a first frame to ``1 - drop`` of a compared one, as
    weights that meet any budget; below what the original can reach first frames are thinned as
    well, by their likeness to the first frame of the group before, and the video's first frame by
    likeness to its own mean.

    ``published`` keeps these bugs: a last frame without a partner is lost, the last group of four
    has no second pass, tokens of a frame come in the order of their likeness.  Up to four frames,
    on which the original crashes, have the first pass only.
    """

    about: ClassVar[About] = About(
        paper="DyCoke: Dynamic Compression of Tokens for Fast Video Large Language Models "
        "(Tao, 2024), arXiv 2411.15024",
        cost="N D",
        published=(
            Published("LLaVA-OneVision-7B", 25, 92.8, "UniComp"),
            Published("LLaVA-OneVision-7B", 25, 87.0, "VidCom2"),
            Published("LLaVA-Video-7B", 25, 86.3, "VidCom2"),
        ),
    )

    mode: Literal["exact", "published"] = "exact"
    """``exact``: the budget.  ``published``: the original's counts, order and losses."""
    drop: float = Field(0.7, ge=0, le=1)
    """Share of a compared frame that goes."""

    @property
    def exact(self) -> bool:
        """True in mode ``exact``."""
        return self.mode == "exact"

    def count(self, video: VideoTokens, budget: int) -> int:
        """The budget in mode ``exact``, else what ``drop`` leaves.

        Raises:
            BudgetError: mode ``published`` keeps more.
            ShapeError: integer ids, or ``published`` loses the only frame.
        """
        float_rows("tokens", video.tokens)
        return budget if self.exact else int(self._published_counts(video, budget).sum())

    def keep(self, video: VideoTokens, budget: int) -> Tensor:
        """[K] int64 rows, ascending."""
        return self._keep(self._compared(video), video, budget)

    def reduce(self, video: VideoTokens, budget: int) -> VideoTokens:
        """The kept rows; in mode ``published`` those of a frame by rising likeness."""
        if self.exact:
            return super().reduce(video, budget)
        compared = self._compared(video)
        kept = self._keep(compared, video, budget)
        frame_K = compared.frame[kept]
        rank_K = rank_in_group(compared.news(kept), frame_K, int(frame_K.max()) + 1)
        by_rank = rank_K.argsort(stable=True)
        return video.select(kept[by_rank[frame_K[by_rank].argsort(stable=True)]])

    def _compared(self, video: VideoTokens) -> _Compared:
        x_ND = float_rows("tokens", video.tokens).detach()
        frame_N = frame_ranks(video)
        reference_T = _references(int(frame_N.max()) + 1, self.exact).to(frame_N.device)
        other_N = row_in_frame(token_chains(video.positions), frame_N, reference_T[frame_N])
        mean_1D = None
        if self.exact:
            first = (frame_N == 0).nonzero().squeeze(1)
            mean_1D = frame_means(x_ND.index_select(0, first), video.mass[first], frame_N[first])
        return _Compared(x_ND, frame_N, other_N, mean_1D)

    def _keep(self, compared: _Compared, video: VideoTokens, budget: int) -> Tensor:
        if self.exact:
            size_T = torch.bincount(compared.frame)
            is_first_T = torch.arange(len(size_T), device=size_T.device) % 4 == 0
            # A hair above 0: a frame that may be dropped whole still takes what others cannot.
            weight_T = size_T * torch.where(is_first_T, 1.0, max(1 - self.drop, 1e-9))
            share_T = spread_shares(weight_T, budget, size_T)
        else:
            share_T = self._published_counts(video, budget)
        news_N, error = compared.rough_news()
        return top_of_each_closely(news_N, error, compared.news, compared.frame, share_T)

    def _published_counts(self, video: VideoTokens, budget: int) -> Tensor:
        """[T] int64 tokens that the original keeps of each frame."""
        size_T = torch.bincount(frame_ranks(video))
        compared_T = (_references(len(size_T), False) >= 0).to(size_T.device)
        # The original's float arithmetic: (1 - 0.9) * 10 tokens are 0.
        kept_T = ((1 - self.drop) * size_T.double()).long()
        count_T = torch.where(compared_T, kept_T, size_T)
        if len(size_T) % 2:
            count_T[-1] = 0
        total = int(count_T.sum())
        if total < 1:
            raise ShapeError(
                f"'dycoke' in mode 'published' loses a last frame without a partner and leaves "
                f"nothing of {len(size_T)} frame(s): use mode='exact'"
            )
        if total > budget:
            raise BudgetError(
                f"'dycoke' in mode 'published' with drop={self.drop} leaves {total} of "
                f"{len(video)} tokens, more than a budget of {budget}: raise drop or use "
                f"mode='exact'"
            )
        return count_T


def _references(num_frames: int, everywhere: bool) -> Tensor:
    """[T] int64 the frame that each frame is compared with, -1 for none."""
    frame_T = torch.arange(num_frames)
    reference_T = torch.full_like(frame_T, -1)
    reference_T[1::2] = frame_T[1::2] - 1
    second_T = frame_T % 4 == 2
    if everywhere:
        reference_T[4::4] = frame_T[4::4] - 4
    else:
        second_T &= frame_T - 2 < num_frames - 4
    return torch.where(second_T, frame_T - 2, reference_T)
