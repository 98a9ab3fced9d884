"""Layers in which latents read keys, with the options in which resamplers differ.

Legend: B sets, K latents, N keys, D features.
"""

from collections.abc import Iterable
from typing import Literal, cast

import torch
from torch import Tensor, nn

from vidcomp.projectors.attention import GroupedAttention, MultiheadAttention
from vidcomp.projectors.blocks import CrossAttention, mlp

__all__ = ["ReadingLayer", "ResamplerLayer", "read_in_layers"]


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


class ReadingLayer(nn.Module):
    """Normed latents read the normed clip and themselves, then a feed-forward; both are added.

    Args:
        norm_latents: of the latents.
        norm_clip: of the tokens.
        attention: makes keys and values of what the latents read.
        feed_forward: with its own norm.
        adds_to_normed: whether what is read is added to the normed latents.
    """

    def __init__(
        self,
        norm_latents: nn.Module,
        norm_clip: nn.Module,
        attention: CrossAttention | GroupedAttention,
        feed_forward: nn.Module,
        *,
        adds_to_normed: bool = False,
    ) -> None:
        super().__init__()
        self.norm_latents, self.norm_clip = norm_latents, norm_clip
        self.attention, self.feed_forward = attention, feed_forward
        self.adds_to_normed = adds_to_normed

    def forward(self, latents_BKD: Tensor, clip_BND: Tensor, mask_BN: Tensor | None) -> Tensor:
        """[B, K, D] new latents; ``mask_BN`` is True where a token is."""
        query, key, mask = self._inputs(latents_BKD, clip_BND, mask_BN)
        return self._after(latents_BKD, query, self.attention(query, key, mask))

    def read(
        self, latents_BKD: Tensor, clip_BND: Tensor, mask_BN: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """New latents, and [B, K, N] float32 shares of the clip's tokens in what each latent reads
        from them.
        """
        query, key, mask = self._inputs(latents_BKD, clip_BND, mask_BN)
        read_BKD, sources_BKN = self.attention.read(query, key, mask, clip_BND.shape[1])
        return self._after(latents_BKD, query, read_BKD), sources_BKN

    def _after(self, latents_BKD: Tensor, query_BKD: Tensor, read_BKD: Tensor) -> Tensor:
        x_BKD = (query_BKD if self.adds_to_normed else latents_BKD) + read_BKD
        out: Tensor = x_BKD + self.feed_forward(x_BKD)
        return out

    def _inputs(
        self, latents: Tensor, clip: Tensor, mask: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        query = self.norm_latents(latents)
        key = torch.cat([self.norm_clip(clip), query], dim=1)
        if mask is not None:
            mask = torch.cat([mask, mask.new_ones(latents.shape[:2])], dim=1)
        return query, key, mask


def read_in_layers(
    layers: Iterable[nn.Module], latents_BKD: Tensor, *inputs: Tensor | None
) -> tuple[Tensor, Tensor]:
    """[B, K, D] latents after all layers, and what the last one says that they ``read``.

    Args:
        layers: with ``forward`` and ``read`` of latents and ``inputs``.
        latents_BKD: before the first.
        inputs: of every layer, as a clip and its mask.
    """
    *others, last = layers
    for layer in others:
        latents_BKD = layer(latents_BKD, *inputs)
    return cast("ReadingLayer | ResamplerLayer", last).read(latents_BKD, *inputs)  # type: ignore[arg-type]
