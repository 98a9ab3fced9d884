"""Tokens as 8-bit integers with one scale a channel: half of bfloat16, and quick to decode.

A scale a channel and not a token: real features have a few channels that are many times larger
than the rest, which a scale a token would crush.

Legend: N tokens, D features.
"""

import torch
from torch import Tensor

from vidcomp.errors import StoreError

__all__ = ["decode_int8", "encode_int8"]

_LEVELS = 127
"""Codes are symmetric, so -128 does not occur."""

_CHUNK = 1 << 15
"""Elements converted at a time: what they need stays in the cache, and torch, which splits longer
work, keeps it on the calling thread."""


def encode_int8(tokens_ND: Tensor, name: str) -> tuple[Tensor, Tensor]:
    """Codes and scales: ``codes * scales`` is within half a scale of every value.

    Args:
        tokens_ND: any float dtype, on any device.
        name: whose tokens they are, for the message.

    Returns:
        [N, D] int8 in -127..127, rounded half to even, and [D] float32: a channel's largest
        magnitude / 127; 0, with codes of 0, where there is none.  Both on the CPU.

    Raises:
        StoreError: NaN, infinities, or values that bfloat16 cannot hold when they are read.
    """
    tokens_ND = tokens_ND.detach().cpu()
    chunks = _chunks(tokens_ND)
    peak_D = torch.zeros(tokens_ND.shape[1])
    for chunk in chunks:
        if len(chunk):
            torch.maximum(peak_D, chunk.abs().amax(0).float(), out=peak_D)  # NaN wins
    wrong_D = ~peak_D.bfloat16().isfinite()
    if bool(wrong_D.any()):
        channel = int(wrong_D.nonzero()[0])
        raise StoreError(
            f"{name!r} has tokens that int8 cannot hold (channel {channel} reaches "
            f"{float(peak_D[channel]):.6g}, {int(wrong_D.sum())} channels in all are not finite in "
            f"bfloat16): repair the tokens, or store bfloat16 or float32"
        )
    scale_D = peak_D / _LEVELS
    divisor_D = scale_D.masked_fill(scale_D == 0, torch.inf)  # values / inf = 0
    codes_ND = torch.empty(tokens_ND.shape, dtype=torch.int8)
    for chunk, out in zip(chunks, _chunks(codes_ND), strict=True):
        out.copy_((chunk.float() / divisor_D).round_().clamp_(-_LEVELS, _LEVELS))
    return codes_ND, scale_D


def decode_int8(codes_ND: Tensor, scale_D: Tensor, out_ND: Tensor | None = None) -> Tensor:
    """``codes * scales``, multiplied in float32 and rounded to the type of ``out_ND``.

    Args:
        codes_ND: int8.
        scale_D: float32.
        out_ND: any float dtype, filled and returned; by default a new bfloat16 tensor.
    """
    if out_ND is None:
        out_ND = torch.empty(codes_ND.shape, dtype=torch.bfloat16)
    chunks = _chunks(codes_ND)
    buffer = torch.empty(chunks[0].shape)
    for codes, out in zip(chunks, _chunks(out_ND), strict=True):
        product = buffer if len(codes) == len(buffer) else buffer[: len(codes)]
        out.copy_(product.copy_(codes).mul_(scale_D))
    return out_ND


def _chunks(tokens_ND: Tensor) -> tuple[Tensor, ...]:
    """Views of consecutive rows, at least one."""
    rows = max(1, _CHUNK // max(1, tokens_ND.shape[1]))
    return torch.split(tokens_ND, rows)
