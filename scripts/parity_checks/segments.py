"""Methods that work on segments of frames against the outputs of the original functions."""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from parity_checks.golden import Check, Comparison, Golden
from parity_checks.videos import video_of_grid
from vidcomp.registry import COMPRESSORS
from vidcomp.types import Grid, VideoTokens

__all__ = ["CHECKS"]


def check_dycoke(golden: Golden) -> Iterator[Comparison]:
    """DyCoke's first stage, rows in the original's order."""
    video = _numbered(golden, golden.input("x"))
    stage = COMPRESSORS.make("dycoke", mode="published", drop=golden.setting("merging_ratio"))
    out = stage(video, len(video) - 1)
    yield Comparison("output.tokens", out.tokens, golden.output("output.tokens"))
    yield Comparison("output.kept_index", out.extras["row"], golden.output("output.kept_index"))


def _numbered(golden: Golden, x: Tensor, **extras: Tensor) -> VideoTokens:
    """The recorded tokens [..., D], each with its number."""
    grid = Grid(**golden.grid)
    video = video_of_grid(x.reshape(grid.num_patches, -1), grid)
    flat = {name: value.reshape(grid.num_patches) for name, value in extras.items()}
    return replace(video, extras={"row": torch.arange(grid.num_patches), **flat})


CHECKS: dict[str, Check] = {"dycoke": check_dycoke}
