"""DeCo: pool the patches of each frame, then let a small MLP map them; no attention in between.

DeCo: Decoupling Token Compression from Semantic Abstraction in Multimodal Large Language Models,
2024, https://arxiv.org/abs/2405.20985.  The original takes square frames only; here the pooled
grid keeps the aspect of the frame, and a budget may choose its size at run time.

Legend: T frames, H W patches of a frame, I J pooled cells of a frame, D features.
"""

import math
from collections.abc import Sequence

import torch
from pydantic import Field, field_validator
from torch import Tensor

from vidcomp.errors import BudgetError, ShapeError
from vidcomp.functional.geometry import dense, is_dense
from vidcomp.functional.grids import fit_grid
from vidcomp.functional.merge import resample
from vidcomp.functional.pool import adaptive_weights, grid_weights
from vidcomp.functional.reduce import real
from vidcomp.projectors.base import Projector, ProjectorConfig
from vidcomp.projectors.blocks import mlp, untraced
from vidcomp.registry import PROJECTORS
from vidcomp.types import Grid, VideoTokens

__all__ = ["Deco", "DecoConfig"]


@PROJECTORS.add("deco")
class DecoConfig(ProjectorConfig):
    """Adaptive average pooling of each frame before an MLP (DeCo)."""

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


class Deco(Projector):
    """Bins of PyTorch's adaptive pooling, which overlap where they do not divide the frame."""

    config: DecoConfig
    is_elastic = True
    reference_names = ((r"^layers\.", "mlp_projector."),)

    def __init__(self, config: DecoConfig) -> None:
        super().__init__(config)
        self.layers = mlp(config.dim_in, *[config.dim_out] * config.depth)

    def num_tokens(self, grid: Grid, budget: int | None = None) -> int:
        """``tokens_per_frame`` each; with a budget the largest pooled grid that all frames can
        have within it.
        """
        return self.cells(grid, budget).num_patches

    def cells(self, grid: Grid, budget: int | None = None) -> Grid:
        """The pooled grid.

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

    def project(
        self, videos: Sequence[VideoTokens], budgets: Sequence[int | None]
    ) -> list[VideoTokens]:
        """Every frame pooled, then the pooled tokens of all videos in one pass."""
        cells = [self.cells(v.grid, b) for v, b in zip(videos, budgets, strict=True)]
        pooled = [_pooled(_dense(v), c) for v, c in zip(videos, cells, strict=True)]
        rows = self.layers(torch.cat(pooled)).split([len(p) for p in pooled])
        return [_follow(v, c, part) for v, c, part in zip(videos, cells, rows, strict=True)]


@untraced
def _dense(video: VideoTokens) -> Tensor:
    if not is_dense(video):
        raise ShapeError(
            f"the projector 'deco' pools the dense grid of an encoder, got {len(video)} tokens of "
            f"a grid of {tuple(video.grid)} that were merged, dropped or reordered: leave out the "
            f"compressors, or project with 'mlp' or 'perceiver' after them"
        )
    return dense(video)


def _pooled(x_THWD: Tensor, cells: Grid) -> Tensor:
    """[T * I * J, D] means of the bins, reduced in float32 or better."""
    _, h, w, _ = x_THWD.shape
    wide_THWD = real(x_THWD)
    rows_IH, columns_JW = (
        adaptive_weights(size, bins).to(wide_THWD) for size, bins in ((h, cells.h), (w, cells.w))
    )
    with torch.autocast(x_THWD.device.type, enabled=False):  # means stay means in half precision
        x_TIJD = torch.einsum("ih,jw,thwd->tijd", rows_IH, columns_JW, wide_THWD)
    return x_TIJD.flatten(0, 2).to(x_THWD.dtype)


@untraced
def _follow(video: VideoTokens, cells: Grid, tokens: Tensor) -> VideoTokens:
    """``tokens`` [T * I * J, D] with all else that belongs to the same means."""
    axes = [adaptive_weights(size, bins) for size, bins in zip(video.grid, cells, strict=True)]
    return resample(video, grid_weights(axes, video.tokens.device), tokens)


def _factored(count: int, aspect: float) -> tuple[int, int]:
    """(h, w) whose product is ``count`` and whose quotient is nearest ``aspect``, in ratio; ties
    to the larger h.
    """
    heights = [h for h in range(count, 0, -1) if count % h == 0]
    height = min(heights, key=lambda h: abs(math.log(h * h / count / aspect)))
    return height, count // height
