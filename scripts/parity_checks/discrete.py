"""Quantisers against recorded outputs: vectors, ids, and a step of training."""

from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor

from parity_checks.golden import Check, Comparison, Golden
from vidcomp.projectors.lookup_free import Lfq
from vidcomp.projectors.quantize import Quantizer
from vidcomp.projectors.vq import Vq
from vidcomp.registry import PROJECTORS

__all__ = ["CHECKS"]


def check_vq(golden: Golden) -> Iterator[Comparison]:
    """VectorQuantize; x [b, n, D], then one training step with the gradient of its input."""
    vq = cast(
        Vq,
        _quantizer(
            golden,
            "vq",
            codebook_size=golden.setting("codebook_size"),
            codebook_dim=golden.setting("codebook_dim"),
            decay=golden.setting("decay"),
            commitment_weight=golden.setting("commitment_weight"),
            dead_below=golden.setting("threshold_ema_dead_code"),
            cosine=golden.setting("use_cosine_sim"),
            gradient="straight_through",
        ),
    )
    yield from _evaluated(golden, vq)
    x_ND = golden.input("x").flatten(0, 1).requires_grad_()
    with torch.enable_grad():
        found = vq.train().quantize(x_ND)
        ((found.tokens * golden.input("cotangent").flatten(0, 1)).sum() + found.loss).backward()
    after = {
        "output": found.tokens,
        "indices": found.ids,
        "loss": found.loss,
        "grad_x": x_ND.grad,
        "cluster_size_after": vq.cluster_size,
        "embed_avg_after": vq.embed_avg,
        "codebook_after": vq.embed,
    }
    for name, ours in after.items():
        yield _compared(f"train.{name}", ours, golden.trained(name))


def check_fsq(golden: Golden) -> Iterator[Comparison]:
    """FSQ; x [b, n, D]."""
    yield from _evaluated(golden, _quantizer(golden, "fsq", levels=golden.setting("levels")))


def check_lfq(golden: Golden) -> Iterator[Comparison]:
    """LFQ; x [b, n, D], and the entropies of training, recorded at temperature 1 / 10."""
    lfq = cast(
        Lfq,
        _quantizer(
            golden,
            "lfq",
            bits=int(golden.setting("codebook_size")).bit_length() - 1,
            entropy_weight=golden.setting("entropy_loss_weight"),
            diversity=golden.setting("diversity_gamma"),
            commitment_weight=golden.setting("commitment_loss_weight"),
            inv_temperature=10,
        ),
    )
    yield from _evaluated(golden, lfq)
    loss = lfq.train().quantize(golden.input("x").flatten(0, 1)).loss
    yield _compared("train.entropy_aux_loss", loss, golden.trained("entropy_aux_loss"))


def _quantizer(golden: Golden, name: str, **settings: Any) -> Quantizer:
    dim = golden.setting("dim")
    made: Quantizer = PROJECTORS.make(name, dim_in=dim, dim_out=dim, **settings).build()
    made.load_reference(golden.weights)
    return made


def _evaluated(golden: Golden, quantizer: Quantizer) -> Iterator[Comparison]:
    found = quantizer.quantize(golden.input("x").flatten(0, 1))
    yield _compared("output", found.tokens, golden.output("output"))
    yield _compared("output.indices", found.ids, golden.output("output.indices"))


def _compared(name: str, ours: Tensor | None, theirs: Tensor) -> Comparison:
    assert ours is not None
    return Comparison(name, ours.detach().reshape(theirs.shape), theirs)


CHECKS: dict[str, Check] = {"vq_ema": check_vq, "fsq": check_fsq, "lfq": check_lfq}
