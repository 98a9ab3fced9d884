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
from typing import Self, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from vidcomp.projectors.attention import attend, attention_shares
from vidcomp.projectors.base import ProjectorAbout
from vidcomp.projectors.frame_cells import Count, append_to_parts, end_tokens
from vidcomp.projectors.latents import LatentConfig, LatentProjector
from vidcomp.projectors.positions import GridEmbedding
from vidcomp.projectors.sets import ClipSets
from vidcomp.registry import PROJECTORS
from vidcomp.types import Grid, Query, VideoTokens

__all__ = ["AbstractorLayer", "HoneybeeResampler", "HoneybeeResamplerConfig"]


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
    pos_grid: tuple[Count, Count] | None = None
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


class AbstractorLayer(nn.Module):
    """Normed latents read the clip and themselves, then a gated feed-forward; both are added."""

    def __init__(self, dim: int, *, heads: int, dim_ff: int, ff_eps: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(dim)
        self.normk = nn.LayerNorm(dim)
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        self.out_proj = nn.Linear(dim, dim)
        self.norm2 = nn.LayerNorm(dim)
        self.w1 = nn.Linear(dim, dim_ff)
        self.w2 = nn.Linear(dim_ff, dim)
        self.w3 = nn.Linear(dim, dim_ff)
        self.ffn_ln = nn.LayerNorm(dim_ff, eps=ff_eps)

    def forward(self, latents_BKC: Tensor, clip_BNC: Tensor, mask_BN: Tensor | None) -> Tensor:
        """[B, K, C] new latents."""
        query, keys, mask = self._inputs(latents_BKC, clip_BNC, mask_BN)
        read = attend(self.query(query), self.key(keys), self.value(keys), mask, heads=self.heads)
        x_BKC = query + self.out_proj(read)
        normed = self.norm2(x_BKC)
        gated = nn.functional.silu(self.w1(normed)) * self.w3(normed)
        out: Tensor = x_BKC + self.w2(self.ffn_ln(gated))
        return out

    def sources(self, latents_BKC: Tensor, clip_BNC: Tensor, mask_BN: Tensor | None) -> Tensor:
        """[B, K, N] float32 shares of the clip's tokens in what each latent reads from them."""
        query, keys, mask = self._inputs(latents_BKC, clip_BNC, mask_BN)
        return attention_shares(
            self.query(query),
            self.key(keys),
            mask,
            heads=self.heads,
            num_sources=clip_BNC.shape[1],
        )

    def _inputs(
        self, latents: Tensor, clip: Tensor, mask: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        query = self.norm1(latents)
        keys = torch.cat([self.normk(clip), query], dim=1)
        if mask is not None:
            mask = torch.cat([mask, mask.new_ones(latents.shape[:2])], dim=1)
        return query, keys, mask


class HoneybeeResampler(LatentProjector):
    """The soft provenance of a latent is the attention of the last layer, averaged over heads."""

    config: HoneybeeResamplerConfig
    reference_names = (
        (r"^latents$", "query_tokens"),
        (r"^eos_tokens$", "vit_eos"),
        (r"^pos_emb\.weight$", "pos_emb"),
        (r"^layers\.(\d+)\.(norm1|normk)\.", r"encoder.layers.\1.crossattention.\2."),
        (r"^layers\.(\d+)\.(query|key|value)\.", r"encoder.layers.\1.crossattention.attention.\2."),
        (r"^layers\.(\d+)\.(out_proj|norm2)\.", r"encoder.layers.\1.crossattention.output.\2."),
        (r"^layers\.(\d+)\.(w\d|ffn_ln)\.", r"encoder.layers.\1.crossattention.output.mlp.\2."),
    )

    def __init__(self, config: HoneybeeResamplerConfig) -> None:
        super().__init__(config)
        dim = config.dim_hidden
        self.pos_emb = GridEmbedding(config.pos_grid, config.dim_in) if config.pos_grid else None
        self.visual_input_fc = nn.Linear(config.dim_in, dim)
        self.latents = nn.Parameter(torch.randn(1, config.num_latents, dim) * 0.02)
        self.layers = nn.ModuleList(
            AbstractorLayer(dim, heads=config.heads, dim_ff=config.dim_ff, ff_eps=config.ff_eps)
            for _ in range(config.depth)
        )
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
        clip_BNC, mask_BN = self.visual_input_fc(self.embedded(clips)), clips.mask
        latents = before = self.latents.expand(len(clip_BNC), -1, -1)
        for layer in self.layers:
            before, latents = latents, layer(latents, clip_BNC, mask_BN)
        with torch.no_grad():
            sources = cast(AbstractorLayer, self.layers[-1]).sources(before, clip_BNC, mask_BN)
        return self.visual_output_fc(latents), sources

    def embedded(self, clips: ClipSets) -> Tensor:
        """[B, N, D] tokens with the embeddings of their place in the frame and of their frame."""
        tokens = super().embedded(clips)
        if self.pos_emb is None:
            return tokens
        return tokens + self.pos_emb.at(clips.places[..., 1:], clips.sizes[:, 1:])
