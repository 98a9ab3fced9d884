"""Methods that work on segments of frames against the outputs of the original functions."""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import pad

from parity_checks.golden import Check, Comparison, Golden
from parity_checks.videos import video_of_grid
from vidcomp.compress.merge._trees import diverse_rows, event_relevance
from vidcomp.compress.merge.flashvid import Flashvid
from vidcomp.compress.merge.prunevid import Prunevid
from vidcomp.functional.runs import chains, joins_above
from vidcomp.functional.segment import (
    cuts_by_similarity,
    frame_clusters,
    longest_runs,
    segments_of,
    static_windows,
    still_frames,
)
from vidcomp.registry import COMPRESSORS
from vidcomp.types import Grid, VideoTokens

__all__ = ["CHECKS"]


def check_dycoke(golden: Golden) -> Iterator[Comparison]:
    """DyCoke's first stage, rows in the original's order."""
    video = _numbered(golden, golden.input("x"))
    stage = COMPRESSORS.make("dycoke", mode="published", drop=golden.setting("merging_ratio"))
    out = stage(video, len(video) - 1)
    yield _compare(golden, "tokens", out.tokens)
    yield _compare(golden, "kept_index", out.extras["row"])


def check_prunevid(golden: Golden) -> Iterator[Comparison]:
    """PruneVid's segments, still and other tokens, and its refinement of labels."""
    frames = golden.input("frames")[0]
    grid = Grid(golden.setting("T"), golden.setting("H"), golden.setting("W"))
    video = video_of_grid(frames, grid)
    stage = Prunevid(
        mode="published",
        threshold=golden.setting("threshold"),
        neighbours=golden.setting("k"),
        clusters_per_frame=golden.setting("temporal_segment_ratio"),
        retention=golden.setting("cluster_ratio"),
    )
    yield _compare(golden, "tokens", stage(video, len(video) - 1).tokens[None])
    label_T = frame_clusters(
        frames.reshape(grid.t, grid.per_frame, -1).mean(dim=1),
        int(grid.t * golden.setting("temporal_segment_ratio")),
        golden.setting("k"),
    )
    yield _compare(golden, "window_sizes", torch.bincount(label_T))
    static, dynamic = _unit_sizes(video, stage, label_T)
    yield _compare(golden, "static_sizes", static)
    yield _compare(golden, "dynamic_sizes", dynamic)
    refined = torch.stack([longest_runs(label) for label in golden.input("refine_labels")])
    yield _compare(golden, "refine.labels", refined)
    lengths = [torch.bincount(segments_of(label.diff() != 0)) for label in refined]
    width = golden.output("output.refine.segment_lengths").shape[1]
    padded = torch.stack([pad(length, (0, width - len(length))) for length in lengths])
    yield _compare(golden, "refine.segment_lengths", padded)


def check_holitom(golden: Golden) -> Iterator[Comparison]:
    """HoliTom's windows, and their tokens in the original's order."""
    grid = Grid(**golden.grid)
    x_ND = golden.input("features").flatten(0, 1)
    video = _numbered(golden, x_ND, saliency=golden.input("attn"))
    tau = golden.setting("tau")
    stage = COMPRESSORS.make(
        "holitom",
        mode="published",
        threshold=tau,
        neighbours=golden.setting("K"),
        retention=golden.setting("retain_ratio"),
        centre_weight=golden.setting("Beta"),
        contextual=golden.setting("D"),
        max_frames=golden.setting("max_window_size"),
    )
    out = stage(replace(video, extras={"saliency": video.extras["saliency"]}), len(video) - 1)
    yield _compare(golden, "tokens", out.tokens)
    found, frame_N = chains(video.positions), video.positions[:, 0].long()
    _, alike_N = joins_above(x_ND, video.mass, found, tau, "previous")
    window_T = static_windows(
        still_frames(alike_N, found, frame_N, tau), frame_N, golden.setting("max_window_size")
    )
    length_W = torch.bincount(window_T)
    last_W = length_W.cumsum(0) - 1
    yield _compare(golden, "windows", torch.stack([last_W - length_W + 1, last_W], dim=1))
    assert out.assign is not None
    frame_P = torch.arange(grid.num_patches) // grid.per_frame
    kept_P = out.assign >= 0
    window_K = torch.zeros(len(out), dtype=torch.int64)
    window_K[out.assign[kept_P]] = window_T[frame_P[kept_P]]
    yield _compare(golden, "tokens_per_window", torch.bincount(window_K))
    removed = _removed_over_time(alike_N.reshape(grid.t, -1) > tau, window_T)
    yield _compare(golden, "total_reduced", torch.tensor(float(removed)))
    rate = min(golden.setting("retain_ratio") / ((len(video) - removed) / len(video)), 1)
    yield _compare(golden, "corrected_ratio", torch.tensor(rate, dtype=torch.float64))


