"""Projectors of an encoder's dense grid: work on maps, with the cells that come out as provenance.

Legend: B videos of one grid, N rows, T H W the grid, I J K its cells that come out (over time,
height, width), D features in, E features out.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby

import torch
from torch import Tensor

from vidcomp.errors import ShapeError
from vidcomp.functional.geometry import is_dense
from vidcomp.functional.pool import adaptive_weights
from vidcomp.functional.regrid import regrid
from vidcomp.projectors.base import Projector
from vidcomp.projectors.blocks import apart, end_to_end, untraced
from vidcomp.types import Grid, Query, VideoTokens

__all__ = ["GridwiseProjector"]


class GridwiseProjector(Projector):
    """Subclasses write ``maps`` and ``cells``; ``before`` and ``after`` act on single rows.

    A call runs ``before`` on the rows of all videos, ``maps`` on all videos of one grid and one
    grid of cells, ``after`` on the rows that came out of all of them: as few passes as possible.
    """

    @abstractmethod
    def cells(self, grid: Grid, budget: int | None = None) -> Grid:
        """The grid that comes out of one of patches.

        Raises:
            BudgetError: elastic, and no grid within ``budget`` can be reached.
            ShapeError: the method has no meaning for this grid.
        """

    @abstractmethod
    def maps(self, x_BTHWD: Tensor, cells: Grid) -> Tensor:
        """[B, I, J, K, E] of [B, T, H, W, D], in raster order; the input is not written to."""

    def num_tokens(self, grid: Grid, budget: int | None = None) -> int:
        """As many as ``cells``."""
        return self.cells(grid, budget).num_patches

    def features(self, video: VideoTokens) -> Tensor:
        """[N, D] what of a video goes in: its tokens, unless a method reads extras too."""
        return video.tokens

    def before(self, x_ND: Tensor) -> Tensor:
        """Rows before the maps."""
        return x_ND

    def after(self, x_ND: Tensor) -> Tensor:
        """Rows after the maps."""
        return x_ND

    def footprint(self, grid: Grid, cells: Grid) -> tuple[Tensor, Tensor, Tensor]:
        """[I, T], [J, H], [K, W] float: share of each frame, row and column of patches in each
        cell; rows sum to 1.  Adaptive bins, unless a method says otherwise.
        """
        t, h, w = (adaptive_weights(size, bins) for size, bins in zip(grid, cells, strict=True))
        return t, h, w

    def finish(self, video: VideoTokens, cells: Grid) -> VideoTokens:  # noqa: ARG002
        """What is added to a video that came out, as newlines; nothing by default."""
        return video

    def project(
        self,
        videos: Sequence[VideoTokens],
        budgets: Sequence[int | None],
        queries: Sequence[Query | None],  # noqa: ARG002
    ) -> list[VideoTokens]:
        """Videos of one grid side by side."""
        cells = [self.cells(v.grid, b) for v, b in zip(videos, budgets, strict=True)]
        rows = self.before(end_to_end([self._features(video) for video in videos]))
        parts = apart(rows, [v.grid.num_patches for v in videos])
        maps = self._grouped([v.grid for v in videos], cells, parts)
        out = apart(self.after(end_to_end(maps)), [c.num_patches for c in cells])
        return [
            self.finish(self._follow(v, c, x), c)
            for v, c, x in zip(videos, cells, out, strict=True)
        ]

    def _grouped(
        self, grids: Sequence[Grid], cells: Sequence[Grid], parts: Sequence[Tensor]
    ) -> list[Tensor]:
        """[I * J * K, E] of every video, those of equal grids in one call of ``maps``."""
        kinds = list(zip(grids, cells, strict=True))
        order = sorted(range(len(kinds)), key=kinds.__getitem__)
        found: dict[int, Tensor] = {}
        for (grid, out), group in groupby(order, key=kinds.__getitem__):
            index = list(group)
            x_BTHWD = end_to_end([parts[i].view(1, *grid, -1) for i in index])
            rows = self.maps(x_BTHWD, out).flatten(0, 3)
            found |= zip(index, apart(rows, [out.num_patches] * len(index)), strict=True)
        return [found[i] for i in range(len(kinds))]

    @untraced
    def _features(self, video: VideoTokens) -> Tensor:
        if not is_dense(video):
            raise ShapeError(
                f"the projector {self.config.name!r} reads the dense grid of an encoder, got "
                f"{len(video)} tokens of a grid of {tuple(video.grid)} that were merged, dropped "
                f"or reordered: leave out the compressors, or project with 'mlp' or 'perceiver' "
                f"after them"
            )
        return self.features(video)

    @untraced
    def _follow(self, video: VideoTokens, cells: Grid, tokens: Tensor) -> VideoTokens:
        """``tokens`` with all else that belongs to the same cells."""
        axes = self.footprint(video.grid, cells)
        if all(torch.equal(axis, torch.eye(len(axis)).to(axis)) for axis in axes):
            return replace(video, tokens=tokens)  # hard provenance stays hard
        return regrid(video, axes, tokens)
