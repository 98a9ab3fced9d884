"""An encoder's dense grid brought to other cells, axis by axis.

Legend: N rows of a dense grid T x H x W, I J K cells along its axes, M = I * J * K, S and B
indices and bins along one axis, F features of an extra.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from vidcomp.functional.merge import float_rows
from vidcomp.functional.pool import grid_weights
from vidcomp.functional.reduce import wide
from vidcomp.types import VideoTokens

__all__ = ["regrid"]


def regrid(video: VideoTokens, axes: Sequence[Tensor], tokens: Tensor) -> VideoTokens:
    """As ``resample(video, grid_weights(axes), tokens)`` of a dense video, in a small part of the
    time: what is known of a product of axes is worked out along each of them.

    Args:
        video: every patch has one token, in raster order.
        axes: [B, S] float64 for t, h and w, not negative; each row sums to 1.
        tokens: [M, D] of the cells, in raster order.

    Raises:
        ShapeError: extras of integers.
    """
    device = video.tokens.device
    weights = grid_weights(axes, device)
    index, value = weights.indices(), weights.values().float()
    along = [wide(axis.to(device)) for axis in axes]
    extras = {
        name: _mixed(float_rows(name, rows), along, video.grid)
        for name, rows in video.extras.items()
    }
    has_provenance = video.assign is not None or video.weights is not None
    return replace(
        video,
        tokens=tokens,
        positions=_centres(video, along),
        spans=_spans(video, along),
        mass=_mixed(video.mass, [_given(axis) for axis in along], video.grid),
        assign=None,
        weights=torch.sparse_coo_tensor(
            index, value, weights.shape, is_coalesced=True, check_invariants=False
        )
        if has_provenance
        else None,
        extras=extras,
    )


def _centres(video: VideoTokens, along: Sequence[Tensor]) -> Tensor:
    """[M, 3] float32 mean positions of the patches of each cell."""
    places = [axis @ torch.arange(axis.shape[1]).to(axis) for axis in along]
    places[0] = places[0] + wide(video.positions[0, 0])  # chunks do not start at 0
    return torch.cartesian_prod(*places).reshape(-1, 3).float()


def _spans(video: VideoTokens, along: Sequence[Tensor]) -> Tensor:
    """[M, 2] float32 from the first start to the last end of the frames of each cell."""
    frames_IT, *sides = along
    per_frame = video.grid.per_frame
    start_TN, stop_TN = video.spans.view(video.grid.t, per_frame, 2).unbind(dim=2)
    read_IT = frames_IT > 0
    start_I = start_TN.amin(dim=1).expand_as(read_IT).masked_fill(~read_IT, torch.inf).amin(dim=1)
    stop_I = stop_TN.amax(dim=1).expand_as(read_IT).masked_fill(~read_IT, -torch.inf).amax(dim=1)
    cells = len(sides[0]) * len(sides[1])
    return torch.stack([start_I, stop_I], dim=1).repeat_interleave(cells, dim=0)


def _given(axis_BS: Tensor) -> Tensor:
    """[B, S] what each index gives to the bins that read it; columns sum to 1, or to 0."""
    taken_S = axis_BS.sum(dim=0)
    return axis_BS / taken_S.where(taken_S > 0, 1)


def _mixed(x_NF: Tensor, along: Sequence[Tensor], grid: Sequence[int]) -> Tensor:
    """[M, ...] rows mixed by a matrix along each axis, in the wide type, the type kept."""
    x = wide(x_NF).reshape(*grid, -1)
    for dim, axis_BS in enumerate(along):
        if not _is_identity(axis_BS):
            x = torch.tensordot(axis_BS, x, dims=([1], [dim])).movedim(0, dim)
    return x.reshape(-1, *x_NF.shape[1:]).to(x_NF.dtype)


def _is_identity(axis_BS: Tensor) -> bool:
    bins, size = axis_BS.shape
    return bins == size and torch.equal(axis_BS, torch.eye(size).to(axis_BS))
