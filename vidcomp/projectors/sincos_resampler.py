"""Resamplers of one attention with sine and cosine positions: Qwen-VL, MiniCPM-V and its 3-D one.

Qwen-VL: A Versatile Vision-Language Model for Understanding, Localization, Text Reading, and
Beyond, 2023, https://arxiv.org/abs/2308.12966; MiniCPM-V: A GPT-4V Level MLLM on Your Phone, 2024,
https://arxiv.org/abs/2408.01800; MiniCPM-V 4.5, 2025, https://arxiv.org/abs/2509.18154.

Latents read the rows of a clip once; positions are added to what is compared, never to what is
read.  Here a row's position may lie between patches, where tokens were merged, and the rows of a
clip bear their own times, so that frames of different sizes, or with dropped tokens, keep theirs.

Legend: B clips, N tokens of a clip, K latents, D features of the language model.
"""

import math
from collections.abc import Mapping
from typing import Literal, Self, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from vidcomp.errors import ConfigError
from vidcomp.projectors.attention import MultiheadAttention
from vidcomp.projectors.base import ProjectorAbout
from vidcomp.projectors.latents import LatentConfig, LatentProjector
from vidcomp.projectors.positions import read_table
from vidcomp.projectors.sets import ClipSets
from vidcomp.projectors.sincos import grid_table, sincos, sincos_hw
from vidcomp.registry import PROJECTORS

__all__ = [
    "MiniCPMV3DConfig",
    "MiniCPMVConfig",
    "QwenVLConfig",
    "SincosConfig",
    "SincosResampler",
    "frame_starts",
]


