"""Quadtrees of pictures, whose leaves are linked in time.

"Multi-Granular Spatio-Temporal Token Merging for Training-Free Acceleration of Video LLMs" (Hyun
et al., 2025).

Legend: N rows, M nodes, K leaves, D features.
"""

from dataclasses import replace
from typing import ClassVar, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from vidcomp.compress._images import frame_ranks
from vidcomp.compress.base import About, Merge
from vidcomp.errors import BudgetError, ShapeError
from vidcomp.functional.geometry import check_dense, nearest_cells
from vidcomp.functional.merge import float_rows, merge_in_order
from vidcomp.functional.quadtree import (
    Quadtree,
    alike,
    covering_nodes,
    leaf_shares,
    links_in_time,
    node_rows,
    node_scores,
    quadtree,
)
from vidcomp.functional.quadtree_cut import cut_to, early_representatives
from vidcomp.functional.reduce import group_sum
from vidcomp.registry import COMPRESSORS
from vidcomp.types import VideoTokens

__all__ = ["Leaves", "Sttm"]


class Leaves(NamedTuple):
    """What the published form leaves, in its order."""

    group: Tensor
    """[N] int64 token that each row goes to."""
    tokens: Tensor
    """[K, D] means over leaves."""
    box: Tensor
    """[K, 5] int64 (t, h, w) of the first leaf of each, and (h, w) past its end."""


