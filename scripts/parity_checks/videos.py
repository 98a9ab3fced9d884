"""Recorded tensors as videos."""

import torch
from torch import Tensor

from vidcomp.types import Grid, VideoTokens

__all__ = ["video_of_grid"]


def video_of_grid(x_PD: Tensor, grid: Grid) -> VideoTokens:
    """Tokens of a dense grid whose frames last a second each."""
    start_s = torch.arange(grid.t, dtype=torch.float32)
    return VideoTokens.from_grid(x_PD, grid, torch.stack([start_s, start_s + 1], dim=1))
