"""A layer in which latents read keys, with the options in which resamplers differ.

Legend: B sets, K latents, N keys, D features.
"""

from typing import Literal, cast

from torch import Tensor, nn

from vidcomp.projectors.attention import MultiheadAttention
from vidcomp.projectors.blocks import mlp

__all__ = ["ResamplerLayer"]


class ResamplerLayer(nn.Module):
    """Latents read each other (if ``self_attention``), then the keys, then a feed-forward follows
    (if ``ff_mult``); each is added to the latents.

    Parameters are called ``self_attention``, ``attention`` and ``feed_forward`` (as ``blocks.mlp``
    calls them), each with its norm: ``self_norm``, ``norm`` and ``feed_norm``.  Positions of the
    keys are added to them, and not to the values, by the caller; so are norms of both.
    """

    def __init__(
        self,
        dim: int,
        *,
        heads: int,
        order: Literal["pre", "post"] = "post",
        self_attention: bool = False,
        ff_mult: int = 0,
        eps: float = 1e-5,
    ) -> None:
        """A layer of latents with ``dim`` features.

        Args:
            dim: features of latents, keys and values.
            heads: attention heads, a divisor of ``dim``.
            order: whether each norm stands before what is added, or after the sum.
            self_attention: whether latents read each other first.
            ff_mult: width of the feed-forward over ``dim``; 0: none.
            eps: of the norms.
        """
        super().__init__()
        self.pre = order == "pre"
        self.self_attention = self.self_norm = None
        self.feed_forward = self.feed_norm = None
        if self_attention:
            self.self_attention = MultiheadAttention(dim, heads=heads)
            self.self_norm = nn.LayerNorm(dim, eps)
        self.attention = MultiheadAttention(dim, heads=heads)
        self.norm = nn.LayerNorm(dim, eps)
        if ff_mult:
            self.feed_forward = mlp(dim, dim * ff_mult, dim)
            self.feed_norm = nn.LayerNorm(dim, eps)

    def forward(
        self, latents_BKD: Tensor, key_BND: Tensor, value_BND: Tensor, mask_BN: Tensor | None = None
    ) -> Tensor:
        """[B, K, D] new latents.

        Args:
            latents_BKD: any float type, as the others.
            key_BND: what is compared, as values with positions.
            value_BND: what is read.
            mask_BN: bool, True where a key is; each set needs one.  ``None``: everywhere.
        """
        latents_BKD = self._latents_alone(latents_BKD)
        query_BKD = self.norm(latents_BKD) if self.pre else latents_BKD
        read_BKD = self.attention(query_BKD, key_BND, value_BND, mask_BN)
        return self._after(latents_BKD + read_BKD)

    def read(
        self, latents_BKD: Tensor, key_BND: Tensor, value_BND: Tensor, mask_BN: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """What ``forward`` gives, and [B, K, N] float32 shares of the keys in what was read."""
        latents_BKD = self._latents_alone(latents_BKD)
        query_BKD = self.norm(latents_BKD) if self.pre else latents_BKD
        read_BKD, sources_BKN = self.attention.read(query_BKD, key_BND, value_BND, mask_BN)
        return self._after(latents_BKD + read_BKD), sources_BKN

    def _after(self, latents_BKD: Tensor) -> Tensor:
        out: Tensor = latents_BKD if self.pre else self.norm(latents_BKD)
        if self.feed_forward is not None and self.feed_norm is not None:
            if self.pre:
                out = out + self.feed_forward(self.feed_norm(out))
            else:
                out = self.feed_norm(out + self.feed_forward(out))
        return out

    def _latents_alone(self, latents_BKD: Tensor) -> Tensor:
        """[B, K, D] latents after they read each other."""
        if self.self_attention is None or self.self_norm is None:
            return latents_BKD
        x_BKD = self.self_norm(latents_BKD) if self.pre else latents_BKD
        out: Tensor = latents_BKD + self.self_attention(x_BKD, x_BKD, x_BKD)
        return out if self.pre else cast(Tensor, self.self_norm(out))
