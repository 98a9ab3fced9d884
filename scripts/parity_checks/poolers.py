"""Pools, pixel shuffles and patch mergers against the outputs of the original modules."""

import math
from collections.abc import Iterator
from typing import Any

from torch import Tensor

from parity_checks.golden import Check, Comparison, Golden
from parity_checks.videos import video_of_grid
from vidcomp.projectors.base import Projector
from vidcomp.projectors.pooling import stacked_windows
from vidcomp.projectors.qwen_merger import TemporalPatchEmbed
from vidcomp.registry import PROJECTORS
from vidcomp.types import Grid, TokenBatch

__all__ = ["CHECKS"]


def check_pool1d(golden: Golden) -> Iterator[Comparison]:
    """Means along the sequence; x [b, N, D]."""
    x_BND = golden.input("x")
    names = {
        n: golden.settings[n] for n in ("out_tokens", "group", "ceil_mode") if n in golden.settings
    }
    projector = _pool("avg_pool1d", x_BND, **names)
    yield _compare(golden, projector, x_BND[:, None, None])


def check_pllava(golden: Golden) -> Iterator[Comparison]:
    """An MLP and a pool over frames and places; x [frames of one video, N, D]."""
    frames, *cells = golden.setting("pooling_shape")
    projector = _make(golden, "pllava", "mm", "d", num_frames=frames, tokens_per_frame=cells)
    x_FND = golden.input("x")
    shape = (1, golden.setting("num_frames"), *golden.setting("frame_shape"), -1)
    yield _compare(golden, projector, x_FND.reshape(shape))


def check_llava_next_pool(golden: Golden) -> Iterator[Comparison]:
    """The pool alone; x [F, N, D]."""
    x_FND = golden.input("x")
    stride, pool = golden.setting("stride"), golden.setting("mode")
    projector = _pool("llava_next", x_FND, pool=pool, stride=stride, newline="none")
    yield _compare(golden, projector, _squares(x_FND)[None])


def check_newline(golden: Golden) -> Iterator[Comparison]:
    """Newlines between tokens that are not pooled; x [F, N, D]."""
    x_FND = golden.input("x")
    newline = golden.setting("mm_newline_position")
    projector = _pool("llava_next", x_FND, stride=1, newline=newline)
    projector.load_reference({"image_newline": golden.input("image_newline")})
    yield _compare(golden, projector, _squares(x_FND)[None])


def check_perception_lm(golden: Golden) -> Iterator[Comparison]:
    """An MLP and a pool of each frame; x [F, N, D]."""
    ratio = golden.setting("pooling_ratio")
    projector = _make(golden, "perception_lm", "vision", "hidden_size", pooling_ratio=ratio)
    yield _compare(golden, projector, _squares(golden.input("x"))[None])


def check_videollama3(golden: Golden) -> Iterator[Comparison]:
    """Interpolation and an MLP; x [N, D] window by window."""
    ((t, h, w),), (size,) = golden.input("grid_thw").tolist(), golden.input("merge_sizes").tolist()
    projector = _make(golden, "videollama3", "vision", "hidden_size", merge_size=size)
    yield _compare(golden, projector, _raster(golden.input("x"), Grid(t, h, w), size)[None])


def check_idefics3(golden: Golden) -> Iterator[Comparison]:
    """Pixel shuffle and a matrix; x [F, N, D]."""
    size = golden.setting("scale_factor")
    names = ("vision_hidden", "hidden_size")
    projector = _make(golden, "pixel_shuffle", *names, scale_factor=size)
    yield _compare(golden, projector, _squares(golden.input("x"))[None])


def check_internvl(golden: Golden) -> Iterator[Comparison]:
    """Pixel shuffle alone, and with a norm and an MLP; x [F, H, W, D]."""
    size = round(1 / golden.setting("downsample_ratio"))
    names = ("vision_hidden", "hidden_size")
    projector = _make(golden, "internvl", *names, scale_factor=size)
    x_1FHWD = golden.input("x")[None]
    yield _compare(golden, projector, x_1FHWD)
    shuffled = golden.output("output.shuffled")
    yield Comparison("output.shuffled", stacked_windows(x_1FHWD, size)[0], shuffled)


