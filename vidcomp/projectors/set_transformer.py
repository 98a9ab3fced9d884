"""Set Transformer: sets are encoded by attention, and pooled by seeds that read them.

Set Transformer: A Framework for Attention-based Permutation-Invariant Neural Networks, 2018,
https://arxiv.org/abs/1810.00825.  Arithmetic and names are those of juho-lee/set_transformer:
dot products are divided by the square root of the width of all heads together, what is read is
added to the projected query, and seeds read the rows as they are.  Beyond the original, rows may be
masked.

Legend: B sets, K queries, N rows, M inducing points, D features in, E features out.
"""

from typing import Self, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn.functional import relu

from vidcomp.errors import ConfigError
from vidcomp.projectors.attention import attend, attend_with_shares
from vidcomp.projectors.base import ProjectorAbout
from vidcomp.projectors.latents import LatentConfig, LatentProjector
from vidcomp.projectors.sets import ClipSets
from vidcomp.registry import PROJECTORS

__all__ = ["ISAB", "MAB", "PMA", "SAB", "SetTransformer", "SetTransformerConfig"]


class MAB(nn.Module):
    """Multihead attention block: queries read rows, then a feed-forward with ReLU.

    Args:
        dim_q: features of the queries.
        dim_k: features of the rows.
        dim_v: features out.
        heads: a divisor of ``dim_v``.
        norm: whether a LayerNorm follows either (``ln``).
    """

    def __init__(self, dim_q: int, dim_k: int, dim_v: int, *, heads: int, norm: bool) -> None:
        super().__init__()
        self.heads = heads
        self.scale = dim_v**-0.5
        self.fc_q = nn.Linear(dim_q, dim_v)
        self.fc_k = nn.Linear(dim_k, dim_v)
        self.fc_v = nn.Linear(dim_k, dim_v)
        self.ln0 = nn.LayerNorm(dim_v) if norm else None
        self.ln1 = nn.LayerNorm(dim_v) if norm else None
        self.fc_o = nn.Linear(dim_v, dim_v)

    def forward(self, query_BKD: Tensor, row_BND: Tensor, mask_BN: Tensor | None = None) -> Tensor:
        """[B, K, E] of each query.

        Args:
            query_BKD: [B, K, dim_q].
            row_BND: [B, N, dim_k].
            mask_BN: bool, True where a row is; each set needs one.  ``None``: everywhere.
        """
        inputs = self._inputs(query_BKD, row_BND)
        return self._after(inputs[0], attend(*inputs, mask_BN, heads=self.heads, scale=self.scale))

    def read(
        self, query_BKD: Tensor, row_BND: Tensor, mask_BN: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """What ``forward`` gives, and [B, K, N] float32 shares of the rows in what was read."""
        inputs = self._inputs(query_BKD, row_BND)
        read_BKE, sources_BKN = attend_with_shares(
            *inputs, mask_BN, heads=self.heads, scale=self.scale
        )
        return self._after(inputs[0], read_BKE), sources_BKN

    def _inputs(self, query: Tensor, row: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.fc_q(query), self.fc_k(row), self.fc_v(row)

    def _after(self, query_BKE: Tensor, read_BKE: Tensor) -> Tensor:
        out = query_BKE + read_BKE
        out = out if self.ln0 is None else self.ln0(out)
        out = out + relu(self.fc_o(out))
        return out if self.ln1 is None else cast(Tensor, self.ln1(out))


class SAB(nn.Module):
    """Set attention block: rows read each other."""

    def __init__(self, dim_in: int, dim_out: int, *, heads: int, norm: bool) -> None:
        super().__init__()
        self.mab = MAB(dim_in, dim_in, dim_out, heads=heads, norm=norm)

    def forward(self, row_BND: Tensor, mask_BN: Tensor | None = None) -> Tensor:
        """[B, N, E]; masked rows are read by none, and what comes out for them means nothing."""
        return cast(Tensor, self.mab(row_BND, row_BND, mask_BN))


class ISAB(nn.Module):
    """Induced set attention block: rows read each other through ``num_inds`` points."""

    def __init__(self, dim_in: int, dim_out: int, *, heads: int, num_inds: int, norm: bool) -> None:
        super().__init__()
        self.I = nn.Parameter(nn.init.xavier_uniform_(torch.empty(1, num_inds, dim_out)))
        self.mab0 = MAB(dim_out, dim_in, dim_out, heads=heads, norm=norm)
        self.mab1 = MAB(dim_in, dim_out, dim_out, heads=heads, norm=norm)

    def forward(self, row_BND: Tensor, mask_BN: Tensor | None = None) -> Tensor:
        """[B, N, E]; masked rows are read by none, and what comes out for them means nothing."""
        point_BME = self.mab0(self.I.expand(len(row_BND), -1, -1), row_BND, mask_BN)
        return cast(Tensor, self.mab1(row_BND, point_BME))


class PMA(nn.Module):
    """Pooling by multihead attention: ``num_seeds`` learned seeds read the rows."""

    def __init__(self, dim: int, *, heads: int, num_seeds: int, norm: bool) -> None:
        super().__init__()
        self.S = nn.Parameter(nn.init.xavier_uniform_(torch.empty(1, num_seeds, dim)))
        self.mab = MAB(dim, dim, dim, heads=heads, norm=norm)

    def forward(self, row_BND: Tensor, mask_BN: Tensor | None = None) -> Tensor:
        """[B, K, D] of each seed."""
        return cast(Tensor, self.mab(self.S.expand(len(row_BND), -1, -1), row_BND, mask_BN))

    def read(self, row_BND: Tensor, mask_BN: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """What ``forward`` gives, and [B, K, N] float32 shares of the rows in what was read."""
        return self.mab.read(self.S.expand(len(row_BND), -1, -1), row_BND, mask_BN)


@PROJECTORS.add("set_transformer")
class SetTransformerConfig(LatentConfig):
    """Seeds that read the encoded tokens of a clip, and then each other."""

    about = ProjectorAbout(
        paper="Set Transformer: A Framework for Attention-based Permutation-Invariant Neural "
        "Networks (Lee, 2018)",
        tokens="`num_latents` a clip",
        checkpoint="set_transformer SetTransformer",
        in_order=False,
    )

    dim_hidden: int | None = Field(128, ge=1)
    """Features inside; ``None``: ``dim_in``."""
    heads: int = Field(4, ge=1)
    """Attention heads, a divisor of ``dim_hidden`` (``num_heads``)."""
    num_inds: int = Field(32, ge=1)
    """Inducing points of each encoder block."""
    encoder_depth: int = Field(2, ge=0)
    """Induced set attention blocks before the seeds; 0: the seeds read the tokens themselves, and
    ``dim_hidden`` is ``dim_in``."""
    decoder_depth: int = Field(2, ge=0)
    """Set attention blocks after the seeds."""
    norm: bool = False
    """Whether LayerNorms stand in the blocks (``ln``)."""

    @property
    def width(self) -> int:
        """Features inside."""
        return self.dim_in if self.dim_hidden is None else self.dim_hidden

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.width % self.heads:
            raise ConfigError(
                f"heads={self.heads} must divide the {self.width} features inside: change heads or "
                f"dim_hidden"
            )
        if not self.encoder_depth and self.width != self.dim_in:
            raise ConfigError(
                f"seeds that read tokens of dim_in={self.dim_in} themselves are as wide, got "
                f"dim_hidden={self.dim_hidden}: pass dim_hidden=null or an encoder_depth"
            )
        return self

    def module(self) -> "SetTransformer":
        """A ``SetTransformer`` whose seeds and inducing points are Xavier uniform."""
        return SetTransformer(self)


class SetTransformer(LatentProjector):
    """Encoder ``enc``, and in ``dec`` the seeds, their blocks and a linear layer.

    The soft provenance of a seed is what it reads of the encoded tokens.
    """

    config: SetTransformerConfig

    def __init__(self, config: SetTransformerConfig) -> None:
        super().__init__(config)
        dim, heads, norm = config.width, config.heads, config.norm
        dims = [config.dim_in] + [dim] * config.encoder_depth
        self.enc = nn.ModuleList(
            ISAB(first, dim, heads=heads, num_inds=config.num_inds, norm=norm)
            for first in dims[:-1]
        )
        seeds = PMA(dim, heads=heads, num_seeds=config.num_latents, norm=norm)
        blocks = [SAB(dim, dim, heads=heads, norm=norm) for _ in range(config.decoder_depth)]
        self.dec = nn.ModuleList([seeds, *blocks, nn.Linear(dim, config.dim_out)])

    def read(self, clips: ClipSets) -> tuple[Tensor, Tensor]:
        """Encode the rows, pool them, decode the seeds."""
        row_BND = self.embedded(clips)
        for block in self.enc:
            row_BND = block(row_BND, clips.mask)
        token_BKE, sources_BKN = cast(PMA, self.dec[0]).read(row_BND, clips.mask)
        for block in self.dec[1:]:
            token_BKE = block(token_BKE)
        return token_BKE, sources_BKN
