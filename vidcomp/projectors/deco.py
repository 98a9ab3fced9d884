"""DeCo: pool the patches of each frame, then let a small MLP map them; no attention in between.

DeCo: Decoupling Token Compression from Semantic Abstraction in Multimodal Large Language Models,
2024, https://arxiv.org/abs/2405.20985.  The original takes square frames only; here the pooled
grid keeps the aspect of the frame, and a budget may choose its size at run time.

Legend: B videos, T frames, H W patches of a frame, J K pooled cells of a frame, D features.
"""

import math

import torch
from pydantic import Field, field_validator
from torch import Tensor

from vidcomp.errors import BudgetError
from vidcomp.functional.grids import fit_grid
from vidcomp.functional.pool import adaptive_weights
from vidcomp.functional.reduce import real
from vidcomp.projectors.base import ProjectorAbout, ProjectorConfig
from vidcomp.projectors.blocks import mlp
from vidcomp.projectors.gridwise import GridwiseProjector
from vidcomp.registry import PROJECTORS
from vidcomp.types import Grid

__all__ = ["Deco", "DecoConfig"]


@PROJECTORS.add("deco")
class DecoConfig(ProjectorConfig):
    """Adaptive average pooling of each frame before an MLP (DeCo)."""

    about = ProjectorAbout(
        paper="DeCo: Decoupling Token Compression from Semantic Abstraction in Multimodal Large "
        "Language Models (Yao, 2024)",
        tokens="`tokens_per_frame` a frame, or what a budget allows",
        reads="grid",
        checkpoint="yaolinli/DeCo `mlp_projector`",
    )

    tokens_per_frame: int | tuple[int, int] = 144
    """Cells of a pooled frame: a number, laid out as h x w with the aspect nearest the frame's
    among its divisors, or (h, w); more cells than patches repeat patches."""
    depth: int = Field(2, ge=1)
    """Linear layers of the MLP (``layer_num``)."""

    @field_validator("tokens_per_frame", mode="before")
    @classmethod
    def _check_cells(cls, value: object) -> object:
        sizes = value if isinstance(value, list | tuple) and len(value) == 2 else [value]
        if not all(type(size) is int and size >= 1 for size in sizes):
            raise ValueError(
                f"'deco' setting 'tokens_per_frame' is a number of cells or a pair (h, w), each at "
                f"least 1, got {value!r}: pass e.g. 144 or [12, 12]"
            )
        return value

    def module(self) -> "Deco":
        """A ``Deco`` with torch's default initial weights."""
        return Deco(self)


class Deco(GridwiseProjector):
    """Bins of PyTorch's adaptive pooling, which overlap where they do not divide the frame."""

    config: DecoConfig
    is_elastic = True
    reference_names = ((r"^layers\.", "mlp_projector."),)

    def __init__(self, config: DecoConfig) -> None:
        super().__init__(config)
        self.layers = mlp(config.dim_in, *[config.dim_out] * config.depth)

    def cells(self, grid: Grid, budget: int | None = None) -> Grid:
        """``tokens_per_frame`` each; with a budget the largest pooled grid that all frames can
        have within it.

        Raises:
            BudgetError: ``budget`` is less than one token a frame.
        """
        if budget is not None:
            if budget < grid.t:
                raise BudgetError(
                    f"the projector 'deco' keeps every frame, so {grid.t} frames need at least "
                    f"{grid.t} tokens and the budget is {budget}: sample fewer frames or raise it"
                )
            frame = Grid(1, grid.h, grid.w)
            cells, _ = fit_grid(frame, budget // grid.t, (False, True, True))
            return cells._replace(t=grid.t)
        wanted = self.config.tokens_per_frame
        h, w = _factored(wanted, grid.h / grid.w) if isinstance(wanted, int) else wanted
        return Grid(grid.t, h, w)

    def maps(self, x_BTHWD: Tensor, cells: Grid) -> Tensor:
        """Means of the bins, reduced in float32 or better."""
        _, _, h, w, _ = x_BTHWD.shape
        wide_BTHWD = real(x_BTHWD)
        rows_JH, columns_KW = (
            adaptive_weights(size, bins).to(wide_BTHWD)
            for size, bins in ((h, cells.h), (w, cells.w))
        )
        with torch.autocast(x_BTHWD.device.type, enabled=False):  # means stay means in half
            x_BTJKD = torch.einsum("jh,kw,bthwd->btjkd", rows_JH, columns_KW, wide_BTHWD)
        return x_BTJKD.to(x_BTHWD.dtype)

    def after(self, x_ND: Tensor) -> Tensor:
        """The MLP."""
        out: Tensor = self.layers(x_ND)
        return out


def _factored(count: int, aspect: float) -> tuple[int, int]:
    """(h, w) whose product is ``count`` and whose quotient is nearest ``aspect``, in ratio; ties
    to the larger h.
    """
    heights = [h for h in range(count, 0, -1) if count % h == 0]
    height = min(heights, key=lambda h: abs(math.log(h * h / count / aspect)))
    return height, count // height
