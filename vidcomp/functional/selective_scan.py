"""Selective state spaces: a scan along tokens whose steps, inputs and outputs tokens choose.

Mamba: Linear-Time Sequence Modeling with Selective State Spaces (Gu, 2023),
https://arxiv.org/abs/2312.00752 (its S6).  What comes in is weighed by the step itself (Euler), as
the original's kernels do, not by the exact integral over it.

Legend: B sequences, L tokens, G groups of features that share B and C, D features of all groups,
N states of a feature.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import silu, softplus

from vidcomp.errors import ShapeError
from vidcomp.functional.reduce import real
from vidcomp.functional.scan_chunks import Recurrence, scan, scan_backward

__all__ = ["selective_scan"]


def selective_scan(
    u_BLD: Tensor,
    delta_BLD: Tensor,
    a_DN: Tensor,
    b_BLGN: Tensor,
    c_BLGN: Tensor,
    d_D: Tensor | None = None,
    *,
    z_BLD: Tensor | None = None,
    delta_bias_D: Tensor | None = None,
    delta_softplus: bool = False,
) -> Tensor:
    """What each token reads from a state that all tokens up to it have written.

    ``h_t = exp(delta_t a) h_{t-1} + delta_t b_t u_t`` and ``y_t = c_t h_t + d u_t``, by chunks side
    by side in float32 (float64 if ``u_BLD`` is), in memory that does not grow with the states of
    all tokens; gradients reach every tensor.

    Args:
        u_BLD: what comes in, any float type; any length.
        delta_BLD: lengths of the steps.
        a_DN: rates of decay, below zero.
        b_BLGN: how states read a token; G divides D, and groups are runs of D / G features.
        c_BLGN: how a token reads the states.
        d_D: share of the token itself that is added; ``None``: nothing.
        z_BLD: gates, through whose SiLU the outputs go; ``None``: no gates.
        delta_bias_D: is added to ``delta_BLD`` first; ``None``: nothing.
        delta_softplus: whether steps are the softplus of that.

    Returns:
        [B, L, D] in the type of ``u_BLD``.

    Raises:
        ShapeError: shapes that do not belong together.
    """
    _check(u_BLD, delta_BLD, a_DN, b_BLGN, c_BLGN, z_BLD)
    with torch.autocast(u_BLD.device.type, enabled=False):
        wide = real(u_BLD)
        delta = delta_BLD.to(wide)
        delta = delta if delta_bias_D is None else delta + delta_bias_D.to(wide)
        delta = softplus(delta) if delta_softplus else delta
        shape = (*b_BLGN.shape[:3], u_BLD.shape[2] // b_BLGN.shape[2])
        rate_GND = (a_DN.to(wide) * math.log2(math.e)).view(*shape[2:], -1).mT
        grouped = delta.reshape(shape), (delta * wide).reshape(shape)
        shared = b_BLGN.to(wide), c_BLGN.to(wide)
        y_BLGD: Tensor = _Scan.apply(*grouped, *shared, rate_GND)  # type: ignore[no-untyped-call]
        y_BLD = y_BLGD.flatten(2)
        y_BLD = y_BLD if d_D is None else torch.addcmul(y_BLD, wide, d_D.to(wide))
        y_BLD = y_BLD if z_BLD is None else y_BLD * silu(z_BLD.to(wide))
        return y_BLD.to(u_BLD.dtype)


class _Scan(torch.autograd.Function):
    """``scan`` with its gradients."""

    @staticmethod
    def forward(ctx: Any, *inputs: Tensor) -> Tensor:
        """[B, L, G, D] of the tensors of a ``Recurrence``."""
        keep = any(ctx.needs_input_grad)
        y_BLGD, starts_BJGND = scan(Recurrence(*inputs), keep=keep)
        if keep:
            ctx.save_for_backward(*inputs, starts_BJGND)
        return y_BLGD

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_BLGD: Tensor) -> tuple[Tensor, ...]:
        """Gradients of all of them."""
        *inputs, starts_BJGND = ctx.saved_tensors
        with torch.autocast(grad_BLGD.device.type, enabled=False):
            return tuple(scan_backward(Recurrence(*inputs), starts_BJGND, grad_BLGD))


def _check(
    u_BLD: Tensor,
    delta_BLD: Tensor,
    a_DN: Tensor,
    b_BLGN: Tensor,
    c_BLGN: Tensor,
    z_BLD: Tensor | None,
) -> None:
    b, length, dim = u_BLD.shape
    groups, states = b_BLGN.shape[2:] if b_BLGN.ndim == 4 else (0, 0)
    fits = (
        groups > 0
        and dim % groups == 0
        and delta_BLD.shape == u_BLD.shape
        and a_DN.shape == (dim, states)
        and b_BLGN.shape == c_BLGN.shape == (b, length, groups, states)
        and (z_BLD is None or z_BLD.shape == u_BLD.shape)
    )
    if not fits:
        raise ShapeError(
            f"a selective scan of u [B, L, D] wants delta and z of its shape, a [D, N] and b, c "
            f"[B, L, G, N] with G dividing D, got u {list(u_BLD.shape)}, delta "
            f"{list(delta_BLD.shape)}, a {list(a_DN.shape)}, b {list(b_BLGN.shape)}, c "
            f"{list(c_BLGN.shape)}: pass features last and groups apart"
        )
