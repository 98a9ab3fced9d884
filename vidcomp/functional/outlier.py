"""Tokens that are unlike the middle of their frame or video, and frames where a video turns.

Gaussian similarity to a centre as in Video Compression Commander: Plug-and-Play Inference
Acceleration for Video Large Language Models (Liu et al., 2025), curvature as in V-CAST: Video
Curvature-Aware Spatio-Temporal Pruning for Efficient Video Large Language Models (Lin et al.,
2026).  Rows are read in blocks of frames: memory beyond the input grows with frames, not with rows
times features.

Legend: N rows (tokens), D features, C of them, T frames.
"""

from collections.abc import Iterator
from itertools import groupby

import torch
from torch import Tensor

from vidcomp.functional.reduce import group_max, group_min, group_sum, norms, wide
from vidcomp.functional.segment import frame_means
from vidcomp.functional.similarity import paired_cosine, unit

__all__ = [
    "centre_similarity",
    "curvature",
    "frame_outliers",
    "steady_channels",
]

_BLOCK = 1 << 22
"""Numbers of a block of frames, as long as a frame has fewer."""
_SMALL_BLOCK = 1 << 20
"""The same where they should stay in the processor's cache."""
_WIDTHS = (0.125, 0.25, 0.5, 1.0, 2.0)
"""Squared widths of the Gaussians that are added up."""


def steady_channels(x_ND: Tensor, frame_N: Tensor, count: int) -> Tensor:
    """[C] int64 the channels of the lowest variance over all rows, ascending; ties to the lower.

    Args:
        x_ND: float features.
        frame_N: [N] int64 frame of each row, without gaps (of any order of rows).
        count: C, at most D.
    """
    mean = square = wide(x_ND.new_zeros(x_ND.shape[1]))
    for rows, _ in _frame_blocks(frame_N, x_ND.shape[1]):
        part = wide(x_ND.detach().index_select(0, rows))
        mean = mean + part.sum(dim=0) / len(x_ND)
        square = square + part.square_().sum(dim=0) / len(x_ND)
    order = (square - mean.square()).argsort(stable=True)
    return order[:count].sort().values


def centre_similarity(
    x_ND: Tensor, mass_N: Tensor, frame_N: Tensor, channels: Tensor
) -> tuple[Tensor, Tensor]:
    """How near rows are to the mean of the video, and to the mean of their frame.

    Rows are brought to length 1 on ``channels`` first.  The similarity is a sum of five Gaussians
    of the distance, so that it lies in 0..5.

    Args:
        x_ND: float features.
        mass_N: [N] weights of the means.
        frame_N: [N] int64 frame of each row, without gaps.
        channels: [C] int64 features that count.

    Returns:
        [N] float32 similarity to the video's mean, and [N] to the frame's.
    """
    blocks = list(_frame_blocks(frame_N, x_ND.shape[1]))
    means = [
        frame_means(_unit_rows(x_ND, rows, channels), mass_N[rows], local) for rows, local in blocks
    ]
    mass_T = group_sum(mass_N, frame_N, sum(len(m) for m in means))
    frame_TC = torch.cat(means)
    video_C = frame_means(frame_TC, mass_T, torch.zeros_like(frame_TC[:, 0]).long())[0]
    to_video_N, to_frame_N = (torch.empty(len(x_ND), device=x_ND.device) for _ in range(2))
    for (rows, local), frame_mean in zip(blocks, means, strict=True):
        unit_NC = _unit_rows(x_ND, rows, channels)
        to_video_N[rows] = _gaussians(unit_NC - video_C)
        to_frame_N[rows] = _gaussians(unit_NC - frame_mean[local])
    return to_video_N, to_frame_N


def frame_outliers(x_ND: Tensor, mass_N: Tensor, frame_N: Tensor) -> tuple[Tensor, Tensor]:
    """How far rows stand out of their frame, by direction and length.

    Args:
        x_ND: float features.
        mass_N: [N] weights of the means.
        frame_N: [N] int64 frame of each row, without gaps.

    Returns:
        [N] float32 one minus the cosine to the frame's mean, plus the norm brought to 0..1 within
        the frame (0 if all its norms are equal); and [T, D] means of the frames.
    """
    frame_TD = frame_means(x_ND, mass_N, frame_N)
    apart_N = 1 - paired_cosine(x_ND, frame_TD, None, frame_N)
    return apart_N + _within_frame(norms(x_ND), frame_N), frame_TD


def curvature(frame_TD: Tensor) -> Tensor:
    """[T] float32 how sharply a video turns at each frame: 0 straight on, 2 back again.

    One minus the cosine of the steps before and after, between frames brought to length 1; 1 at
    both ends.  Frames that stay where they are do not turn.
    """
    step_TD = unit(frame_TD).diff(dim=0)
    turn_T = torch.ones(len(frame_TD), device=frame_TD.device)
    turn_T[1:-1] = 1 - paired_cosine(step_TD[:-1], step_TD[1:])
    return turn_T


def _frame_blocks(frame_N: Tensor, width: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows of some whole frames, frame by frame, and the frame of each, counted in the block."""
    order_N = frame_N.argsort(stable=True)
    size_T = torch.bincount(frame_N)
    block = _BLOCK if frame_N.is_cuda else _SMALL_BLOCK
    block_T = (size_T.cumsum(0) - size_T) * max(1, width) // block
    start = 0
    for _, frames in groupby(range(len(size_T)), key=block_T.tolist().__getitem__):
        first, *_ = listed = list(frames)
        stop = start + int(size_T[first : listed[-1] + 1].sum())
        rows = order_N[start:stop]
        yield rows, frame_N[rows] - first
        start = stop


def _unit_rows(x_ND: Tensor, rows: Tensor, channels: Tensor) -> Tensor:
    return unit(x_ND.detach().index_select(0, rows).index_select(1, channels))


def _gaussians(gap_NC: Tensor) -> Tensor:
    square_N = gap_NC.square().sum(dim=1)
    return torch.stack([(-square_N / (2 * w)).exp() for w in _WIDTHS]).sum(dim=0).float()


def _within_frame(value_N: Tensor, frame_N: Tensor) -> Tensor:
    """[N] float32 values brought to 0..1 within each frame."""
    num_frames = int(frame_N.max()) + 1
    low_T = group_min(value_N, frame_N, num_frames)
    high_T = group_max(value_N, frame_N, num_frames)
    width_N = wide(high_T - low_T)[frame_N]
    return (wide(value_N - low_T[frame_N]) / torch.where(width_N > 0, width_N, 1)).float()
