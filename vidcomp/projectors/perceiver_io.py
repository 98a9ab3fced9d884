"""Perceiver IO: a latent array reads the video once, thinks, and answers learned output queries.

Perceiver IO: A General Architecture for Structured Inputs & Outputs, 2021,
https://arxiv.org/abs/2107.14795.  Weights and arithmetic are those of perceiver-pytorch, where the
output queries are an input; here they are learned, and a checkpoint need not hold them.

Legend: B clips, N tokens of a clip, L latents, K output queries, D features of a latent.
"""

from collections.abc import Mapping
from typing import Self

import torch
from pydantic import Field
from torch import Tensor, nn

from vidcomp.projectors.base import ProjectorAbout
from vidcomp.projectors.latents import LatentProjector
from vidcomp.projectors.perceiver_parts import (
    PERCEIVER_NAMES,
    GatedFeedForward,
    LatentArrayConfig,
    LatentLayer,
    Reading,
    dim_with_fourier,
    with_fourier,
    without_repeats,
)
from vidcomp.projectors.sets import ClipSets
from vidcomp.registry import PROJECTORS

__all__ = ["PerceiverIO", "PerceiverIOConfig"]


@PROJECTORS.add("perceiver_io")
class PerceiverIOConfig(LatentArrayConfig):
    """A latent array reads all tokens of a clip once, output queries read the latents."""

    about = ProjectorAbout(
        paper="Perceiver IO: A General Architecture for Structured Inputs & Outputs (Jaegle, 2021)",
        tokens="`num_outputs` a clip",
        checkpoint="perceiver-pytorch PerceiverIO",
        in_order=False,
    )

    num_outputs: int = Field(64, ge=1)
    """Output queries: tokens out of every clip."""
    dim_query: int = Field(512, ge=1)
    """Features of an output query (``queries_dim``)."""
    num_latents: int = Field(512, ge=1)
    """Latents, through which all goes."""
    depth: int = Field(6, ge=0)
    """Layers of attention among the latents."""
    decoder_ff: bool = False
    """Whether a feed-forward follows what the output queries read."""
    freq_bands: int = Field(0, ge=0)
    """Frequencies of Fourier features of (t, h, w), beside the tokens' own; 0: none, as in the
    original, where they belong to the input, and the order of tokens is not seen."""

    def module(self) -> "PerceiverIO":
        """A ``PerceiverIO`` whose latents and queries are standard normal."""
        return PerceiverIO(self)


class PerceiverIO(LatentProjector):
    """The model; its soft provenance is the decoder's attention through that of the latents."""

    config: PerceiverIOConfig
    reference_names = (
        *PERCEIVER_NAMES,
        (r"^cross\.", r"cross_attend_blocks."),
        (r"^decoder\.", r"decoder_cross_attn."),
        (r"^output\.", r"to_logits."),
    )

    def __init__(self, config: PerceiverIOConfig) -> None:
        super().__init__(config)
        dim, dim_query = config.dim_latent, config.dim_query
        heads = {"heads": config.cross_heads, "dim_head": config.cross_dim_head}
        self.latents = nn.Parameter(torch.randn(config.num_latents, dim))
        self.queries = nn.Parameter(torch.randn(config.num_outputs, dim_query))
        dim_key = dim_with_fourier(config.dim_in, config.freq_bands)
        self.cross = LatentLayer(config, dim_key=dim_key)
        own = min(config.depth, 1) if config.tie_layers else config.depth
        self.layers = nn.ModuleList(LatentLayer(config) for _ in range(own))
        self.decoder = Reading(dim_query, dim_key=dim, **heads)
        self.decoder_ff = GatedFeedForward(dim_query) if config.decoder_ff else None
        self.output = nn.Linear(dim_query, config.dim_out)

    @property
    def num_latents(self) -> int:
        """Output queries: what comes out of a clip."""
        return self.config.num_outputs

    def load_reference(self, state: Mapping[str, Tensor]) -> Self:
        """Weights by the names of perceiver-pytorch; without ``queries`` ours stay as they are."""
        own = {"queries": self.queries.detach(), **without_repeats(state, len(self.layers))}
        return super().load_reference(own)

    def read(self, clips: ClipSets) -> tuple[Tensor, Tensor]:
        """Encode, then decode with the learned queries."""
        bands, max_freq = self.config.freq_bands, self.config.max_freq
        clip_BND = with_fourier(clips, self.embedded(clips), bands, max_freq)
        latents_BLD, of_latents_BLN = self.encode(clip_BND, clips.mask)
        queries_BKD = self.queries.expand(len(clip_BND), -1, -1)
        tokens_BKE, of_tokens_BKL = self.decode(queries_BKD, latents_BLD)
        return tokens_BKE, of_tokens_BKL @ of_latents_BLN

    def encode(self, clip_BND: Tensor, mask_BN: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """[B, L, D] latents after they read the clip and each other, and [B, L, N] float32 shares
        of the clip's tokens in what each read.

        Args:
            clip_BND: tokens, with positions if the settings want them.
            mask_BN: bool, True where a token is; ``None``: everywhere.
        """
        first = self.latents.expand(len(clip_BND), -1, -1)
        latents_BLD, sources_BLN = self.cross.read(first, clip_BND, mask_BN)
        for i in range(self.config.depth):
            latents_BLD = self.layers[min(i, len(self.layers) - 1)](latents_BLD)
        return latents_BLD, sources_BLN

    def decode(self, queries_BKD: Tensor, latents_BLD: Tensor) -> tuple[Tensor, Tensor]:
        """[B, K, dim_out] answers to queries [B, K, dim_query], to which nothing is added, and
        [B, K, L] float32 shares of the latents in them.
        """
        answers, sources_BKL = self.decoder.read(queries_BKD, latents_BLD)
        if self.decoder_ff is not None:
            answers = answers + self.decoder_ff(answers)
        return self.output(answers), sources_BKL
