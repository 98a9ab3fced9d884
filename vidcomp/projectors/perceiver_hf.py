"""Perceiver IO's encoder as transformers and DeepMind's checkpoints have it.

Perceiver IO: A General Architecture for Structured Inputs & Outputs, 2021,
https://arxiv.org/abs/2107.14795.  Weights and arithmetic are those of transformers'
``PerceiverModel`` without preprocessor and decoder; own code, because there clips of different
lengths need an additive mask, and attention is neither fused nor compiled.

Legend: B clips, N tokens of a clip, K latents, D features of a latent, C features of a token.
"""

from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from vidcomp.errors import ConfigError
from vidcomp.projectors.attention import attend, attend_with_shares
from vidcomp.projectors.base import ProjectorAbout
from vidcomp.projectors.blocks import mlp
from vidcomp.projectors.latents import LatentConfig, LatentProjector, output_layer
from vidcomp.projectors.perceiver_parts import dim_with_fourier, with_fourier
from vidcomp.projectors.sets import ClipSets
from vidcomp.registry import PROJECTORS

__all__ = ["PerceiverEncoder", "PerceiverEncoderConfig", "PerceiverLayer"]


@PROJECTORS.add("perceiver_hf")
class PerceiverEncoderConfig(LatentConfig):
    """A latent array that reads all tokens of a clip once, and then thinks."""

    about = ProjectorAbout(
        paper="Perceiver IO: A General Architecture for Structured Inputs & Outputs (Jaegle, 2021)",
        tokens="`num_latents` a clip",
        checkpoint="transformers PerceiverModel",
        in_order=False,
    )

    num_latents: int = Field(256, ge=1)
    """Tokens out of every clip."""
    frames_per_clip: int | None = Field(None, ge=1)
    """Consecutive frames that a set of latents reads; the last clip may be shorter; ``None``: all
    frames of the video."""
    dim_latent: int = Field(1280, ge=1)
    """Features of a latent (``d_latents``)."""
    num_blocks: int = Field(1, ge=1)
    """How often the layers among the latents run, with the same weights."""
    depth: int = Field(26, ge=0)
    """Layers among the latents (``num_self_attends_per_block``)."""
    cross_heads: int = Field(8, ge=1)
    """Heads of the attention to the video (``num_cross_attention_heads``)."""
    latent_heads: int = Field(8, ge=1)
    """Heads of the attention among the latents (``num_self_attention_heads``)."""
    cross_widening: int = Field(1, ge=1)
    """Width inside the feed-forward after the video over ``dim_latent``."""
    latent_widening: int = Field(1, ge=1)
    """Width inside the feed-forwards among the latents over ``dim_latent``."""
    cross_shape: Literal["kv", "q"] = "kv"
    """Whether the attention to the video is as wide as the tokens or as the latents
    (``cross_attention_shape_for_attention``)."""
    qk_channels: int | None = Field(None, ge=1)
    """Features of queries and keys; ``None``: as ``cross_shape`` says, and ``dim_latent``."""
    v_channels: int | None = Field(None, ge=1)
    """Features of values; ``None``: those of the keys."""
    query_residual: bool = True
    """Whether what is read of the video is added to the latents (``use_query_residual``)."""
    freq_bands: int = Field(0, ge=0)
    """Frequencies of Fourier features of (t, h, w), beside the tokens' own, which count in the
    width of the tokens (``d_model``); 0: none, and the order of tokens is not seen."""
    max_freq: float = Field(10.0, gt=0)
    """Cells of a side that the highest frequency of the positions can tell apart."""

    @property
    def dim_read(self) -> int:
        """Features of what is read (``d_model``)."""
        return dim_with_fourier(self.dim_in, self.freq_bands)

    @model_validator(mode="after")
    def _check(self) -> Self:
        dim_cross = self.dim_read if self.cross_shape == "kv" else self.dim_latent
        for heads, dim in (("cross_heads", dim_cross), ("latent_heads", self.dim_latent)):
            qk = self.qk_channels or dim
            for width in (qk, self.v_channels or qk):
                if width % getattr(self, heads):
                    raise ConfigError(
                        f"{heads}={getattr(self, heads)} must divide the {width} features of the "
                        f"attention: change {heads}, or set qk_channels and v_channels"
                    )
        values = self.v_channels or self.qk_channels or self.dim_latent
        if self.depth and values != self.dim_latent:
            raise ConfigError(
                f"what latents read of each other is added to their dim_latent={self.dim_latent} "
                f"features, got values of {values}: set v_channels={self.dim_latent}"
            )
        return self

    def module(self) -> "PerceiverEncoder":
        """A ``PerceiverEncoder`` whose latents and matrices are normal(0.02), biases zero."""
        return PerceiverEncoder(self)


