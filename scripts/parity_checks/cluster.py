"""Clustering and diverse selection against the outputs of the original functions."""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from parity_checks.golden import Check, Comparison, Golden
from parity_checks.videos import video_of_grid
from vidcomp.functional.cluster import density_peaks
from vidcomp.functional.diverse import max_min
from vidcomp.registry import COMPRESSORS
from vidcomp.types import Grid, QueryFeatures, VideoTokens

__all__ = ["CHECKS"]

_LATER_NEIGHBOURS = 3
"""Of the original's stages after the first; the recording names those of the first."""


def check_dpc_knn(golden: Golden) -> Iterator[Comparison]:
    """Chat-UniVi's clusters, with and without padding, and its two stages of merging."""
    x_BND, clusters = golden.input("x"), golden.setting("cluster_num")
    neighbours = golden.setting("k")
    _, plain_BN = density_peaks(x_BND, clusters, neighbours)
    yield _compare(golden, "output.plain.idx_cluster", plain_BN)
    mask_BN = golden.input("token_mask") > 0
    _, masked_BN = density_peaks(x_BND, clusters, neighbours, mask=mask_BN)
    # The original's padding is as far from all centres and lands in the first cluster.
    yield _compare(golden, "output.masked.idx_cluster", masked_BN.clamp(min=0))
    stage = COMPRESSORS.make("dpc_knn", mode="published", neighbours=neighbours)
    fine = golden.setting("ctm_ratio0")
    coarse = round(fine * golden.setting("ctm_ratio1"))
    first = [stage(video_of_grid(x, Grid(t=1, **golden.grid)), fine) for x in x_BND]
    # The second stage counts each token of the first once, whatever went into it.
    again = COMPRESSORS.make("dpc_knn", mode="published", neighbours=_LATER_NEIGHBOURS)
    second = [again(video_of_grid(v.tokens, Grid(1, 1, fine)), coarse) for v in first]
    row_BN = torch.stack([_assign(v) for v in first])
    yield _compare(golden, "output.ctm0.idx_token", row_BN)
    yield _compare(golden, "output.ctm0.x", torch.stack([v.tokens for v in first]))
    share = [1 / v.mass[row] for v, row in zip(first, row_BN, strict=True)]
    yield _compare(golden, "output.ctm0.agg_weight", torch.stack(share)[..., None])
    second_BN = [_assign(v)[row] for v, row in zip(second, row_BN, strict=True)]
    yield _compare(golden, "output.ctm1.idx_token", torch.stack(second_BN))
    yield _compare(golden, "output.ctm1.x", torch.stack([v.tokens for v in second]))


def check_divprune(golden: Golden) -> Iterator[Comparison]:
    """DivPrune's picks in their order, and its kept rows."""
    x_ND, retention = golden.input("x"), golden.setting("ratio")
    picks = max_min(x_ND, round(retention * len(x_ND)))
    yield _compare(golden, "output.selected_order", picks)
    video = video_of_grid(x_ND, Grid(**golden.grid))
    stage = COMPRESSORS.make("divprune", mode="published", retention=retention)
    kept = _assign(stage(video, len(x_ND) - 1)) >= 0
    yield _compare(golden, "output.kept_sorted", kept.nonzero().squeeze(1))


def check_cdpruner(golden: Golden) -> Iterator[Comparison]:
    """CDPruner's kept rows of a batch of images, which are the frames of our video."""
    x_BND, embedding_BNE = golden.input("image_features"), golden.input("image_embeds")
    grid = Grid(len(x_BND), golden.grid["h"], golden.grid["w"])
    video = video_of_grid(x_BND.flatten(0, 1), grid)
    video = replace(video, extras={"embedding": embedding_BNE.flatten(0, 1)})
    stage = COMPRESSORS.make(
        "cdpruner",
        mode="published",
        frame_tokens=golden.setting("visual_token_num"),
        embedding="embedding",
    ).bind(QueryFeatures(embedding=golden.input("text_embeds")))
    mask_BN = (_assign(stage(video, len(video) - 1)) >= 0).reshape(len(x_BND), -1)
    yield _compare(golden, "output.mask", mask_BN)
    kept_BK = torch.stack([row.nonzero().squeeze(1) for row in mask_BN])
    yield _compare(golden, "output.kept", kept_BK)


def _assign(video: VideoTokens) -> Tensor:
    """Provenance, which a video of a whole grid always has."""
    assert video.assign is not None
    return video.assign


def _compare(golden: Golden, name: str, ours: Tensor) -> Comparison:
    return Comparison(name, ours, golden.output(name))


CHECKS: dict[str, Check] = {
    "dpc_knn": check_dpc_knn,
    "divprune": check_divprune,
    "cdpruner": check_cdpruner,
}
