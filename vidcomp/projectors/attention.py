"""Attention over the rows of sets, with the share of every row in what was read.

Legend: B sets, K queries, N keys, S sources (the first of the keys), D and E features of all heads
together, H heads, G heads of keys (H is a multiple of G).
"""

from itertools import product

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, scaled_dot_product_attention

__all__ = [
    "LEAST_SHARE",
    "GroupedAttention",
    "MultiheadAttention",
    "attend",
    "attend_with_shares",
    "attention_shares",
]

LEAST_SHARE = 1e-35
"""Of a row that next to nothing is read from: with 0 its mass would be lost."""
_PIECE = 1 << 18
"""Entries of the attention that are made at once on a processor where none needs to be kept."""
_LEAST_QUERIES = 64
"""Of a piece: products with fewer rows are slow."""
_LEAST_TOTAL = 1e-20
"""Share of all keys together below which shares of these are made in logarithms."""


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
        query_BKD: any float type; one set of queries and keys for all sets of values is enough.
        key_BND: with fewer heads than the queries, narrower than them by the same factor.
        value_BNE: may be wider or narrower than the keys.
        mask_BN: bool, True where a key is; each set needs one.  ``None``: everywhere.
        heads: of the queries.
        key_heads: of keys and values, each read by equally many heads; ``None``: ``heads``.
        scale: of the dot products; ``None``: 1 / sqrt(features of a head).
        dropout: share of the attention that is left out, while training only.
    """
    groups = heads if key_heads is None else key_heads
    sets = len(value_BNE)
    out_BHKE = scaled_dot_product_attention(
        _split(query_BKD, heads).expand(sets, -1, -1, -1),
        _split(key_BND, groups).expand(sets, -1, -1, -1),
        _split(value_BNE, groups),
        attn_mask=None if mask_BN is None else mask_BN[:, None, None],
        dropout_p=dropout,
        scale=scale,
        enable_gqa=groups != heads,
    )
    return out_BHKE.transpose(1, 2).flatten(2)


def attend_with_shares(
    query_BKD: Tensor,
    key_BND: Tensor,
    value_BNE: Tensor,
    mask_BN: Tensor | None = None,
    *,
    heads: int,
    key_heads: int | None = None,
    scale: float | None = None,
    num_sources: int | None = None,
    out: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """What ``attend`` and ``attention_shares`` give, with the attention made once if it can be.

    The shares are written into ``out``, if there is one.
    """
    groups = heads if key_heads is None else key_heads
    wide = value_BNE.dtype in (torch.float32, torch.float64)
    if not (wide and value_BNE.is_cpu) or torch.compiler.is_compiling():
        # Fused attention, which keeps none, is so much faster there that making it twice pays.
        shares = attention_shares(
            query_BKD,
            key_BND,
            mask_BN,
            heads=heads,
            key_heads=groups,
            scale=scale,
            num_sources=num_sources,
        )
        inputs = query_BKD, key_BND, value_BNE, mask_BN
        read = attend(*inputs, heads=heads, key_heads=groups, scale=scale)
        return read, shares if out is None else out.copy_(shares)
    alone = max(len(query_BKD), len(key_BND)) == len(value_BNE)
    if alone and num_sources is None and not torch.is_grad_enabled():
        return _in_pieces(query_BKD, key_BND, value_BNE, mask_BN, heads, groups, scale, out)
    logits_BHKN = _logits(query_BKD, key_BND, mask_BN, heads, groups, scale)
    attention_BHKN = logits_BHKN.softmax(dim=-1)
    value_BHNE = _for_all(_split(value_BNE, groups), heads)
    read = _mixed(attention_BHKN, value_BHNE)
    with torch.no_grad():
        shares = _over_heads(attention_BHKN[..., :num_sources])
        if num_sources is not None:
            total = shares.sum(dim=-1, keepdim=True)
            certain = bool((total > _LEAST_TOTAL).all())
            shares = shares / total if certain else _shares_of_some(logits_BHKN, num_sources)
        return read, _floored(shares, mask_BN, out)


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
    logits = _logits(query_BKD.float(), key_BND.float(), mask_BN, heads, groups, scale)
    if num_sources is None:
        return _floored(_over_heads(logits.softmax(dim=-1)), mask_BN)
    return _floored(_shares_of_some(logits, num_sources), mask_BN)


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
        inputs = self._inputs(query_BKD, key_BND, value_BND)
        out: Tensor = self.out_proj(attend(*inputs, mask_BN, heads=self.heads))
        return out

    def read(
        self, query_BKD: Tensor, key_BND: Tensor, value_BND: Tensor, mask_BN: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """What ``forward`` gives, and shares [B, K, N] of the keys; see ``attention_shares``."""
        inputs = self._inputs(query_BKD, key_BND, value_BND)
        read_BKD, shares_BKN = attend_with_shares(*inputs, mask_BN, heads=self.heads)
        return self.out_proj(read_BKD), shares_BKN

    def _inputs(self, *inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        parts = zip(inputs, self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3), strict=True)
        query, key, value = (linear(x, weight, bias) for x, weight, bias in parts)
        return query, key, value


class GroupedAttention(nn.Module):
    """Queries, keys and values each projected by a layer of their own; heads may share keys.

    Args:
        dim: features of queries and keys.
        heads: of the queries.
        dim_head: features of a head.
        key_heads: of keys and values, each read by equally many heads; ``None``: ``heads``.
        dim_out: features that come out; ``None``: ``dim``.
        bias: whether the four layers have one.
    """

    def __init__(
        self,
        dim: int,
        *,
        heads: int,
        dim_head: int,
        key_heads: int | None = None,
        dim_out: int | None = None,
        bias: bool = False,
    ) -> None:
        super().__init__()
        self.heads, self.key_heads = heads, heads if key_heads is None else key_heads
        self.q_proj = nn.Linear(dim, heads * dim_head, bias=bias)
        self.k_proj = nn.Linear(dim, self.key_heads * dim_head, bias=bias)
        self.v_proj = nn.Linear(dim, self.key_heads * dim_head, bias=bias)
        self.o_proj = nn.Linear(heads * dim_head, dim if dim_out is None else dim_out, bias=bias)

    def forward(
        self,
        query_BKD: Tensor,
        key_BND: Tensor,
        mask_BN: Tensor | None = None,
        place_BNE: Tensor | None = None,
    ) -> Tensor:
        """[B, K, E] what each query reads; keys and values are both made of ``key_BND``.

        Args:
            query_BKD: any float type.
            key_BND: the same.
            mask_BN: bool, True where a key is; each set needs one.  ``None``: everywhere.
            place_BNE: added to the projected keys and values of all heads.
        """
        inputs = self._inputs(query_BKD, key_BND, place_BNE)
        read = attend(*inputs, mask_BN, heads=self.heads, key_heads=self.key_heads)
        out: Tensor = self.o_proj(read)
        return out

    def read(
        self,
        query_BKD: Tensor,
        key_BND: Tensor,
        mask_BN: Tensor | None = None,
        num_sources: int | None = None,
        place_BNE: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """What ``forward`` gives, and the shares [B, K, S] of the first keys in it; see
        ``attention_shares``.
        """
        read, shares = attend_with_shares(
            *self._inputs(query_BKD, key_BND, place_BNE),
            mask_BN,
            heads=self.heads,
            key_heads=self.key_heads,
            num_sources=num_sources,
        )
        return self.o_proj(read), shares

    def _inputs(
        self, query_BKD: Tensor, key_BND: Tensor, place_BNE: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        key, value = self.k_proj(key_BND), self.v_proj(key_BND)
        if place_BNE is not None:
            key, value = key + place_BNE, value + place_BNE
        return self.q_proj(query_BKD), key, value


def _logits(
    query_BKD: Tensor,
    key_BND: Tensor,
    mask_BN: Tensor | None,
    heads: int,
    groups: int,
    scale: float | None,
    out: Tensor | None = None,
) -> Tensor:
    """[B, H, K, N] scaled products, minus infinity where no key is; in ``out``, if there is one."""
    query_BHKD = _split(query_BKD, heads)
    key_BHND = _for_all(_split(key_BND, groups), heads)
    scale = query_BHKD.shape[-1] ** -0.5 if scale is None else scale
    logits_BHKN = torch.matmul(query_BHKD * scale, key_BHND.transpose(-1, -2), out=out)
    if mask_BN is None:
        return logits_BHKN
    fill = logits_BHKN.masked_fill if out is None else logits_BHKN.masked_fill_
    return fill(~mask_BN[:, None, None], -torch.inf)


def _in_pieces(
    query_BKD: Tensor,
    key_BND: Tensor,
    value_BNE: Tensor,
    mask_BN: Tensor | None,
    heads: int,
    groups: int,
    scale: float | None,
    out: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """What is read, and the shares of all keys, by pieces of the attention that fit into the
    caches of a processor.
    """
    (b, n, _), k = value_BNE.shape, query_BKD.shape[1]
    shares_BKN = value_BNE.new_empty(b, k, n, dtype=torch.float32) if out is None else out
    read_BKE = value_BNE.new_empty(b, k, heads * (value_BNE.shape[2] // groups))
    sets = max(1, _PIECE // (heads * k * n))
    queries = max(_LEAST_QUERIES, _PIECE // (heads * n)) if sets == 1 else k
    for first, start in product(range(0, b, sets), range(0, k, queries)):
        own, some = slice(first, first + sets), slice(start, start + queries)
        query = query_BKD[own if len(query_BKD) > 1 else slice(None), some]
        key = key_BND[own if len(key_BND) > 1 else slice(None)]
        mask = None if mask_BN is None else mask_BN[own]
        value_BHNE = _for_all(_split(value_BNE[own], groups), heads)
        shares = shares_BKN[own, some]
        if heads == 1 and query.dtype == shares.dtype and max(len(query), len(key)) == len(shares):
            # The attention of the only head is made where the shares are to be: memory that no
            # cache holds is what takes the time here.
            logits = _logits(query, key, mask, heads, groups, scale, out=shares[:, None])
            attention = torch.softmax(logits, dim=-1, out=logits)
            read_BKE[own, some] = _mixed(attention, value_BHNE)
            _floored(shares, mask, shares)
        else:
            attention = _logits(query, key, mask, heads, groups, scale).softmax(dim=-1)
            read_BKE[own, some] = _mixed(attention, value_BHNE)
            _floored(_over_heads(attention), mask, shares)
    return read_BKE, shares_BKN


def _mixed(attention_BHKN: Tensor, value_BHNE: Tensor) -> Tensor:
    """[B, K, E'] values mixed, head beside head; one attention may be that of all sets."""
    b, h, n, e = value_BHNE.shape
    if len(attention_BHKN) == b:
        return (attention_BHKN @ value_BHNE).transpose(1, 2).flatten(2)
    value_HNBE = value_BHNE.permute(1, 2, 0, 3)
    out_HKBE = (attention_BHKN[0] @ value_HNBE.reshape(h, n, b * e)).view(h, -1, b, e)
    return out_HKBE.permute(2, 1, 0, 3).flatten(2)


def _over_heads(attention_BHKN: Tensor) -> Tensor:
    return attention_BHKN.mean(dim=1) if attention_BHKN.shape[1] > 1 else attention_BHKN[:, 0]


def _shares_of_some(logits_BHKN: Tensor, num_sources: int) -> Tensor:
    """[B, K, S] shares of the first keys in what is read from these.

    In logarithms: a query that reads almost only the other keys must not end in 0 / 0.
    """
    log_BHKS = logits_BHKN.log_softmax(dim=-1)[..., :num_sources]
    return log_BHKS.logsumexp(dim=1).softmax(dim=-1)


def _floored(shares_BKS: Tensor, mask_BN: Tensor | None, out: Tensor | None = None) -> Tensor:
    """float32 shares of at least ``LEAST_SHARE``, where keys are; written into ``out``, if any."""
    shares_BKS = torch.clamp(shares_BKS.float(), min=LEAST_SHARE, out=out)
    return (
        shares_BKS if mask_BN is None else shares_BKS.mul_(mask_BN[:, None, : shares_BKS.shape[2]])
    )


def _for_all(x_BGNE: Tensor, heads: int) -> Tensor:
    """[B, H, N, E] heads of keys, each as often as queries read it."""
    groups = x_BGNE.shape[1]
    return x_BGNE if groups == heads else x_BGNE.repeat_interleave(heads // groups, dim=1)


def _split(x_BND: Tensor, heads: int) -> Tensor:
    """[B, H, N, D / H] by heads."""
    b, n, _ = x_BND.shape
    return x_BND.view(b, n, heads, -1).transpose(1, 2)
