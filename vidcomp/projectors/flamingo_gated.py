"""Flamingo's gated cross-attention: layers of a language model that read media.

Flamingo: a Visual Language Model for Few-Shot Learning, 2022, https://arxiv.org/abs/2204.14198.
Weights and names are those of OpenFlamingo.  Gates are zero before training, so that the language
model starts as it was.  It is no projector: text goes in and comes out.

Legend: B texts, T text rows, M media of a text, N rows of a medium, D features of the text, V those
of the media.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from vidcomp.errors import ConfigError, ShapeError

__all__ = ["GatedCrossAttention", "media_seen"]


def media_seen(starts_BT: Tensor) -> Tensor:
    """[B, T] int64 media that have begun up to each text row, that row included.

    Args:
        starts_BT: bool, True where a medium's placeholder stands.
    """
    return starts_BT.long().cumsum(dim=-1)


class _MediaAttention(nn.Module):
    def __init__(self, dim: int, dim_media: int, heads: int, dim_head: int) -> None:
        super().__init__()
        inner = heads * dim_head
        self.heads, self.dim_head = heads, dim_head
        self.norm = nn.LayerNorm(dim)
        self.to_q = nn.Linear(dim, inner, bias=False)
        self.to_kv = nn.Linear(dim_media, 2 * inner, bias=False)
        self.to_out = nn.Linear(inner, dim, bias=False)

    def forward(
        self, text_BTD: Tensor, media_BSV: Tensor, reads_BTS: Tensor, mean_BTS: Tensor | None
    ) -> Tensor:
        """[B, T, D]; rows that read nothing are 0, or the mean of the values in ``mean_BTS``."""
        key, value = self.to_kv(media_BSV).chunk(2, dim=-1)
        query = self.to_q(self.norm(text_BTD))
        empty_BT1 = ~reads_BTS.any(dim=-1, keepdim=True)
        read_BHTE = scaled_dot_product_attention(
            self._split(query),
            self._split(key),
            self._split(value),
            attn_mask=(reads_BTS | empty_BT1)[:, None],  # a row without keys would be NaN
        )
        other: Tensor | float = 0.0
        if mean_BTS is not None:
            share_BTS = mean_BTS / mean_BTS.sum(dim=-1, keepdim=True).clamp(min=1)
            other = share_BTS.to(value) @ value
        read_BTE = torch.where(empty_BT1, other, read_BHTE.transpose(1, 2).flatten(2))
        out: Tensor = self.to_out(read_BTE)
        return out

    def _split(self, x_BND: Tensor) -> Tensor:
        b, n, _ = x_BND.shape
        return x_BND.view(b, n, self.heads, self.dim_head).transpose(1, 2)


class GatedCrossAttention(nn.Module):
    """Text rows read media, then a feed-forward; both are added through gates, tanh of a number.

    ``load_state_dict`` takes OpenFlamingo's ``GatedCrossAttentionBlock`` by its own names.

    Args:
        dim: features of the text.
        dim_media: features of the media.
        dim_head: features of an attention head.
        heads: attention heads.
        ff_mult: hidden features of the feed-forward over ``dim``.
        only_immediate: a row reads the latest medium before it, otherwise all before it.
        mean_before_media: rows before any medium read the mean of all media, later ones too: a
            mistake of the original that comes without ``only_immediate``, for answers equal to its.

    Raises:
        ConfigError: ``mean_before_media`` with ``only_immediate``, or a size below 1.
    """

    def __init__(
        self,
        dim: int,
        dim_media: int,
        *,
        dim_head: int = 64,
        heads: int = 8,
        ff_mult: int = 4,
        only_immediate: bool = True,
        mean_before_media: bool = False,
    ) -> None:
        super().__init__()
        if only_immediate and mean_before_media:
            raise ConfigError(
                "the original reads nothing before any medium where only the latest one is read, "
                "got mean_before_media=True: leave it out, or set only_immediate=False"
            )
        if min(dim, dim_media, dim_head, heads, ff_mult) < 1:
            raise ConfigError(
                f"gated cross-attention wants sizes of at least 1, got dim={dim}, "
                f"dim_media={dim_media}, dim_head={dim_head}, heads={heads}, ff_mult={ff_mult}: "
                f"raise them"
            )
        self.only_immediate, self.mean_before_media = only_immediate, mean_before_media
        self.attn = _MediaAttention(dim, dim_media, heads, dim_head)
        self.attn_gate = nn.Parameter(torch.zeros(1))
        self.ff = nn.Sequential(
            nn.LayerNorm(dim),
            nn.Linear(dim, dim * ff_mult, bias=False),
            nn.GELU(),
            nn.Linear(dim * ff_mult, dim, bias=False),
        )
        self.ff_gate = nn.Parameter(torch.zeros(1))

    def forward(
        self,
        text_BTD: Tensor,
        media_BMNV: Tensor,
        seen_BT: Tensor,
        mask_BMN: Tensor | None = None,
    ) -> Tensor:
        """[B, T, D] hidden states of the text.

        Args:
            text_BTD: hidden states, any float type.
            media_BMNV: rows of every medium, in the order of the text; in the text's type.  M may
                be 0: texts without media pass the feed-forward only.
            seen_BT: integers, media that have begun up to each row, 0..M (``media_seen``); while a
                text is continued row by row, those of the whole text so far.
            mask_BMN: bool, True where a medium has a row, for media of different lengths or texts
                of fewer media.  ``None``: everywhere.

        Raises:
            ShapeError: shapes do not fit together.
        """
        self._check(text_BTD, media_BMNV, seen_BT, mask_BMN)
        b, m, n, _ = media_BMNV.shape
        if mask_BMN is None:
            mask_BMN = seen_BT.new_ones(b, m, n, dtype=torch.bool)
        number_M, seen_BT1 = torch.arange(1, m + 1, device=seen_BT.device), seen_BT[..., None]
        reads_BTM = seen_BT1 == number_M if self.only_immediate else seen_BT1 >= number_M
        reads_BTS = (reads_BTM[..., None] & mask_BMN[:, None]).flatten(2)
        mean_BTS = None
        if self.mean_before_media:
            mean_BTS = (seen_BT1 == 0) & mask_BMN.flatten(1)[:, None]
        read_BTD = self.attn(text_BTD, media_BMNV.flatten(1, 2), reads_BTS, mean_BTS)
        text_BTD = text_BTD + self.attn_gate.tanh() * read_BTD
        out: Tensor = text_BTD + self.ff_gate.tanh() * self.ff(text_BTD)
        return out

    def _check(self, text: Tensor, media: Tensor, seen: Tensor, mask: Tensor | None) -> None:
        d, v = self.attn.to_q.in_features, self.attn.to_kv.in_features
        fits = text.ndim == 3 and media.ndim == 4 and text.shape[:2] == seen.shape
        fits = fits and len(text) == len(media) and (text.shape[2], media.shape[3]) == (d, v)
        counts = seen.dtype != torch.bool and not seen.is_floating_point()
        masks = mask is None or (mask.shape == media.shape[:3] and mask.dtype == torch.bool)
        if not (fits and counts and masks):
            shapes = [list(x.shape) for x in (text, media, seen)]
            raise ShapeError(
                f"gated cross-attention wants text [B, T, {d}], media [B, M, N, {v}], integers "
                f"seen [B, T] (media_seen) and a bool mask [B, M, N], got {shapes} with "
                f"{seen.dtype} and {None if mask is None else (list(mask.shape), mask.dtype)}: "
                f"bring them into these shapes"
            )
