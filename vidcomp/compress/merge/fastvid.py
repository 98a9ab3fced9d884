"""Salient tokens stay, all others of a segment merge into dense tokens of a few of its frames.

FastVID: Dynamic Density Pruning for Fast Video Large Language Models (Shen et al., 2025).
"""

from typing import ClassVar, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from vidcomp.compress._images import Importance, frame_ranks, importances
from vidcomp.compress.base import About, Merge, Published
from vidcomp.compress.merge._units import frame_features, hosts
from vidcomp.errors import BudgetError
from vidcomp.functional.allocate import shares, top_of_each
from vidcomp.functional.cluster import density_peaks
from vidcomp.functional.grids import without_gaps
from vidcomp.functional.merge import float_rows, resample
from vidcomp.functional.provenance import sparse_matrix
from vidcomp.functional.rough import nearest
from vidcomp.functional.segment import cuts_by_similarity, split_long, spread_shares
from vidcomp.registry import COMPRESSORS
from vidcomp.types import VideoTokens

__all__ = ["Fastvid"]


class _Plan(NamedTuple):
    """How a budget is spent."""

    frame: Tensor
    """[N] int64 frame of each row."""
    segment: Tensor
    """[T] int64 segment of each frame."""
    salient: Tensor
    """[T] int64 salient tokens of each frame."""
    dense: Tensor
    """[T] int64 dense tokens of each frame; 0 if it is no anchor."""


