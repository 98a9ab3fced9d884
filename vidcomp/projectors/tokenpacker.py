"""TokenPacker: a coarse point of each frame reads the fine patches of its own window.

TokenPacker: Efficient Visual Projector for Multimodal LLM, 2024, https://arxiv.org/abs/2407.02392.
Queries are interpolated from the tokens, keys and values are made of the features of several layers
of the encoder (12, 16, 22 and 23 of CLIP-L); nothing is added to what is read.  The original wants
a square grid of whole windows.  Here a query is interpolated at the centre of its window, which is
the same there, and means something for windows of any size.

Legend: F frames, H W their patches, P = H * W, R patches of all frames, J K windows along height
and width, X windows of all frames, N patches of a window, D features of a token, L features of all
levels, E features inside.
"""

from collections.abc import Sequence
from typing import Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from vidcomp.functional.reduce import real
from vidcomp.projectors.attention import MultiheadAttention
from vidcomp.projectors.base import ProjectorAbout
from vidcomp.projectors.blocks import mlp, untraced
from vidcomp.projectors.windowed import WindowedConfig, WindowedProjector
from vidcomp.projectors.windows import Edges, centre_weights
from vidcomp.registry import PROJECTORS

__all__ = ["TokenPacker", "TokenPackerConfig"]

_NORM_EPS = 1e-6


@PROJECTORS.add("tokenpacker")
class TokenPackerConfig(WindowedConfig):
    """Interpolated points that read the patches of their windows (TokenPacker)."""

    about = ProjectorAbout(
        paper="TokenPacker: Efficient Visual Projector for Multimodal LLM (Li, 2024)",
        tokens="one a window of `scale_factor`² patches, or what a budget allows",
        reads="grid",
        checkpoint="CircleRadon/TokenPacker `TokenPacker`",
    )

    scale_factor: int = Field(2, ge=1)
    """Patches of a window along each edge; the original has 2, 3 and 4."""
    dim_hidden: int = Field(1024, ge=1)
    """Features of queries, keys and values (``embed_dim``)."""
    heads: int = Field(8, ge=1)
    """Attention heads; they divide ``dim_hidden``."""

    @model_validator(mode="after")
    def _check_heads(self) -> Self:
        if self.dim_hidden % self.heads:
            raise ValueError(
                f"{self.name!r} splits dim_hidden={self.dim_hidden} among its heads, got "
                f"heads={self.heads}: choose a divisor"
            )
        return self

    @property
    def window(self) -> tuple[int, int]:
        """A square."""
        return self.scale_factor, self.scale_factor

    def module(self) -> "TokenPacker":
        """A ``TokenPacker`` with torch's default initial weights, which for 1024 features are as
        large as the original's (normal 0.02) and suit every other number too.
        """
        return TokenPacker(self)


class TokenPacker(WindowedProjector):
    """The provenance of a token is its window, all patches alike."""

    config: TokenPackerConfig
    reference_names = (
        (r"^([qkv])_proj\.", r"\1_proj_1."),
        (r"^norm_([qkv])\.", r"ln_\1_1."),
        (r"^attention\.", "clip_attn."),
        (r"^layers\.", "mlp."),
    )

    def __init__(self, config: TokenPackerConfig) -> None:
        dim, levels = config.dim_hidden, config.dim_levels
        super().__init__(config, dim)
        self.q_proj = nn.Linear(config.dim_in, dim, bias=False)
        self.k_proj = mlp(levels, dim, dim)
        self.v_proj = mlp(levels, dim, dim)
        self.norm_q = nn.LayerNorm(dim, eps=_NORM_EPS)
        self.norm_k = nn.LayerNorm(dim, eps=_NORM_EPS)
        self.norm_v = nn.LayerNorm(dim, eps=_NORM_EPS)
        self.attention = MultiheadAttention(dim, heads=config.heads)
        self.layers = mlp(dim, config.dim_out, config.dim_out)

    def joined(self, tokens_ND: Tensor, levels: Sequence[Tensor]) -> Tensor:
        """[N, D + L]: queries are made of the tokens, whether they are a level or not."""
        return torch.cat([tokens_ND, *levels], dim=1) if levels else tokens_ND

    def read(self, x_FHWD: Tensor, rows: Edges, columns: Edges) -> Tensor:
        """Patches of every window by its centre."""
        dim = self.config.dim_in
        centres_FJKD = _at_centres(x_FHWD[..., :dim], rows, columns)
        query_XE = self.norm_q(self.q_proj(centres_FJKD)).flatten(0, 2)
        # As a matrix: a linear layer would first copy a part of longer rows with more axes.
        levels_RL = (x_FHWD[..., dim:] if self.config.levels else x_FHWD).flatten(0, 2)
        frames = len(x_FHWD)
        key_FPE = self.norm_k(self.k_proj(levels_RL)).view(frames, -1, self.config.dim_hidden)
        value_FPE = self.norm_v(self.v_proj(levels_RL)).view_as(key_FPE)
        windows = self.windows(x_FHWD, rows, columns)
        key_XNE, value_XNE = windows.gather(key_FPE), windows.gather(value_FPE)
        mask_XN = windows.masks(frames)
        out: Tensor = self.attention(query_XE[:, None], key_XNE, value_XNE, mask_XN)
        return out

    def after(self, x_ND: Tensor) -> Tensor:
        """In the language model's space."""
        out: Tensor = self.layers(x_ND)
        return out


def _at_centres(x_FHWD: Tensor, rows: Edges, columns: Edges) -> Tensor:
    """[F, J, K, D] frames interpolated at the centres of windows, in float32 or better."""
    f, h, _, d = x_FHWD.shape
    rows_JH, columns_KW = _centres(x_FHWD, rows, columns)
    with torch.autocast(x_FHWD.device.type, enabled=False):
        x_FHKD = columns_KW @ real(x_FHWD)
        x_FJX = rows_JH @ x_FHKD.view(f, h, -1)
    return x_FJX.view(f, len(rows), len(columns), d).to(x_FHWD.dtype)


@untraced
def _centres(x_FHWD: Tensor, rows: Edges, columns: Edges) -> tuple[Tensor, Tensor]:
    """[J, H] and [K, W] matrices of interpolation for float32 or better."""
    like = real(x_FHWD.new_empty(0))
    _, h, w, _ = x_FHWD.shape
    return centre_weights(h, rows).to(like), centre_weights(w, columns).to(like)
