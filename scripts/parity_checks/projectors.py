"""Projectors against the outputs of the original modules, weights by the original names."""

import math
import re
from collections.abc import Iterator
from typing import Any

from torch import Tensor

from parity_checks.golden import Check, Comparison, Golden, GoldenError
from parity_checks.videos import video_of_grid
from vidcomp.registry import PROJECTORS
from vidcomp.types import Grid, TokenBatch

__all__ = ["CHECKS"]


def check_linear(golden: Golden) -> Iterator[Comparison]:
    """LLaVA's ``linear``; x [..., N, D]."""
    yield _run(golden, _rows(golden), "linear", **_llava_dims(golden))


def check_mlp(golden: Golden) -> Iterator[Comparison]:
    """LLaVA's ``mlpNx_gelu``; x [..., N, D]."""
    kind = golden.setting("mm_projector_type")
    match = re.fullmatch(r"mlp(\d+)x_gelu", kind)
    if match is None:
        raise GoldenError(f"{golden.path} has projector type {kind!r} instead of mlpNx_gelu")
    yield _run(golden, _rows(golden), "mlp", depth=int(match[1]), **_llava_dims(golden))


def check_deco(golden: Golden) -> Iterator[Comparison]:
    """DeCo's pooling of square frames to the largest square within ``query_num``; x [b, N, D]."""
    x_BND = golden.input("x")
    side, target = math.isqrt(x_BND.shape[1]), math.isqrt(golden.setting("query_num"))
    yield _run(
        golden,
        x_BND.reshape(len(x_BND), 1, side, side, -1),
        "deco",
        dim_in=golden.setting("mm_hidden_size"),
        dim_out=golden.setting("llm_hidden_size"),
        depth=golden.setting("layer_num"),
        tokens_per_frame=(target, target),
    )


def check_openflamingo(golden: Golden) -> Iterator[Comparison]:
    """OpenFlamingo's resampler; x [b, T, F, v, D]: F frames of each of T media are fused."""
    x_BTFVD = golden.input("x")
    yield _run(
        golden,
        x_BTFVD.flatten(1, 2).unsqueeze(2),
        "perceiver",
        frames_per_clip=x_BTFVD.shape[2],
        max_frames=golden.setting("max_num_frames") or 0,
        max_clips=golden.setting("max_num_media") or 0,
        **_flamingo_settings(golden),
    )


def check_lucidrains(golden: Golden) -> Iterator[Comparison]:
    """flamingo-pytorch's resampler; x [b, m, n, D], or [b, n, D] of one medium."""
    x = golden.input("x")
    x_BMND = x if x.ndim == 4 else x.unsqueeze(1)
    yield _run(
        golden,
        x_BMND.unsqueeze(2),
        "perceiver",
        frames_per_clip=1,
        max_frames=0,
        max_clips=golden.setting("num_media_embeds"),
        **_flamingo_settings(golden),
    )


def _run(golden: Golden, x_BTHWD: Tensor, name: str, **settings: Any) -> Comparison:
    """The projector on a batch of videos against ``output``, which may lay out rows otherwise."""
    projector = PROJECTORS.make(name, **settings).build().load_reference(golden.weights)
    videos = [video_of_grid(x.flatten(0, 2), Grid(*x.shape[:3])) for x in x_BTHWD]
    out: TokenBatch = projector(TokenBatch.pack(videos))
    theirs = golden.output("output")
    same_size = out.tokens.numel() == theirs.numel()
    ours = out.tokens.view(theirs.shape) if same_size else out.tokens
    return Comparison("output", ours, theirs)


def _rows(golden: Golden) -> Tensor:
    """The input [..., N, D] as [B, 1, 1, N, D]."""
    x = golden.input("x")
    return x.reshape(-1, 1, 1, *x.shape[-2:])


def _llava_dims(golden: Golden) -> dict[str, int]:
    return {
        "dim_in": golden.setting("mm_hidden_size"),
        "dim_out": golden.setting("hidden_size"),
    }


def _flamingo_settings(golden: Golden) -> dict[str, int]:
    same = {n: golden.setting(n) for n in ("depth", "heads", "dim_head", "num_latents", "ff_mult")}
    return {"dim_in": golden.setting("dim"), "dim_out": golden.setting("dim"), **same}


CHECKS: dict[str, Check] = {
    "llava_linear": check_linear,
    "llava_mlp2x_gelu": check_mlp,
    "deco_avgpool": check_deco,
    "flamingo_perceiver_resampler": check_openflamingo,
    "flamingo_perceiver_resampler_lucidrains": check_lucidrains,
}
