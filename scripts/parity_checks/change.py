"""Droppers of unchanged tokens against the outputs of the original functions."""

from collections.abc import Iterator

import torch
from torch import Tensor

from parity_checks.golden import Check, Comparison, Golden
from parity_checks.videos import video_of_grid
from vidcomp.functional.change import pixel_change
from vidcomp.registry import COMPRESSORS, SELECTORS
from vidcomp.types import Grid, VideoTokens

__all__ = ["CHECKS"]

_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def check_evs(golden: Golden) -> Iterator[Comparison]:
    """EVS's mask at each pruning rate."""
    grid = Grid(golden.grid["t"], golden.grid["h"], golden.grid["w"])
    video = video_of_grid(golden.input("x"), grid)
    for rate in golden.setting("q_list"):
        stage = COMPRESSORS.make("evs", mode="published", pruning_rate=rate)
        kept_N = _rows(stage(video, len(video) - 1))
        mask_N = torch.zeros(len(video), dtype=torch.bool).index_fill(0, kept_N, value=True)
        yield Comparison(f"output.mask_q{rate}", mask_N, golden.output(f"output.mask_q{rate}"))


def check_dtd(golden: Golden) -> Iterator[Comparison]:
    """TimeChat-Online's kept places of the sequence, and their position ids."""
    ids_S = golden.input("input_ids").flatten()
    start = int((ids_S == golden.setting("vs")).nonzero()) + 1
    stop = int((ids_S == golden.setting("ve")).nonzero())
    for i, (by, amount, absolute) in enumerate(golden.setting("cases")):
        dropped = _dropped_features if by == "feature" else _dropped_pixels
        kept_N = dropped(golden, slice(start, stop), amount, absolute)
        kept_S = torch.cat([torch.arange(start), start + kept_N, torch.arange(stop, len(ids_S))])
        ids = golden.input("position_ids")[..., kept_S]
        for name, ours in (("kept_index", kept_S), ("position_ids", ids)):
            name = f"output.case{i}.{name}"
            yield Comparison(name, ours, golden.output(name))


def check_difffp(golden: Golden) -> Iterator[Comparison]:
    """VideoLLaMA 3's mask of all inputs, one after the other; still pictures are kept whole."""
    patches_PV, start, masks = golden.input("pixel_values"), 0, []
    for size, merge in zip(golden.input("grid_sizes"), golden.input("merge_sizes"), strict=True):
        grid = Grid(*size.tolist())
        part_PV = patches_PV[start : start + grid.num_patches]
        start += grid.num_patches
        frames_TCHW = frames_of_patches(part_PV, grid, tubelet=1, merge=int(merge))
        cell = (frames_TCHW.shape[2] * int(merge) // grid.h,) * 2
        # The recording has normalised pixels, whose differences count 255 times.
        change_THW = pixel_change(frames_TCHW, cell, scale=(255.0,) * 3).change
        selector = SELECTORS.make(
            "difffp", threshold=golden.setting("threshold"), min_tokens=golden.setting("min_tokens")
        )
        for change_hw in change_THW:
            valid_hw = torch.ones_like(change_hw, dtype=torch.bool)
            masks.append(selector.kept(change_hw, valid_hw).flatten())
    yield Comparison("output.mask", torch.cat(masks), golden.output("output.mask"))


def _dropped_features(golden: Golden, place: slice, amount: float, absolute: bool) -> Tensor:
    """[K] tokens of the video that the compressor keeps."""
    grid = Grid(**golden.grid)
    video = video_of_grid(golden.input("hidden")[0, place], grid)
    settings = {"threshold": amount} if absolute else {"share": amount}
    stage = COMPRESSORS.make("dtd", mode="published", **settings)
    return _rows(stage(video, len(video) - 1))


def _dropped_pixels(golden: Golden, place: slice, amount: float, absolute: bool) -> Tensor:
    """[K] tokens of the video whose pixels changed."""
    del place
    frames_TCHW = frames_of_patches(
        golden.input("pixel_values_videos"), Grid(*golden.input("video_grid_thw")[0].tolist())
    )
    change_THW = pixel_change(frames_TCHW, (28, 28), tubelet=2, scale=_CLIP_STD).change
    settings = {"threshold": amount} if absolute else {"share": amount}
    selector = SELECTORS.make("dtd_pixels", **settings)
    valid_hw = torch.ones_like(change_THW[0], dtype=torch.bool)
    kept = torch.stack([selector.kept(change_hw, valid_hw) for change_hw in change_THW])
    return kept.flatten().nonzero().squeeze(1)


def frames_of_patches(
    patches_PV: Tensor, grid: Grid, *, tubelet: int = 2, merge: int = 2
) -> Tensor:
    """[T, C, H, W] frames of patches in the order of Qwen's processors.

    Rows go by (t, h, w) of merged cells and by the patches in one; values by (C, tubelet, H, W).
    """
    side = round((patches_PV.shape[1] / 3 / tubelet) ** 0.5)
    cells = (grid.t, grid.h // merge, grid.w // merge, merge, merge)
    x = patches_PV.reshape(*cells, 3, tubelet, side, side)
    # t, tubelet, C, h, merge, side, w, merge, side
    x = x.permute(0, 6, 5, 1, 3, 7, 2, 4, 8)
    return x.reshape(grid.t * tubelet, 3, grid.h * side, grid.w * side)


def _rows(video: VideoTokens) -> Tensor:
    """[K] patches of a dense grid that are left."""
    assert video.assign is not None  # video_of_grid gives one
    return (video.assign >= 0).nonzero().squeeze(1)


CHECKS: dict[str, Check] = {"evs": check_evs, "dtd": check_dtd, "difffp": check_difffp}
