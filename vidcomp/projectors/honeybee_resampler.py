"""Honeybee's resampler: the abstractor of mPLUG-Owl, learned latents that read each frame.

mPLUG-Owl: Modularization Empowers Large Language Models with Multimodality, 2023,
https://arxiv.org/abs/2304.14178; weights and arithmetic are those of Honeybee: Locality-enhanced
Projector for Multimodal LLM, 2023, https://arxiv.org/abs/2312.06742.  The latents of a layer are
normed first, and what is read is added to the normed ones.  The original starts with latents of
zeros, which stay equal to each other for ever; here they start apart.  Tokens may have been merged
or dropped before.

Legend: B clips of all videos, N tokens of the longest clip, K latents, D features in, C features
of the latents.
"""

from collections.abc import Sequence
from typing import Self

import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn
from torch.nn.functional import silu

from vidcomp.projectors.attention import GroupedAttention
from vidcomp.projectors.base import ProjectorAbout
from vidcomp.projectors.frame_cells import append_to_parts, end_tokens
from vidcomp.projectors.latents import LatentConfig, LatentProjector
from vidcomp.projectors.positions import GridEmbedding
from vidcomp.projectors.resampler import ReadingLayer, read_in_layers
from vidcomp.projectors.sets import ClipSets
from vidcomp.registry import PROJECTORS
from vidcomp.types import Grid, Query, VideoTokens

__all__ = ["AbstractorFeedForward", "HoneybeeResampler", "HoneybeeResamplerConfig"]


@PROJECTORS.add("honeybee_resampler")
class HoneybeeResamplerConfig(LatentConfig):
    """Latents that read each frame through gated feed-forwards (Honeybee, mPLUG-Owl)."""

    about = ProjectorAbout(
        paper="mPLUG-Owl: Modularization Empowers Large Language Models with Multimodality "
        "(Ye, 2023)",
        tokens="`num_latents` a clip of `frames_per_clip` frames",
        checkpoint="kakaobrain/honeybee `HoneybeeVisualProjectorModel`",
        in_order=False,
    )

    depth: int = Field(6, ge=1)
    """Layers (``num_hidden_layers``)."""
    dim_hidden: int = Field(1024, ge=1)
    """Features of the latents (``hidden_size``)."""
    heads: int = Field(16, ge=1)
    """Attention heads (``num_attention_heads``)."""
    dim_ff: int = Field(4096, ge=1)
    """Features inside the feed-forward (``intermediate_size``)."""
    ff_eps: float = Field(1e-6, gt=0)
    """Of the norm inside the feed-forward (``layer_norm_eps``); the others have 1e-5."""
    pos_grid: tuple[PositiveInt, PositiveInt] | None = None
    """Rows and columns of a learned table of positions (``num_input_tokens``), stretched over
    frames of other grids; ``None``: no table, as in the original."""
    num_eos_tokens: int = Field(0, ge=0)
    """Learned tokens after those of each clip."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.dim_hidden % self.heads:
            raise ValueError(
                f"{self.heads} heads share dim_hidden={self.dim_hidden} features equally: make it "
                f"a multiple"
            )
        return self

    def module(self) -> "HoneybeeResampler":
        """A ``HoneybeeResampler`` with latents of standard deviation 0.02, and torch's default
        initial weights, which at the original's width are as wide as its own.
        """
        return HoneybeeResampler(self)


class AbstractorFeedForward(nn.Module):
    """Normed rows, gated by the SiLU of others made of them, normed again inside."""

    def __init__(self, dim: int, hidden: int, eps: float) -> None:
        super().__init__()
        self.norm2 = nn.LayerNorm(dim)
        self.w1 = nn.Linear(dim, hidden)
        self.w2 = nn.Linear(hidden, dim)
        self.w3 = nn.Linear(dim, hidden)
        self.ffn_ln = nn.LayerNorm(hidden, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] of the same."""
        normed = self.norm2(x)
        out: Tensor = self.w2(self.ffn_ln(silu(self.w1(normed)) * self.w3(normed)))
        return out


class HoneybeeResampler(LatentProjector):
    """The soft provenance of a latent is the attention of the last layer, averaged over heads."""

    config: HoneybeeResamplerConfig
    reference_names = (
        (r"^latents$", "query_tokens"),
        (r"^eos_tokens$", "vit_eos"),
        (r"^pos_emb\.weight$", "pos_emb"),
        (r"^layers\.(\d+)\.", r"encoder.layers.\1.crossattention."),
        (r"\.norm_latents\.", r".norm1."),
        (r"\.norm_clip\.", r".normk."),
        (r"\.attention\.q_proj\.", r".attention.query."),
        (r"\.attention\.k_proj\.", r".attention.key."),
        (r"\.attention\.v_proj\.", r".attention.value."),
        (r"\.attention\.o_proj\.", r".output.out_proj."),
        (r"\.feed_forward\.norm2\.", r".output.norm2."),
        (r"\.feed_forward\.", r".output.mlp."),
    )

    def __init__(self, config: HoneybeeResamplerConfig) -> None:
        super().__init__(config)
        dim = config.dim_hidden
        self.pos_emb = GridEmbedding(config.pos_grid, config.dim_in) if config.pos_grid else None
        self.visual_input_fc = nn.Linear(config.dim_in, dim)
        self.latents = nn.Parameter(torch.randn(1, config.num_latents, dim) * 0.02)
        self.layers = nn.ModuleList(_layer(config) for _ in range(config.depth))
        self.visual_output_fc = nn.Linear(dim, config.dim_out)
        self.eos_tokens = end_tokens(config.num_eos_tokens, config.dim_out)

    def num_tokens(self, grid: Grid, budget: int | None = None) -> int:
        """``num_latents`` and the last tokens of each clip."""
        added = self.config.num_eos_tokens * self.num_clips(grid)
        return super().num_tokens(grid, budget) + added

    def project(
        self,
        videos: Sequence[VideoTokens],
        budgets: Sequence[int | None],
        queries: Sequence[Query | None],
    ) -> list[VideoTokens]:
        """Clips of all videos side by side, and the last tokens of each."""
        results = super().project(videos, budgets, queries)
        if self.eos_tokens is None:
            return results
        ends = self.eos_tokens[0]
        return [append_to_parts(v, len(v) // self.num_latents, ends) for v in results]

    def read(self, clips: ClipSets) -> tuple[Tensor, Tensor]:
        """Layer after layer; the sources are those of the last."""
        clip_BNC = self.visual_input_fc(self.embedded(clips))
        first_BKC = self.latents.expand(len(clip_BNC), -1, -1)
        latents, sources = read_in_layers(self.layers, first_BKC, clip_BNC, clips.mask)
        return self.visual_output_fc(latents), sources

    def embedded(self, clips: ClipSets) -> Tensor:
        """[B, N, D] tokens with the embeddings of their place in the frame and of their frame."""
        tokens = super().embedded(clips)
        if self.pos_emb is None:
            return tokens
        return tokens + self.pos_emb.at(clips.places[..., 1:], clips.sizes[:, 1:])


def _layer(config: HoneybeeResamplerConfig) -> ReadingLayer:
    dim, heads = config.dim_hidden, config.heads
    return ReadingLayer(
        nn.LayerNorm(dim),
        nn.LayerNorm(dim),
        GroupedAttention(dim, heads=heads, dim_head=dim // heads, bias=True),
        AbstractorFeedForward(dim, config.dim_ff, config.ff_eps),
        adds_to_normed=True,
    )
