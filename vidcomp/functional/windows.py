"""Frames in windows of a fixed length: which are alike, and what a window began with.

As in LongVU: Spatiotemporal Adaptive Compression for Long Video-Language Understanding (Shen et
al., 2024).

Legend: T frames, N rows, D features.
"""

import torch
from torch import Tensor

from vidcomp.functional.reduce import group_min
from vidcomp.functional.similarity import cosine, paired_cosine

__all__ = ["first_rows", "similarity_to", "window_likeness"]

_BLOCK = 1 << 22
"""Numbers that are compared at a time."""


def window_likeness(frame_TD: Tensor, window: int) -> Tensor:
    """[T] float32 mean cosine of each frame with all frames of its window, itself included.

    The middle frame of a window (the later one of an even number) has -inf: it stands for the
    others and is never the one to go.

    Args:
        frame_TD: [T, D] float, one row a frame.
        window: frames of a window; the last one may be shorter.
    """
    found = []
    for part in torch.split(frame_TD.detach(), window):
        likeness = cosine(part, part).double().mean(dim=1).float()
        likeness[len(part) // 2] = -torch.inf
        found.append(likeness)
    return torch.cat(found)


def first_rows(window_N: Tensor, place_N: Tensor, frame_N: Tensor) -> Tensor:
    """[N] int64 the first row at the same place in the same window; ties to the lower row.

    Args:
        window_N: [N] int64 window of each row.
        place_N: [N] int64 place in the picture of each row.
        frame_N: [N] int64 frame of each row, at least 0.
    """
    n = len(place_N)
    key_N = window_N * (int(place_N.max()) + 1) + place_N
    group_N = torch.unique(key_N, return_inverse=True)[1]
    in_time_N = frame_N * n + torch.arange(n, device=frame_N.device)
    first_G = group_min(in_time_N, group_N, int(group_N.max()) + 1) % n
    return first_G[group_N]


def similarity_to(x_ND: Tensor, row_N: Tensor) -> Tensor:
    """[N] float32 cosine of each row with the row that ``row_N`` names."""
    x_ND = x_ND.detach()
    rows = torch.arange(len(x_ND), device=x_ND.device)
    parts = torch.split(rows, max(1, _BLOCK // max(1, x_ND.shape[1])))
    return torch.cat([paired_cosine(x_ND[part], x_ND[row_N[part]]) for part in parts])
