"""Diverse salient tokens stay, all others merge along trees over time, then in space.

FlashVID: Efficient Video Large Language Models via Training-free Tree-based Spatiotemporal Token
Merging (Fan et al., 2026), what it does before the language model.
"""

import math
from typing import ClassVar, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from vidcomp.compress._images import Importance, frame_ranks, importances
from vidcomp.compress.base import About, Merge, Published
from vidcomp.compress.merge._trees import (
    Selection,
    diverse_rows,
    event_relevance,
    frame_links,
    root_rows,
)
from vidcomp.compress.merge._units import cluster_units, join_idle, points_of
from vidcomp.errors import BudgetError, ConfigError
from vidcomp.functional.cluster import density_peaks
from vidcomp.functional.merge import float_rows, resample
from vidcomp.functional.provenance import sparse_matrix
from vidcomp.functional.reduce import group_max, group_sum, narrow, wide
from vidcomp.functional.segment import (
    cuts_by_similarity,
    frame_means,
    split_long,
    spread_shares,
)
from vidcomp.registry import COMPRESSORS
from vidcomp.types import VideoTokens

__all__ = ["Flashvid"]


class _Plan(NamedTuple):
    """How a budget is spent."""

    frame: Tensor
    """[N] int64 frame of each row."""
    segment: Tensor
    """[T] int64 segment of each frame."""
    features: Tensor
    """[T, D] mean of the tokens of each frame."""
    salient: Tensor
    """[T] int64 salient tokens of each frame."""
    trees: Tensor
    """[S] int64 merged tokens of each segment."""


class _Entries(NamedTuple):
    """Rows of a new token, with what they count in it."""

    anchor: Tensor
    """[K] int64 row where each token lies."""
    new: Tensor
    """[E] int64 token of each entry."""
    row: Tensor
    """[E] int64."""
    factor: Tensor
    """[E] float64 factor of the row in the token."""


