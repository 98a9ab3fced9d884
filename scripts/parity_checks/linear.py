"""Frame by frame pruners and UniComp against the outputs of the original functions."""

from collections.abc import Iterator
from dataclasses import replace

import torch

from parity_checks.golden import Check, Comparison, Golden
from parity_checks.videos import video_of_grid
from vidcomp.compress.merge.unicomp import UniComp, published_quotas
from vidcomp.compress.prune.v_cast import published_shares
from vidcomp.functional.merge import merge_in_order
from vidcomp.functional.outlier import centre_similarity, curvature, frame_outliers, steady_channels
from vidcomp.registry import COMPRESSORS
from vidcomp.types import Grid, VideoTokens

__all__ = ["CHECKS"]


def check_vidcom2(golden: Golden) -> Iterator[Comparison]:
    """VidCom2's scores, rates of frames, and kept tokens."""
    grid = Grid(**golden.grid)
    video = video_of_grid(golden.input("x"), grid)
    stage = COMPRESSORS.make("vidcom2", mode="published", retention=golden.setting("base_scale"))
    out = stage(video, len(video) - 1)
    frame_N = video.positions[:, 0].long()
    channels = steady_channels(video.tokens, frame_N, video.tokens.shape[1] // 2)
    to_video, to_frame = centre_similarity(video.tokens, video.mass, frame_N, channels)
    shape = (grid.t, grid.per_frame)
    rates = stage._rates(to_video, frame_N) * stage.retention
    ours = {
        "video_score": to_video.reshape(shape),
        "frame_score": to_frame.reshape(shape),
        "scales": rates.clamp(max=1).float(),
        "per_frame": _per_frame(out),
        "kept_index": _rows(out),
        "tokens": out.tokens,
    }
    for name, value in ours.items():
        yield Comparison(f"output.{name}", value, golden.output(f"output.{name}"))


def check_v_cast(golden: Golden) -> Iterator[Comparison]:
    """V-CAST's curvature, shares of frames, and kept tokens with what belongs to them."""
    frames_TND = golden.input("frames")
    video = video_of_grid(frames_TND.flatten(0, 1), Grid(**golden.grid))
    video = replace(video, extras={"deepstack.0": golden.input("deepstack").flatten(0, 1)})
    stage = COMPRESSORS.make(
        "v_cast",
        mode="published",
        retention=golden.setting("ratio"),
        min_tokens=golden.setting("min_k"),
    )
    out = stage(video, len(video) - 1)
    means_TD = frame_outliers(video.tokens, video.mass, video.positions[:, 0].long())[1]
    weights_T = golden.input("alloc_weights")
    caps = [golden.setting("alloc_max")] * len(weights_T)
    alloc = published_shares(
        weights_T, golden.setting("alloc_total"), golden.setting("alloc_min"), caps
    )
    ours = {
        "alloc": torch.tensor(alloc),
        "curvature": curvature(means_TD),
        "deepstack": out.extras["deepstack.0"],
        "keep_index": _rows(out),
        "per_frame": _per_frame(out),
        "tokens": out.tokens,
    }
    for name, value in ours.items():
        yield Comparison(f"output.{name}", value, golden.output(f"output.{name}"))


def check_unicomp(golden: Golden) -> Iterator[Comparison]:
    """UniComp's groups of frames, their shares by both metrics, and the mixed tokens."""
    grid = Grid(**golden.grid)
    video = replace(
        video_of_grid(golden.input("features").flatten(0, 1), grid),
        extras={"keys": golden.input("keys").flatten(0, 1)},
        frame_extras={"pooled": golden.input("global_metric")},
    )
    settings = {
        "retention": golden.setting("ratio"),
        "frame_gap": golden.setting("Uf"),
        "token_gap": golden.setting("Uc"),
        "metric": "keys",
    }
    stage = UniComp(mode="published", frame_extra="pooled", **settings)
    by_tokens = UniComp(mode="published", **settings)
    cells = by_tokens._cells(video, len(video))
    total = int(len(video) * stage.retention)
    quotas = [
        published_quotas(s._weights(video, cells.frames), total, grid.per_frame)
        for s in (by_tokens, stage)
    ]
    _, chosen = stage._choose(video, len(video))
    ours = {
        "fused": merge_in_order(video, cells.cell).tokens.reshape(-1, grid.per_frame, 32),
        "kept_per_frame": torch.bincount(cells.group[chosen.rows]),
        "selected_ids": torch.arange(grid.t)[cells.frames.diff(prepend=-torch.ones(1).long()) > 0],
        "tokens": stage(video, len(video) - 1).tokens,
        "tokens_per_frame": quotas[0],
        "tokens_per_frame_global": quotas[1],
    }
    for name, value in ours.items():
        yield Comparison(f"output.{name}", value, golden.output(f"output.{name}"))


def _rows(video: VideoTokens) -> torch.Tensor:
    """[K] patches of a dense grid that are left."""
    assert video.assign is not None  # video_of_grid gives one
    return (video.assign >= 0).nonzero().squeeze(1)


def _per_frame(video: VideoTokens) -> torch.Tensor:
    return torch.bincount(video.positions[:, 0].long(), minlength=video.grid.t)


CHECKS: dict[str, Check] = {
    "vidcom2": check_vidcom2,
    "v_cast": check_v_cast,
    "unicomp": check_unicomp,
}
