"""Structural rows: tokens that the language model wants between those of patches, as newlines.

They stand for no patch: their mass is 0, nothing of the provenance is theirs, and their extras are
zeros.  They lie at the end of a row of cells, half a patch before where the grid ends, so that
they keep their place in raster order.

Legend: N rows, K structural rows, D features.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from vidcomp.errors import ShapeError
from vidcomp.types import VideoTokens
from vidcomp.types.tokens import ROW_FIELDS

__all__ = ["insert_rows", "is_structural"]


def is_structural(video: VideoTokens) -> Tensor:
    """[N] bool: rows that stand for no patch."""
    return video.mass == 0


def insert_rows(video: VideoTokens, tokens_KD: Tensor, after_K: Tensor) -> VideoTokens:
    """The video with structural rows, each behind the row that ends its row of cells.

    Positions are those of that row in t and h, and ``grid.w - 0.5`` in w; spans are its span.

    Args:
        video: N float tokens in raster order.
        tokens_KD: in the type of the video's tokens; gradients flow through.
        after_K: [K] int64 in 0..N - 1, the row each one follows; those after one row stay in the
            order given.

    Raises:
        ShapeError: not one place a row, a place that is no row, or rows of another width.
    """
    _check(video, tokens_KD, after_K)
    n, device = len(video), video.tokens.device
    after_K = after_K.to(device)
    if not len(after_K):
        return video
    places = torch.cat([2 * torch.arange(n, device=device), 2 * after_K + 1])
    order = places.argsort(stable=True)
    moved_N = order.argsort()[:n]  # where each old row went
    added = _structural(video, tokens_KD, after_K)
    rows: dict[str, Any] = {
        name: torch.cat([getattr(video, name), added[name]])[order] for name in ROW_FIELDS
    }
    assign, weights = video.assign, video.weights
    if assign is not None:
        assign = torch.where(assign < 0, assign, moved_N[assign.clamp(min=0)])
    if weights is not None:
        weights = _moved(weights.coalesce(), moved_N, len(order))
    extras = {
        name: torch.cat([value, value.new_zeros(len(after_K), *value.shape[1:])])[order]
        for name, value in video.extras.items()
    }
    return replace(video, **rows, assign=assign, weights=weights, extras=extras)


def _structural(video: VideoTokens, tokens_KD: Tensor, after_K: Tensor) -> dict[str, Tensor]:
    positions_K3 = video.positions[after_K]  # a copy: an index is a tensor
    positions_K3[:, 2] = video.grid.w - 0.5
    return {
        "tokens": tokens_KD.to(video.tokens),
        "positions": positions_K3,
        "spans": video.spans[after_K],
        "mass": video.mass.new_zeros(len(after_K)),
    }


def _moved(weights: Tensor, moved_N: Tensor, num_rows: int) -> Tensor:
    """Sparse [N + K, P]; rows keep their order, so that entries stay sorted."""
    row, patch = weights.indices()
    return torch.sparse_coo_tensor(
        torch.stack([moved_N[row], patch]),
        weights.values(),
        (num_rows, weights.shape[1]),
        is_coalesced=True,
        check_invariants=False,
    )


def _check(video: VideoTokens, tokens_KD: Tensor, after_K: Tensor) -> None:
    wanted = (len(after_K), *video.tokens.shape[1:])
    if not video.tokens.is_floating_point() or tuple(tokens_KD.shape) != wanted:
        raise ShapeError(
            f"{len(after_K)} rows for tokens {list(video.tokens.shape)} {video.tokens.dtype} are "
            f"float {list(wanted)}, got {list(tokens_KD.shape)}: give one row a place"
        )
    if len(after_K) and not 0 <= int(after_K.min()) <= int(after_K.max()) < len(video):
        raise ShapeError(
            f"rows are inserted after rows 0..{len(video) - 1}, got {int(after_K.min())} to "
            f"{int(after_K.max())}: count from the start"
        )
