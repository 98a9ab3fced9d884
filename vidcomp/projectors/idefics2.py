"""Idefics2's connector: a gated MLP to the language model's width, then a perceiver resampler.

What matters when building vision-language models?, 2024, https://arxiv.org/abs/2405.02246.
Arithmetic and weights are those of transformers' ``Idefics2Connector``.  There all latents start as
ones, and stay equal until something tells them apart; here they start as normal numbers of the same
size.

Legend: B clips, N tokens of a clip, K latents, D features of the language model.
"""

from typing import Self, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from vidcomp.errors import ConfigError
from vidcomp.projectors.attention import GroupedAttention
from vidcomp.projectors.base import ProjectorAbout
from vidcomp.projectors.blocks import GatedMLP
from vidcomp.projectors.latents import LatentConfig, LatentProjector
from vidcomp.projectors.sets import ClipSets
from vidcomp.registry import PROJECTORS

__all__ = ["Idefics2", "Idefics2Config", "Idefics2Layer"]


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


class Idefics2Layer(nn.Module):
    """Latents read the clip and themselves, then a gated MLP; both are added to them."""

    def __init__(self, config: Idefics2Config) -> None:
        super().__init__()
        dim = config.dim_out
        self.norm_latents = nn.RMSNorm(dim, config.eps)
        self.norm_context = nn.RMSNorm(dim, config.eps)
        self.attention = GroupedAttention(
            dim, heads=config.heads, key_heads=config.key_heads, dim_head=config.dim_head
        )
        self.norm = nn.RMSNorm(dim, config.eps)
        self.mlp = GatedMLP(dim, config.ff_mult * dim, dim)

    def forward(self, latents_BKD: Tensor, clip_BND: Tensor, mask_BN: Tensor | None) -> Tensor:
        """[B, K, D] new latents."""
        query, key, mask = self._inputs(latents_BKD, clip_BND, mask_BN)
        return self._after(latents_BKD + self.attention(query, key, mask))

    def read(
        self, latents_BKD: Tensor, clip_BND: Tensor, mask_BN: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """New latents, and [B, K, N] float32 shares of the clip's tokens in what each latent reads
        from them.
        """
        query, key, mask = self._inputs(latents_BKD, clip_BND, mask_BN)
        read_BKD, sources_BKN = self.attention.read(query, key, mask, clip_BND.shape[1])
        return self._after(latents_BKD + read_BKD), sources_BKN

    def _after(self, latents_BKD: Tensor) -> Tensor:
        out: Tensor = latents_BKD + self.mlp(self.norm(latents_BKD))
        return out

    def _inputs(
        self, latents: Tensor, clip: Tensor, mask: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        query = self.norm_latents(latents)
        if mask is not None:
            mask = torch.cat([mask, mask.new_ones(latents.shape[:2])], dim=1)
        return query, torch.cat([self.norm_context(clip), query], dim=1), mask


class Idefics2(LatentProjector):
    """The connector; the soft provenance of a latent is the attention of the last layer."""

    config: Idefics2Config
    reference_names = (
        (r"^(latents|layers\.|norm\.)", r"perceiver_resampler.\1"),
        (r"\.norm_(latents|context)\.", r".input_\1_norm."),
        (r"(layers\.\d+)\.norm\.", r"\1.post_attention_layernorm."),
        (r"\.attention\.", r".self_attn."),
    )

    def __init__(self, config: Idefics2Config) -> None:
        super().__init__(config)
        dim = config.dim_out
        self.modality_projection = GatedMLP(config.dim_in, config.hidden, dim)
        self.latents = nn.Parameter(torch.randn(config.num_latents, dim))
        self.layers = nn.ModuleList(Idefics2Layer(config) for _ in range(config.depth))
        self.norm = nn.RMSNorm(dim, config.eps)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)

    def read(self, clips: ClipSets) -> tuple[Tensor, Tensor]:
        """Layer after layer; the sources are those of the last."""
        clip_BND, mask_BN = self.modality_projection(self.embedded(clips)), clips.mask
        latents = self.latents.expand(len(clip_BND), -1, -1)
        for layer in self.layers[:-1]:
            latents = layer(latents, clip_BND, mask_BN)
        latents, sources = cast(Idefics2Layer, self.layers[-1]).read(latents, clip_BND, mask_BN)
        return self.norm(latents), sources
