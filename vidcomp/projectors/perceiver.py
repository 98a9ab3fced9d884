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
from typing import Self, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from vidcomp.projectors.base import ProjectorAbout, ProjectorConfig
from vidcomp.projectors.blocks import CrossAttention, stretched_rows
from vidcomp.projectors.sets import ClipSets, SetwiseProjector
from vidcomp.registry import PROJECTORS

__all__ = ["Layer", "Perceiver", "PerceiverConfig"]


@PROJECTORS.add("perceiver")
class PerceiverConfig(ProjectorConfig):
    """Latents that cross-attend to all tokens of a clip (Flamingo)."""

    about = ProjectorAbout(
        paper="Flamingo: a Visual Language Model for Few-Shot Learning (Alayrac, 2022)",
        tokens="`num_latents` a clip",
        checkpoint="open_flamingo and flamingo-pytorch PerceiverResampler",
        in_order=False,
    )

    num_latents: int = Field(64, ge=1)
    """Tokens out of every clip."""
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


class Layer(nn.Module):
    """Latents read the clip and themselves, then a feed-forward; both are added to them."""

    def __init__(self, config: PerceiverConfig) -> None:
        super().__init__()
        dim, hidden = config.dim_in, config.dim_in * config.ff_mult
        self.norm_media = nn.LayerNorm(dim)
        self.norm_latents = nn.LayerNorm(dim)
        self.attention = CrossAttention(dim, heads=config.heads, dim_head=config.dim_head)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(dim),
            nn.Linear(dim, hidden, bias=False),
            nn.GELU(),
            nn.Linear(hidden, dim, bias=False),
        )

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
        out: Tensor = latents_BKD + self.feed_forward(latents_BKD)
        return out

    def _inputs(
        self, latents: Tensor, clip: Tensor, mask: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        query = self.norm_latents(latents)
        key = torch.cat([self.norm_media(clip), query], dim=1)
        if mask is not None:
            mask = torch.cat([mask, mask.new_ones(latents.shape[:2])], dim=1)
        return query, key, mask


class Perceiver(SetwiseProjector):
    """The resampler; if ``dim_out`` is not ``dim_in``, a linear layer ``output`` follows it.

    The soft provenance of a latent is the attention of the last layer, averaged over heads: where
    it looked last, not all that it has seen.
    """

    config: PerceiverConfig
    reference_names = (
        (r"^(layers\.\d+)\.attention\.", r"\1.0."),
        (r"^(layers\.\d+)\.norm_", r"\1.0.norm_"),
        (r"^(layers\.\d+)\.feed_forward\.", r"\1.1."),
    )

    def __init__(self, config: PerceiverConfig) -> None:
        super().__init__(config)
        dim = config.dim_in
        self.latents = nn.Parameter(torch.randn(config.num_latents, dim))
        if config.max_frames:
            self.frame_embs = nn.Parameter(torch.randn(config.max_frames, dim))
        if config.max_clips:
            self.media_time_embs = nn.Parameter(torch.randn(config.max_clips, 1, dim))
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(dim)
        same = config.dim_out == dim
        self.output = nn.Identity() if same else nn.Linear(dim, config.dim_out)

    @property
    def num_latents(self) -> int:
        """As the settings say."""
        return self.config.num_latents

    @property
    def frames_per_clip(self) -> int | None:
        """As the settings say."""
        return self.config.frames_per_clip

    def load_reference(self, state: Mapping[str, Tensor]) -> Self:
        """Weights by the names of OpenFlamingo or of flamingo-pytorch (``media_pos_emb``)."""
        renamed = {"media_pos_emb": "media_time_embs"}
        return super().load_reference({renamed.get(n, n): t for n, t in state.items()})

    def read(self, clips: ClipSets) -> tuple[Tensor, Tensor]:
        """Layer after layer; the sources are those of the last."""
        clip_BND, mask_BN = self._embedded(clips), clips.mask
        latents = self.latents.expand(len(clip_BND), -1, -1)
        for layer in self.layers[:-1]:
            latents = layer(latents, clip_BND, mask_BN)
        latents, sources = cast(Layer, self.layers[-1]).read(latents, clip_BND, mask_BN)
        return self.output(self.norm(latents)), sources

    def _embedded(self, clips: ClipSets) -> Tensor:
        """[B, N, D] tokens with the embeddings of their frame in the clip and of their clip."""
        tokens = clips.rows
        if self.config.max_frames:
            frame_BN, length_B1 = clips.places[..., 0], clips.sizes[:, :1]
            tokens = tokens + stretched_rows(self.frame_embs, frame_BN, length_B1)
        if self.config.max_clips:
            number_B1, count_B1 = torch.split(clips.numbers, 1, dim=1)
            tokens = tokens + stretched_rows(self.media_time_embs.squeeze(1), number_B1, count_B1)
        return tokens
