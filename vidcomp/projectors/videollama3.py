"""VideoLLaMA 3: each frame interpolated to fewer cells, then an MLP.

VideoLLaMA 3: Frontier Multimodal Foundation Models for Image and Video Understanding, 2025,
https://arxiv.org/abs/2501.13106.  The original's vision tower orders patches window by window and
puts them back on the grid before it interpolates; here they lie on it from the start.
"""

from collections.abc import Mapping
from typing import Self

import torch
from pydantic import Field
from torch import Tensor

from vidcomp.functional.pool import bilinear_weights
from vidcomp.projectors.base import ProjectorAbout
from vidcomp.projectors.frame_cells import frame_cells
from vidcomp.projectors.pooled import PooledConfig, PooledProjector
from vidcomp.projectors.pooling import between_cells
from vidcomp.registry import PROJECTORS
from vidcomp.types import Grid

__all__ = ["VideoLlama3", "VideoLlama3Config"]


@PROJECTORS.add("videollama3")
class VideoLlama3Config(PooledConfig):
    """Bilinear interpolation of each frame, then an MLP (VideoLLaMA 3)."""

    about = ProjectorAbout(
        paper="VideoLLaMA 3: Frontier Multimodal Foundation Models for Image and Video "
        "Understanding (Zhang, 2025)",
        tokens="patches / `merge_size`², or what a budget allows",
        reads="grid",
        checkpoint="transformers' VideoLlama3Projector",
    )

    merge_size: int = Field(2, ge=1)
    """Patches along each side of a cell: the original has 2 for videos and 1 for images."""

    def module(self) -> "VideoLlama3":
        """A ``VideoLlama3`` with torch's default initial weights."""
        return VideoLlama3(self)


class VideoLlama3(PooledProjector):
    """At most two patches along a side count in a cell; what no cell reads is left out."""

    config: VideoLlama3Config
    pools_first = True
    reference_names = ((r"^layers\.", "readout."),)

    def cells(self, grid: Grid, budget: int | None = None) -> Grid:
        """Sides over ``merge_size``, rounded down; with a budget the largest grid that all frames
        can have within it.

        Raises:
            ShapeError: a side is shorter than ``merge_size``.
            BudgetError: ``budget`` is less than one token a frame.
        """
        if budget is None:
            return self._divided(grid, self.config.merge_size)
        return frame_cells("videollama3", grid.per_frame, grid, budget)

    def maps(self, x_BTHWD: Tensor, cells: Grid) -> Tensor:
        """Frames interpolated."""
        return between_cells(x_BTHWD, cells)

    def footprint(self, grid: Grid, cells: Grid) -> tuple[Tensor, Tensor, Tensor]:
        """What the interpolation reads."""
        rows_JH, columns_KW = (
            bilinear_weights(size, bins) for size, bins in zip(grid[1:], cells[1:], strict=True)
        )
        return torch.eye(grid.t, dtype=rows_JH.dtype), rows_JH, columns_KW

    def load_reference(self, state: Mapping[str, Tensor]) -> Self:
        """Weights by the names of transformers, below ``projector`` or not."""
        starts = ("model.projector.", "projector.")
        for start in starts:
            state = {name.removeprefix(start): tensor for name, tensor in state.items()}
        return super().load_reference(state)
