"""Convolutional abstractors against the outputs of the original modules."""

import math
from collections.abc import Iterator
from typing import Any

from torch import Tensor

from parity_checks.golden import Check, Comparison, Golden
from parity_checks.videos import video_of_grid
from vidcomp.registry import PROJECTORS
from vidcomp.types import Grid, TokenBatch

__all__ = ["CHECKS"]


def check_c_abstractor(golden: Golden) -> Iterator[Comparison]:
    """Honeybee's C-Abstractor on square frames; x [b, N, D]."""
    yield _run(
        golden,
        _frames(golden),
        "c_abstractor",
        tokens_per_frame=_square(golden.setting("num_query_tokens")),
        depth=golden.setting("depth"),
        mlp_depth=golden.setting("mlp_depth"),
        dim_hidden=golden.setting("hidden_size"),
        prenorm=golden.setting("prenorm"),
        **_honeybee(golden),
    )


def check_d_abstractor(golden: Golden) -> Iterator[Comparison]:
    """Honeybee's D-Abstractor on square frames; x [b, N, D]."""
    yield _run(
        golden,
        _frames(golden),
        "d_abstractor",
        tokens_per_frame=_square(golden.setting("num_queries")),
        depth=golden.setting("decoder_layers"),
        dim_hidden=golden.setting("d_model"),
        heads=golden.setting("decoder_attention_heads"),
        points=golden.setting("decoder_n_points"),
        dim_ff=golden.setting("decoder_ffn_dim"),
        pooled=golden.setting("pooled_v_target"),
        **_honeybee(golden),
    )


def check_resampler(golden: Golden) -> Iterator[Comparison]:
    """Honeybee's resampler, frame by frame; x [b, N, D]."""
    yield _run(
        golden,
        _frames(golden),
        "honeybee_resampler",
        num_latents=golden.setting("num_query_tokens"),
        depth=golden.setting("num_hidden_layers"),
        dim_hidden=golden.setting("hidden_size"),
        heads=golden.setting("num_attention_heads"),
        dim_ff=golden.setting("intermediate_size"),
        ff_eps=golden.setting("layer_norm_eps"),
        **_honeybee(golden),
    )


def check_ldp(golden: Golden) -> Iterator[Comparison]:
    """MobileVLM's LDP on square frames; x [b, N, D]."""
    yield _run(golden, _frames(golden), "ldp", **_dims(golden))


def check_ldp_v2(golden: Golden) -> Iterator[Comparison]:
    """MobileVLM V2's LDPv2 on square frames; x [b, N, D]."""
    yield _run(golden, _frames(golden), "ldp_v2", **_dims(golden))


def _connector(name: str) -> Check:
    def check(golden: Golden) -> Iterator[Comparison]:
        x_BTND = golden.input("x")
        side = math.isqrt(x_BTND.shape[2])
        yield _run(
            golden,
            x_BTND.view(*x_BTND.shape[:2], side, side, -1),
            name,
            downsample=golden.setting("downsample"),
            depth=golden.setting("depth"),
            mlp_depth=golden.setting("mlp_depth"),
            **_dims(golden),
        )

    check.__doc__ = f"VideoLLaMA 2's ``{name}`` on square frames; x [b, t, N, D]."
    return check


def _run(golden: Golden, x_BTHWD: Tensor, name: str, **settings: Any) -> Comparison:
    """The projector on a batch of videos against ``output`` [b, K, E]."""
    projector = PROJECTORS.make(name, **settings).build().load_reference(golden.weights)
    videos = [video_of_grid(x.flatten(0, 2), Grid(*x.shape[:3])) for x in x_BTHWD]
    out: TokenBatch = projector(TokenBatch.pack(videos))
    ours = out.tokens.view(len(x_BTHWD), -1, out.tokens.shape[-1])
    return Comparison("output", ours, golden.output("output"))


def _frames(golden: Golden) -> Tensor:
    """The input [b, N, D] as [b, 1, h, w, D] of square frames."""
    x_BND = golden.input("x")
    side = math.isqrt(x_BND.shape[1])
    return x_BND.view(len(x_BND), 1, side, side, -1)


def _square(count: int) -> tuple[int, int]:
    return math.isqrt(count), math.isqrt(count)


def _dims(golden: Golden) -> dict[str, int]:
    return {
        "dim_in": golden.setting("mm_hidden_size"),
        "dim_out": golden.setting("hidden_size"),
    }


def _honeybee(golden: Golden) -> dict[str, Any]:
    square = _square(golden.setting("num_input_tokens"))
    return {
        "dim_in": golden.setting("encoder_hidden_size"),
        "dim_out": golden.setting("output_hidden_size"),
        "num_eos_tokens": golden.setting("num_eos_tokens"),
        "pos_grid": square if golden.setting("pos_emb") else None,
    }


CHECKS: dict[str, Check] = {
    "honeybee_c_abstractor": check_c_abstractor,
    "honeybee_d_abstractor": check_d_abstractor,
    "honeybee_resampler": check_resampler,
    "mobilevlm_ldp": check_ldp,
    "mobilevlm_ldpv2": check_ldp_v2,
    "videollama2_stc": _connector("stc"),
    "videollama2_stc_v35": _connector("stc_v35"),
    "videollama2_stp": _connector("stp"),
    "videollama2_spatial_conv": _connector("spatial_conv"),
    "videollama2_spatial_pool": _connector("spatial_pool"),
}
