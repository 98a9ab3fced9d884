"""Blocks of BERT: attention with biases and a feed-forward, each added, then normalised.

BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding, 2018,
https://arxiv.org/abs/1810.04805.  Parameters are called as in transformers' BERT and Q-Formers.

Legend: B sets, K queries, N keys, H heads, D features.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from vidcomp.projectors.attention import attend, attend_with_shares, attention_shares

__all__ = ["AddedNorm", "AttentionBlock", "Heads", "Hidden", "recorded_attention"]

_EPS = 1e-12


class Heads(nn.Module):
    """Queries, keys and values with biases, and what is read, head beside head."""

    def __init__(self, dim: int, dim_key: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim_key, dim)
        self.value = nn.Linear(dim_key, dim)
        self.record: list[Tensor] | None = None

    def forward(self, query_BKD: Tensor, key_BND: Tensor, mask_BN: Tensor | None) -> Tensor:
        """[B, K, D]; ``mask_BN`` is True where a key is."""
        return self._read(self.query(query_BKD), self.key(key_BND), key_BND, mask_BN)

    def read(
        self, query_BKD: Tensor, key_BND: Tensor, mask_BN: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """What ``forward`` gives, and [B, K, N] shares of the keys; see ``attention_shares``."""
        query, key = self.query(query_BKD), self.key(key_BND)
        if self.record is None and not (self.dropout and self.training):
            value = self.value(key_BND)
            return attend_with_shares(query, key, value, mask_BN, heads=self.heads)
        shares_BKN = attention_shares(query, key, mask_BN, heads=self.heads)
        return self._read(query, key, key_BND, mask_BN), shares_BKN

    def _read(self, query: Tensor, key: Tensor, key_BND: Tensor, mask_BN: Tensor | None) -> Tensor:
        value = self.value(key_BND)
        if self.record is not None:
            return _attend_openly(query, key, value, mask_BN, self.heads, self.record)
        dropout = self.dropout if self.training else 0.0
        return attend(query, key, value, mask_BN, heads=self.heads, dropout=dropout)


class Hidden(nn.Module):
    """The first half of a feed-forward."""

    def __init__(self, dim: int, dim_ff: int) -> None:
        super().__init__()
        self.dense = nn.Linear(dim, dim_ff)

    def forward(self, x: Tensor) -> Tensor:
        """[..., F] after an exact GELU."""
        return gelu(self.dense(x))


class AddedNorm(nn.Module):
    """A matrix whose output is added to what was before, then normalised."""

    def __init__(self, dim_in: int, dim: int, dropout: float) -> None:
        super().__init__()
        self.dense = nn.Linear(dim_in, dim)
        self.LayerNorm = nn.LayerNorm(dim, eps=_EPS)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, before: Tensor) -> Tensor:
        """[..., D] like ``before``."""
        out: Tensor = self.LayerNorm(before + self.dropout(self.dense(x)))
        return out


class AttentionBlock(nn.Module):
    """Queries read keys; what they read is added to them."""

    def __init__(self, dim: int, dim_key: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention = Heads(dim, dim_key, heads, dropout)
        self.output = AddedNorm(dim, dim, dropout)

    def forward(self, query_BKD: Tensor, key_BND: Tensor, mask_BN: Tensor | None) -> Tensor:
        """[B, K, D]; ``mask_BN`` is True where a key is."""
        out: Tensor = self.output(self.attention(query_BKD, key_BND, mask_BN), query_BKD)
        return out

    def read(
        self, query_BKD: Tensor, key_BND: Tensor, mask_BN: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """What ``forward`` gives, and the shares [B, K, N] of the keys."""
        read_BKD, shares_BKN = self.attention.read(query_BKD, key_BND, mask_BN)
        return self.output(read_BKD, query_BKD), shares_BKN


@contextmanager
def recorded_attention(module: nn.Module) -> Iterator[dict[str, list[Tensor]]]:
    """Keep the attention of every ``Heads`` in ``module`` while inside.

    The attention is written out instead of fused, without dropout, and keeps its gradients: what
    relevance maps (``vidcomp.functional.relevance``) are made of.  The module gives what it
    always gives.

    Yields:
        By the name of the ``Heads`` in the module, one [B, H, K, N] tensor a call, after the
        softmax; ``tensor.grad`` is there after a backward pass.
    """
    heads = {name: m for name, m in module.named_modules() if isinstance(m, Heads)}
    records: dict[str, list[Tensor]] = {name: [] for name in heads}
    for name, m in heads.items():
        m.record = records[name]
    try:
        yield records
    finally:
        for m in heads.values():
            m.record = None


def _attend_openly(
    query_BKD: Tensor,
    key_BND: Tensor,
    value_BND: Tensor,
    mask_BN: Tensor | None,
    heads: int,
    record: list[Tensor],
) -> Tensor:
    query, key, value = (
        x.view(*x.shape[:2], heads, -1).transpose(1, 2) for x in (query_BKD, key_BND, value_BND)
    )
    logits_BHKN = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
    if mask_BN is not None:
        logits_BHKN = logits_BHKN.masked_fill(~mask_BN[:, None, None], -torch.inf)
    attention_BHKN = logits_BHKN.softmax(dim=-1)
    if attention_BHKN.requires_grad:
        attention_BHKN.retain_grad()
    record.append(attention_BHKN)
    read_BKD: Tensor = (attention_BHKN @ value).transpose(1, 2).flatten(2)
    return read_BKD
