"""Modules that projectors are made of; tensors only, no videos.

Legend: B sets, K queries, N keys, D features, R rows of a table.
"""

from collections.abc import Callable, Sequence
from functools import wraps
from itertools import pairwise
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from vidcomp.projectors.attention import attend, attend_with_shares

__all__ = [
    "CrossAttention",
    "FrameEmbedding",
    "GatedMLP",
    "apart",
    "end_to_end",
    "mlp",
    "rows_between",
    "stretched_rows",
    "untraced",
]

A = ParamSpec("A")
R = TypeVar("R")


def untraced(function: Callable[A, R]) -> Callable[A, R]:
    """``function`` left out of the graphs of ``torch.compile``: index and sparse bookkeeping.

    ``torch.compiler.disable`` itself would import the compiler in runs that never compile.
    """

    @wraps(function)
    def call(*args: A.args, **kwargs: A.kwargs) -> R:
        if torch.compiler.is_compiling():
            eager: Callable[A, R] = torch.compiler.disable(function)  # type: ignore[no-untyped-call]
            return eager(*args, **kwargs)
        return function(*args, **kwargs)

    return call


def mlp(*dims: int, activation: type[nn.Module] = nn.GELU, norm: bool = False) -> nn.Sequential:
    """Linear layers through the widths ``dims`` with ``activation`` between them, exact (erf) GELU
    unless another is asked for; no layer for a single width.

    Parameters are called ``0``, ``2``, ``4`` ... as in LLaVA's checkpoints, or with a ``norm`` of
    what goes in first ``0``, ``1``, ``3``, ``5`` ... as in InternVL's.
    """
    layers: list[nn.Module] = [nn.LayerNorm(dims[0])] if norm else []
    for place, (dim_in, dim_out) in enumerate(pairwise(dims)):
        layers += [activation()] * (place > 0) + [nn.Linear(dim_in, dim_out)]
    return nn.Sequential(*layers)


class GatedMLP(nn.Module):
    """Rows times the SiLU of others made of the same input, as in Llama; no biases."""

    def __init__(self, dim_in: int, hidden: int, dim_out: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(dim_in, hidden, bias=False)
        self.up_proj = nn.Linear(dim_in, hidden, bias=False)
        self.down_proj = nn.Linear(hidden, dim_out, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[..., dim_out] of [..., dim_in]."""
        out: Tensor = self.down_proj(silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class CrossAttention(nn.Module):
    """Queries read from keys; heads may be wider or narrower together than the features.

    Keys and values are both made of the same rows; only the output has a bias, if any.
    """

    def __init__(
        self,
        dim: int,
        *,
        heads: int,
        dim_head: int,
        dim_key: int | None = None,
        bias_out: bool = False,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(dim, heads * dim_head, bias=False)
        self.to_kv = nn.Linear(dim_key or dim, 2 * heads * dim_head, bias=False)
        self.to_out = nn.Linear(heads * dim_head, dim, bias=bias_out)

    def forward(self, query_BKD: Tensor, key_BND: Tensor, mask_BN: Tensor | None = None) -> Tensor:
        """[B, K, D] what each query reads.

        Args:
            query_BKD: any float type.
            key_BND: keys and values are both made of it.
            mask_BN: bool, True where a key is; each set needs one.  ``None``: everywhere.
        """
        inputs = self._inputs(query_BKD, key_BND)
        out: Tensor = self.to_out(attend(*inputs, mask_BN, heads=self.heads))
        return out

    def read(
        self,
        query_BKD: Tensor,
        key_BND: Tensor,
        mask_BN: Tensor | None = None,
        num_sources: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """What ``forward`` gives, and the shares [B, K, S] of the first keys in it; see
        ``attention_shares``.
        """
        inputs = self._inputs(query_BKD, key_BND)

        read, shares = attend_with_shares(
            *inputs, mask_BN, heads=self.heads, num_sources=num_sources
        )
        return self.to_out(read), shares

    def _inputs(self, query_BKD: Tensor, key_BND: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        key, value = self.to_kv(key_BND).chunk(2, dim=-1)
        return self.to_q(query_BKD), key, value


def end_to_end(parts: Sequence[Tensor]) -> Tensor:
    """The parts joined along their first axis; one alone is not copied."""
    return torch.cat(list(parts)) if len(parts) > 1 else parts[0]


def apart(joined: Tensor, counts: Sequence[int]) -> Sequence[Tensor]:
    """Parts of so many rows each of what ``end_to_end`` joined; all of it if there is one.

    Unlike that of a split, the gradient of one part alone is not copied.
    """
    return torch.split(joined, list(counts)) if len(counts) > 1 else (joined,)


def rows_between(table_RD: Tensor, place: Tensor) -> Tensor:
    """[..., D] rows of a table at fractional places [...] in 0..R-1, linear between its rows."""
    below = place.floor().long().clamp(0, len(table_RD) - 1)
    above = (below + 1).clamp(max=len(table_RD) - 1)
    share = (place - below).to(table_RD.dtype)[..., None]
    return torch.lerp(table_RD[below], table_RD[above], share)


def stretched_rows(table_RD: Tensor, place: Tensor, length: Tensor | int) -> Tensor:
    """[..., D] rows of a table at places in 0..length-1; row by row while the table is long
    enough, else the whole table is spread from the first place to the last.

    Args:
        table_RD: learned rows, as of frames.
        place: [...] float or int, fractional between places.
        length: places there are, a number or one for each ``place`` (broadcast).
    """
    rows = len(table_RD)
    if isinstance(length, int):
        stretch = (rows - 1) / (length - 1) if length > rows else 1.0
        return rows_between(table_RD, place * stretch)
    spread = (rows - 1) / (length - 1).clamp(min=1)
    return rows_between(table_RD, place * spread.where(length > rows, 1))


class FrameEmbedding(nn.Module):
    """A learned vector for each frame of a clip, for methods that do not see the order of frames.

    It is zero before training, so that it changes no answer of a loaded checkpoint, in which it may
    be missing.
    """

    def __init__(self, max_frames: int, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(max_frames, dim))

    def forward(self, frame: Tensor, num_frames: Tensor | int) -> Tensor:
        """[..., D] to be added to what belongs to the frames.

        Args:
            frame: [...] place of a frame in its clip, fractional between frames.
            num_frames: frames of the clip, one number or one for each ``frame`` (broadcast); the
                table is stretched linearly over more than ``max_frames``.
        """
        return stretched_rows(self.weight, frame, num_frames)