@COMPRESSORS.add("fastvid")
class Fastvid(Merge):
    """Segments begin where frames change; a share of their tokens is salient, the rest is merged.

    Anchors are every ``stride``-th frame of a segment, counted from its end.  Of their tokens that
    are not salient the density peaks (DPC-KNN) become targets, and every other token of the segment
    joins the most similar target.  In mode ``exact`` that is a mean, every token goes to one target
    of all anchors, segments share the budget in proportion to their tokens, and in a segment
    without a share (a small budget) all tokens join those of the nearest segment that has one.

    ``published`` has the original's counts, rounded down by frame and by anchor.  Each anchor takes
    in all other tokens of the segment by itself, and a target keeps ``centre_weight`` of itself:
    tokens overlap, so that provenance is soft.
    """

    about: ClassVar[About] = About(
        paper="FastVID: Dynamic Density Pruning for Fast Video Large Language Models (Shen, 2025), "
        "arXiv 2503.11187",
        needs=("features", "saliency"),
        cost="N n D + N K D of a segment",
        scaling="parts",
        published=(
            Published("LLaVA-OneVision-7B", 25, 99.1, "UniComp"),
            Published("LLaVA-OneVision-7B", 10, 97.8, "UniComp"),
            Published("LLaVA-OneVision-7B", 5, 92.7, "SimpleCluster"),
            Published("LLaVA-OneVision-7B", 2, 83.3, "USTC"),
            Published("Qwen2.5-VL-7B", 10, 93.2, "FlashVID: mean over layers"),
            Published("Qwen3-VL-8B", 25, 94.2, "VidCom2"),
        ),
    )

    mode: Literal["exact", "published"] = "exact"
    """``exact``: the budget.  ``published``: the original's counts, order and overlapping means."""
    threshold: float = Field(0.9, ge=-1, le=1)
    """A segment begins where the cosine of neighbouring frames is below this."""
    num_segments: int = Field(8, ge=1)
    """Segments that there are at least, if there are as many frames."""
    max_frames: int = Field(32, ge=1)
    """Longer segments are split; has no effect in mode ``published``."""
    context: float = Field(0.4, ge=0, le=1)
    """Share of the tokens of a segment that are merged ones, at least one in mode ``exact``."""
    stride: int = Field(4, ge=1)
    """Every so many frames one is an anchor."""
    neighbours: int = Field(4, ge=1)
    """Tokens that vote on a density, itself included."""
    importance: Importance = "saliency"
    """What makes tokens salient."""
    frame_features: str | None = None
    """Frame extra that frames are compared by; ``None``: the mean of their tokens."""
    retention: float = Field(0.1, gt=0, le=1)
    """Share of the tokens of a frame that stay; has no effect in mode ``exact``."""
    centre_weight: float = Field(0.6, ge=0, le=1)
    """Least weight of a target in its mean; has no effect in mode ``exact``."""

    @property
    def exact(self) -> bool:
        """True in mode ``exact``."""
        return self.mode == "exact"

    def count(self, video: VideoTokens, budget: int) -> int:
        """The budget in mode ``exact``, else the sum of what frames and anchors keep.

        Raises:
            BudgetError: mode ``published`` keeps more, or nothing.
            ShapeError: integer ids, no saliency, or no such frame extra.
        """
        self._check(video)
        if self.exact:
            return budget
        spent = self._plan(video, budget)
        return int(spent.salient.sum() + spent.dense.sum())

    def groups(self, video: VideoTokens, budget: int) -> Tensor:
        """[N] int64 group of each row: those that stay in their order, all others with one."""
        x_ND = float_rows("tokens", video.tokens).detach()
        spent = self._plan(video, budget)
        salient, target = self._kept(video, spent)
        target_N = torch.arange(len(x_ND), device=x_ND.device)
        segment_N = spent.segment[spent.frame]
        is_kept = torch.zeros_like(segment_N, dtype=torch.bool)
        is_kept[salient] = is_kept[target] = True
        kept_by_segment = torch.bincount(segment_N[is_kept], minlength=int(segment_N.max()) + 1)
        host_N = hosts(kept_by_segment > 0)[segment_N]
        target_by_segment = torch.bincount(segment_N[target], minlength=len(kept_by_segment))
        for segment in (kept_by_segment > 0).nonzero().squeeze(1).tolist():
            rest = ((host_N == segment) & ~is_kept).nonzero().squeeze(1)
            # Anchors of which every token is salient leave no targets.
            into = target if target_by_segment[segment] else salient
            into = into[segment_N[into] == segment]
            target_N[rest] = into[nearest(x_ND, x_ND[into], rest)]
        return without_gaps(target_N)

    def reduce(self, video: VideoTokens, budget: int) -> VideoTokens:
        """One token a group; in mode ``published`` overlapping means in the order of the rows."""
        self._check(video)
        if self.exact:
            return super().reduce(video, budget)
        return resample(video, self._overlapping(video, self._plan(video, budget)))

    def _check(self, video: VideoTokens) -> None:
        float_rows("tokens", video.tokens)
        importances(video, self.importance, self.name)
        frame_features(video, frame_ranks(video), self.frame_features, self.name)

    def _plan(self, video: VideoTokens, budget: int) -> _Plan:
        frame_N = frame_ranks(video)
        features_TD = frame_features(video, frame_N, self.frame_features, self.name)
        segment_T = cuts_by_similarity(features_TD, self.threshold, self.num_segments)
        size_T = torch.bincount(frame_N)
        if not self.exact:
            return self._published_plan(frame_N, segment_T, size_T, budget)
        segment_T = split_long(segment_T, self.max_frames)
        length_S = torch.bincount(segment_T).tolist()
        sizes = torch.split(size_T, length_S)
        size_S = torch.stack([part.sum() for part in sizes])
        share_S = spread_shares(size_S, budget, size_S).tolist()
        parts = [self._spend(part, share) for part, share in zip(sizes, share_S, strict=True)]
        salient, dense = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
        return _Plan(frame_N, segment_T, salient, dense)

    def _spend(self, size_L: Tensor, share: int) -> tuple[Tensor, Tensor]:
        """[L] salient and [L] dense tokens of the frames of one segment, ``share`` together."""
        if not share:
            return torch.zeros_like(size_L), torch.zeros_like(size_L)
        num_dense = max(1, int(share * self.context))
        salient_L = spread_shares(size_L, share - num_dense, size_L)
        is_anchor_L = self._anchors(len(size_L)).to(size_L.device)
        room_L = torch.where(is_anchor_L, size_L - salient_L, 0)
        dense_L = spread_shares(is_anchor_L.double(), num_dense, room_L)
        # What the anchors have no room for is salient in other frames.
        missing = num_dense - int(dense_L.sum())
        room_L = torch.where(is_anchor_L, 0, size_L - salient_L)
        return salient_L + shares(room_L, missing, room_L), dense_L

    def _published_plan(
        self, frame_N: Tensor, segment_T: Tensor, size_T: Tensor, budget: int
    ) -> _Plan:
        kept_T = (size_T.double() * self.retention).long()
        context_T = (kept_T.double() * self.context).long()
        salient_T = kept_T - context_T
        dense, first = [], 0
        for length in torch.bincount(segment_T).tolist():
            anchor_L = self._anchors(length).to(size_T.device)
            quota_L = context_T[first : first + length] * length // int(anchor_L.sum())
            dense.append(torch.where(anchor_L, quota_L, 0))
            first += length
        dense_T = torch.minimum(torch.cat(dense), size_T - salient_T)
        if not 1 <= (total := int(salient_T.sum() + dense_T.sum())) <= budget:
            raise BudgetError(
                f"'fastvid' in mode 'published' with retention={self.retention} keeps {total} of "
                f"{len(frame_N)} tokens, not 1 to a budget of {budget}: change retention or use "
                f"mode='exact'"
            )
        return _Plan(frame_N, segment_T, salient_T, dense_T)

    def _anchors(self, num_frames: int) -> Tensor:
        """[L] bool: every ``stride``-th frame, the last one included."""
        return torch.arange(num_frames - 1, -1, -1) % self.stride == 0

    def _kept(self, video: VideoTokens, spent: _Plan) -> tuple[Tensor, Tensor]:
        """Salient rows and the rows that are targets, ascending."""
        x_ND = float_rows("tokens", video.tokens).detach()
        rank_N = importances(video, self.importance, self.name)
        salient = top_of_each(rank_N, spent.frame, spent.salient)
        free_N = torch.ones_like(spent.frame, dtype=torch.bool).index_fill(0, salient, value=False)
        targets = [salient[:0]]
        for frame in spent.dense.nonzero().squeeze(1).tolist():
            rows = ((spent.frame == frame) & free_N).nonzero().squeeze(1)
            centre, _ = density_peaks(x_ND[rows], int(spent.dense[frame]), self.neighbours)
            targets.append(rows[centre])
        return salient, torch.cat(targets).sort().values

    def _overlapping(self, video: VideoTokens, spent: _Plan) -> Tensor:
        """Sparse [K, N] weights of the original's tokens."""
        x_ND = float_rows("tokens", video.tokens).detach()
        salient, target = self._kept(video, spent)
        kept = torch.cat([salient, target]).sort().values
        free_N = torch.ones_like(spent.frame, dtype=torch.bool).index_fill(0, salient, value=False)
        segment_N = spent.segment[spent.frame]
        length_S = torch.bincount(spent.segment)
        rows, into, parts = [salient], [salient], [torch.ones(len(salient), dtype=torch.float64)]
        for frame in spent.dense.nonzero().squeeze(1).tolist():
            mine = target[spent.frame[target] == frame]
            segment = int(spent.segment[frame])
            alone = int(length_S[segment]) == 1 or self.stride == 1
            near_N = spent.frame == frame if alone else segment_N == segment
            pool = (near_N & free_N).nonzero().squeeze(1)
            goes_to = nearest(x_ND, x_ND[mine], pool)
            members = torch.bincount(goes_to, minlength=len(mine))
            own = (1 / (members.double() + 1)).clamp(min=self.centre_weight)
            own = own.masked_fill(members == 0, 1)
            rows += [mine, pool]
            into += [mine, mine[goes_to]]
            parts += [own, ((1 - own) / members.clamp(min=1))[goes_to]]
        new_E = torch.searchsorted(kept, torch.cat(into))
        value_E = torch.cat([part.to(kept.device) for part in parts])
        return sparse_matrix(new_E, torch.cat(rows), value_E, (len(kept), len(x_ND))).float()