def check_qwen_merger(golden: Golden) -> Iterator[Comparison]:
    """A norm, windows side by side and an MLP; x [N, D] window by window."""
    size, grid = golden.setting("spatial_merge_size"), Grid(*golden.setting("grid_thw"))
    projector = _make(golden, "qwen_merger", "context_dim", "dim", merge_size=size)
    yield _compare(golden, projector, _raster(golden.input("x"), grid, size)[None])


def check_patch_embed(golden: Golden) -> Iterator[Comparison]:
    """Patches of two frames, put together to pictures first; x [N, C * F * H * W]."""
    depth, size = golden.setting("temporal_patch_size"), golden.setting("patch_size")
    channels, x_ND = golden.setting("in_channels"), golden.input("x")
    h = math.isqrt(len(x_ND) // 2)
    patches = x_ND.view(2, h, -1, channels, depth, size, size)
    pixels = patches.permute(0, 4, 3, 1, 5, 2, 6).reshape(2 * depth, channels, h * size, -1)
    embed = TemporalPatchEmbed(
        golden.setting("embed_dim"),
        patch_size=size,
        temporal_patch_size=depth,
        in_channels=channels,
    )
    embed.load_state_dict(golden.weights)
    rows, _ = embed(pixels)
    yield Comparison("output", rows, golden.output("output"))


def _make(golden: Golden, name: str, dim_in: str, dim_out: str, **settings: Any) -> Projector:
    """A projector with the recorded weights."""
    dims = {"dim_in": golden.setting(dim_in), "dim_out": golden.setting(dim_out)}
    projector: Projector = PROJECTORS.make(name, **dims, **settings).build()
    return projector.load_reference(golden.weights)


def _pool(name: str, x: Tensor, **settings: Any) -> Projector:
    """A projector without an MLP."""
    dims = {"dim_in": x.shape[-1], "dim_out": x.shape[-1]}
    projector: Projector = PROJECTORS.make(name, **dims, depth=0, **settings).build()
    return projector


def _compare(golden: Golden, projector: Projector, x_BTHWD: Tensor) -> Comparison:
    """The projector on a batch of videos against ``output``."""
    videos = [video_of_grid(x.flatten(0, 2), Grid(*x.shape[:3])) for x in x_BTHWD]
    tokens = projector(TokenBatch.pack(videos)).tokens
    theirs = golden.output("output")
    return Comparison(
        "output", tokens.view(theirs.shape) if tokens.numel() == theirs.numel() else tokens, theirs
    )


def _squares(x_FND: Tensor) -> Tensor:
    """[F, H, W, D] of square frames."""
    side = math.isqrt(x_FND.shape[1])
    return x_FND.reshape(len(x_FND), side, side, -1)


def _raster(x_ND: Tensor, grid: Grid, size: int) -> Tensor:
    """[T, H, W, D] of rows that come window by window."""
    x = x_ND.view(grid.t, grid.h // size, grid.w // size, size, size, -1)
    out: Tensor = x.transpose(2, 3).reshape(*grid, -1)
    return out


CHECKS: dict[str, Check] = {
    "avgpool1d_adaptive": check_pool1d,
    "avgpool1d_group": check_pool1d,
    "pllava_adaptive_pool3d": check_pllava,
    "llava_next_pool_average": check_llava_next_pool,
    "llava_next_pool_max": check_llava_next_pool,
    "llava_next_pool_bilinear": check_llava_next_pool,
    "llava_next_newline_grid": check_newline,
    "llava_next_newline_frame": check_newline,
    "llava_next_newline_one_token": check_newline,
    "perception_lm_projector": check_perception_lm,
    "videollama3_pixel_unshuffle_pool": check_videollama3,
    "idefics3_pixel_shuffle_connector": check_idefics3,
    "internvl_pixel_shuffle_projector": check_internvl,
    "qwen2vl_patch_merger": check_qwen_merger,
    "qwen2vl_temporal_patch_embed": check_patch_embed,
}