def check_fastvid(golden: Golden) -> Iterator[Comparison]:
    """FastVID's tokens among those of the text around them, which stay."""
    grid = Grid(**golden.grid)
    embeds = golden.input("embeds")[0]
    start = golden.setting("video_start")
    stop = start + grid.num_patches
    video = _numbered(golden, embeds[start:stop], saliency=golden.input("frame_attn"))
    video = replace(
        video,
        extras={"saliency": video.extras["saliency"]},
        frame_extras={"global": golden.input("frame_global")},
    )
    stage = COMPRESSORS.make(
        "fastvid",
        mode="published",
        threshold=golden.setting("tau"),
        num_segments=golden.setting("c"),
        retention=golden.setting("ratio"),
        context=golden.setting("d"),
        stride=golden.setting("p"),
        centre_weight=golden.setting("beta"),
        frame_features="global",
    )
    out = stage(video, len(video) - 1)
    tokens = torch.cat([embeds[:start], out.tokens, embeds[stop:]])
    yield _compare(golden, "tokens", tokens)
    # A token lies where the row with the largest weight in it lay.
    assert out.weights is not None
    place_K, index = out.weights.to_dense().argmax(dim=1), torch.arange(len(embeds))
    yield _compare(golden, "keep_index", torch.cat([index[:start], start + place_K, index[stop:]]))
    segment_T = cuts_by_similarity(
        golden.input("frame_global"), golden.setting("tau"), golden.setting("c")
    )
    yield _compare(golden, "segment_sizes", torch.bincount(segment_T))


def check_flashvid(golden: Golden) -> Iterator[Comparison]:
    """FlashVID's tokens, its three ways to choose salient ones, and its segments."""
    grid = Grid(**golden.grid)
    x_TND, scale_TN = golden.input("features"), golden.input("attn")
    video = _numbered(golden, x_TND, saliency=scale_TN)
    stage = Flashvid(
        mode="published",
        threshold=golden.setting("segment_threshold"),
        num_segments=golden.setting("min_segment_num"),
        salient=golden.setting("alpha"),
        link=golden.setting("temporal_threshold"),
        retention=golden.setting("ratio"),
        expansion=golden.setting("expansion"),
    )
    video = replace(video, extras={"saliency": video.extras["saliency"]})
    yield _compare(golden, "tokens", stage(video, len(video) - 1).tokens)
    yield _compare(golden, "global_index", stage.published_rows(video, len(video) - 1))
    frame_TD = x_TND.mean(dim=1)
    segment_T = cuts_by_similarity(
        frame_TD, golden.setting("segment_threshold"), golden.setting("min_segment_num")
    )
    yield _compare(golden, "segment_lengths", torch.bincount(segment_T))
    event_TN = scale_TN * event_relevance(x_TND.flatten(0, 1), frame_TD).reshape(scale_TN.shape)
    choices: dict[str, list[Tensor | None]] = {
        "adts": list(scale_TN),
        "adts_v2": list(event_TN),
        "div": [None] * grid.t,
    }
    for name, scales in choices.items():
        picked = [
            diverse_rows(x_ND, golden.setting("sel"), scale_N, published=True)
            for x_ND, scale_N in zip(x_TND, scales, strict=True)
        ]
        yield _compare(golden, f"{name}.index", torch.stack(picked))


def _removed_over_time(stays_TN: Tensor, window_T: Tensor) -> int:
    """Rows that averaging takes away: still places of each window times its frames but one."""
    removed = 0
    for window in range(int(window_T[-1]) + 1):
        frames = (window_T == window).nonzero().squeeze(1)
        removed += int(stays_TN[frames[1:]].all(dim=0).sum()) * (len(frames) - 1)
    return removed


def _unit_sizes(video: VideoTokens, stage: Prunevid, label_T: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens of each segment that stand for several frames, and all others."""
    out = stage(video, len(video) - 1)
    assert out.assign is not None
    frame_P = torch.arange(video.grid.num_patches) // video.grid.per_frame
    first_K = torch.full((len(out),), video.grid.t).scatter_reduce(0, out.assign, frame_P, "amin")
    last_K = torch.full((len(out),), -1).scatter_reduce(0, out.assign, frame_P, "amax")
    segment_K, still_K = label_T[first_K], last_K > first_K
    num_segments = int(label_T[-1]) + 1
    return (
        torch.bincount(segment_K[still_K], minlength=num_segments),
        torch.bincount(segment_K[~still_K], minlength=num_segments),
    )


def _compare(golden: Golden, name: str, ours: Tensor) -> Comparison:
    return Comparison(f"output.{name}", ours, golden.output(f"output.{name}"))


def _numbered(golden: Golden, x: Tensor, **extras: Tensor) -> VideoTokens:
    """The recorded tokens [..., D], each with its number."""
    grid = Grid(**golden.grid)
    video = video_of_grid(x.reshape(grid.num_patches, -1), grid)
    flat = {name: value.reshape(grid.num_patches) for name, value in extras.items()}
    return replace(video, extras={"row": torch.arange(grid.num_patches), **flat})


CHECKS: dict[str, Check] = {
    "dycoke": check_dycoke,
    "fastvid": check_fastvid,
    "flashvid": check_flashvid,
    "holitom": check_holitom,
    "prunevid": check_prunevid,
}
