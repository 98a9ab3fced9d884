"""Selective scans and the modules around them against the outputs of the original ones."""

from collections.abc import Iterator

from torch import Tensor

from parity_checks.golden import Check, Comparison, Golden, GoldenError
from vidcomp.functional.selective_scan import selective_scan
from vidcomp.projectors.state_space import MambaMixer, Scan, Ss2d

__all__ = ["CHECKS"]


def check_scan(golden: Golden) -> Iterator[Comparison]:
    """VMamba's ``selective_scan_torch``; features lie before tokens there."""
    b_BLGN, c_BLGN = (golden.input(name).permute(0, 3, 1, 2) for name in ("B", "C"))
    y_BLD = selective_scan(
        golden.input("u").mT,
        golden.input("delta").mT,
        golden.input("A"),
        b_BLGN,
        c_BLGN,
        golden.input("D"),
        delta_bias_D=golden.input("delta_bias"),
        delta_softplus=golden.setting("delta_softplus"),
    )
    yield Comparison("output", y_BLD.mT, golden.output("output"))


def check_mixer(golden: Golden) -> Iterator[Comparison]:
    """Transformers' ``MambaMixer``; x [b, L, D]."""
    mixer = MambaMixer(
        golden.setting("hidden_size"),
        states=golden.setting("state_size"),
        expand=golden.setting("expand"),
        kernel=golden.setting("conv_kernel"),
        rank=golden.setting("time_step_rank"),
        bias=golden.setting("use_bias"),
        conv_bias=golden.setting("use_conv_bias"),
    ).load_reference(golden.weights)
    yield Comparison("output", mixer(golden.input("x")), golden.output("output"))


def _ss2d(scan: Scan, forward_type: str) -> Check:
    def check(golden: Golden) -> Iterator[Comparison]:
        if golden.setting("forward_type") != forward_type:
            raise GoldenError(f"{golden.path} is no {forward_type} of VMamba")
        ratio, rank = golden.setting("ssm_ratio"), golden.setting("dt_rank")
        module = Ss2d(
            golden.setting("d_model"),
            scan=scan,
            states=golden.setting("d_state"),
            expand=int(ratio),
            rank=None if rank == "auto" else rank,
        ).load_reference(golden.weights)
        x_BHWD: Tensor = golden.input("x")
        yield Comparison("output", module(x_BHWD[:, None])[:, 0], golden.output("output"))

    check.__doc__ = f"VMamba's SS2D, {scan}; x [b, H, W, D]."
    return check


CHECKS: dict[str, Check] = {
    "selective_scan_ref": check_scan,
    "mamba_mixer_hf": check_mixer,
    "ss2d_cross": _ss2d("cross", "v05"),
    "ss2d_bidi": _ss2d("bidirectional", "v052d"),
}