@COMPRESSORS.add("flashvid")
class Flashvid(Merge):
    """In each segment salient, diverse tokens of every frame stay, and the rest grows into trees.

    A token is linked to the most similar one of the frame before, wherever in the picture, if they
    are alike; a tree is what hangs together.  The trees of each frame are clustered in space
    (DPC-KNN) until the budget is met.  In mode ``exact`` a token is the mean of all that it stands
    for, segments share the budget in proportion to their tokens, each has at least one merged
    token, and there are never so many links that fewer trees than tokens are left; in a segment
    without a share (a small budget) all tokens join those of the nearest segment that has one.

    ``published`` keeps these bugs: a tree is divided by one plus the number of its root's own
    links, so that a still chain of T frames counts T / 2 times; in segments of one frame the
    salient tokens are clustered again and may be there twice; counts are rounded up frame by frame.
    """

    about: ClassVar[About] = About(
        paper="FlashVID: Efficient Video Large Language Models via Training-free Tree-based "
        "Spatiotemporal Token Merging (Fan, 2026)",
        needs=("features", "saliency"),
        cost="N n D",
        scaling="parts",
        published=(
            Published("LLaVA-OneVision-7B", 25, 100.3, "FlashVID: mean over layers"),
            Published("LLaVA-OneVision-7B", 10, 99.1, "FlashVID: mean over layers"),
            Published("LLaVA-Video-7B", 10, 95.9, "FlashVID: mean over layers"),
            Published("Qwen2.5-VL-7B", 10, 95.6, "FlashVID: mean over layers"),
        ),
    )

    mode: Literal["exact", "published"] = "exact"
    """``exact``: the budget.  ``published``: the original's counts, order and sums."""
    threshold: float = Field(0.9, ge=-1, le=1)
    """A segment begins where the cosine of neighbouring frames is below this."""
    num_segments: int = Field(8, ge=1)
    """Segments that there are at least, if there are as many frames."""
    max_frames: int = Field(32, ge=1)
    """Longer segments are split; has no effect in mode ``published``."""
    salient: float = Field(0.7, ge=0, le=1)
    """Share of the tokens that are chosen and not merged."""
    selection: Selection = "attention"
    """What counts for salient tokens beside their distance."""
    link: float = Field(0.8, ge=-1, le=1)
    """Tokens of neighbouring frames are linked if they are more alike than this."""
    neighbours: int = Field(7, ge=1)
    """Trees that vote on a density, itself included."""
    importance: Importance = "saliency"
    """What ranks tokens; has no effect with ``selection="diversity"``."""
    retention: float = Field(0.1, gt=0, le=1)
    """Share of the tokens of a frame that is aimed at; has no effect in mode ``exact``."""
    expansion: float = Field(1.25, gt=0)
    """What ``retention`` is multiplied by, as the original prunes again in the language model; has
    no effect in mode ``exact``."""

    @property
    def exact(self) -> bool:
        """True in mode ``exact``."""
        return self.mode == "exact"

    def count(self, video: VideoTokens, budget: int) -> int:
        """The budget in mode ``exact``; the other has to grow the trees.

        Raises:
            BudgetError: mode ``published`` leaves more.
            ShapeError: integer ids, or no saliency.
        """
        self._importances(video)
        return budget if self.exact else len(self.published_rows(video, budget))

    def groups(self, video: VideoTokens, budget: int) -> Tensor:
        """[N] int64 group of each row."""
        x_ND, mass_N = float_rows("tokens", video.tokens), video.mass
        spent = self._plan(video, budget)
        is_salient = torch.zeros_like(spent.frame, dtype=torch.bool)
        is_salient[torch.cat(self._choices(video, spent))] = True
        root_N = self._roots(x_ND.detach(), is_salient, spent)
        key_N = spent.frame[root_N] * 2 + (~is_salient).long()
        points = points_of(key_N, root_N)
        key_U = group_max(key_N, points.unit[points.point], int(points.unit[-1]) + 1)
        share_U = _tree_shares(points.sizes, key_U % 2 > 0, spent.segment[key_U // 2], spent.trees)
        group_P, centre_K = cluster_units(x_ND, mass_N, points, share_U, self.neighbours)
        # Salient tokens take nothing in: every segment with a share has a merged token.
        merged_K = centre_K[key_U[points.unit[centre_K]] % 2 > 0]
        segment_N = spent.segment[spent.frame]
        joined_P = join_idle(x_ND, mass_N, points, group_P, merged_K, segment_N)
        return joined_P[points.point]

    def reduce(self, video: VideoTokens, budget: int) -> VideoTokens:
        """One token a group; in mode ``published`` the original's, which may overlap."""
        self._importances(video)
        if self.exact:
            return super().reduce(video, budget)
        entries = self._published(video, budget)
        num_tokens = len(entries.anchor)
        sum_KD = group_sum(video.tokens, entries.new, num_tokens, entries.factor, entries.row)
        total_K = group_sum(entries.factor, entries.new, num_tokens)
        weights_KN = sparse_matrix(
            entries.new,
            entries.row,
            entries.factor / total_K[entries.new],
            (num_tokens, len(video)),
        )
        return resample(video, weights_KN.float(), narrow(sum_KD, video.tokens.dtype))

    def published_rows(self, video: VideoTokens, budget: int) -> Tensor:
        """[K] int64 row in whose place each token of mode ``published`` stands, ascending.

        Salient tokens stand in their own place, a cluster of trees in that of the root at its
        centre; a row may be named twice, as in the original.

        Raises:
            BudgetError: there are more than ``budget``.
            ConfigError: the mode is not ``published``.
            ShapeError: integer ids, or no saliency.
        """
        if self.exact:
            raise ConfigError("published_rows needs mode='published', got 'exact': change the mode")
        self._importances(video)
        return self._published(video, budget).anchor

    def _importances(self, video: VideoTokens) -> Tensor | None:
        float_rows("tokens", video.tokens)
        if self.selection == "diversity":
            return None
        return importances(video, self.importance, self.name)

    def _plan(self, video: VideoTokens, budget: int) -> _Plan:
        frame_N = frame_ranks(video)
        features_TD = frame_means(video.tokens, video.mass, frame_N)
        segment_T = cuts_by_similarity(features_TD, self.threshold, self.num_segments)
        size_T = torch.bincount(frame_N)
        if not self.exact:
            total_T = _ceil(size_T, self.retention * self.expansion, size_T)
            salient_T = _ceil(total_T, self.salient, total_T)
            trees_S = group_sum(total_T - salient_T, segment_T, int(segment_T[-1]) + 1).long()
            return _Plan(frame_N, segment_T, features_TD, salient_T, trees_S)
        segment_T = split_long(segment_T, self.max_frames)
        sizes = torch.split(size_T, torch.bincount(segment_T).tolist())
        size_S = torch.stack([part.sum() for part in sizes])
        share_S = spread_shares(size_S, budget, size_S)
        # A merged token a segment, so that what is not salient has where to go.
        chosen_S = torch.minimum((share_S.double() * self.salient).ceil().long(), share_S - 1)
        chosen_S = chosen_S.clamp(min=0)
        salient = [
            spread_shares(part, chosen, part) if chosen else torch.zeros_like(part)
            for part, chosen in zip(sizes, chosen_S.tolist(), strict=True)
        ]
        return _Plan(frame_N, segment_T, features_TD, torch.cat(salient), share_S - chosen_S)

    def _choices(self, video: VideoTokens, spent: _Plan) -> list[Tensor]:
        """Rows that are chosen of each frame; some twice if published and of negative relevance."""
        x_ND, scale_N = video.tokens.detach(), self._importances(video)
        choices = []
        frames = [rows for segment in _by_segment(spent) for rows in segment]
        for frame, (rows, k) in enumerate(zip(frames, spent.salient.tolist(), strict=True)):
            scale_n = None if scale_N is None else scale_N[rows]
            if scale_n is not None and self.selection == "event" and k:
                event_TD = spent.features[spent.segment == spent.segment[frame]]
                scale_n = scale_n * event_relevance(x_ND[rows], event_TD)
            chosen = diverse_rows(x_ND[rows], k, scale_n, published=not self.exact)
            choices.append(rows[chosen])
        return choices

    def _roots(self, x_ND: Tensor, is_salient: Tensor, spent: _Plan) -> Tensor:
        """[N] int64 root of the tree of each row, itself if it is salient."""
        rows, parents = [], []
        for segment, frames in enumerate(_by_segment(spent)):
            rest = [frame[~is_salient[frame]] for frame in frames]
            # As many trees have to be left as there are tokens for them.
            most = sum(map(len, rest)) - int(spent.trees[segment])
            row, parent = frame_links(x_ND, rest, self.link, most)
            rows.append(row)
            parents.append(parent)
        return root_rows(len(x_ND), torch.cat(rows), torch.cat(parents))

    def _published(self, video: VideoTokens, budget: int) -> _Entries:
        """The original's tokens in the order of where they lie."""
        x_ND = video.tokens.detach()
        spent = self._plan(video, budget)
        choices = self._choices(video, spent)
        chosen = torch.cat(choices)
        parts: list[_Entries] = []
        first = 0
        for segment, frames in enumerate(_by_segment(spent)):
            wanted = int(spent.trees[segment])
            if len(frames) == 1:
                factor = wide(torch.ones_like(frames[0]))
                parts.append(self._clustered(x_ND, frames[0], frames[0], factor, wanted))
            else:
                free = [
                    rows[~torch.isin(rows, choices[first + i])] for i, rows in enumerate(frames)
                ]
                parts += self._sums_of_trees(x_ND, free, wanted)
            first += len(frames)
        # A salient token that is there twice comes after its cluster, as recorded.
        parts.append(_Entries(chosen, _count(chosen), chosen, wide(torch.ones_like(chosen))))
        entries = _joined([part for part in parts if len(part.anchor)])
        if len(entries.anchor) > budget:
            raise BudgetError(
                f"'flashvid' in mode 'published' with retention={self.retention} leaves "
                f"{len(entries.anchor)} of {len(video)} tokens, more than a budget of {budget}: "
                f"lower retention or use mode='exact'"
            )
        return entries

    def _sums_of_trees(self, x_ND: Tensor, free: list[Tensor], wanted: int) -> list[_Entries]:
        """Clusters of the trees of each frame, at least ``wanted`` if there are as many trees."""
        row, parent = frame_links(x_ND, free, self.link)
        root_N = root_rows(len(x_ND), row, parent)
        factor_N = 1 / (1 + wide(torch.bincount(parent, minlength=len(x_ND))))
        rows = torch.cat(free)
        roots = [rows_n[root_N[rows_n] == rows_n] for rows_n in free]
        num_roots = max(1, sum(map(len, roots)))
        parts = []
        for root in roots:
            mine = rows[torch.isin(root_N[rows], root)]
            share = min(len(root), -(-wanted * len(root) // num_roots))
            factor = factor_N[root_N[mine]]
            parts.append(self._clustered(x_ND, mine, root_N[mine], factor, share))
        return parts

    def _clustered(
        self, x_ND: Tensor, rows: Tensor, root: Tensor, factor: Tensor, share: int
    ) -> _Entries:
        """Means of ``share`` clusters of what hangs at each root, times the factor of each row."""
        share = min(share, len(rows))
        if not share:
            return _Entries(rows[:0], rows[:0], rows[:0], factor[:0])
        root_of_tree, tree = torch.unique(root, return_inverse=True)
        sum_RD = group_sum(x_ND, tree, len(root_of_tree), factor, rows)
        centre, assign = density_peaks(sum_RD, share, min(self.neighbours, share))
        size = wide(torch.bincount(assign))
        cluster = assign[tree]
        return _Entries(root_of_tree[centre], cluster, rows, factor / size[cluster])


def _by_segment(spent: _Plan) -> list[list[Tensor]]:
    """Rows of each frame of each segment."""
    rows = torch.split(spent.frame.argsort(stable=True), torch.bincount(spent.frame).tolist())
    found: list[list[Tensor]] = [[] for _ in range(int(spent.segment[-1]) + 1)]
    for segment, rows_n in zip(spent.segment.tolist(), rows, strict=True):
        found[segment].append(rows_n)
    return found


def _tree_shares(size_U: Tensor, is_tree_U: Tensor, segment_U: Tensor, trees_S: Tensor) -> Tensor:
    """[U] int64 all salient tokens of a unit, or its share of the trees of its segment."""
    share_U = torch.where(is_tree_U, 0, size_U)
    for segment in trees_S.nonzero().squeeze(1).tolist():
        mine = (is_tree_U & (segment_U == segment)).nonzero().squeeze(1)
        share_U[mine] = spread_shares(size_U[mine], int(trees_S[segment]), size_U[mine])
    return share_U


def _ceil(value: Tensor, factor: float, most: Tensor) -> Tensor:
    """Each rounded up by itself, as the original does."""
    up = [math.ceil(v * factor) for v in value.tolist()]
    return torch.minimum(torch.tensor(up, device=most.device), most)


def _count(row: Tensor) -> Tensor:
    return torch.arange(len(row), device=row.device)


def _joined(parts: list[_Entries]) -> _Entries:
    """All tokens, in the order of where they lie, those of the earlier part first."""
    shift = [0]
    for part in parts:
        shift.append(shift[-1] + len(part.anchor))
    anchor = torch.cat([part.anchor for part in parts])
    anchor, order = anchor.sort(stable=True)
    rank = torch.empty_like(order)
    rank[order] = _count(order)
    new = torch.cat([part.new + at for part, at in zip(parts, shift, strict=False)])
    row = torch.cat([part.row for part in parts])
    return _Entries(anchor, rank[new], row, torch.cat([part.factor for part in parts]))
