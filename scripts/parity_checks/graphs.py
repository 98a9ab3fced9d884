"""Methods that walk trees and graphs of tokens, row for row in the order of the originals."""

from collections.abc import Iterator

import torch

from parity_checks.golden import Check, Comparison, Golden
from parity_checks.videos import video_of_grid
from vidcomp.functional.components import components_above
from vidcomp.functional.windows import window_likeness
from vidcomp.registry import COMPRESSORS
from vidcomp.types import Grid

__all__ = ["CHECKS"]


def check_scissor(golden: Golden) -> Iterator[Comparison]:
    """Components of the first frame and of all, and the tokens after the last assignment."""
    grid, x_TPD, tau = Grid(**golden.grid), golden.input("x"), golden.setting("tau")
    video = video_of_grid(x_TPD.flatten(0, 1), grid)
    out = COMPRESSORS.make("scissor", mode="published", threshold=tau)(video, len(video) - 1)
    assert out.assign is not None
    yield Comparison("output.tokens", out.tokens, golden.output("output.tokens"))
    theirs = golden.output("output.closest_index")
    yield Comparison("output.closest_index", out.assign, theirs)
    frame_N = torch.arange(grid.t).repeat_interleave(grid.per_frame)
    component_N = components_above(video.tokens, tau, frame_N)
    labels = component_N[: grid.per_frame]
    yield Comparison("output.frame0_labels", labels, golden.output("output.frame0_labels"))
    theirs = golden.output("output.num_after_step1")
    yield Comparison(
        "output.num_after_step1", (component_N.max() + 1).reshape(theirs.shape), theirs
    )


def check_sttm(golden: Golden) -> Iterator[Comparison]:
    """Tokens, patches and first boxes for every case of thresholds."""
    grid, x_TDHW = Grid(**golden.grid), golden.input("x")
    video = video_of_grid(x_TDHW.permute(0, 2, 3, 1).flatten(0, 2), grid)
    for i, case in enumerate(golden.setting("cases")):
        stage = COMPRESSORS.make(
            "sttm",
            mode="published",
            spatial=case["threshold"],
            temporal=case["temporal_thresh"] if case["temporal_thresh"] > 0 else None,
            root_level=case["root_level"],
            weighted=case["weighted_avg"],
            heads=len(x_TDHW[0]) // case["head_dim"] if case["head_dim"] else 1,
        )
        out, box = stage(video, len(video) - 1), stage.leaves(video).box
        found = {"feature": out.tokens, "num_patch": out.mass.int(), "tlbr": box.int()}
        for name, ours in found.items():
            yield Comparison(
                f"output.case{i}.{name}", ours, golden.output(f"output.case{i}.{name}")
            )


def check_longvu(golden: Golden) -> Iterator[Comparison]:
    """Frames that differ from their windows; then tokens that differ from the first of a chunk."""
    likeness_T = window_likeness(golden.input("dino").flatten(1), golden.setting("window"))
    frames = (likeness_T < golden.setting("threshold")).nonzero().squeeze(1)
    yield Comparison("output.frame_index", frames, golden.output("output.frame_index"))
    x_TPD = golden.input("tokens")
    side = round(x_TPD.shape[1] ** 0.5)
    video = video_of_grid(x_TPD.flatten(0, 1), Grid(len(x_TPD), side, side))
    stage = COMPRESSORS.make(
        "longvu", mode="published", frame_threshold=2.0, threshold=golden.setting("drop_threshold")
    )
    kept = stage.keep(video, golden.setting("max_visual_len"))
    yield Comparison("output.stc.kept_index", kept, golden.output("output.stc.kept_index"))


CHECKS: dict[str, Check] = {
    "llava_scissor": check_scissor,
    "longvu": check_longvu,
    "sttm": check_sttm,
}
