"""Evenly spaced whole frames: the baseline of all that is done about frames.

Legend: T frames, N rows, K kept rows.
"""

from typing import ClassVar

import torch
from torch import Tensor

from vidcomp.compress.base import About, Prune
from vidcomp.functional.geometry import nearest_cells
from vidcomp.functional.select import evenly_spaced
from vidcomp.registry import COMPRESSORS
from vidcomp.types import VideoTokens

__all__ = ["UniformFrames"]


@COMPRESSORS.add("uniform_frames")
class UniformFrames(Prune):
    """All tokens of as many evenly spaced frames as the budget holds; the rest from the gaps.

    What the budget leaves beside whole frames are evenly spaced tokens of the frame that is
    farthest from all kept ones (ties to the earlier), and of the next farthest, if that was short.
    """

    about: ClassVar[About] = About(needs=(), cost="K")

    def keep(self, video: VideoTokens, budget: int) -> Tensor:
        """[K] int64 rows, ascending."""
        frame_N = nearest_cells(video.positions[:, 0])
        order_N = frame_N.argsort(stable=True)
        count_T = torch.bincount(frame_N - frame_N[order_N[0]])
        count_T = count_T[count_T > 0].cpu()
        rows = torch.split(order_N, count_T.tolist())
        kept_T = torch.zeros(len(rows), dtype=torch.bool)
        kept_T[_whole_frames(count_T, budget)] = True
        parts = [rows[t] for t in kept_T.nonzero().squeeze(1).tolist()]
        budget -= int(count_T[kept_T].sum())
        while budget > 0:
            t = _farthest(kept_T)
            kept_T[t] = True
            taken = min(budget, len(rows[t]))
            parts.append(rows[t][evenly_spaced(len(rows[t]), taken, order_N.device)])
            budget -= taken
        return torch.cat(parts).sort().values


def _whole_frames(count_T: Tensor, budget: int) -> Tensor:
    """The most evenly spaced frames whose rows fit the budget."""
    most = int((count_T.sort().values.cumsum(0) <= budget).sum())
    for k in range(most, 0, -1):
        frame_K = evenly_spaced(len(count_T), k)
        if int(count_T[frame_K].sum()) <= budget:
            return frame_K
    return torch.zeros(0, dtype=torch.int64)


def _farthest(kept_T: Tensor) -> int:
    """The frame with the largest distance to any kept one; the middle one if there is none."""
    kept_K = kept_T.nonzero().squeeze(1)
    if not len(kept_K):
        return len(kept_T) // 2
    t_T = torch.arange(len(kept_T))
    after_T = torch.searchsorted(kept_K, t_T).clamp(max=len(kept_K) - 1)
    before_T = (after_T - 1).clamp(min=0)
    distance_T = torch.minimum((kept_K[after_T] - t_T).abs(), (kept_K[before_T] - t_T).abs())
    return int(distance_T.argmax())
