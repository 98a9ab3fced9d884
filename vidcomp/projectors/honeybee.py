"""Honeybee's C-Abstractor: convolutions around a pooling of each frame, then a small MLP.

Honeybee: Locality-enhanced Projector for Multimodal LLM, 2023, https://arxiv.org/abs/2312.06742.
The original takes square frames of the size it was trained on, pools them to a square, and adds its
table of positions to the caller's features in place.  Here the pooled grid keeps the aspect of the
frame, a budget may choose its size, the table is stretched bicubically over other grids, and
nothing is written to.

Legend: B videos, T frames, H W patches of a frame, J K pooled cells of a frame, N rows, D C E
features.
"""

from collections.abc import Mapping
from typing import Self

from pydantic import Field, PositiveInt
from torch import Tensor, nn

from vidcomp.projectors.base import ProjectorAbout, ProjectorConfig
from vidcomp.projectors.blocks import FrameEmbedding, mlp
from vidcomp.projectors.convs import RegStage
from vidcomp.projectors.frame_cells import (
    CellsPerFrame,
    append_to_parts,
    end_tokens,
    frame_cells,
)
from vidcomp.projectors.gridwise import GridwiseProjector
from vidcomp.projectors.pooling import mean_cells
from vidcomp.projectors.positions import GridEmbedding, embedded_maps
from vidcomp.registry import PROJECTORS
from vidcomp.types import Grid, VideoTokens

__all__ = ["CAbstractor", "CAbstractorConfig"]


@PROJECTORS.add("c_abstractor")
class CAbstractorConfig(ProjectorConfig):
    """Convolutions, adaptive average pooling of each frame, convolutions, an MLP (Honeybee)."""

    about = ProjectorAbout(
        paper="Honeybee: Locality-enhanced Projector for Multimodal LLM (Cha, 2023)",
        tokens="`tokens_per_frame` a frame, or what a budget allows",
        reads="grid",
        checkpoint="kakaobrain/honeybee `CAbstractor`",
    )

    tokens_per_frame: CellsPerFrame = 144
    """Cells of a pooled frame (``num_query_tokens``): a number, laid out as h x w with the aspect
    nearest the frame's among its divisors, or (h, w)."""
    depth: int = Field(3, ge=0)
    """Convolutional blocks before the pooling, and as many after it; 0: the MLP alone."""
    mlp_depth: int = Field(2, ge=1)
    """Linear layers of the MLP, with SiLU between them."""
    dim_hidden: int = Field(1024, ge=1)
    """Features of the convolutions (``hidden_size``)."""
    pos_grid: tuple[PositiveInt, PositiveInt] | None = (16, 16)
    """Rows and columns of the learned table of positions (``num_input_tokens``), stretched over
    frames of other grids; ``None``: no table."""
    prenorm: bool = False
    """Whether features are normed first."""
    num_eos_tokens: int = Field(0, ge=0)
    """Learned tokens after those of each frame."""
    max_frames: int = Field(0, ge=0)
    """Learned embeddings of frames, which are stretched over longer videos; 0: none, as in the
    original."""

    def module(self) -> "CAbstractor":
        """A ``CAbstractor`` with torch's default initial weights, and a table as the original's."""
        return CAbstractor(self)


class CAbstractor(GridwiseProjector):
    """RegNet stages around the bins of PyTorch's adaptive pooling, which are its provenance."""

    config: CAbstractorConfig
    is_elastic = True
    reference_names = (
        (r"^s1\.", "net.0."),
        (r"^s2\.", "net.2."),
        (r"^pos_emb\.weight$", "pos_emb"),
    )

    def __init__(self, config: CAbstractorConfig) -> None:
        super().__init__(config)
        dim, depth = config.dim_in, config.depth
        hidden = config.dim_hidden if depth else dim
        self.prenorm = nn.LayerNorm(dim, eps=1e-6) if config.prenorm else nn.Identity()
        self.pos_emb = GridEmbedding(config.pos_grid, dim) if config.pos_grid else None
        self.frame_emb = FrameEmbedding(config.max_frames, dim) if config.max_frames else None
        self.s1 = RegStage(depth, dim, hidden)
        self.s2 = RegStage(depth, hidden, hidden)
        out = [config.dim_out] * config.mlp_depth
        self.readout = mlp(hidden, *out, activation=nn.SiLU)
        self.eos_tokens = end_tokens(config.num_eos_tokens, config.dim_out)

    def load_reference(self, state: Mapping[str, Tensor]) -> Self:
        """Weights by Honeybee's names; the first row of an old table, for a CLS token, is left
        out.
        """
        table = state.get("pos_emb")
        if self.pos_emb is not None and table is not None:
            obsolete = table.shape[1] - self.pos_emb.weight.shape[1]
            if obsolete == 1:
                state = {**state, "pos_emb": table[:, 1:]}
        return super().load_reference(state)

    def cells(self, grid: Grid, budget: int | None = None) -> Grid:
        """``tokens_per_frame`` each; with a budget the largest pooled grid that all frames can
        have within it.

        Raises:
            BudgetError: ``budget`` is less than one token a frame, and its last tokens.
        """
        config = self.config
        wanted, added = config.tokens_per_frame, config.num_eos_tokens
        return frame_cells(config.name, wanted, grid, budget, added)

    def num_tokens(self, grid: Grid, budget: int | None = None) -> int:
        """As many as ``cells``, and the last tokens of each frame."""
        return super().num_tokens(grid, budget) + grid.t * self.config.num_eos_tokens

    def before(self, x_ND: Tensor) -> Tensor:
        """The norm."""
        out: Tensor = self.prenorm(x_ND)
        return out

    def maps(self, x_BTHWD: Tensor, cells: Grid) -> Tensor:
        """Positions, convolutions, means of the bins, convolutions."""
        placed_BTHWD = embedded_maps(x_BTHWD, self.pos_emb, self.frame_emb)
        out: Tensor = self.s2(mean_cells(self.s1(placed_BTHWD), cells))
        return out

    def after(self, x_ND: Tensor) -> Tensor:
        """The MLP."""
        out: Tensor = self.readout(x_ND)
        return out

    def finish(self, video: VideoTokens, cells: Grid) -> VideoTokens:
        """The last tokens of each frame."""
        if self.eos_tokens is None:
            return video
        return append_to_parts(video, cells.t, self.eos_tokens[0])
