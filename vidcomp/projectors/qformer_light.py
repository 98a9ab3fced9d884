"""The light Q-Former of tutorials: latents cross-attend to the projected tokens, and no more.

It has no canonical source; names and arithmetic are those of a public tutorial
(ViT-GPT2-Image-Captioning): after each attention the latents are added and normalised, without
self-attention, feed-forward or positions.  Others follow with a feed-forward, and a video needs to
know its frames: both are options.

Legend: B clips of all videos, K latents, N tokens of the longest clip, D features.
"""

from typing import Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from vidcomp.projectors.attention import MultiheadAttention
from vidcomp.projectors.base import ProjectorAbout, ProjectorConfig
from vidcomp.projectors.blocks import FrameEmbedding, mlp
from vidcomp.projectors.sets import ClipSets, SetwiseProjector
from vidcomp.registry import PROJECTORS

__all__ = ["LightQFormer", "LightQFormerConfig"]


@PROJECTORS.add("qformer_light")
class LightQFormerConfig(ProjectorConfig):
    """Latents that cross-attend to all tokens of a clip, in few layers."""

    about = ProjectorAbout(
        tokens="`num_latents` a clip",
        checkpoint="ViT-GPT2-Image-Captioning `QFormer`",
        in_order=False,
    )

    num_latents: int = Field(32, ge=1)
    """Tokens out of every clip."""
    dim: int = Field(768, ge=1)
    """Features of the latents (``query_dim``)."""
    depth: int = Field(1, ge=1)
    """Layers."""
    heads: int = Field(8, ge=1)
    """Attention heads; they divide ``dim``."""
    ff_mult: int = Field(0, ge=0)
    """Hidden features of a feed-forward after each attention, over ``dim``; 0: none."""
    frames_per_clip: int | None = Field(None, ge=1)
    """Frames that one set of latents reads: ``None`` all of the video, 1 each by itself; the last
    clip may be shorter."""
    max_frames: int = Field(0, ge=0)
    """Rows of a table that tells the frames of a clip apart, stretched over longer clips; 0:
    none."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.dim % self.heads:
            raise ValueError(
                f"{self.name!r} splits dim={self.dim} among its heads, got heads={self.heads}: "
                f"choose a divisor"
            )
        return self

    def module(self) -> "LightQFormer":
        """A ``LightQFormer`` whose latents are standard normal."""
        return LightQFormer(self)


class LightQFormer(SetwiseProjector):
    """The Q-Former; if ``dim_out`` is not ``dim``, a linear layer ``output`` follows it.

    The soft provenance of a latent is the attention of the last layer, averaged over heads.
    """

    config: LightQFormerConfig

    def __init__(self, config: LightQFormerConfig) -> None:
        super().__init__(config)
        dim = config.dim
        self.query_tokens = nn.Parameter(torch.randn(1, config.num_latents, dim))
        self.proj = nn.Linear(config.dim_in, dim)
        if config.max_frames:
            self.frame_embedding = FrameEmbedding(config.max_frames, dim)
        self.attn_layers, self.norm_layers = nn.ModuleList(), nn.ModuleList()
        self.ff_layers, self.ff_norm_layers = nn.ModuleList(), nn.ModuleList()
        for _ in range(config.depth):
            self.attn_layers.append(MultiheadAttention(dim, heads=config.heads))
            self.norm_layers.append(nn.LayerNorm(dim))
            if config.ff_mult:
                self.ff_layers.append(mlp(dim, dim * config.ff_mult, dim))
                self.ff_norm_layers.append(nn.LayerNorm(dim))
        self.output = nn.Identity() if config.dim_out == dim else nn.Linear(dim, config.dim_out)

    @property
    def num_latents(self) -> int:
        """As the settings say."""
        return self.config.num_latents

    @property
    def frames_per_clip(self) -> int | None:
        """As the settings say."""
        return self.config.frames_per_clip

    def read(self, clips: ClipSets) -> tuple[Tensor, Tensor]:
        """Layer after layer; the sources are those of the last."""
        tokens_BND = self.proj(clips.rows)
        if self.config.max_frames:
            frame_BN, length_B1 = clips.places[..., 0], clips.sizes[:, :1]
            tokens_BND = tokens_BND + self.frame_embedding(frame_BN, length_B1)
        latents = before = self.query_tokens.expand(len(tokens_BND), -1, -1)
        for number, attention in enumerate(self.attn_layers):
            before = latents
            read_BKD = attention(latents, tokens_BND, tokens_BND, clips.mask)
            latents = self.norm_layers[number](latents + read_BKD)
            if self.config.ff_mult:
                hidden = self.ff_layers[number](latents)
                latents = self.ff_norm_layers[number](latents + hidden)
        last = self.attn_layers[-1]
        assert isinstance(last, MultiheadAttention)  # noqa: S101  # for the type checker
        return self.output(latents), last.sources(before, tokens_BND, clips.mask)
