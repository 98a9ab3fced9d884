"""Flamingo's Perceiver Resampler: learned latents read a video of any length into a fixed count.

Flamingo: a Visual Language Model for Few-Shot Learning, 2022, https://arxiv.org/abs/2204.14198.
Weights and arithmetic are those of OpenFlamingo (a video is one clip, whose frames are fused) and
of flamingo-pytorch (``frames_per_clip=1``: every frame by itself).  Both index their time
embeddings and fail on longer videos; here the tables are interpolated, as in the paper.  Tokens
may have been merged or dropped before: a token's time is its position, whole or not.

Legend: B clips of all videos, N tokens of the longest clip, K latents, D features, R rows of a
table.
"""

from collections.abc import Mapping
from typing import Self

import torch
from pydantic import Field
from torch import Tensor, nn

from vidcomp.projectors.base import ProjectorAbout
from vidcomp.projectors.blocks import CrossAttention, stretched_rows
from vidcomp.projectors.latents import LatentConfig, LatentProjector, output_layer
from vidcomp.projectors.resampler import ReadingLayer, read_in_layers
from vidcomp.projectors.sets import ClipSets
from vidcomp.registry import PROJECTORS

__all__ = ["Perceiver", "PerceiverConfig"]


@PROJECTORS.add("perceiver")
class PerceiverConfig(LatentConfig):
    """Latents that cross-attend to all tokens of a clip (Flamingo)."""

    about = ProjectorAbout(
        paper="Flamingo: a Visual Language Model for Few-Shot Learning (Alayrac, 2022)",
        tokens="`num_latents` a clip",
        checkpoint="open_flamingo and flamingo-pytorch PerceiverResampler",
        in_order=False,
    )

    depth: int = Field(6, ge=1)
    """Layers of attention and feed-forward."""
    heads: int = Field(8, ge=1)
    """Attention heads."""
    dim_head: int = Field(64, ge=1)
    """Features of one head."""
    ff_mult: int = Field(4, ge=1)
    """Hidden features of the feed-forward over its input's."""
    frames_per_clip: int | None = Field(None, ge=1)
    """Frames that are fused into one set of latents: ``None`` all of the video (OpenFlamingo),
    1 each by itself (flamingo-pytorch); the last clip may be shorter."""
    max_frames: int = Field(8, ge=0)
    """Rows of the table of frame embeddings (``max_num_frames``), stretched over clips of more
    frames; 0: none, and the order of frames inside a clip is not seen."""
    max_clips: int = Field(0, ge=0)
    """Rows of the table of clip embeddings (``max_num_media``, ``num_media_embeds``), stretched
    over videos of more clips; 0: none."""

    def module(self) -> "Perceiver":
        """A ``Perceiver`` whose latents and embeddings are standard normal, as the originals'."""
        return Perceiver(self)


class Perceiver(LatentProjector):
    """The resampler; if ``dim_out`` is not ``dim_in``, a linear layer ``output`` follows it.

    The soft provenance of a latent is the attention of the last layer, averaged over heads: where
    it looked last, not all that it has seen.
    """

    config: PerceiverConfig
    reference_names = (
        (r"^frame_emb\.weight$", "frame_embs"),
        (r"^(layers\.\d+)\.attention\.", r"\1.0."),
        (r"^(layers\.\d+)\.norm_clip\.", r"\1.0.norm_media."),
        (r"^(layers\.\d+)\.norm_latents\.", r"\1.0.norm_latents."),
        (r"^(layers\.\d+)\.feed_forward\.", r"\1.1."),
    )

    def __init__(self, config: PerceiverConfig) -> None:
        super().__init__(config)
        dim = config.dim_in
        self.latents = nn.Parameter(torch.randn(config.num_latents, dim))
        if self.frame_emb is not None:
            nn.init.normal_(self.frame_emb.weight)
        if config.max_clips:
            self.media_time_embs = nn.Parameter(torch.randn(config.max_clips, 1, dim))
        self.layers = nn.ModuleList(_layer(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(dim)
        self.output = output_layer(dim, config.dim_out)

    def load_reference(self, state: Mapping[str, Tensor]) -> Self:
        """Weights by the names of OpenFlamingo or of flamingo-pytorch (``media_pos_emb``)."""
        renamed = {"media_pos_emb": "media_time_embs"}
        return super().load_reference({renamed.get(n, n): t for n, t in state.items()})

    def read(self, clips: ClipSets) -> tuple[Tensor, Tensor]:
        """Layer after layer; the sources are those of the last."""
        clip_BND = self.embedded(clips)
        first_BKD = self.latents.expand(len(clip_BND), -1, -1)
        latents, sources = read_in_layers(self.layers, first_BKD, clip_BND, clips.mask)
        return self.output(self.norm(latents)), sources

    def embedded(self, clips: ClipSets) -> Tensor:
        """[B, N, D] tokens with the embeddings of their frame in the clip and of their clip."""
        tokens = super().embedded(clips)
        if not self.config.max_clips:
            return tokens
        number_B1, count_B1 = torch.split(clips.numbers, 1, dim=1)
        return tokens + stretched_rows(self.media_time_embs.squeeze(1), number_B1, count_B1)


def _layer(config: PerceiverConfig) -> ReadingLayer:
    dim, hidden = config.dim_in, config.dim_in * config.ff_mult
    return ReadingLayer(
        nn.LayerNorm(dim),
        nn.LayerNorm(dim),
        CrossAttention(dim, heads=config.heads, dim_head=config.dim_head),
        nn.Sequential(
            nn.LayerNorm(dim),
            nn.Linear(dim, hidden, bias=False),
            nn.GELU(),
            nn.Linear(hidden, dim, bias=False),
        ),
    )
