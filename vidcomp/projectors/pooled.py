"""Projectors that are a pool of an encoder's dense grid and an MLP, before the pool or after it."""

from collections.abc import Mapping
from typing import ClassVar, Self

from pydantic import Field, model_validator
from torch import Tensor

from vidcomp.errors import ShapeError
from vidcomp.projectors.base import ProjectorConfig
from vidcomp.projectors.blocks import mlp
from vidcomp.projectors.checkpoint import numbered
from vidcomp.projectors.gridwise import GridwiseProjector
from vidcomp.projectors.pooling import mean_cells
from vidcomp.types import Grid

__all__ = ["PooledConfig", "PooledProjector"]


class PooledConfig(ProjectorConfig):
    """Settings of the MLP."""

    depth: int = Field(2, ge=0)
    """Linear layers of the MLP; 0: none, the pool alone."""

    @model_validator(mode="after")
    def _check_width(self) -> Self:
        if self.depth == 0 and self.dim_in != self.dim_out:
            raise ValueError(
                f"a pool alone keeps the width, got dim_in={self.dim_in} and "
                f"dim_out={self.dim_out}: make them equal or set depth"
            )
        return self


class PooledProjector(GridwiseProjector):
    """Means over adaptive bins, and an MLP called ``layers``.

    With a budget the pooled grid is the largest that fits it; ``cells`` says how.
    """

    config: PooledConfig
    is_elastic = True
    pools_first: ClassVar[bool] = False
    """Whether the MLP comes after the pool; they do not commute."""

    def __init__(self, config: PooledConfig) -> None:
        super().__init__(config)
        self.layers = mlp(config.dim_in, *[config.dim_out] * config.depth)

    def before(self, x_ND: Tensor) -> Tensor:
        """The MLP, if it comes first."""
        return x_ND if self.pools_first else self.layers(x_ND)

    def maps(self, x_BTHWD: Tensor, cells: Grid) -> Tensor:
        """Means over adaptive bins."""
        return mean_cells(x_BTHWD, cells)

    def after(self, x_ND: Tensor) -> Tensor:
        """The MLP, if it comes last."""
        return self.layers(x_ND) if self.pools_first else x_ND

    def load_reference(self, state: Mapping[str, Tensor]) -> Self:
        """Weights by the original's names or by those of transformers (``linear_1.weight`` ...)."""
        return super().load_reference(numbered(state, self._prefix()))

    def _prefix(self) -> str:
        """Of the numbers of the MLP's layers in the original checkpoint."""
        names = self.original_names()
        return names.get("layers.0.weight", "").removesuffix("0.weight")

    def _divided(self, grid: Grid, ratio: int) -> Grid:
        """The sides of a frame divided by a ratio, rounded down.

        Raises:
            ShapeError: nothing is left of one.
        """
        if min(grid.h, grid.w) < ratio:
            raise ShapeError(
                f"the projector {self.config.name!r} makes one cell of {ratio} x {ratio} patches, "
                f"got frames of {grid.h} x {grid.w}: use larger frames or a smaller ratio"
            )
        return Grid(grid.t, grid.h // ratio, grid.w // ratio)
