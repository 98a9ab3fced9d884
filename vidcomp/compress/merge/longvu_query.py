"""Frames that answer a question in full, the others coarser, and then what differs in each chunk.

"LongVU: Spatiotemporal Adaptive Compression for Long Video-Language Understanding" (Shen et al.,
2024).

Legend: N rows, T frames, Q texts, D features.
"""

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from vidcomp.compress._images import frame_ranks
from vidcomp.compress.base import About, Kind, QueryAware
from vidcomp.compress.merge._units import frame_features
from vidcomp.compress.prune.longvu import changes_in_chunks, distinct_frames
from vidcomp.errors import ShapeError
from vidcomp.functional.change import strongest
from vidcomp.functional.geometry import local_positions
from vidcomp.functional.grids import cell_numbers
from vidcomp.functional.merge import float_rows, merge
from vidcomp.functional.similarity import cosine
from vidcomp.functional.windows import first_rows, window_likeness
from vidcomp.registry import COMPRESSORS
from vidcomp.types import Grid, VideoTokens

__all__ = ["LongvuQuery"]


@COMPRESSORS.add("longvu_query")
class LongvuQuery(QueryAware):
    """Frames are pooled unless the question asks for them, between the two steps of ``longvu``.

    Redundant frames are dropped first.  The others are ranked by their mean cosine with the rows
    of the query; as few of the best as the budget needs stay in full, and the rest are pooled over
    cells, ``coarse`` of their number.  What is still too much is dropped as in ``longvu``: tokens
    that are most like the first at their place in a chunk.

    The original compares text and frames in the space of the language model, by attention without
    weights of its own; here it is the space of the query that is bound.
    """

    kind: ClassVar[Kind] = "mixed"
    about: ClassVar[About] = About(
        paper="LongVU: Spatiotemporal Adaptive Compression for Long Video-Language Understanding "
        "(Shen, 2024), arXiv 2410.17434",
        needs=("features", "query"),
        cost="N D",
        scaling="linear",
        accuracy="LongVU-7B, trained with it: VideoMME 60.6, MLVU 65.4, EgoSchema 67.6, MVBench "
        "66.9 (model card)",
    )

    coarse: float = Field(4 / 9, gt=0, le=1)
    """Share of the cells that a pooled frame has; 64 of 144 in the original."""
    frame_threshold: float = Field(0.83, ge=-1)
    """Least mean cosine with its window of a frame that may go; above 1 none does."""
    window: int = Field(16, ge=1)
    """Frames of a window."""
    frame_features: str | None = None
    """Frame extra that frames and the query are compared by; ``None``: the mean of their tokens."""
    chunk: int = Field(8, ge=1)
    """Frames of a chunk."""

    def count(self, video: VideoTokens, budget: int) -> int:
        """The budget.

        Raises:
            ConfigError: no query was bound.
            ShapeError: integer ids, no such frame extra, or a query of another width.
        """
        self._frames(video)
        return budget

    def reduce(self, video: VideoTokens, budget: int) -> VideoTokens:
        """Rows of full frames, means of cells of the others, less what is redundant."""
        frame_N, frame_TD, relevance_T = self._frames(video)
        likeness_T = window_likeness(frame_TD, self.window)
        stays_T = distinct_frames(likeness_T, frame_N, budget, self.frame_threshold)
        group_N = self._resolutions(video, frame_N, stays_T, relevance_T, budget)
        merged = merge(video, group_N)
        row_K = torch.arange(len(merged), device=group_N.device)
        change_K = changes_in_chunks(merged, row_K, self.chunk)[1]
        return merged.select(strongest(change_K, budget))

    def _frames(self, video: VideoTokens) -> tuple[Tensor, Tensor, Tensor]:
        """[N] frame of each row, [T, D] what stands for a frame, [T] its relevance."""
        float_rows("tokens", video.tokens)
        frame_N = frame_ranks(video)
        frame_TD = frame_features(video, frame_N, self.frame_features, self.name)
        query_QD = self.query.embedding.to(frame_TD.device)
        if frame_TD.shape[1] != query_QD.shape[1]:
            raise ShapeError(
                f"'longvu_query' compares frames of {frame_TD.shape[1]} features with a query of "
                f"{query_QD.shape[1]}: bind a query of the space of frame_features"
            )
        return frame_N, frame_TD, cosine(frame_TD, query_QD).double().mean(dim=1).float()

    def _resolutions(
        self, video: VideoTokens, frame_N: Tensor, stays_T: Tensor, relevance_T: Tensor, budget: int
    ) -> Tensor:
        """[N] int64 group of each row: itself in a full frame, its cell in others, or -1."""
        side = self.coarse**0.5
        cells = Grid(video.grid.t, *(max(1, round(n * side)) for n in video.grid[1:]))
        cell_N = cell_numbers(local_positions(video), video.grid, cells)
        # Positions may lie between two frames, and every row has a cell of its own frame.
        cell_N = frame_N * cells.per_frame + cell_N % cells.per_frame
        is_full_T = _full_frames(frame_N, cell_N, stays_T, relevance_T, budget)
        row_N = torch.arange(len(frame_N), device=frame_N.device)
        label_N = torch.where(is_full_T[frame_N], row_N, len(frame_N) + cell_N)
        kept_N = stays_T[frame_N]
        group_N = torch.full_like(frame_N, -1)
        group_N[kept_N] = torch.unique(label_N[kept_N], return_inverse=True)[1]
        return group_N


def _full_frames(
    frame_N: Tensor, cell_N: Tensor, stays_T: Tensor, relevance_T: Tensor, budget: int
) -> Tensor:
    """[T] bool the fewest of the most relevant frames with which the budget can be spent."""
    row_N = torch.arange(len(frame_N), device=frame_N.device)
    begins_N = first_rows(frame_N, cell_N, frame_N) == row_N
    coarse_T = torch.bincount(frame_N[begins_N], minlength=len(stays_T))
    gain_T = torch.bincount(frame_N, minlength=len(stays_T)) - coarse_T
    ranked_T = relevance_T.masked_fill(~stays_T, -torch.inf).argsort(descending=True, stable=True)
    before_T = gain_T[ranked_T].cumsum(0) - gain_T[ranked_T] + coarse_T[stays_T].sum()
    is_full_T = torch.zeros_like(stays_T)
    is_full_T[ranked_T[before_T < budget]] = True
    return is_full_T
