"""Deformable attention: each query reads a few places of each map, where it chooses to look.

Deformable DETR: Deformable Transformers for End-to-End Object Detection, 2020,
https://arxiv.org/abs/2010.04159.  Names and shapes of the parameters are those of transformers'
``DeformableDetrDecoderLayer``.

Legend: B maps, M queries, H heads, P places that a head reads in a map, Y X cells of a map, D
features, E features of a head.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import grid_sample

from vidcomp.functional.reduce import real
from vidcomp.projectors.attention import attend

__all__ = ["DeformableAttention", "DeformableLayer", "SelfAttention"]


class DeformableAttention(nn.Module):
    """Deformable attention to one map; places outside of it read zeros.

    Args:
        dim: D.
        heads: H, a divisor of ``dim``.
        points: P.
    """

    def __init__(self, dim: int, *, heads: int, points: int) -> None:
        super().__init__()
        self.heads, self.points = heads, points
        self.sampling_offsets = nn.Linear(dim, heads * points * 2)
        self.attention_weights = nn.Linear(dim, heads * points)
        self.value_proj = nn.Linear(dim, dim)
        self.output_proj = nn.Linear(dim, dim)
        self._start()

    def forward(self, query_BMD: Tensor, map_BYXD: Tensor, points_BM2: Tensor) -> Tensor:
        """[B, M, D] what the queries read.

        Args:
            query_BMD: any float type; places are computed in float32 or better.
            map_BYXD: any height and width.
            points_BM2: (x, y) around which each query looks, 0 and 1 being the borders of the map.
        """
        kind = (*query_BMD.shape[:2], self.heads, self.points)
        offset_BMHP2 = real(self.sampling_offsets(query_BMD)).view(*kind, 2)
        share_BMHP = real(self.attention_weights(query_BMD)).view(kind).softmax(-1)
        point_BM112 = real(points_BM2)[:, :, None, None]
        read_BMD = _read(real(self._values(map_BYXD)), point_BM112, offset_BMHP2, share_BMHP)
        out: Tensor = self.output_proj(read_BMD.to(query_BMD.dtype))
        return out

    def _values(self, map_BYXD: Tensor) -> Tensor:
        """[B * H, E, Y, X]."""
        b, y, x, d = map_BYXD.shape
        values: Tensor = self.value_proj(map_BYXD)
        values_BHEYX = values.view(b, y * x, self.heads, -1).permute(0, 2, 3, 1)
        return values_BHEYX.reshape(b * self.heads, d // self.heads, y, x)

    def _start(self) -> None:
        """Each head looks into another direction, each place one cell farther than the last."""
        angle_H = torch.arange(self.heads) * (2 * math.pi / self.heads)
        direction_H2 = torch.stack([angle_H.cos(), angle_H.sin()], dim=-1)
        direction_H2 = direction_H2 / direction_H2.abs().amax(dim=-1, keepdim=True)
        step_P = torch.arange(1, self.points + 1)
        start = direction_H2[:, None] * step_P[:, None]
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(start.flatten())
        for layer in (self.sampling_offsets, self.attention_weights):
            nn.init.zeros_(layer.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for layer in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)


class SelfAttention(nn.Module):
    """Queries and keys know their places, values do not."""

    def __init__(self, dim: int, *, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(dim, dim)
        self.k_proj = nn.Linear(dim, dim)
        self.v_proj = nn.Linear(dim, dim)
        self.out_proj = nn.Linear(dim, dim)

    def forward(self, x_BMD: Tensor, place_BMD: Tensor) -> Tensor:
        """[B, M, D]."""
        placed = x_BMD + place_BMD
        query, key, value = self.q_proj(placed), self.k_proj(placed), self.v_proj(x_BMD)
        out: Tensor = self.out_proj(attend(query, key, value, heads=self.heads))
        return out


class DeformableLayer(nn.Module):
    """Queries read themselves, then the map, then a feed-forward; each is added and normed.

    Args:
        dim: D.
        heads: of both attentions.
        points: see ``DeformableAttention``.
        dim_ff: features inside the feed-forward.
    """

    def __init__(self, dim: int, *, heads: int, points: int, dim_ff: int) -> None:
        super().__init__()
        self.self_attn = SelfAttention(dim, heads=heads)
        self.self_attn_layer_norm = nn.LayerNorm(dim)
        self.encoder_attn = DeformableAttention(dim, heads=heads, points=points)
        self.encoder_attn_layer_norm = nn.LayerNorm(dim)
        self.fc1 = nn.Linear(dim, dim_ff)
        self.fc2 = nn.Linear(dim_ff, dim)
        self.final_layer_norm = nn.LayerNorm(dim)

    def forward(
        self, x_BMD: Tensor, place_BMD: Tensor, map_BYXD: Tensor, points_BM2: Tensor
    ) -> Tensor:
        """[B, M, D] new queries.

        Args:
            x_BMD: queries.
            place_BMD: added to them wherever they look for something.
            map_BYXD: as in ``DeformableAttention``.
            points_BM2: as in ``DeformableAttention``.
        """
        x_BMD = self.self_attn_layer_norm(x_BMD + self.self_attn(x_BMD, place_BMD))
        read_BMD = self.encoder_attn(x_BMD + place_BMD, map_BYXD, points_BM2)
        x_BMD = self.encoder_attn_layer_norm(x_BMD + read_BMD)
        out: Tensor = self.final_layer_norm(x_BMD + self.fc2(self.fc1(x_BMD).relu()))
        return out


def _read(value_NEYX: Tensor, point: Tensor, offset: Tensor, share: Tensor) -> Tensor:
    """[B, M, H * E] of [B * H, E, Y, X], points [B, M, 1, 1, 2], offsets in cells [B, M, H, P, 2]
    and shares [B, M, H, P].
    """
    b, m, h, _ = share.shape
    *_, y, x = value_NEYX.shape
    place = 2 * (point + offset / offset.new_tensor([x, y])) - 1
    read_NEMP = grid_sample(
        value_NEYX, place.transpose(1, 2).flatten(0, 1), padding_mode="zeros", align_corners=False
    )
    read_NEM = (read_NEMP * share.transpose(1, 2).flatten(0, 1)[:, None]).sum(dim=-1)
    return read_NEM.view(b, h, -1, m).permute(0, 3, 1, 2).flatten(2)
