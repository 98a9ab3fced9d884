"""Matryoshka query transformer: any number of latents answers, the first ones always the same.

Matryoshka Query Transformer for Large Vision-Language Models, 2024,
https://arxiv.org/abs/2405.19315.  Weights and arithmetic are those of MQT-LLaVA.  Keys are
positions without content, so that a latent looks at the same places in every frame.

Legend: B clips, N tokens of a clip, K latents, D features in.
"""

import math
from dataclasses import replace
from typing import Self, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from vidcomp.errors import BudgetError, ConfigError
from vidcomp.projectors.attention import MultiheadAttention
from vidcomp.projectors.base import ProjectorAbout
from vidcomp.projectors.blocks import untraced
from vidcomp.projectors.latents import LatentConfig, LatentProjector
from vidcomp.projectors.positions import read_table
from vidcomp.projectors.sets import ClipSets
from vidcomp.projectors.sincos import grid_table
from vidcomp.registry import PROJECTORS
from vidcomp.types import Grid

__all__ = ["MQT", "MQTConfig"]


@PROJECTORS.add("mqt")
class MQTConfig(LatentConfig):
    """The first of many latents, as many as the budget has for every clip (MQT)."""

    about = ProjectorAbout(
        paper="Matryoshka Query Transformer for Large Vision-Language Models (Hu, 2024)",
        tokens="1 to `num_latents` a clip, by budget",
        checkpoint="MQT-LLaVA Resampler",
        in_order=False,
    )

    num_latents: int = Field(256, ge=1)
    """Tokens out of every clip, if the budget has as many."""
    latent_grid: tuple[int, int] = (16, 16)
    """Rows and columns in which the latents stand over the picture, ``num_latents`` together."""
    heads: int = Field(16, ge=1)
    """Attention heads, a divisor of ``dim_in`` (``num_heads``)."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.dim_in % self.heads:
            raise ConfigError(f"heads={self.heads} must divide dim_in={self.dim_in}: change heads")
        if math.prod(self.latent_grid) != self.num_latents:
            raise ConfigError(
                f"latent_grid={self.latent_grid} has {math.prod(self.latent_grid)} latents, got "
                f"num_latents={self.num_latents}: pass num_latents={math.prod(self.latent_grid)}"
            )
        return self

    def module(self) -> "MQT":
        """An ``MQT`` with truncated normal(0.02) latents."""
        return MQT(self)


class MQT(LatentProjector):
    """Elastic: a clip has as many tokens as its equal share of the budget, rounded down.

    The soft provenance of a latent is its attention.
    """

    config: MQTConfig
    is_elastic = True

    def __init__(self, config: MQTConfig) -> None:
        super().__init__(config)
        dim = config.dim_in
        self.query = nn.Parameter(torch.empty(config.num_latents, dim))
        self.attn = MultiheadAttention(dim, heads=config.heads)
        self.ln_q, self.ln_k, self.ln_v = (nn.LayerNorm(dim, eps=1e-6) for _ in range(3))
        self.proj = nn.Parameter(torch.randn(dim, config.dim_out) * dim**-0.5)
        self.register_buffer("pos_embed", grid_table(*config.latent_grid, dim))
        nn.init.trunc_normal_(self.query, std=0.02)
        nn.init.trunc_normal_(self.attn.out_proj.weight, std=dim**-0.5)

    def latents_within(self, grid: Grid, budget: int | None) -> int:
        """Tokens of a clip: its share of the budget.

        Raises:
            BudgetError: ``budget`` is less than a token a clip.
        """
        if budget is None:
            return self.num_latents
        clips = self.num_clips(grid)
        if budget < clips:
            raise BudgetError(
                f"the projector {self.config.name!r} gives each of {clips} clips at least one "
                f"token, and the budget is {budget}: raise the budget to {clips} or frames_per_clip"
            )
        return min(self.num_latents, budget // clips)

    def read(self, clips: ClipSets) -> tuple[Tensor, Tensor]:
        """One attention of the first latents to the places of the rows."""
        table_KD = cast(Tensor, self.pos_embed)
        seen = _one_if_alike(clips)
        place_BND = read_table(
            table_KD, self.config.latent_grid, seen.places[..., 1:], seen.sizes[:, 1:]
        )
        query_KD = self.ln_q((self.query + table_KD)[: clips.num_latents])
        query_BKD = query_KD.expand(len(place_BND), -1, -1)
        key_BND = self.ln_k(self.add_frames(place_BND, seen))
        value_BND = self.ln_v(self.embedded(clips))
        read_BKD, sources_BKN = self.attn.read(query_BKD, key_BND, value_BND, seen.mask)
        return read_BKD @ self.proj, sources_BKN.expand(len(value_BND), -1, -1)


@untraced
def _one_if_alike(clips: ClipSets) -> ClipSets:
    """The first of clips whose rows stand at the same places: latents attend to all alike."""
    places, sizes = clips.places, clips.sizes
    if clips.mask is None and bool((places == places[:1]).all() and (sizes == sizes[:1]).all()):
        return replace(clips, places=places[:1], sizes=sizes[:1])
    return clips
