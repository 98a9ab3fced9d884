"""LLaMA-VID: two tokens a frame, one of what the question asks for and one of what is there.

LLaMA-VID: An Image is Worth 2 Tokens in Large Language Models, 2023,
https://arxiv.org/abs/2311.17043.  The context token is the frame as the question's rows (outputs of
a text-guided Q-Former) attend to it, averaged; the content tokens are means of the frame.

Legend: B frames of all videos, N tokens of the fullest frame, Q rows of the longest question, D
features in, C content tokens.
"""

from collections.abc import Sequence
from typing import cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from vidcomp.errors import ShapeError
from vidcomp.projectors.attention import LEAST_SHARE
from vidcomp.projectors.base import ProjectorAbout, ProjectorConfig
from vidcomp.projectors.blocks import mlp, untraced
from vidcomp.projectors.sets import ClipSets, SetwiseProjector
from vidcomp.registry import PROJECTORS
from vidcomp.types import Grid, Query, QueryFeatures

__all__ = ["LlamaVid", "LlamaVidConfig"]


@PROJECTORS.add("llama_vid")
class LlamaVidConfig(ProjectorConfig):
    """A context token by the question, and content tokens, for every frame (LLaMA-VID)."""

    about = ProjectorAbout(
        paper="LLaMA-VID: An Image is Worth 2 Tokens in Large Language Models (Li, 2023)",
        tokens="1 + content tokens a frame: 2, or 1 + cells of `content_grid`",
        checkpoint="LLaMA-VID `vlm_att_projector`, `vlm_att_key_projector`, "
        "`vlm_att_val_projector`, `mm_projector`",
        in_order=False,
    )
    asks = QueryFeatures

    dim_text: int = Field(768, ge=1)
    """Features of the question's rows (``bert_hidden``)."""
    content_grid: int | None = Field(None, ge=1)
    """Content tokens along an edge (``compress_type`` ``grid:n``): means of cells of
    floor(side / n) patches, as many as fit, so that there may be more than n along an edge, and
    patches left over at the far edge count in none.  ``None``: the mean of the frame."""
    depth: int = Field(2, ge=1)
    """Linear layers of ``mm_projector``."""

    def module(self) -> "LlamaVid":
        """A ``LlamaVid`` with torch's default initial weights."""
        return LlamaVid(self)


class LlamaVid(SetwiseProjector):
    """The provenance of a context token is its attention, that of a content token its cell."""

    config: LlamaVidConfig
    frames_per_clip = 1

    def __init__(self, config: LlamaVidConfig) -> None:
        super().__init__(config)
        dim = config.dim_in
        self.vlm_att_projector = nn.Linear(config.dim_text, dim)
        self.vlm_att_key_projector = nn.Linear(dim, dim)
        self.vlm_att_val_projector = nn.Linear(dim, config.dim_out)
        self.mm_projector = mlp(dim, *[config.dim_out] * config.depth)

    @property
    def num_latents(self) -> int:
        """Tokens of a frame whose edges ``content_grid`` divides."""
        return 1 + (self.config.content_grid or 1) ** 2

    def latents_within(self, grid: Grid, budget: int | None) -> int:  # noqa: ARG002
        """Tokens of a frame of this grid.

        Raises:
            ShapeError: an edge has fewer patches than ``content_grid``.
        """
        n = self.config.content_grid
        if n is None:
            return 2
        if min(grid[1:]) < n:
            raise ShapeError(
                f"the projector {self.config.name!r} with content_grid={n} reads frames of at "
                f"least {n} x {n} patches, got a grid of {tuple(grid)}: lower content_grid"
            )
        return 1 + (grid.h // (grid.h // n)) * (grid.w // (grid.w // n))

    def read(self, clips: ClipSets) -> tuple[Tensor, Tensor]:
        """Both are means of the frame's rows, so that sources and tokens agree exactly."""
        context_BN = self._context(clips)
        content_BCN = self._content(clips)
        asked_BD = torch.einsum("bn,bnd->bd", context_BN, clips.rows)
        tokens_B1E = self.vlm_att_val_projector(asked_BD)[:, None]
        tokens_BCE = self.mm_projector(content_BCN.to(clips.rows) @ clips.rows)
        context_B1N = context_BN[:, None].detach().float().clamp(min=LEAST_SHARE)
        if clips.mask is not None:
            context_B1N = context_B1N * clips.mask[:, None]
        context_B1N = context_B1N / context_B1N.sum(dim=2, keepdim=True)  # half precision rounds
        sources = torch.cat([context_B1N, content_BCN], dim=1)
        return torch.cat([tokens_B1E, tokens_BCE], dim=1), sources

    def _context(self, clips: ClipSets) -> Tensor:
        """[B, N] shares of a frame's rows: mean over the question's rows of their attention."""
        text_BQD, real_BQ = self._text(clips.queries, clips.rows)
        query_BQD = self.vlm_att_projector(text_BQD)
        key_BND = self.vlm_att_key_projector(clips.rows)
        logits_BQN = query_BQD @ key_BND.transpose(1, 2) * key_BND.shape[-1] ** -0.5
        if clips.mask is not None:
            logits_BQN = logits_BQN.masked_fill(~clips.mask[:, None], -torch.inf)
        share_BQ = real_BQ / real_BQ.sum(dim=1, keepdim=True)
        return torch.einsum("bq,bqn->bn", share_BQ, logits_BQN.softmax(dim=-1))

    @untraced
    def _text(self, queries: Sequence[Query | None], like: Tensor) -> tuple[Tensor, Tensor]:
        """[B, Q, text] rows of the questions and [B, Q] 1 where one is, in the type of ``like``."""
        rows = [cast("QueryFeatures", query).embedding.to(like) for query in queries]
        wanted = self.config.dim_text
        wrong = next((r.shape[1] for r in rows if r.shape[1] != wanted), wanted)
        if wrong != wanted:
            raise ShapeError(
                f"the projector {self.config.name!r} wants questions of dim_text={wanted} "
                f"features, got {wrong}: use the text encoder that it was trained with"
            )
        real = [row.new_ones(len(row)) for row in rows]
        return pad_sequence(rows, batch_first=True), pad_sequence(real, batch_first=True)

    @untraced
    def _content(self, clips: ClipSets) -> Tensor:
        """[B, C, N] float32 shares of a frame's rows in its content tokens."""
        rows_BN = clips.rows.new_ones(clips.rows.shape[:2], dtype=torch.float32)
        if clips.mask is not None:
            rows_BN = rows_BN * clips.mask
        members_BCN = rows_BN[:, None]
        n = self.config.content_grid
        if n is not None:
            size_B12 = clips.sizes[:, None, 1:]
            side_B12 = size_B12 // n
            count_B12 = size_B12 // side_B12
            cell_BN2 = (clips.places[..., 1:] + 0.5).div(side_B12, rounding_mode="floor")
            inside_BN = (cell_BN2 < count_B12).all(dim=2)
            number_BN = cell_BN2[..., 0] * count_B12[..., 1] + cell_BN2[..., 1]
            number_C1 = torch.arange(clips.num_latents - 1, device=number_BN.device)[:, None]
            members_BCN = members_BCN * inside_BN[:, None] * (number_BN[:, None] == number_C1)
        total_BC1 = members_BCN.sum(dim=2, keepdim=True)
        if not bool((total_BC1 > 0).all()):
            raise ShapeError(
                f"the projector {self.config.name!r} with content_grid={n} wants a token in every "
                f"cell of a frame, got one without: leave out the compressors, or content_grid"
            )
        return members_BCN / total_BC1
