"""Honeybee's D-Abstractor: queries of a grid look around their places in the frame.

Honeybee: Locality-enhanced Projector for Multimodal LLM, 2023, https://arxiv.org/abs/2312.06742.
The original takes square frames of the size it was trained on; here the places are shares of the
frame's sides, so that frames of any grid are read, and the table of positions is stretched
bicubically over them.

Legend: B videos, T frames, H W patches of a frame, J K queries of a frame, M = J * K, N rows, D C
features.
"""

from typing import Literal, Self

import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn

from vidcomp.projectors.base import ProjectorAbout, ProjectorConfig
from vidcomp.projectors.blocks import FrameEmbedding
from vidcomp.projectors.deformable import DeformableLayer
from vidcomp.projectors.frame_cells import append_to_parts, end_tokens
from vidcomp.projectors.gridwise import GridwiseProjector
from vidcomp.projectors.latents import output_layer
from vidcomp.projectors.pooling import mean_cells
from vidcomp.projectors.positions import GridEmbedding, embedded_maps
from vidcomp.registry import PROJECTORS
from vidcomp.types import Grid, VideoTokens

__all__ = ["DAbstractor", "DAbstractorConfig"]


@PROJECTORS.add("d_abstractor")
class DAbstractorConfig(ProjectorConfig):
    """Queries that read each frame by deformable attention (Honeybee)."""

    about = ProjectorAbout(
        paper="Honeybee: Locality-enhanced Projector for Multimodal LLM (Cha, 2023)",
        tokens="`tokens_per_frame` a frame",
        reads="grid",
        checkpoint="kakaobrain/honeybee `DAbstractor`",
    )

    tokens_per_frame: tuple[PositiveInt, PositiveInt] = (12, 12)
    """Rows and columns of the queries of a frame (``num_queries``)."""
    dim_hidden: int = Field(1024, ge=1)
    """Features of the queries (``d_model``)."""
    depth: int = Field(6, ge=1)
    """Layers (``decoder_layers``)."""
    heads: int = Field(8, ge=1)
    """Heads of both attentions (``decoder_attention_heads``)."""
    points: int = Field(4, ge=1)
    """Places of the frame that a head of a query reads (``decoder_n_points``)."""
    dim_ff: int = Field(1024, ge=1)
    """Features inside the feed-forward (``decoder_ffn_dim``)."""
    pooled: Literal["query", "tgt", "none"] = "query"
    """What the frame pooled to the grid of the queries is (``pooled_v_target``): their places
    (``query``), the queries themselves (``tgt``), or not used, both being learned."""
    pos_grid: tuple[PositiveInt, PositiveInt] | None = (16, 16)
    """Rows and columns of the learned table of positions (``num_input_tokens``), stretched over
    frames of other grids; ``None``: no table."""
    num_eos_tokens: int = Field(0, ge=0)
    """Learned tokens after those of each frame."""
    max_frames: int = Field(0, ge=0)
    """Learned embeddings of frames, which are stretched over longer videos; 0: none, as in the
    original."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.dim_hidden % self.heads:
            raise ValueError(
                f"{self.heads} heads share dim_hidden={self.dim_hidden} features equally: make it "
                f"a multiple"
            )
        return self

    def module(self) -> "DAbstractor":
        """A ``DAbstractor`` with queries of standard deviation 0.02, places over all of the frame,
        and attention that starts as Deformable DETR's.
        """
        return DAbstractor(self)


class DAbstractor(GridwiseProjector):
    """Provenance is the bins of the pooling to the grid of the queries: around them the queries
    look at first, but learn to look elsewhere.
    """

    config: DAbstractorConfig
    reference_names = (
        (r"^input_proj\.", "input_proj.0."),
        (r"^pos_emb\.weight$", "v_pos_emb"),
        (r"^queries$", "query_position_embeddings.weight"),
    )

    def __init__(self, config: DAbstractorConfig) -> None:
        super().__init__(config)
        dim, rows, columns = config.dim_hidden, *config.tokens_per_frame
        self.input_proj = output_layer(config.dim_in, dim)
        self.pos_emb = GridEmbedding(config.pos_grid, dim) if config.pos_grid else None
        self.frame_emb = FrameEmbedding(config.max_frames, dim) if config.max_frames else None
        parts = 2 if config.pooled == "none" else 1
        self.queries = nn.Parameter(torch.randn(rows * columns, parts * dim) * 0.02)
        self.reference_points = nn.Parameter(
            _spread(config.tokens_per_frame, config.pos_grid or config.tokens_per_frame)
        )
        self.layers = nn.ModuleList(
            DeformableLayer(dim, heads=config.heads, points=config.points, dim_ff=config.dim_ff)
            for _ in range(config.depth)
        )
        self.eos_tokens = end_tokens(config.num_eos_tokens, dim)
        self.output_proj = output_layer(dim, config.dim_out)

    def cells(self, grid: Grid, budget: int | None = None) -> Grid:  # noqa: ARG002
        """``tokens_per_frame`` each."""
        return Grid(grid.t, *self.config.tokens_per_frame)

    def num_tokens(self, grid: Grid, budget: int | None = None) -> int:
        """As many as ``cells``, and the last tokens of each frame."""
        return super().num_tokens(grid, budget) + grid.t * self.config.num_eos_tokens

    def before(self, x_ND: Tensor) -> Tensor:
        """Into the space of the queries."""
        out: Tensor = self.input_proj(x_ND)
        return out

    def maps(self, x_BTHWD: Tensor, cells: Grid) -> Tensor:
        """Layer after layer, all frames of all videos in one pass."""
        placed_BTHWD = embedded_maps(x_BTHWD, self.pos_emb, self.frame_emb)
        frames_BHWD = placed_BTHWD.flatten(0, 1)
        x_BMD, place_BMD = self._starts(placed_BTHWD, cells)
        points_BM2 = self.reference_points.expand(len(frames_BHWD), -1, -1)
        for layer in self.layers:
            x_BMD = layer(x_BMD, place_BMD, frames_BHWD, points_BM2)
        return x_BMD.view(*x_BTHWD.shape[:2], cells.h, cells.w, -1)

    def after(self, x_ND: Tensor) -> Tensor:
        """Into the language model's space."""
        out: Tensor = self.output_proj(x_ND)
        return out

    def finish(self, video: VideoTokens, cells: Grid) -> VideoTokens:
        """The last tokens of each frame."""
        if self.eos_tokens is None:
            return video
        return append_to_parts(video, cells.t, self.output_proj(self.eos_tokens[0]))

    def _starts(self, x_BTHWD: Tensor, cells: Grid) -> tuple[Tensor, Tensor]:
        """[B * T, M, D] the queries before the first layer, and their places."""
        num_frames = x_BTHWD.shape[0] * x_BTHWD.shape[1]
        learned = self.queries.expand(num_frames, -1, -1)
        if self.config.pooled == "none":
            place, start = learned.chunk(2, dim=-1)
            return start, place
        pooled = mean_cells(x_BTHWD, cells).flatten(2, 3).flatten(0, 1)
        return (learned, pooled) if self.config.pooled == "query" else (pooled, learned)


def _spread(queries: tuple[int, int], grid_hw: tuple[int, int]) -> Tensor:
    """[1, M, 2] (x, y) in shares of the sides, from the centre of the first patch of a frame of
    ``grid_hw`` to that of the last; a single one lies in the middle.
    """
    y_J, x_K = (
        torch.linspace(0.5, size - 0.5, n) / size if n > 1 else torch.tensor([0.5])
        for n, size in zip(queries, grid_hw, strict=True)
    )
    return torch.stack(torch.meshgrid(x_K, y_J, indexing="xy"), dim=-1).flatten(0, 1)[None]
