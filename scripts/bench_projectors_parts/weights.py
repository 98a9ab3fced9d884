"""Our weights for code that is not ours, and the layers that originals are made of.

Legend: B sets, K queries, N keys, D features of all heads together, H heads.
"""

from collections.abc import Mapping
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["Weights", "attention", "heads_of", "torch_attention", "without_heads"]


class Weights:
    """Parameters and buffers of a module by name, below a prefix; shared, not copied."""

    def __init__(self, tensors: Mapping[str, Tensor], prefix: str = "") -> None:
        self._tensors, self._prefix = tensors, prefix

    @classmethod
    def of(cls, module: nn.Module) -> Self:
        """All of a module's."""
        return cls({**dict(module.named_parameters()), **dict(module.named_buffers())})

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[self._prefix + name]

    def __contains__(self, start: str) -> bool:
        """Whether a name starts like this."""
        return any(name.startswith(self._prefix + start) for name in self._tensors)

    def at(self, *names: object) -> "Weights":
        """Those of a module inside."""
        return Weights(self._tensors, self._prefix + "".join(f"{name}." for name in names))

    def linear(self, name: str, x: Tensor) -> Tensor:
        """[..., E] of [..., D]."""
        return functional.linear(x, self[f"{name}.weight"], self.bias(name))

    def bias(self, name: str) -> Tensor | None:
        """Of a module inside, if it has one."""
        return self._tensors.get(f"{self._prefix}{name}.bias")

    def norm(self, name: str, x: Tensor, eps: float = 1e-5) -> Tensor:
        """Over the last axis."""
        weight, bias = self[f"{name}.weight"], self[f"{name}.bias"]
        return functional.layer_norm(x, weight.shape, weight, bias, eps)

    def mlp(self, x: Tensor) -> Tensor:
        """Matrices 0, 2, 4 ... with exact GELU between them."""
        number = 0
        while f"{number}.weight" in self:
            x = self.linear(str(number), functional.gelu(x) if number else x)
            number += 2
        return x


def heads_of(x_BND: Tensor, heads: int) -> Tensor:
    """[B, H, N, D / H]."""
    b, n, _ = x_BND.shape
    return x_BND.view(b, n, heads, -1).transpose(1, 2)


def without_heads(x_BHNE: Tensor) -> Tensor:
    """[B, N, D]."""
    return x_BHNE.transpose(1, 2).flatten(2)


def attention(
    query_BKD: Tensor,
    key_BND: Tensor,
    value_BND: Tensor,
    heads: int,
    mask: Tensor | None = None,
) -> Tensor:
    """[B, K, D] with all logits in memory; ``mask`` is added to them."""
    query, key, value = (heads_of(x, heads) for x in (query_BKD, key_BND, value_BND))
    logits_BHKN = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
    if mask is not None:
        logits_BHKN = logits_BHKN + mask
    return without_heads(torch.softmax(logits_BHKN, dim=-1) @ value)


def torch_attention(w: Weights, query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """[K, B, D] of ``torch.nn.MultiheadAttention``, called as most do: sets second, and the weights
    are made too, though nothing reads them.
    """
    out, _ = functional.multi_head_attention_forward(
        query,
        key,
        value,
        query.shape[-1],
        heads,
        w["in_proj_weight"],
        w["in_proj_bias"],
        None,
        None,
        False,
        0.0,
        w["out_proj.weight"],
        w["out_proj.bias"],
        need_weights=True,
    )
    return out
