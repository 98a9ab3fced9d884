"""The light Q-Former of tutorials: latents cross-attend to the projected tokens, and no more.

It has no canonical source; names and arithmetic are those of a public tutorial
(ViT-GPT2-Image-Captioning): after each attention the latents are added and normalised, without
self-attention, feed-forward or positions.  Others have these, or norms before the attention, and a
video needs to know its frames: all are options.

Legend: B clips of all videos, K latents, N tokens of the longest clip, D features.
"""

from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from vidcomp.projectors.base import ProjectorAbout
from vidcomp.projectors.latents import LatentConfig, LatentProjector, output_layer
from vidcomp.projectors.resampler import ResamplerLayer, read_in_layers
from vidcomp.projectors.sets import ClipSets
from vidcomp.projectors.sincos import sincos_hw
from vidcomp.registry import PROJECTORS

__all__ = ["LightQFormer", "LightQFormerConfig"]


@PROJECTORS.add("qformer_light")
class LightQFormerConfig(LatentConfig):
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
    order: Literal["pre", "post"] = "post"
    """Whether each norm stands before what is added to the latents, or after the sum."""
    self_attention: bool = False
    """Whether the latents of a layer read each other first."""
    positions: bool = False
    """Whether sines and cosines of (h, w) are added to what is compared with the latents."""
    frames_per_clip: int | None = Field(None, ge=1)
    """Frames that one set of latents reads: ``None`` all of the video, 1 each by itself; the last
    clip may be shorter."""

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


class LightQFormer(LatentProjector):
    """The Q-Former; if ``dim_out`` is not ``dim``, a linear layer ``output`` follows it.

    The soft provenance of a latent is the attention of the last layer, averaged over heads.
    """

    config: LightQFormerConfig
    reference_names = (
        (r"^layers\.(\d+)\.attention\.", r"attn_layers.\1."),
        (r"^layers\.(\d+)\.norm\.", r"norm_layers.\1."),
    )

    def __init__(self, config: LightQFormerConfig) -> None:
        super().__init__(config)
        dim = config.dim
        self.query_tokens = nn.Parameter(torch.randn(1, config.num_latents, dim))
        self.proj = nn.Linear(config.dim_in, dim)
        self.layers = nn.ModuleList(
            ResamplerLayer(
                dim,
                heads=config.heads,
                order=config.order,
                self_attention=config.self_attention,
                ff_mult=config.ff_mult,
            )
            for _ in range(config.depth)
        )
        self.output = output_layer(dim, config.dim_out)

    def read(self, clips: ClipSets) -> tuple[Tensor, Tensor]:
        """Layer after layer; the sources are those of the last."""
        value_BND = self.proj(self.embedded(clips))
        key_BND = value_BND
        if self.config.positions:
            place_BND = sincos_hw(clips.places[..., 1:], self.config.dim)
            key_BND = value_BND + place_BND.to(value_BND.dtype)
        first_BKD = self.query_tokens.expand(len(value_BND), -1, -1)
        latents, sources = read_in_layers(self.layers, first_BKD, key_BND, value_BND, clips.mask)
        return self.output(latents), sources
