"""Frames at two resolutions: which fit a budget, and the weights that make them.

Legend: T frames, N rows, E entries of a matrix [K, N], K tokens out.
"""

from abc import abstractmethod
from collections.abc import Sequence
from itertools import product
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from vidcomp.compress.base import Compressor, Kind
from vidcomp.errors import BudgetError
from vidcomp.functional.geometry import (
    first_patches,
    is_dense,
    local_positions,
    nearest_cells,
    raster_order,
)
from vidcomp.functional.grids import (
    cell_numbers,
    coarser_grids,
    count_occupied,
    occupied_patches,
    without_gaps,
)
from vidcomp.functional.merge import merge_by_assignment, resample
from vidcomp.functional.provenance import sparse_matrix
from vidcomp.functional.reduce import group_min, wide
from vidcomp.types import Grid, VideoTokens

__all__ = ["Entries", "Pathway", "PathwayStage", "fit_pathways", "joined", "pooled_pathways"]

Entries = tuple[Tensor, Tensor, Tensor]
"""New row, old row and weight of each entry of a matrix."""


class Pathway(NamedTuple):
    """Some frames, each as the cells of one grid."""

    frames: Tensor
    """[T] bool on the CPU: frames of the grid that it takes."""
    h: int
    """Cells along height."""
    w: int
    """Cells along width."""


class PathwayStage(Compressor):
    """A stage whose frames have two resolutions; it reaches the counts of grids only."""

    kind: ClassVar[Kind] = "resample"

    mode: Literal["exact", "published"] = "exact"
    """``exact``: the largest grids within the budget.  ``published``: fixed sizes; a count above
    the budget is an error."""

    @property
    def exact(self) -> bool:
        """False: only the counts of grids are reached."""
        return False

    def reduce(self, video: VideoTokens, budget: int) -> VideoTokens:
        """Both pathways."""
        if self.mode == "exact":
            return pooled_pathways(video, self.fit(video, budget)[0])
        self.count(video, budget)
        return self.published(video)

    @abstractmethod
    def fit(self, video: VideoTokens, budget: int) -> tuple[list[Pathway], int]:
        """The largest pathways within the budget, and their tokens."""

    @abstractmethod
    def published(self, video: VideoTokens) -> VideoTokens:
        """Mode ``published``, whose count is within the budget."""


def fit_pathways(
    video: VideoTokens, budget: int, frames: Sequence[Tensor], ratio: int, name: str
) -> tuple[list[Pathway], int]:
    """A fine and a coarse pathway with the most tokens within the budget, and their number.

    The fine one has the grid of the frames, or a coarser one of the same aspect; the coarse one
    has the floor or the ceiling of its sides over ``ratio``.  Only cells with tokens count.  Ties
    go to the larger fine grid, then to the larger height.

    Args:
        video: the tokens.
        budget: most tokens of both.
        frames: [T] bool of each pathway, the fine one first.
        ratio: how much coarser the second is along each side.
        name: of the stage, for the error.

    Raises:
        BudgetError: even one cell a frame is more than the budget.
    """
    grid = video.grid
    occupied = None
    if not is_dense(video):
        occupied = occupied_patches(local_positions(video), grid)
    best, best_count, least = None, 0, 0
    fine = coarser_grids(Grid(1, grid.h, grid.w), (False, True, True))
    for cells in sorted(fine, key=lambda g: (g.num_patches, g), reverse=True):
        sides = [sorted({max(1, n // ratio), -(-n // ratio)}, reverse=True) for n in cells[1:]]
        for coarse in product(*sides):
            paths = [Pathway(frames[0], *cells[1:]), Pathway(frames[1], *coarse)]
            count = sum(_count(path, occupied) for path in paths)
            least = min(count, least or count)
            if best_count < count <= budget:
                best, best_count = paths, count
    if best is None:
        raise BudgetError(
            f"{name!r} of {grid.t} frames needs at least {least} tokens, one for each frame of "
            f"each pathway, and the budget is {budget}: raise it or sample fewer frames"
        )
    return best, best_count


def pooled_pathways(video: VideoTokens, paths: Sequence[Pathway]) -> VideoTokens:
    """Mass-weighted means over the cells of each pathway, in raster order."""
    positions = local_positions(video)
    frame_N = nearest_cells(positions[:, 0])
    entries, num_rows = [], 0
    for frames, *sides in paths:
        row_n = frames.to(frame_N.device)[frame_N].nonzero().squeeze(1)
        if not len(row_n):
            continue
        cells = Grid(video.grid.t, *sides)
        group_n = without_gaps(cell_numbers(positions[row_n], video.grid, cells))
        count = int(group_n.max()) + 1
        _, mass_K = merge_by_assignment(video.mass[row_n], video.mass[row_n], group_n, count)
        share_n = wide(video.mass[row_n]) / wide(mass_K)[group_n]
        entries.append((group_n + num_rows, row_n, share_n))
        num_rows += count
    weights_KN = joined(entries, (num_rows, len(video)))
    out = resample(video, weights_KN)
    # A slow and a fast token may have one centre; rows decide if there is no provenance.
    new_E, old_E = weights_KN.indices()
    first_K = group_min(first_patches(video)[old_E], new_E, num_rows)
    return out.select(raster_order(out.positions, first_K))


def joined(entries: Sequence[Entries], shape: tuple[int, int]) -> Tensor:
    """Sparse [K, N] of the entries of several pathways."""
    new_E, old_E, value_E = (torch.cat(part) for part in zip(*entries, strict=True))
    return sparse_matrix(new_E, old_E, value_E, shape)


def _count(path: Pathway, occupied_THW: Tensor | None) -> int:
    num_frames = int(path.frames.sum())
    if occupied_THW is None or not num_frames:
        return num_frames * path.h * path.w
    return count_occupied(occupied_THW[path.frames], Grid(num_frames, path.h, path.w))