class SincosConfig(LatentConfig):
    """Settings of a ``SincosResampler``."""

    dim_head: int = Field(128, ge=1)
    """Features of an attention head, a divisor of ``dim_out``."""
    latent_grid: tuple[int, int] | None = None
    """Rows and columns in which the latents stand over the picture, ``num_latents`` together: the
    positions of that grid are added to them and, stretched bicubically over its own grid, to the
    tokens.  ``None``: latents have no positions, and those of tokens count patches."""
    times: Literal["none", "frames", "seconds"] = "none"
    """What else is added to the tokens of a video: nothing, or sines and cosines of the frame in
    the clip, or of the time in the video."""
    time_step_s: float = Field(0.1, gt=0)
    """Seconds that are told apart by ``times: seconds``; a frame's time is rounded to them."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.dim_out % self.dim_head:
            raise ConfigError(
                f"dim_head={self.dim_head} must divide dim_out={self.dim_out}: change dim_head"
            )
        if self.latent_grid is not None and math.prod(self.latent_grid) != self.num_latents:
            raise ConfigError(
                f"latent_grid={self.latent_grid} has {math.prod(self.latent_grid)} latents, got "
                f"num_latents={self.num_latents}: pass num_latents={math.prod(self.latent_grid)}"
            )
        return self

    def module(self) -> "SincosResampler":
        """A ``SincosResampler`` with truncated normal(0.02) latents and matrices, no biases."""
        return SincosResampler(self)


@PROJECTORS.add("qwen_vl")
class QwenVLConfig(SincosConfig):
    """Latents on a grid over the picture read a frame once (Qwen-VL)."""

    about = ProjectorAbout(
        paper="Qwen-VL: A Versatile Vision-Language Model for Understanding, Localization, Text "
        "Reading, and Beyond (Bai, 2023)",
        tokens="`num_latents` a clip",
        checkpoint="Qwen-VL Resampler",
        in_order=False,
    )

    num_latents: int = Field(256, ge=1)
    """Tokens out of every clip."""
    latent_grid: tuple[int, int] | None = (16, 16)
    """Rows and columns in which the latents stand over the picture, ``num_latents`` together: the
    positions of that grid are added to them and, stretched bicubically over its own grid, to the
    tokens.  ``None``: latents have no positions, and those of tokens count patches."""


@PROJECTORS.add("minicpmv")
class MiniCPMVConfig(SincosConfig):
    """Latents without positions read a frame of any size once (MiniCPM-V 2.5 and 2.6)."""

    about = ProjectorAbout(
        paper="MiniCPM-V: A GPT-4V Level MLLM on Your Phone (Yao, 2024)",
        tokens="`num_latents` a clip",
        checkpoint="MiniCPM-V 2.5 and 2.6 Resampler",
        in_order=False,
    )


@PROJECTORS.add("minicpmv_3d")
class MiniCPMV3DConfig(SincosConfig):
    """Latents read up to six frames together, with the time of each (MiniCPM-V 4.5)."""

    about = ProjectorAbout(
        paper="MiniCPM-V 4.5: Cooking Efficient MLLMs via Architecture, Data, and Training Recipe "
        "(Yu, 2025)",
        tokens="`num_latents` a clip of `frames_per_clip` frames",
        checkpoint="MiniCPM-V 4.5 Resampler",
        in_order=False,
    )

    frames_per_clip: int | None = Field(6, ge=1)
    """Consecutive frames that a set of latents reads; the last clip may be shorter; ``None``: all
    frames of the video."""
    times: Literal["none", "frames", "seconds"] = "seconds"
    """What else is added to the tokens of a video: nothing, or sines and cosines of the frame in
    the clip, or of the time in the video."""


class SincosResampler(LatentProjector):
    """Normed latents compare themselves with normed, positioned tokens, and read the tokens.

    The soft provenance of a latent is its attention.
    """

    config: SincosConfig

    def __init__(self, config: SincosConfig) -> None:
        super().__init__(config)
        dim, same = config.dim_out, config.dim_in == config.dim_out
        self.query = nn.Parameter(torch.empty(config.num_latents, dim))
        self.kv_proj = nn.Identity() if same else nn.Linear(config.dim_in, dim, bias=False)
        self.attn = MultiheadAttention(dim, heads=dim // config.dim_head)
        self.ln_q, self.ln_kv, self.ln_post = (nn.LayerNorm(dim, eps=1e-6) for _ in range(3))
        self.proj = nn.Parameter(torch.randn(dim, dim) * dim**-0.5)
        if config.latent_grid is not None:
            self.register_buffer("pos_embed", grid_table(*config.latent_grid, dim))
        nn.init.trunc_normal_(self.query, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)

    def load_reference(self, state: Mapping[str, Tensor]) -> Self:
        """Weights by the names of either original; of Qwen-VL's whole ``visual`` too, in which the
        resampler is ``attn_pool`` and its last layers stand outside.
        """
        inside = "attn_pool."
        if any(name.startswith(inside) for name in state):
            outside = ("ln_post.weight", "ln_post.bias", "proj")
            state = {
                name.removeprefix(inside): tensor
                for name, tensor in state.items()
                if name.startswith(inside) or name in outside
            }
        return super().load_reference(state)

    def read(self, clips: ClipSets) -> tuple[Tensor, Tensor]:
        """One attention; places and times are added to the keys only."""
        value_BND = self.ln_kv(self.kv_proj(self.embedded(clips)))
        key_BND = value_BND + self._positions(clips).to(value_BND.dtype)
        query_KD = self.ln_q(self.query)
        if self.config.latent_grid is not None:
            query_KD = query_KD + self._table
        read_BKD, sources_BKN = self.attn.read(query_KD[None], key_BND, value_BND, clips.mask)
        return self.ln_post(read_BKD) @ self.proj, sources_BKN

    @property
    def _table(self) -> Tensor:
        return cast(Tensor, self.pos_embed)

    def _positions(self, clips: ClipSets) -> Tensor:
        """[B, N, D] positions of the rows in their frame, and their times."""
        place_BN2, dim = clips.places[..., 1:], self.config.dim_out
        if self.config.latent_grid is None:
            where_BND = sincos_hw(place_BN2, dim)
        else:
            where_BND = read_table(
                self._table, self.config.latent_grid, place_BN2, clips.sizes[:, 1:]
            )
        if self.config.times == "none":
            return where_BND
        return sincos(self._times(clips), dim).add_(where_BND)

    def _times(self, clips: ClipSets) -> Tensor:
        """[B, N] number of the frame in the clip, or of its time step in the video."""
        if self.config.times == "frames":
            return clips.places[..., 0]
        starts_BN = frame_starts(clips.spans, clips.mask)
        return (starts_BN / self.config.time_step_s).round()


def frame_starts(spans_BN2: Tensor, mask_BN: Tensor | None) -> Tensor:
    """[B, N] seconds at which the frame of each row starts; of a row merged over frames, the mean
    of the starts that other rows of its clip, and itself, have within its span.

    Args:
        spans_BN2: float32 [start, stop) seconds.
        mask_BN: bool, True where a row is; ``None``: everywhere.
    """
    start_BN, stop_BN = (edge.contiguous() for edge in spans_BN2.unbind(-1))
    known_BN = start_BN if mask_BN is None else start_BN.masked_fill(~mask_BN, torch.inf)
    known_BN = known_BN.sort(dim=1).values
    new_BN = known_BN.diff(dim=1, prepend=known_BN[:, :1] - 1) > 0
    new_BN &= known_BN.isfinite()
    sum_BN = known_BN.double().where(new_BN, 0).cumsum(dim=1)
    first_BN = torch.searchsorted(known_BN, start_BN)
    # A frame may seem to reach into the next by a rounding error.
    last_BN = torch.searchsorted(known_BN, stop_BN - 1e-3).sub(1).maximum(first_BN)
    before_BN, count_BN = known_BN.gather(1, first_BN), new_BN.cumsum(dim=1)
    others_BN = count_BN.gather(1, last_BN) - count_BN.gather(1, first_BN)
    rest_BN = sum_BN.gather(1, last_BN) - sum_BN.gather(1, first_BN)
    mean_BN = (before_BN.double() + rest_BN) / (others_BN + 1)
    return mean_BN.float().where(others_BN > 0, start_BN)
