"""Attention over the rows of sets, with the share of every row in what was read.

Legend: B sets, K queries, N keys, S sources (the first of the keys), D and E features of all heads
together, H heads, G heads of keys (H is a multiple of G).
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, scaled_dot_product_attention

__all__ = ["LEAST_SHARE", "MultiheadAttention", "attend", "attention_shares"]

LEAST_SHARE = 1e-35
"""Of a row that next to nothing is read from: with 0 its mass would be lost."""


def attend(
    query_BKD: Tensor,
    key_BND: Tensor,
    value_BNE: Tensor,
    mask_BN: Tensor | None = None,
    *,
    heads: int,
    key_heads: int | None = None,
    scale: float | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """[B, K, E'] what the queries read of the values, head beside head.

    Args:
        query_BKD: any float type.
        key_BND: with fewer heads than the queries, narrower than them by the same factor.
        value_BNE: may be wider or narrower than the keys.
        mask_BN: bool, True where a key is; each set needs one.  ``None``: everywhere.
        heads: of the queries.
        key_heads: of keys and values, each read by equally many heads; ``None``: ``heads``.
        scale: of the dot products; ``None``: 1 / sqrt(features of a head).
        dropout: share of the attention that is left out, while training only.
    """
    groups = heads if key_heads is None else key_heads
    out_BHKE = scaled_dot_product_attention(
        _split(query_BKD, heads),
        _split(key_BND, groups),
        _split(value_BNE, groups),
        attn_mask=None if mask_BN is None else mask_BN[:, None, None],
        dropout_p=dropout,
        scale=scale,
        enable_gqa=groups != heads,
    )
    return out_BHKE.transpose(1, 2).flatten(2)


@torch.no_grad()
def attention_shares(
    query_BKD: Tensor,
    key_BND: Tensor,
    mask_BN: Tensor | None = None,
    *,
    heads: int,
    key_heads: int | None = None,
    scale: float | None = None,
    num_sources: int | None = None,
) -> Tensor:
    """[B, K, S] float32, rows sum to 1: the share of each of the first ``num_sources`` keys
    (``None``: of all) in all that a query reads from them, the heads' attention averaged.

    The arguments are those of ``attend``; no gradients flow.
    """
    groups = heads if key_heads is None else key_heads
    query_BHKD = _split(query_BKD, heads).float()
    key_BHND = _split(key_BND, groups).float().repeat_interleave(heads // groups, dim=1)
    scale = query_BHKD.shape[-1] ** -0.5 if scale is None else scale
    logits_BHKN = query_BHKD @ key_BHND.transpose(-1, -2) * scale
    if mask_BN is not None:
        logits_BHKN = logits_BHKN.masked_fill(~mask_BN[:, None, None], -torch.inf)
    log_BHKS = logits_BHKN.log_softmax(dim=-1)[..., :num_sources]
    # In logarithms: a query that reads almost only the other keys must not end in 0 / 0.
    shares_BKS = log_BHKS.logsumexp(dim=1).softmax(dim=-1).clamp(min=LEAST_SHARE)
    return shares_BKS if mask_BN is None else shares_BKS * mask_BN[:, None, :num_sources]


class MultiheadAttention(nn.Module):
    """Parameters, their names and start as in ``torch.nn.MultiheadAttention`` with one width.

    Queries, keys and values are projected by the three parts of ``in_proj_weight``.
    """

    def __init__(self, dim: int, *, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self.out_proj = nn.Linear(dim, dim)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(
        self, query_BKD: Tensor, key_BND: Tensor, value_BND: Tensor, mask_BN: Tensor | None = None
    ) -> Tensor:
        """[B, K, D] what each query reads; see ``attend``."""
        read_BKD = attend(
            self._projected(0, query_BKD),
            self._projected(1, key_BND),
            self._projected(2, value_BND),
            mask_BN,
            heads=self.heads,
        )
        out: Tensor = self.out_proj(read_BKD)
        return out

    def sources(
        self,
        query_BKD: Tensor,
        key_BND: Tensor,
        mask_BN: Tensor | None = None,
        num_sources: int | None = None,
    ) -> Tensor:
        """[B, K, S] shares of the first keys in what the queries read; see ``attention_shares``."""
        return attention_shares(
            self._projected(0, query_BKD),
            self._projected(1, key_BND),
            mask_BN,
            heads=self.heads,
            num_sources=num_sources,
        )

    def _projected(self, part: int, x: Tensor) -> Tensor:
        weight, bias = self.in_proj_weight.chunk(3)[part], self.in_proj_bias.chunk(3)[part]
        return linear(x, weight, bias)


def _split(x_BND: Tensor, heads: int) -> Tensor:
    """[B, H, N, D / H] by heads."""
    b, n, _ = x_BND.shape
    return x_BND.view(b, n, heads, -1).transpose(1, 2)
