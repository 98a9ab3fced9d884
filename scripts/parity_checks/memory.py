"""Memory banks against the outputs of the original functions."""

from collections.abc import Iterator

import torch
from torch import Tensor

from parity_checks.golden import Check, Comparison, Golden
from parity_checks.videos import video_of_grid
from vidcomp.registry import COMPRESSORS
from vidcomp.types import Grid, VideoTokens

__all__ = ["CHECKS"]


def check_ma_lmm(golden: Golden) -> Iterator[Comparison]:
    """MA-LMM's bank after all frames and after some, as a stage and as a stream."""
    x_BTPD, length = golden.input("x"), golden.setting("bank_length")
    grid = Grid(**golden.grid)
    num_frames = {"": grid.t} | {f"after{k + 1}.": k + 1 for k in golden.setting("snap")}
    for prefix, t in num_frames.items():
        part = Grid(t, grid.h, grid.w)
        videos = [video_of_grid(x_TPD[:t].flatten(0, 1), part) for x_TPD in x_BTPD]
        outs = [_bank(video, length) for video in videos]
        for place, kind in enumerate(("bank", "size")):
            name = f"output.{prefix}{kind}"
            yield Comparison(name, torch.stack([o[place] for o in outs]), golden.output(name))


def _bank(video: VideoTokens, length: int) -> tuple[Tensor, Tensor]:
    """[L, P, D] slots of each place in the order of time, and their sizes [L, P]."""
    budget = length * video.grid.per_frame
    outs = []
    for settings in ({"mode": "published", "length": length}, {}):
        stage = COMPRESSORS.make("memory_bank", **settings)
        stream = stage.stream(budget, video.grid[1:])
        stream.update(video)
        outs += [_by_place(stage(video, budget)), _by_place(stream.result())]
    for out in outs[1:]:
        torch.testing.assert_close(out, outs[0])
    return outs[0]


def _by_place(out: VideoTokens) -> tuple[Tensor, Tensor]:
    place_K = out.positions[:, 1] * out.grid.w + out.positions[:, 2]
    order_K = place_K.argsort(stable=True)  # rows are in raster order: by time within a place
    tokens = out.tokens[order_K].unflatten(0, (out.grid.per_frame, -1)).transpose(0, 1)
    return tokens, out.mass[order_K].unflatten(0, (out.grid.per_frame, -1)).transpose(0, 1)


CHECKS: dict[str, Check] = {"ma_lmm_memory_bank": check_ma_lmm}
