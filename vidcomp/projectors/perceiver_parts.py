"""Layers of the Perceivers of perceiver-pytorch, and the settings that they share.

Legend: B clips, K queries, N keys, D features of the queries.
"""

import re
from collections.abc import Mapping
from typing import cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import gelu

from vidcomp.projectors.blocks import CrossAttention
from vidcomp.projectors.latents import LatentConfig
from vidcomp.projectors.sets import ClipSets
from vidcomp.projectors.sincos import fourier

__all__ = [
    "PERCEIVER_NAMES",
    "GatedFeedForward",
    "LatentArrayConfig",
    "LatentLayer",
    "Reading",
    "dim_with_fourier",
    "with_fourier",
    "without_repeats",
]

PERCEIVER_NAMES = ((r"\.attention\.", r".fn."), (r"\.net\.", r".fn.net."))
"""Our parameter names as perceiver-pytorch's."""


class LatentArrayConfig(LatentConfig):
    """Settings of a latent array that reads a video once or again and again."""

    frames_per_clip: int | None = Field(None, ge=1)
    """Consecutive frames that are read together; the last clip may be shorter; ``None``: all
    frames of the video."""
    dim_latent: int = Field(512, ge=1)
    """Features of a latent (``latent_dim``)."""
    cross_heads: int = Field(1, ge=1)
    """Heads of the attention to the video."""
    latent_heads: int = Field(8, ge=1)
    """Heads of the attention among the latents."""
    cross_dim_head: int = Field(64, ge=1)
    """Features of each of ``cross_heads``."""
    latent_dim_head: int = Field(64, ge=1)
    """Features of each of ``latent_heads``."""
    tie_layers: bool = False
    """Whether layers share their weights (``weight_tie_layers``)."""
    max_freq: float = Field(10.0, gt=0)
    """Cells of a side that the highest frequency of the positions can tell apart."""


class Reading(nn.Module):
    """Attention of normed queries to normed keys, or to themselves (no ``dim_key``)."""

    def __init__(self, dim: int, *, heads: int, dim_head: int, dim_key: int | None = None) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.norm_context = None if dim_key is None else nn.LayerNorm(dim_key)
        self.attention = CrossAttention(
            dim, heads=heads, dim_head=dim_head, dim_key=dim_key, bias_out=True
        )

    def forward(
        self, query_BKD: Tensor, key_BND: Tensor | None = None, mask_BN: Tensor | None = None
    ) -> Tensor:
        """[B, K, D] what the queries read, to be added to them; without keys, of themselves."""
        query, key = self._normed(query_BKD, key_BND)
        return cast(Tensor, self.attention(query, key, mask_BN))

    def read(
        self, query_BKD: Tensor, key_BND: Tensor, mask_BN: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """What ``forward`` gives, and [B, K, N] float32 shares of the keys in it."""
        query, key = self._normed(query_BKD, key_BND)
        return self.attention.read(query, key, mask_BN)

    def _normed(self, query: Tensor, key: Tensor | None) -> tuple[Tensor, Tensor]:
        query = self.norm(query)
        if key is None or self.norm_context is None:
            return query, query
        return query, self.norm_context(key)


class GatedFeedForward(nn.Module):
    """A normed feed-forward, four times as wide inside, half of it gated by GELU of the other."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.net = nn.Sequential(nn.Linear(dim, 8 * dim), _Gated(), nn.Linear(4 * dim, dim))

    def forward(self, x_BKD: Tensor) -> Tensor:
        """[B, K, D] to be added to the input."""
        out: Tensor = self.net(self.norm(x_BKD))
        return out


class _Gated(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        value, gate = x.chunk(2, dim=-1)
        return value * gelu(gate)


class LatentLayer(nn.ModuleList):
    """Latents read a clip (or each other, without ``dim_key``), then a feed-forward; both are
    added to them.  Modules are called ``0`` and ``1``.
    """

    def __init__(self, config: LatentArrayConfig, *, dim_key: int | None = None) -> None:
        dim, clip = config.dim_latent, dim_key is not None
        heads = config.cross_heads if clip else config.latent_heads
        dim_head = config.cross_dim_head if clip else config.latent_dim_head
        reading = Reading(dim, heads=heads, dim_head=dim_head, dim_key=dim_key)
        super().__init__([reading, GatedFeedForward(dim)])

    def forward(
        self, latents_BKD: Tensor, clip_BND: Tensor | None = None, mask_BN: Tensor | None = None
    ) -> Tensor:
        """[B, K, D] new latents."""
        return self._after(latents_BKD + self[0](latents_BKD, clip_BND, mask_BN))

    def read(
        self, latents_BKD: Tensor, clip_BND: Tensor, mask_BN: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """New latents, and [B, K, N] float32 shares of the clip's tokens in what each reads."""
        read_BKD, sources = cast(Reading, self[0]).read(latents_BKD, clip_BND, mask_BN)
        return self._after(latents_BKD + read_BKD), sources

    def _after(self, latents_BKD: Tensor) -> Tensor:
        out: Tensor = latents_BKD + self[1](latents_BKD)
        return out


def dim_with_fourier(dim: int, bands: int) -> int:
    """Features of tokens after ``with_fourier``."""
    return dim + 3 * (2 * bands + 1) if bands else dim


def with_fourier(clips: ClipSets, x_BND: Tensor, bands: int, max_freq: float) -> Tensor:
    """[B, N, D] tokens of the clips with the Fourier features of their places beside them; no
    ``bands``: without.
    """
    if not bands:
        return x_BND
    place = fourier(clips.places, clips.sizes, bands, max_freq)
    return torch.cat([x_BND, place.to(x_BND.dtype)], dim=-1)


def without_repeats(state: Mapping[str, Tensor], num_layers: int) -> dict[str, Tensor]:
    """A checkpoint without the layers from ``num_layers`` on, in which perceiver-pytorch repeats
    tied weights; all of it if these do not repeat the last layer before.
    """
    kept, last = {}, max(num_layers - 1, 0)
    for name, tensor in state.items():
        match = re.match(r"layers\.(\d+)\.(.*)", name)
        if match is not None and int(match[1]) >= num_layers:
            first = state.get(f"layers.{last}.{match[2]}")
            if first is not None and torch.equal(first, tensor):
                continue
        kept[name] = tensor
    return kept
