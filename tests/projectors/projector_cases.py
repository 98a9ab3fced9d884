"""Videos and projectors that the laws run on."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from hypothesis import strategies as st
from latent_cases import LATENT_CASES
from torch import Tensor
from windowed_cases import WINDOWED_CASES

from vidcomp.projectors.base import Projector
from vidcomp.registry import PROJECTORS
from vidcomp.types import Grid, Query, QueryFeatures, QueryIds, VideoTokens

DIM_IN, DIM_OUT = 12, 10

QFORMER = {"num_latents": 2, "dim": 16, "heads": 2, "dim_ff": 24, "dropout": 0.0}

CASES: dict[str, tuple[str, Mapping[str, Any]]] = {
    "linear": ("linear", {}),
    "mlp": ("mlp", {"depth": 3}),
    "mlp_norm": ("mlp", {"norm": True}),
    "deco": ("deco", {"tokens_per_frame": 4}),
    "deco_grid": ("deco", {"tokens_per_frame": (2, 3), "depth": 1}),
    "avg_pool1d": ("avg_pool1d", {"out_tokens": 5}),
    "pllava": ("pllava", {"num_frames": 3, "tokens_per_frame": 4}),
    "perception_lm": ("perception_lm", {}),
    "videollama3": ("videollama3", {}),
    "llava_next": ("llava_next", {}),
    "llava_next_max": ("llava_next", {"pool": "max", "newline": "frame"}),
    "llava_next_faster": ("llava_next", {"add_faster_video": True, "faster_token_stride": 2}),
    "pixel_shuffle": ("pixel_shuffle", {}),
    "internvl": ("internvl", {"ps_version": "v1"}),
    "qwen_merger": ("qwen_merger", {"norm": "rms", "postshuffle_norm": True}),
    "perceiver": (
        "perceiver",
        {"num_latents": 3, "depth": 2, "heads": 2, "dim_head": 5, "ff_mult": 2, "max_frames": 3},
    ),
    "perceiver_clips": (
        "perceiver",
        {
            "num_latents": 2,
            "depth": 2,
            "heads": 2,
            "dim_head": 4,
            "frames_per_clip": 2,
            "max_frames": 2,
            "max_clips": 2,
        },
    ),
    "perceiver_frames": (
        "perceiver",
        {
            "num_latents": 2,
            "depth": 1,
            "heads": 1,
            "dim_head": 4,
            "frames_per_clip": 1,
            "max_frames": 0,
            "max_clips": 3,
        },
    ),
    "vq": ("vq", {"codebook_size": 64, "codebook_dim": 6}),
    "vq_cosine": ("vq", {"codebook_size": 48, "cosine": True, "gradient": "straight_through"}),
    "fsq": ("fsq", {"levels": (8, 5, 5, 5)}),
    "lfq": ("lfq", {"bits": 9}),
    "bsq": ("lfq", {"bits": 9, "spherical": True}),
    "c_abstractor": (
        "c_abstractor",
        {"tokens_per_frame": 4, "depth": 1, "dim_hidden": 12, "pos_grid": (4, 4), "prenorm": True},
    ),
    "c_abstractor_ends": (
        "c_abstractor",
        {"tokens_per_frame": (2, 3), "depth": 0, "num_eos_tokens": 2, "max_frames": 3},
    ),
    "d_abstractor": (
        "d_abstractor",
        {
            "tokens_per_frame": (2, 3),
            "dim_hidden": 16,
            "depth": 2,
            "heads": 2,
            "points": 2,
            "dim_ff": 24,
            "pos_grid": (4, 4),
            "num_eos_tokens": 1,
            "max_frames": 2,
        },
    ),
    "honeybee_resampler": (
        "honeybee_resampler",
        {
            "num_latents": 3,
            "dim_hidden": 16,
            "depth": 2,
            "heads": 2,
            "dim_ff": 24,
            "pos_grid": (4, 4),
            "frames_per_clip": 2,
            "max_frames": 3,
        },
    ),
    "ldp": ("ldp", {"max_frames": 2}),
    "ldp_v2": ("ldp_v2", {"tokens_per_frame": 4}),
    "stc": ("stc", {"depth": 1, "max_frames": 3}),
    "stc_v35": ("stc_v35", {"depth": 1}),
    "stp": ("stp", {"depth": 1}),
    "spatial_conv": ("spatial_conv", {}),
    "spatial_conv_unpadded": ("spatial_conv", {"pad_frames": False}),
    "spatial_pool": ("spatial_pool", {}),
    "qformer": ("qformer", {**QFORMER, "depth": 2, "cross_attention_frequency": 1}),
    "qformer_clips": (
        "qformer",
        {**QFORMER, "depth": 2, "norm_input": True, "frames_per_clip": None, "max_frames": 3},
    ),
    "instruct_qformer": (
        "instruct_qformer",
        {
            **QFORMER,
            "dim": 32,
            "depth": 2,
            "cross_attention_frequency": 1,
            "frames_per_clip": 2,
            "num_words": 9,
            "max_words": 5,
        },
    ),
    "meq_former": (
        "meq_former",
        {**QFORMER, "depth": 2, "frames_per_clip": None, "dim_key": 24, "num_words": 9},
    ),
    "qformer_light": (
        "qformer_light",
        {"num_latents": 3, "dim": 16, "depth": 2, "heads": 2, "ff_mult": 2, "max_frames": 2},
    ),
    "window_qformer": (
        "window_qformer",
        {"query_side": 2, "window_side": 3, "heads": 2, "dim_ff": 24, "dropout": 0.0},
    ),
    "window_qformer_corners": (
        "window_qformer",
        {"query_side": 2, "window_side": 4, "spatial_offset": 2, "heads": 2, "dim_ff": 24},
    ),
    "vl_mamba": ("vl_mamba", {"states": 3}),
    "vl_mamba_video": (
        "vl_mamba",
        {
            "connector": "vss_mlp",
            "scan": "cross",
            "scope": "video",
            "states": 2,
            "rank": 2,
            "max_frames": 2,
        },
    ),
    "llama_vid": ("llama_vid", {"dim_text": 7}),
    "llama_vid_grid": ("llama_vid", {"dim_text": 7, "content_grid": 2, "depth": 1}),
    **WINDOWED_CASES,
    **LATENT_CASES,
}
"""Name in the registry and settings, by a name of the case."""

DISCRETE = {"vq", "vq_cosine", "fsq", "lfq", "bsq"}
"""Different rows may get one code there, and a small change of a row another one."""

NEEDS_GRID = {
    "vl_mamba",
    "vl_mamba_video",
    *WINDOWED_CASES,
    "window_qformer",
    "window_qformer_corners",
    "llama_vid_grid",
    "deco",
    "deco_grid",
    "pllava",
    "perception_lm",
    "videollama3",
    "llava_next",
    "llava_next_max",
    "llava_next_faster",
    "pixel_shuffle",
    "internvl",
    "qwen_merger",
    "c_abstractor",
    "c_abstractor_ends",
    "d_abstractor",
    "ldp",
    "ldp_v2",
    "stc",
    "stc_v35",
    "stp",
    "spatial_conv",
    "spatial_conv_unpadded",
    "spatial_pool",
}

MULTIPLES: dict[str, tuple[int, int, int]] = {
    "llama_vid_grid": (1, 2, 2),
    "stc_v35": (2, 2, 2),
    "stp": (2, 2, 2),
    "spatial_pool": (1, 2, 2),
    "perception_lm": (1, 2, 2),
    "videollama3": (1, 2, 2),
    "llava_next_max": (1, 2, 2),
    "pixel_shuffle": (1, 2, 2),
    "internvl": (1, 2, 2),
    "qwen_merger": (1, 2, 2),
}
"""Of t, h and w of the grids that a case can read, where not all will do."""

REPEATS = {"spatial_conv"}
"""Cases some of whose rows are the same for every video."""

DROPS: set[str] = {"llava_next_faster", "llava_next_max"}
"""Cases that leave out patches of some grids, as windows that do not divide a side, or read them
in no feature, as those that are nowhere the largest."""


def make(case: str, **settings: Any) -> Projector:
    """The built projector of a case, with other settings on top."""
    name, own = CASES[case]
    projector: Projector = PROJECTORS.make(
        name, **{"dim_in": DIM_IN, "dim_out": DIM_OUT, **own, **settings}
    ).build()
    return projector.bind(question(case)) if projector.asks else projector


def question(case: str, length: int = 3, seed: int = 0) -> Query:
    """What may be asked of a case that asks something."""
    generator = torch.Generator().manual_seed(seed)
    if PROJECTORS[CASES[case][0]].asks is QueryIds:
        return QueryIds(ids=torch.randint(9, (length,), generator=generator))
    return QueryFeatures(embedding=torch.randn(length, 7, generator=generator))


def dense(grid: Grid, seed: int = 0, dim: int = DIM_IN) -> VideoTokens:
    """Random tokens with an extra a row and one a frame; frames last half a second."""
    generator = torch.Generator().manual_seed(seed)
    start = torch.arange(grid.t) * 0.5
    return VideoTokens.from_grid(
        torch.randn(grid.num_patches, dim, generator=generator),
        grid,
        torch.stack([start, start + 0.5], dim=1),
        extras={"saliency": torch.rand(grid.num_patches, generator=generator)},
        frame_extras={"score": torch.rand(grid.t, generator=generator)},
    )


def pruned(grid: Grid, seed: int = 0) -> VideoTokens:
    """A random subset of the rows, at least one."""
    video = dense(grid, seed)
    keep = torch.rand(len(video), generator=torch.Generator().manual_seed(seed)) < 0.6
    keep[seed % len(video)] = True
    return video.select(keep.nonzero().squeeze(1))


def soft(grid: Grid, seed: int = 0) -> VideoTokens:
    """Rows that overlap: each is a random mix of all patches."""
    video = dense(grid, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    mix = torch.rand(1 + seed % 5, len(video), generator=generator)
    mix = mix / mix.sum(dim=1, keepdim=True)
    share = mix / mix.sum(dim=0)
    return replace(
        video,
        tokens=mix @ video.tokens,
        positions=mix @ video.positions,
        spans=video.spans.new_tensor([[0, 0.5 * grid.t]]).expand(len(mix), 2),
        mass=share.sum(dim=1),
        assign=None,
        weights=mix.to_sparse(),
        extras={"saliency": mix @ video.extras["saliency"]},
    )


grids = st.builds(Grid, st.integers(1, 5), st.integers(1, 5), st.integers(1, 5))


def fitted(case: str, grid: Grid) -> Grid:
    """The next larger grid that a case can read."""
    sizes = zip(grid, MULTIPLES.get(case, (1, 1, 1)), strict=True)
    return Grid(*(-(-size // multiple) * multiple for size, multiple in sizes))


@st.composite
def videos(draw: st.DrawFn, case: str) -> VideoTokens:
    """Dense videos, and unless the case needs a grid also pruned and overlapping ones."""
    kind = draw(st.sampled_from([dense] if case in NEEDS_GRID else [dense, pruned, soft]))
    return kind(fitted(case, draw(grids)), draw(st.integers(0, 1000)))


def provenance(video: VideoTokens) -> Tensor:
    """[N, P] dense share of every source patch in every row; zeros for structural rows."""
    if video.weights is not None:
        return video.weights.to_dense()
    assert video.assign is not None
    counts = torch.zeros(len(video), video.grid.num_patches)
    for patch, row in enumerate(video.assign.tolist()):
        if row >= 0:
            counts[row, patch] = 1
    return counts / counts.sum(dim=1, keepdim=True).clamp(min=1)