class PerceiverLayer(nn.Module):
    """Normed attention to other rows, or of latents to themselves, and a normed feed-forward."""

    def __init__(self, config: PerceiverEncoderConfig, *, dim_key: int | None) -> None:
        super().__init__()
        dim, crosses = config.dim_latent, dim_key is not None
        self.heads = config.cross_heads if crosses else config.latent_heads
        wide = dim_key if dim_key is not None and config.cross_shape == "kv" else dim
        qk = config.qk_channels or wide
        values = config.v_channels or qk
        self.norm = nn.LayerNorm(dim)
        self.norm_context = nn.LayerNorm(dim_key) if dim_key is not None else None
        self.query = nn.Linear(dim, qk)
        self.key = nn.Linear(dim_key or dim, qk)
        self.value = nn.Linear(dim_key or dim, values)
        self.out = nn.Linear(values, dim)
        self.residual = config.query_residual or not crosses
        widening = config.cross_widening if crosses else config.latent_widening
        self.feed_norm = nn.LayerNorm(dim)
        self.feed_forward = mlp(dim, widening * dim, dim)

    def forward(
        self, latents_BKD: Tensor, clip_BNC: Tensor | None = None, mask_BN: Tensor | None = None
    ) -> Tensor:
        """[B, K, D] new latents; without a clip they read each other."""
        return self._after(
            latents_BKD, attend(*self._inputs(latents_BKD, clip_BNC), mask_BN, heads=self.heads)
        )

    def read(
        self, latents_BKD: Tensor, clip_BNC: Tensor, mask_BN: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """New latents, and [B, K, N] float32 shares of the clip's tokens in what each reads."""
        inputs = self._inputs(latents_BKD, clip_BNC)
        read_BKE, sources_BKN = attend_with_shares(*inputs, mask_BN, heads=self.heads)
        return self._after(latents_BKD, read_BKE), sources_BKN

    def _after(self, latents_BKD: Tensor, read_BKE: Tensor) -> Tensor:
        x_BKD = self.out(read_BKE)
        if self.residual:
            x_BKD = latents_BKD + x_BKD
        out: Tensor = x_BKD + self.feed_forward(self.feed_norm(x_BKD))
        return out

    def _inputs(self, latents: Tensor, clip: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        query = self.norm(latents)
        key = query if clip is None or self.norm_context is None else self.norm_context(clip)
        return self.query(query), self.key(key), self.value(key)


class PerceiverEncoder(LatentProjector):
    """The model; if ``dim_out`` is not ``dim_latent``, a linear layer ``output`` follows it.

    The soft provenance of a latent is its attention to the clip, which it reads once.
    """

    config: PerceiverEncoderConfig
    reference_names = (
        (r"^latents$", r"embeddings.latents"),
        (r"^cross\.", r"encoder.cross_attention."),
        (r"^layers\.", r"encoder.self_attends."),
        (r"\.norm\.", r".attention.self.layernorm1."),
        (r"\.norm_context\.", r".attention.self.layernorm2."),
        (r"\.(query|key|value)\.", r".attention.self.\1."),
        (r"\.out\.", r".attention.output.dense."),
        (r"\.feed_norm\.", r".layernorm."),
        (r"\.feed_forward\.0\.", r".mlp.dense1."),
        (r"\.feed_forward\.2\.", r".mlp.dense2."),
    )

    def __init__(self, config: PerceiverEncoderConfig) -> None:
        super().__init__(config)
        self.latents = nn.Parameter(torch.randn(config.num_latents, config.dim_latent) * 0.02)
        self.cross = PerceiverLayer(config, dim_key=config.dim_read)
        layers = (PerceiverLayer(config, dim_key=None) for _ in range(config.depth))
        self.layers = nn.ModuleList(layers)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        self.output = output_layer(config.dim_latent, config.dim_out)

    def read(self, clips: ClipSets) -> tuple[Tensor, Tensor]:
        """Read the clip once, then run the layers ``num_blocks`` times."""
        bands, max_freq = self.config.freq_bands, self.config.max_freq
        clip_BNC = with_fourier(clips, self.embedded(clips), bands, max_freq)
        first = self.latents.expand(len(clip_BNC), -1, -1)
        x_BKD, sources_BKN = self.cross.read(first, clip_BNC, clips.mask)
        for _ in range(self.config.num_blocks):
            for layer in self.layers:
                x_BKD = layer(x_BKD)
        return self.output(x_BKD), sources_BKN
