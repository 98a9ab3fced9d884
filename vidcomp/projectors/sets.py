"""Rows of videos as sets that latents read from, and what the latents read as provenance.

Legend: R rows of all videos, B sets of all videos, N rows of the largest set, K latents of a set,
D features, P source patches.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from vidcomp.functional.merge import resample
from vidcomp.projectors.blocks import untraced
from vidcomp.types import VideoTokens

__all__ = ["RowSets"]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class RowSets:
    """Which rows of which video form each set; sets without rows do not exist."""

    rows: Tensor
    """[B, N] int64 row in the packed videos; -1 fills up short sets."""
    mask: Tensor | None
    """[B, N] bool, True where a row is; ``None`` if all sets are full."""
    counts: list[int]
    """Sets of each video."""

    @classmethod
    @untraced
    def of(cls, sets: Sequence[Tensor]) -> "RowSets":
        """Rows grouped by number, in ascending order of the number.

        Args:
            sets: for every video [rows] int64, the set that each row belongs to.
        """
        parts: list[Tensor] = []
        counts: list[int] = []
        first_row = 0
        for set_R in sets:
            order = set_R.argsort(stable=True)
            sizes = set_R.bincount()
            parts += torch.split(order + first_row, sizes[sizes > 0].tolist())
            counts.append(int((sizes > 0).sum()))
            first_row += len(set_R)
        rows_BN = pad_sequence(parts, batch_first=True, padding_value=-1)
        mask_BN = rows_BN >= 0
        full = bool(mask_BN.all())
        return cls(rows=rows_BN, mask=None if full else mask_BN, counts=counts)

    def pad(self, packed_RD: Tensor) -> Tensor:
        """[B, N, D] rows of every set, zeros where there is none."""
        padded_BND = packed_RD[self.rows.clamp(min=0)]
        if self.mask is None:
            return padded_BND
        return padded_BND.masked_fill(~self.mask[..., None], 0)

    @untraced
    def videos(
        self, videos: Sequence[VideoTokens], tokens_BKD: Tensor, sources_BKN: Tensor
    ) -> list[VideoTokens]:
        """Set after set, the K tokens of each, as new rows of their videos.

        Args:
            videos: those whose rows were grouped.
            tokens_BKD: what was made of each set.
            sources_BKN: float32, share of every row of the set in each token; rows sum to 1.
        """
        results, first_row = [], 0
        for video, tokens, sources, rows in zip(
            videos,
            torch.split(tokens_BKD, self.counts),
            torch.split(sources_BKN, self.counts),
            torch.split(self.rows, self.counts),
            strict=True,
        ):
            weights = _to_sparse(sources, rows - first_row, len(video))
            results.append(resample(video, weights, tokens.flatten(0, 1)))
            first_row += len(video)
        return results


def _to_sparse(sources_CKN: Tensor, rows_CN: Tensor, num_rows: int) -> Tensor:
    """Sparse [C * K, num_rows]; entries of filled-up places (rows below 0) are left out."""
    c, k, n = sources_CKN.shape
    real_CKN = (rows_CN >= 0)[:, None].expand(c, k, n)
    out = torch.arange(c * k, device=rows_CN.device).view(c, k, 1).expand(c, k, n)
    index = torch.stack([out[real_CKN], rows_CN[:, None].expand(c, k, n)[real_CKN]])
    weights = torch.sparse_coo_tensor(
        index, sources_CKN[real_CKN], (c * k, num_rows), check_invariants=False
    )
    return weights.coalesce()
