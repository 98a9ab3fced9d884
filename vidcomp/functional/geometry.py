"""Where tokens are: raster order, dense grids, the first frame of a chunk.

Raster order is lexicographic in (t, h, w) of positions, ties by the lowest source patch.

Legend: N tokens, D features, P source patches = t * h * w, T H W the grid.
"""

import torch
from torch import Tensor

from vidcomp.errors import ShapeError
from vidcomp.functional.reduce import group_min
from vidcomp.types import Grid, VideoTokens

__all__ = [
    "check_dense",
    "dense",
    "first_patches",
    "first_t",
    "frame_numbers",
    "in_raster_order",
    "is_dense",
    "local_positions",
    "nearest_cells",
    "patch_cells",
    "raster_order",
]


def patch_cells(grid: Grid, device: torch.device | None = None) -> Tensor:
    """[P, 3] int64 (t, h, w) of each source patch, in raster order."""
    cells = torch.cartesian_prod(*(torch.arange(n, device=device) for n in grid))
    return cells.reshape(-1, 3)


def raster_order(positions_N3: Tensor, first_patch_N: Tensor) -> Tensor:
    """[N] int64: the row that comes first, second, ... in raster order.

    Args:
        positions_N3: (t, h, w) of each token.
        first_patch_N: lowest source patch of each token, which decides ties.
    """
    order_N = first_patch_N.argsort(stable=True)
    for axis in (2, 1, 0):  # the key sorted last counts most
        order_N = order_N[positions_N3[order_N, axis].argsort(stable=True)]
    return order_N


def first_patches(video: VideoTokens) -> Tensor:
    """[N] int64 lowest source patch of each token; its row where there is no provenance.

    Structural rows stand for no patch and count as one behind the last.
    """
    n, device = len(video), video.tokens.device
    if video.assign is not None:
        patch_P, row_P = torch.arange(len(video.assign), device=device), video.assign
    elif video.weights is not None:
        row_P, patch_P = video.weights.coalesce().indices()
    else:
        return torch.arange(n, device=device)
    first_N = group_min(patch_P, row_P, n)
    return first_N.masked_fill(video.mass == 0, video.grid.num_patches)


def in_raster_order(video: VideoTokens) -> VideoTokens:
    """The same tokens in raster order; the input itself if they already are."""
    order_N = raster_order(video.positions, first_patches(video))
    sorted_already = torch.equal(order_N, torch.arange(len(video), device=order_N.device))
    return video if sorted_already else video.select(order_N)


def first_t(video: VideoTokens) -> int:
    """Index of the grid's first frame in the whole video: not 0 for the later chunks of one.

    Positions are global and provenance counts from the grid's own first patch, so their
    difference tells.  Tokens without provenance start at 0 if they fit there.

    Raises:
        ShapeError: no provenance, and positions outside of the grid.
    """
    if not len(video):
        return 0
    row = -1 if video.assign is None else _lowest_row(video.assign)
    if video.assign is not None and row >= 0:
        patch_K = (video.assign == row).nonzero().squeeze(1)
        weight_K = torch.ones_like(patch_K, dtype=torch.float32)
    elif video.weights is not None and video.weights.coalesce().values().numel():
        matrix = video.weights.coalesce()
        (row_Q, patch_Q), weight_Q = matrix.indices(), matrix.values()
        row = int(row_Q[0])
        patch_K, weight_K = patch_Q[row_Q == row], weight_Q[row_Q == row]
    else:
        last = float(video.positions[:, 0].max())
        if last <= video.grid.t - 1:
            return 0
        raise ShapeError(
            f"tokens at t={last:g} of a grid of {video.grid.t} frames without provenance may "
            f"start at several frames: keep assign, or join the chunks with VideoTokens.cat"
        )
    local = (patch_K // video.grid.per_frame).double().mul(weight_K.double()).sum()
    return round(float(video.positions[row, 0]) - float(local / weight_K.double().sum()))


def _lowest_row(assign_P: Tensor) -> int:
    """The first row that is not structural; -1 if no patch went to any."""
    lowest = int(assign_P.min()) if len(assign_P) else -1
    if lowest >= 0:
        return lowest
    kept = assign_P[assign_P >= 0]
    return int(kept.min()) if len(kept) else -1


def local_positions(video: VideoTokens) -> Tensor:
    """[N, 3] float32 positions counted from the grid's own first frame."""
    offset = first_t(video)
    return (
        video.positions - video.positions.new_tensor([offset, 0, 0])
        if offset
        else (video.positions)
    )


def nearest_cells(position: Tensor) -> Tensor:
    """[...] int64 the cell that each coordinate is nearest to; halfway, the later one."""
    return (position + 0.5).floor().long()


def frame_numbers(video: VideoTokens) -> Tensor:
    """[N] int64 the frame of the grid that each token is nearest to."""
    return nearest_cells(local_positions(video)[:, 0])


def is_dense(video: VideoTokens) -> bool:
    """True if every patch of the grid has one token, in raster order."""
    if len(video) != video.grid.num_patches or video.weights is not None:
        return False
    if video.assign is not None:
        patch_P = torch.arange(len(video), device=video.assign.device)
        return torch.equal(video.assign, patch_P)
    cells_P3 = patch_cells(video.grid, video.positions.device).float()
    if len(video):
        cells_P3[:, 0] += video.positions[0, 0]
    return torch.equal(video.positions, cells_P3)


def check_dense(video: VideoTokens) -> None:
    """Nothing, if every patch of the grid has one token in raster order.

    Raises:
        ShapeError: tokens were merged, dropped or reordered.
    """
    if not is_dense(video):
        raise ShapeError(
            f"a dense grid of {tuple(video.grid)} with one token a patch in raster order is "
            f"needed, got {len(video)} tokens that were merged, dropped or reordered: put this "
            f"stage first, or use one that goes by positions (avg_pool, stride)"
        )


def dense(video: VideoTokens) -> Tensor:
    """[T, H, W, D] (or [T, H, W] ids) view of the tokens of an uncompressed grid.

    Raises:
        ShapeError: tokens were merged, dropped or reordered.
    """
    check_dense(video)
    return video.tokens.reshape(*video.grid, *video.tokens.shape[1:])
