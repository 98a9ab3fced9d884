"""Perceiver: a latent array reads the video again and again, with Fourier features of positions.

Perceiver: General Perception with Iterative Attention, 2021, https://arxiv.org/abs/2103.03206.
Weights and arithmetic are those of perceiver-pytorch; tokens may have been merged or dropped
before, as positions between cells have Fourier features too.

Legend: B clips, N tokens of a clip, K latents, D features of a latent.
"""

from collections.abc import Mapping
from typing import Self, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from vidcomp.projectors.base import ProjectorAbout
from vidcomp.projectors.latents import LatentProjector, output_layer
from vidcomp.projectors.perceiver_parts import (
    PERCEIVER_NAMES,
    LatentArrayConfig,
    LatentLayer,
    dim_with_fourier,
    with_fourier,
    without_repeats,
)
from vidcomp.projectors.resampler import read_in_layers
from vidcomp.projectors.sets import ClipSets
from vidcomp.registry import PROJECTORS

__all__ = ["IterativeLayer", "IterativePerceiver", "IterativePerceiverConfig"]


@PROJECTORS.add("perceiver_iterative")
class IterativePerceiverConfig(LatentArrayConfig):
    """A latent array that reads all tokens of a clip, and where they are, in every layer."""

    about = ProjectorAbout(
        paper="Perceiver: General Perception with Iterative Attention (Jaegle, 2021)",
        tokens="`num_latents` a clip",
        checkpoint="perceiver-pytorch Perceiver of three axes",
        in_order=False,
    )

    num_latents: int = Field(256, ge=1)
    """Tokens out of every clip."""
    depth: int = Field(6, ge=1)
    """Readings of the clip; with ``tie_layers`` all but the first share their weights."""
    self_per_cross: int = Field(1, ge=0)
    """Layers of attention among the latents after each reading (``self_per_cross_attn``)."""
    freq_bands: int = Field(6, ge=1)
    """Frequencies of the Fourier features of t, h and w (``num_freq_bands``)."""

    def module(self) -> "IterativePerceiver":
        """An ``IterativePerceiver`` whose latents are standard normal."""
        return IterativePerceiver(self)


class IterativeLayer(LatentLayer):
    """A reading of the clip, then layers of attention among the latents in module ``2``."""

    def __init__(self, config: IterativePerceiverConfig) -> None:
        super().__init__(config, dim_key=dim_with_fourier(config.dim_in, config.freq_bands))
        self.append(nn.ModuleList(LatentLayer(config) for _ in range(config.self_per_cross)))

    def _after(self, latents_BKD: Tensor) -> Tensor:
        latents_BKD = super()._after(latents_BKD)
        for layer in cast(nn.ModuleList, self[2]):
            latents_BKD = layer(latents_BKD)
        return latents_BKD


class IterativePerceiver(LatentProjector):
    """The latents; if ``dim_out`` is not ``dim_latent``, a linear layer ``output`` follows.

    The soft provenance of a latent is the attention of the last reading.
    """

    config: IterativePerceiverConfig
    reference_names = PERCEIVER_NAMES

    def __init__(self, config: IterativePerceiverConfig) -> None:
        super().__init__(config)
        self.latents = nn.Parameter(torch.randn(config.num_latents, config.dim_latent))
        own = min(config.depth, 2) if config.tie_layers else config.depth
        self.layers = nn.ModuleList(IterativeLayer(config) for _ in range(own))
        self.output = output_layer(config.dim_latent, config.dim_out)

    def load_reference(self, state: Mapping[str, Tensor]) -> Self:
        """Weights by the names of perceiver-pytorch; a classifier's head is left out."""
        own = without_repeats(state, len(self.layers))
        return super().load_reference(
            {n: t for n, t in own.items() if not n.startswith("to_logits.")}
        )

    def read(self, clips: ClipSets) -> tuple[Tensor, Tensor]:
        """Layer after layer; the sources are those of the last reading."""
        bands, max_freq = self.config.freq_bands, self.config.max_freq
        clip_BND = with_fourier(clips, self.embedded(clips), bands, max_freq)
        first_BKD = self.latents.expand(len(clip_BND), -1, -1)
        layers = [self.layers[min(i, len(self.layers) - 1)] for i in range(self.config.depth)]
        latents, sources = read_in_layers(layers, first_BKD, clip_BND, clips.mask)
        return self.output(latents), sources
