"""DeCo: pool the patches of each frame, then let a small MLP map them; no attention in between.

DeCo: Decoupling Token Compression from Semantic Abstraction in Multimodal Large Language Models,
2024, https://arxiv.org/abs/2405.20985.  The original takes square frames only; here the pooled
grid keeps the aspect of the frame, and a budget may choose its size at run time.
"""

from vidcomp.projectors.base import ProjectorAbout
from vidcomp.projectors.frame_cells import CellsPerFrame, frame_cells
from vidcomp.projectors.pooled import PooledConfig, PooledProjector
from vidcomp.registry import PROJECTORS
from vidcomp.types import Grid

__all__ = ["Deco", "DecoConfig"]


@PROJECTORS.add("deco")
class DecoConfig(PooledConfig):
    """Adaptive average pooling of each frame before an MLP (DeCo)."""

    about = ProjectorAbout(
        paper="DeCo: Decoupling Token Compression from Semantic Abstraction in Multimodal Large "
        "Language Models (Yao, 2024)",
        tokens="`tokens_per_frame` a frame, or what a budget allows",
        reads="grid",
        checkpoint="yaolinli/DeCo `mlp_projector`",
    )

    tokens_per_frame: CellsPerFrame = 144
    """Cells of a pooled frame: a number, laid out as h x w with the aspect nearest the frame's
    among its divisors, or (h, w); more cells than patches repeat patches."""

    def module(self) -> "Deco":
        """A ``Deco`` with torch's default initial weights."""
        return Deco(self)


class Deco(PooledProjector):
    """Bins of PyTorch's adaptive pooling, which overlap where they do not divide the frame."""

    config: DecoConfig
    pools_first = True
    reference_names = ((r"^layers\.", "mlp_projector."),)

    def cells(self, grid: Grid, budget: int | None = None) -> Grid:
        """``tokens_per_frame`` each; with a budget the largest pooled grid that all frames can
        have within it.

        Raises:
            BudgetError: ``budget`` is less than one token a frame.
        """
        return frame_cells("deco", self.config.tokens_per_frame, grid, budget)
