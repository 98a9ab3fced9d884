"""PLLaVA: an MLP on every patch, then means over a fixed grid of time, height and width.

PLLaVA: Parameter-free LLaVA Extension from Images to Videos for Video Dense Captioning, 2024,
https://arxiv.org/abs/2404.16994.  Short clips are brought to the fixed number of frames by bins
that overlap, which is the original's repetition of frames where it divides.
"""

from pydantic import Field

from vidcomp.errors import BudgetError
from vidcomp.projectors.base import ProjectorAbout
from vidcomp.projectors.frame_cells import CellsPerFrame, frame_cells
from vidcomp.projectors.pooled import PooledConfig, PooledProjector
from vidcomp.registry import PROJECTORS
from vidcomp.types import Grid

__all__ = ["Pllava", "PllavaConfig"]


@PROJECTORS.add("pllava")
class PllavaConfig(PooledConfig):
    """An MLP, then adaptive average pooling over time and space (PLLaVA)."""

    about = ProjectorAbout(
        paper="PLLaVA: Parameter-free LLaVA Extension from Images to Videos for Video Dense "
        "Captioning (Xu, 2024)",
        tokens="`num_frames` x `tokens_per_frame`, or what a budget allows",
        reads="grid",
        checkpoint="magic-research/PLLaVA PllavaMultiModalProjector",
    )

    num_frames: int = Field(16, ge=1)
    """Frames that come out (the first of ``pooling_shape``), however many go in."""
    tokens_per_frame: CellsPerFrame = 144
    """Cells of each of them (the rest of ``pooling_shape``): a number, laid out as h x w with the
    aspect nearest the frame's among its divisors, or (h, w)."""

    def module(self) -> "Pllava":
        """A ``Pllava`` with torch's default initial weights."""
        return Pllava(self)


class Pllava(PooledProjector):
    """Any video has the same number of tokens; with a budget, as many frames as came in at most."""

    config: PllavaConfig
    reference_names = ((r"^layers\.", ""),)

    def cells(self, grid: Grid, budget: int | None = None) -> Grid:
        """``num_frames`` and ``tokens_per_frame``; with a budget no more frames than came in, each
        with the largest pooled grid that all can have, and if there are fewer tokens than frames,
        one token for each run of frames.

        Raises:
            BudgetError: ``budget`` is less than 1.
        """
        if budget is None:
            frames = grid._replace(t=self.config.num_frames)
            return frame_cells("pllava", self.config.tokens_per_frame, frames, None)
        if budget < 1:
            raise BudgetError(
                f"the projector 'pllava' needs at least 1 token, got a budget of {budget}: raise it"
            )
        num_frames = min(self.config.num_frames, grid.t, budget)
        frames = grid._replace(t=num_frames)
        return frame_cells("pllava", self.config.tokens_per_frame, frames, budget)
