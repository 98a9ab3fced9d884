"""Clusters around dense tokens that are far from denser ones.

Study on Density Peaks Clustering Based on k-Nearest Neighbors and Principal Component Analysis (Du
et al., 2016); for tokens in Chat-UniVi: Unified Visual Representation Empowers Large Language
Models with Image and Video Understanding (Jin et al., 2023).
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from vidcomp.compress._parts import time_parts
from vidcomp.compress.base import About, Merge
from vidcomp.errors import BudgetError
from vidcomp.functional.allocate import shares
from vidcomp.functional.cluster import density_peaks, peaks_in_parts
from vidcomp.functional.geometry import frame_numbers
from vidcomp.functional.grids import without_gaps
from vidcomp.functional.merge import float_rows, merge, merge_in_order
from vidcomp.registry import COMPRESSORS
from vidcomp.types import VideoTokens

__all__ = ["DpcKnn"]


@COMPRESSORS.add("dpc_knn")
class DpcKnn(Merge):
    """Tokens join the nearest of the budget's densest, farthest apart tokens, and are averaged.

    From DPC-KNN as Chat-UniVi uses it; where a token lies plays no part.  Every copy of the
    original adds random noise to the densities, we order equal ones by row.  A long video is
    clustered in parts of whole frames, which share the budget by their tokens: without parts the
    time grows with the square of all tokens.

    Mode ``published`` clusters all tokens at once, returns clusters in the order of their centres
    and keeps a quirk: with fewer clusters than ``neighbours``, at most 3 vote, and no more than
    half of the clusters.
    """

    about: ClassVar[About] = About(
        paper="Study on Density Peaks Clustering Based on k-Nearest Neighbors and Principal "
        "Component Analysis (Du, 2016); Chat-UniVi: Unified Visual Representation Empowers Large "
        "Language Models with Image and Video Understanding (Jin, 2023), arXiv 2311.08046",
        cost="N p D, parts of p tokens",
        scaling="parts",
    )

    mode: Literal["exact", "published"] = "exact"
    """``exact``: in parts, raster order.  ``published``: all tokens, the original's order."""
    scope: Literal["video", "segment", "frame"] = "segment"
    """Tokens are compared within this only; has no effect in mode ``published``."""
    segment_tokens: int = Field(4096, ge=1)
    """Tokens of a segment, if a frame has no more and the budget allows one for each; has no effect
    in other scopes."""
    neighbours: int = Field(5, ge=1)
    """Tokens that vote on a density, the token itself included."""

    @property
    def exact(self) -> bool:
        """False with ``scope="frame"``, where each frame keeps a token."""
        return self.mode == "published" or self.scope != "frame"

    def count(self, video: VideoTokens, budget: int) -> int:
        """The budget.

        Raises:
            BudgetError: fewer tokens than frames with ``scope="frame"``.
            ShapeError: integer ids.
        """
        float_rows("tokens", video.tokens)
        self._parts(video, budget)
        return budget

    def groups(self, video: VideoTokens, budget: int) -> Tensor:
        """[N] int64 cluster of each row, part after part."""
        x_ND = float_rows("tokens", video.tokens)
        if self.mode == "published":
            few = min(3, max(budget // 2, 1))
            neighbours = few if self.neighbours > budget else self.neighbours
            return density_peaks(x_ND, budget, neighbours)[1]
        part_N = self._parts(video, budget)
        size_T = torch.bincount(part_N)
        share_T = shares(size_T, budget, size_T, 1)
        return peaks_in_parts(x_ND, part_N, share_T, self.neighbours)

    def reduce(self, video: VideoTokens, budget: int) -> VideoTokens:
        """One token a cluster."""
        arrange = merge if self.mode == "exact" else merge_in_order
        return arrange(video, self.groups(video, budget))

    def _parts(self, video: VideoTokens, budget: int) -> Tensor:
        """[N] int64 part of each row."""
        frame_N = frame_numbers(video)
        if self.mode == "published" or self.scope == "video":
            return torch.zeros_like(frame_N)
        if self.scope == "segment":
            return time_parts(frame_N, self.segment_tokens, budget)
        part_N = without_gaps(frame_N)
        if budget < (frames := int(part_N.max()) + 1):
            raise BudgetError(
                f"'dpc_knn' with scope='frame' keeps at least one token of each of {frames} "
                f"frames, more than a budget of {budget}: raise the budget or use another scope"
            )
        return part_N