@COMPRESSORS.add("sttm")
class Sttm(Merge):
    """Squares of similar tokens become one, and similar squares of neighbouring frames join.

    Each frame is a tree of cells of 2 x 2 cells.  A cell stays whole if it is similar to each of
    its parts; leaves of neighbouring frames, one of which lies within the other, are linked if
    they are similar.  Provenance tells the boxes.  Mode ``exact`` lowers one threshold for
    cells and links until the budget is met, and lets the weakest links go; leaves are linked if
    they are as alike as the parts of a cell at the threshold are to each other.

    Mode ``published`` keeps what the original does: two thresholds; a cell with fewer than four
    parts, at the border of an odd side, is also compared with the first cell of the picture; a
    token is the plain mean of its leaves, however large each is; and links are followed until
    nothing seems to change, by a test that leaves some linked leaves apart.
    """

    about: ClassVar[About] = About(
        paper="Multi-Granular Spatio-Temporal Token Merging for Training-Free Acceleration of "
        "Video LLMs (Hyun, 2025), arXiv 2507.07990",
        cost="N D log N",
        scaling="linear",
        accuracy="LLaVA-Video-7B, inside the LLM: 0.5 % lost at 50 % of the tokens, 2 % at 30 % "
        "(abstract)",
    )

    mode: Literal["exact", "published"] = "exact"
    """``published``: as many tokens as the thresholds leave, in the original's order; more than
    the budget are an error."""
    spatial: float = Field(0.85, ge=-1, le=1)
    """Least cosine of a cell with each of its parts; only in mode ``published``."""
    temporal: float | None = Field(0.55, ge=-1, le=1)
    """Least cosine of leaves that are linked, ``None``: no links; only in mode ``published``."""
    root_level: int = Field(1, ge=0)
    """Levels left out at the top, where a side has two cells; only in mode ``published``."""
    weighted: bool = False
    """Leaves weigh what they stand for; only in mode ``published``, as ``exact`` always does so."""
    heads: int = Field(1, ge=1)
    """Cosines are means over this many equal parts of the features."""

    @property
    def exact(self) -> bool:
        """False in mode ``published``."""
        return self.mode == "exact"

    def count(self, video: VideoTokens, budget: int) -> int:
        """The budget, or the tokens that the thresholds leave.

        Raises:
            BudgetError: ``published`` leaves more than the budget.
            ShapeError: features that do not split into heads, or, in mode ``published``, tokens
                that were merged or dropped, or a picture of fewer levels than are left out.
        """
        self._features(video)
        if self.mode == "exact":
            return budget
        return self._check(len(self.leaves(video).tokens), len(video), budget)

    def groups(self, video: VideoTokens, budget: int) -> Tensor:
        """[N] int64 group of each row."""
        if self.mode == "published":
            return self.leaves(video).group
        tree = _tree(video)
        rows = node_rows(tree, self._features(video), video.mass, heads=self.heads)
        return cut_to(tree, rows, budget)

    def reduce(self, video: VideoTokens, budget: int) -> VideoTokens:
        """One token a group."""
        if self.mode == "exact":
            return super().reduce(video, budget)
        found = self.leaves(video)
        self._check(len(found.tokens), len(video), budget)
        return replace(merge_in_order(video, found.group), tokens=found.tokens)

    def leaves(self, video: VideoTokens) -> Leaves:
        """The tokens of mode ``published``, whatever the budget.

        Raises:
            ShapeError: tokens that were merged or dropped, or too few levels.
        """
        x_ND = self._features(video)
        check_dense(video)
        tree = _tree(video, full=False, skip=self.root_level)
        rows = node_rows(tree, x_ND, video.mass, heads=self.heads, equal=not self.weighted)
        kept_M = node_scores(tree, rows, corner=True) >= self.spatial
        kept_M[: len(video)] = False
        cover_M = covering_nodes(tree, kept_M)
        leaf_K, number_M = _in_order(tree, cover_M)
        first_K = torch.arange(len(leaf_K), device=leaf_K.device)
        if self.temporal is not None:
            link_E2 = links_in_time(tree, cover_M)
            similar_E = alike(rows, link_E2[:, 0], link_E2[:, 1])
            link_E2 = number_M[link_E2[similar_E >= self.temporal]]
            first_K = early_representatives(link_E2, len(leaf_K))
        kept_K, group_K = torch.unique(first_K, return_inverse=True)
        group_N = group_K[number_M[cover_M[: len(video)]]]
        share_N = torch.ones_like(video.mass) if self.weighted else leaf_shares(tree, cover_M)
        share_N = share_N / group_sum(share_N, group_N, len(kept_K))[group_N]
        tokens = group_sum(x_ND, group_N, len(kept_K), share_N, dtype=x_ND.dtype)
        box = torch.cat([tree.frame[leaf_K][:, None], tree.box[leaf_K]], dim=1)
        return Leaves(group_N, tokens, box[kept_K])

    def _features(self, video: VideoTokens) -> Tensor:
        x_ND = float_rows("tokens", video.tokens)
        if x_ND.shape[1] % self.heads:
            raise ShapeError(
                f"{x_ND.shape[1]} features do not split into heads={self.heads}: give the number "
                f"of heads of the model, or 1"
            )
        return x_ND

    def _check(self, count: int, num_tokens: int, budget: int) -> int:
        if count > budget:
            raise BudgetError(
                f"'sttm' with spatial={self.spatial} and temporal={self.temporal} leaves {count} "
                f"of {num_tokens} tokens, more than a budget of {budget}: lower them or use "
                f"mode='exact'"
            )
        return count


def _in_order(tree: Quadtree, cover_M: Tensor) -> tuple[Tensor, Tensor]:
    """[K] leaves in the order of their first cells, and [M] the place of each in it."""
    leaf_K = torch.unique(cover_M[: tree.starts[1]])
    frame_K, (h_K, w_K) = tree.frame[leaf_K], tree.box[leaf_K, :2].unbind(dim=1)
    side = int(tree.box.max())
    leaf_K = leaf_K[((frame_K * side + h_K) * side + w_K).argsort()]
    number_M = torch.full_like(cover_M, -1)
    number_M[leaf_K] = torch.arange(len(leaf_K), device=leaf_K.device)
    return leaf_K, number_M


def _tree(video: VideoTokens, *, full: bool = True, skip: int = 0) -> Quadtree:
    cell_N2 = nearest_cells(video.positions[:, 1:])
    return quadtree(frame_ranks(video), cell_N2, video.grid[1:], full=full, skip=skip)
