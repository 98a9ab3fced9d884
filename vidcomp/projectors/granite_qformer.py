"""Granite Vision's window Q-Former: every window of a frame is read by latents of its own.

Source: transformers' ``Granite4VisionWindowQFormerDownsampler``.  The latents of a window are
learned ones and the same window pooled; they read its patches, with learned positions inside it,
and take its place: order and space stay.  The original wants a square grid of whole windows; here
the windows at the far edges may be smaller, and are masked.

Legend: B videos of one grid, T H W the grid, D features, M windows of all frames and videos, N
patches of a window, K latents of a window, I J K cells out over time, height and width.
"""

from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn.functional import pad

from vidcomp.functional.pool import adaptive_weights
from vidcomp.projectors.base import ProjectorAbout, ProjectorConfig
from vidcomp.projectors.gridwise import GridwiseProjector
from vidcomp.projectors.pooling import mean_cells
from vidcomp.projectors.qformer_blocks import QFormer, QFormerShape
from vidcomp.registry import PROJECTORS
from vidcomp.types import Grid

__all__ = ["WindowQFormer", "WindowQFormerConfig"]

_NORM_EPS = 1e-6


@PROJECTORS.add("window_qformer")
class WindowQFormerConfig(ProjectorConfig):
    """Latents that read one window each, and stay where it is (Granite Vision)."""

    about = ProjectorAbout(
        tokens="`query_side`² a window of `window_side`² patches",
        reads="grid",
        checkpoint="transformers Granite4VisionWindowQFormerDownsampler",
    )

    query_side: int = Field(4, ge=1)
    """Latents of a window along an edge: the first number of ``downsample_rate``."""
    window_side: int = Field(8, ge=1)
    """Patches of a window along an edge: the second number of ``downsample_rate``."""
    spatial_offset: Literal[0, 1, 2, 3] | None = None
    """What the latents start from besides themselves: ``None`` the mean of their cell, else one of
    its 2 x 2 patches (upper left, upper right, lower left, lower right), for windows twice as long
    as their latents."""
    depth: int = Field(1, ge=1)
    """Layers (``num_hidden_layers``)."""
    heads: int | None = Field(None, ge=1)
    """Attention heads; they divide ``dim_in``.  ``None``: one for 64 features."""
    dim_ff: int = Field(3072, ge=1)
    """Hidden features of the feed-forwards (``intermediate_size``)."""
    cross_attention_frequency: int = Field(1, ge=1)
    """Every such layer, from the first, reads the window."""
    dropout: float = Field(0.1, ge=0, lt=1)
    """While training only."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.dim_in % self.num_heads:
            raise ValueError(
                f"{self.name!r} splits dim_in={self.dim_in} among its heads, got "
                f"heads={self.num_heads}: choose a divisor"
            )
        if self.spatial_offset is not None and self.window_side != 2 * self.query_side:
            raise ValueError(
                f"{self.name!r} starts from one of 2 x 2 patches only if windows are twice as long "
                f"as their latents, got query_side={self.query_side} and "
                f"window_side={self.window_side}: leave spatial_offset out"
            )
        return self

    @property
    def num_heads(self) -> int:
        """Attention heads."""
        return max(1, self.dim_in // 64) if self.heads is None else self.heads

    def module(self) -> "WindowQFormer":
        """A ``WindowQFormer`` whose latents and positions are normal 1 / sqrt(dim_in)."""
        return WindowQFormer(self)


class WindowQFormer(GridwiseProjector):
    """The Q-Former on windows; the provenance of a token is the cell that its latent starts from,
    though it reads all of the window.
    """

    config: WindowQFormerConfig

    def __init__(self, config: WindowQFormerConfig) -> None:
        super().__init__(config)
        dim, scale = config.dim_in, config.dim_in**-0.5
        self.norm = nn.LayerNorm(dim, eps=_NORM_EPS)
        self.query = nn.Parameter(torch.randn(1, config.query_side**2, dim) * scale)
        self.image_positions = nn.Parameter(torch.randn(1, config.window_side**2, dim) * scale)
        self.dropout = nn.Dropout(config.dropout)
        self.qformer = QFormer(
            QFormerShape(
                dim=dim,
                dim_key=dim,
                depth=config.depth,
                heads=config.num_heads,
                dim_ff=config.dim_ff,
                cross_attention_frequency=config.cross_attention_frequency,
                dropout=config.dropout,
            )
        )
        self.out_linear = nn.Linear(dim, config.dim_out)

    def cells(self, grid: Grid, budget: int | None = None) -> Grid:  # noqa: ARG002
        """``query_side`` a window along each edge, smaller windows at the far edges too."""
        q, w = self.config.query_side, self.config.window_side
        return Grid(grid.t, *(-(-size // w) * q for size in grid[1:]))

    def before(self, x_ND: Tensor) -> Tensor:
        """Normalised."""
        out: Tensor = self.norm(x_ND)
        return out

    def maps(self, x_BTHWD: Tensor, cells: Grid) -> Tensor:
        """Windows side by side through the Q-Former, then back in their places."""
        b, t, h, w, d = x_BTHWD.shape
        q, side = self.config.query_side, self.config.window_side
        starts = self._starts(x_BTHWD)
        queries_MKD = self.query + _windows(starts.flatten(0, 1), q)
        tall, wide = -h % side, -w % side
        padded = x_BTHWD.flatten(0, 1)
        if tall or wide:
            padded = pad(padded, (0, 0, 0, wide, 0, tall))
        keys_MND = self.dropout(_windows(padded, side) + self.image_positions)
        mask_MN = None
        if tall or wide:
            inside = x_BTHWD.new_ones(1, h, w, 1, dtype=torch.bool)
            windows = _windows(pad(inside, (0, 0, 0, wide, 0, tall)), side).squeeze(-1)
            mask_MN = windows.repeat(b * t, 1)
        out_MKD = self.qformer(queries_MKD, keys_MND, mask_MN)
        up, across = cells.h // q, cells.w // q
        laid = out_MKD.view(b, t, up, across, q, q, d).transpose(3, 4)
        out: Tensor = self.dropout(laid.reshape(b, *cells, d))
        return out

    def after(self, x_ND: Tensor) -> Tensor:
        """In the language model's space."""
        out: Tensor = self.out_linear(x_ND)
        return out

    def footprint(self, grid: Grid, cells: Grid) -> tuple[Tensor, Tensor, Tensor]:  # noqa: ARG002
        """The cell of each latent in its window."""
        return torch.eye(grid.t, dtype=torch.float64), self._means(grid.h), self._means(grid.w)

    def _starts(self, x_BTHWD: Tensor) -> Tensor:
        """[B, T, J, K, D] what is added to the learned latents."""
        h, w = x_BTHWD.shape[2:4]
        offset = self.config.spatial_offset
        if offset is not None:
            row, column = divmod(offset, 2)
            kept = x_BTHWD[:, :, self._corners(h, row, x_BTHWD.device)]
            return kept[:, :, :, self._corners(w, column, x_BTHWD.device)]
        q, side = self.config.query_side, self.config.window_side
        if not (h % side or w % side or side % q):  # all cells are alike: pooling has a short way
            return mean_cells(x_BTHWD, Grid(x_BTHWD.shape[1], h // side * q, w // side * q))
        means = [self._means(size).to(x_BTHWD) for size in (h, w)]
        return torch.einsum("jh,kw,bthwd->btjkd", *means, x_BTHWD)

    def _means(self, size: int) -> Tensor:
        """[cells, size] float64: means of adaptive cells inside each window of an edge."""
        q, side = self.config.query_side, self.config.window_side
        lengths = [min(side, size - start) for start in range(0, size, side)]
        blocks = [adaptive_weights(length, q) for length in lengths]
        out: Tensor = torch.block_diag(*blocks)  # type: ignore[no-untyped-call]
        return out

    def _corners(self, size: int, offset: int, device: torch.device) -> Tensor:
        """[cells] every other patch of an edge, the last one where a window is too small."""
        windows = -(-size // self.config.window_side)
        place = torch.arange(windows * self.config.query_side, device=device) * 2 + offset
        return place.clamp(max=size - 1)


def _windows(x_MHWD: Tensor, side: int) -> Tensor:
    """[M * windows, side * side, D] windows of maps whose edges it divides."""
    m, h, w, d = x_MHWD.shape
    split = x_MHWD.reshape(m, h // side, side, w // side, side, d)
    return split.transpose(2, 3).reshape(-1, side * side, d)
