"""Idefics2's connector: a gated MLP to the language model's width, then a perceiver resampler.

What matters when building vision-language models?, 2024, https://arxiv.org/abs/2405.02246.
Arithmetic and weights are those of transformers' ``Idefics2Connector``.  There all latents start as
ones, and stay equal until something tells them apart; here they start as normal numbers of the same
size.

Legend: B clips, N tokens of a clip, K latents, D features of the language model.
"""

from typing import Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from vidcomp.errors import ConfigError
from vidcomp.projectors.attention import GroupedAttention
from vidcomp.projectors.base import ProjectorAbout
from vidcomp.projectors.blocks import GatedMLP
from vidcomp.projectors.latents import LatentConfig, LatentProjector
from vidcomp.projectors.resampler import ReadingLayer, read_in_layers
from vidcomp.projectors.sets import ClipSets
from vidcomp.registry import PROJECTORS

__all__ = ["Idefics2", "Idefics2Config"]


@PROJECTORS.add("idefics2")
class Idefics2Config(LatentConfig):
    """Latents that cross-attend in the language model's width, several heads to a key."""

    about = ProjectorAbout(
        paper="What matters when building vision-language models? (Laurençon, 2024)",
        tokens="`num_latents` a clip",
        checkpoint="transformers Idefics2Connector",
        in_order=False,
    )

    hidden: int = Field(14336, ge=1)
    """Width inside the first gated MLP (``text_config.intermediate_size``)."""
    depth: int = Field(3, ge=1)
    """Layers (``resampler_depth``)."""
    heads: int = Field(16, ge=1)
    """Attention heads (``resampler_n_heads``)."""
    key_heads: int = Field(4, ge=1)
    """Heads of keys and values, each read by equally many heads (``num_key_value_heads``)."""
    dim_head: int = Field(96, ge=1)
    """Features of a head (``resampler_head_dim``)."""
    ff_mult: int = Field(4, ge=1)
    """Width inside the layers' gated MLPs over ``dim_out``."""
    eps: float = Field(1e-6, gt=0)
    """Of the norms (``rms_norm_eps``)."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.heads % self.key_heads:
            raise ConfigError(
                f"each of key_heads={self.key_heads} is read by equally many heads, got heads="
                f"{self.heads}: pass a multiple of key_heads"
            )
        return self

    def module(self) -> "Idefics2":
        """An ``Idefics2`` whose latents are standard normal and whose matrices are normal(0.02)."""
        return Idefics2(self)


class Idefics2(LatentProjector):
    """The connector; the soft provenance of a latent is the attention of the last layer."""

    config: Idefics2Config
    reference_names = (
        (r"^(latents|layers\.|norm\.)", r"perceiver_resampler.\1"),
        (r"\.norm_latents\.", r".input_latents_norm."),
        (r"\.norm_clip\.", r".input_context_norm."),
        (r"\.feed_forward\.0\.", r".post_attention_layernorm."),
        (r"\.feed_forward\.1\.", r".mlp."),
        (r"\.attention\.", r".self_attn."),
    )

    def __init__(self, config: Idefics2Config) -> None:
        super().__init__(config)
        dim = config.dim_out
        self.modality_projection = GatedMLP(config.dim_in, config.hidden, dim)
        self.latents = nn.Parameter(torch.randn(config.num_latents, dim))
        self.layers = nn.ModuleList(_layer(config) for _ in range(config.depth))
        self.norm = nn.RMSNorm(dim, config.eps)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)

    def read(self, clips: ClipSets) -> tuple[Tensor, Tensor]:
        """Layer after layer; the sources are those of the last."""
        clip_BND = self.modality_projection(self.embedded(clips))
        first_BKD = self.latents.expand(len(clip_BND), -1, -1)
        latents, sources = read_in_layers(self.layers, first_BKD, clip_BND, clips.mask)
        return self.norm(latents), sources


def _layer(config: Idefics2Config) -> ReadingLayer:
    dim, eps = config.dim_out, config.eps
    return ReadingLayer(
        nn.RMSNorm(dim, eps),
        nn.RMSNorm(dim, eps),
        GroupedAttention(
            dim, heads=config.heads, key_heads=config.key_heads, dim_head=config.dim_head
        ),
        nn.Sequential(nn.RMSNorm(dim, eps), GatedMLP(dim, config.ff_mult * dim, dim)),
    )
