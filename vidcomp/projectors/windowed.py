"""Projectors in which one query reads each window of a frame and takes its place.

Legend: B videos of one grid, T frames, H W patches, J K windows along height and width, F = B * T
frames of all videos, P patches of a frame, N rows of a video, D features in, E features out.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from vidcomp.errors import ShapeError
from vidcomp.functional.grids import cell_edges
from vidcomp.projectors.base import ProjectorConfig
from vidcomp.projectors.blocks import FrameEmbedding, untraced
from vidcomp.projectors.frame_cells import frame_cells
from vidcomp.projectors.gridwise import GridwiseProjector
from vidcomp.projectors.windows import Edges, Windows, edge_weights, window_edges
from vidcomp.types import Grid, Query, VideoTokens

__all__ = ["WindowedConfig", "WindowedProjector"]

_OWN = "tokens"
"""The name of a video's tokens among its levels."""


class WindowedConfig(ProjectorConfig):
    """Settings of windows and of what is read in them."""

    levels: tuple[tuple[str, int], ...] = ()
    """Features of several layers of the encoder that are read side by side: (name, features) of
    each, in the order of the checkpoint.  They are extras of the video of these names, and the
    name ``tokens`` is that of its tokens.  Empty: the tokens alone."""
    max_frames: int = Field(0, ge=0)
    """Rows of a learned table of frame embeddings, zero before training, added to what is read and
    stretched over videos of more frames; 0: none, as in the original."""

    @property
    @abstractmethod
    def window(self) -> tuple[int, int]:
        """Patches of a window along height and width."""

    @property
    def dim_levels(self) -> int:
        """Features of all levels."""
        return sum(width for _, width in self.levels) or self.dim_in

    @model_validator(mode="after")
    def _check_levels(self) -> Self:
        names = [name for name, _ in self.levels]
        if len(set(names)) < len(names) or any(width < 1 for _, width in self.levels):
            raise ValueError(
                f"{self.name!r} wants levels by distinct names with at least one feature, got "
                f"{list(self.levels)}: name each once"
            )
        if dict(self.levels).get(_OWN, self.dim_in) != self.dim_in:
            raise ValueError(
                f"{self.name!r} has dim_in={self.dim_in}, but its level {_OWN!r} has "
                f"{dict(self.levels)[_OWN]} features: make them equal"
            )
        return self


class WindowedProjector(GridwiseProjector):
    """Subclasses write ``read``; extras that are levels are read up and do not go on.

    Windows lie side by side.  Those that do not divide a side are smaller at both ends of it, and
    attention is masked there.  With a budget they are as small, and as equal, as it allows.
    """

    config: WindowedConfig
    is_elastic = True

    def __init__(self, config: WindowedConfig, dim_read: int) -> None:
        super().__init__(config)
        frames = config.max_frames
        self.frame_emb = FrameEmbedding(frames, dim_read) if frames else None

    @abstractmethod
    def read(self, x_FHWD: Tensor, rows: Edges, columns: Edges) -> Tensor:
        """[F * J * K, E] what is read in each window.

        Args:
            x_FHWD: the video's tokens, and beside them its levels if there are any.
            rows: windows along the height.
            columns: windows along the width.
        """

    def cells(self, grid: Grid, budget: int | None = None) -> Grid:
        """Windows of the size that the settings say; with a budget the largest grid of windows
        that all frames can have within it.

        Raises:
            BudgetError: ``budget`` is less than one token a frame.
        """
        sizes = zip(grid[1:], self.config.window, strict=True)
        h, w = (-(-size // length) for size, length in sizes)
        return frame_cells(self.config.name, (h, w), grid, budget)

    def maps(self, x_BTHWD: Tensor, cells: Grid) -> Tensor:
        """What is read in each window, and the embedding of its frame."""
        b, t, h, w, _ = x_BTHWD.shape
        rows, columns = self._edges(Grid(t, h, w), cells)
        read = self.read(x_BTHWD.flatten(0, 1), rows, columns)
        x_BTJKE = read.view(b, *cells, -1)
        if self.frame_emb is None:
            return x_BTJKE
        frame_TE: Tensor = self.frame_emb(torch.arange(t, device=read.device), t)
        return x_BTJKE + frame_TE[:, None, None]

    def footprint(self, grid: Grid, cells: Grid) -> tuple[Tensor, Tensor, Tensor]:
        """The windows, all patches of one alike."""
        h, w = (
            edge_weights(size, edges)
            for size, edges in zip(grid[1:], self._edges(grid, cells), strict=True)
        )
        return torch.eye(grid.t, dtype=torch.float64), h, w

    def project(
        self,
        videos: Sequence[VideoTokens],
        budgets: Sequence[int | None],
        queries: Sequence[Query | None],
    ) -> list[VideoTokens]:
        """Videos of one grid side by side."""
        return super().project([self._with_levels(v) for v in videos], budgets, queries)

    def joined(self, tokens_ND: Tensor, levels: Sequence[Tensor]) -> Tensor:
        """[N, ...] what a window reads of tokens and levels: the levels, if there are any."""
        return torch.cat(list(levels), dim=1) if levels else tokens_ND

    @untraced
    def _with_levels(self, video: VideoTokens) -> VideoTokens:
        """The video whose tokens are what is read, without the extras that are part of it."""
        named = {**video.extras, _OWN: video.tokens}
        for name, width in self.config.levels:
            found = named.get(name)
            if found is None or not found.is_floating_point() or found.shape[1:] != (width,):
                got = "none" if found is None else f"{list(found.shape)} {found.dtype}"
                raise ShapeError(
                    f"the projector {self.config.name!r} reads the level {name!r} as an extra "
                    f"[{len(video)}, {width}] of floats, got {got}: add it to the video's extras, "
                    f"or correct levels"
                )
        levels = [named[name].to(video.tokens.dtype) for name, _ in self.config.levels]
        rest = {n: x for n, x in video.extras.items() if n not in dict(self.config.levels)}
        return replace(video, tokens=self.joined(video.tokens, levels), extras=rest)

    def _edges(self, grid: Grid, cells: Grid) -> list[Edges]:
        """Windows along height and width: those of the settings where they give these cells."""
        found: list[Edges] = []
        for size, bins, length in zip(grid[1:], cells[1:], self.config.window, strict=True):
            edges = window_edges(size, length)
            equal = list(pairwise(cell_edges(size, bins)))
            found.append(edges if len(edges) == bins else equal)
        return found

    def windows(self, x_FHWD: Tensor, rows: Edges, columns: Edges) -> Windows:
        """The windows of frames [F, H, W, D], on their device."""
        return Windows.of(rows, columns, x_FHWD.shape[2], x_FHWD.device)
