"""Parts of a video, one after the other in time, that a costly method works on one by one.

Legend: N rows, T parts.
"""

import torch
from torch import Tensor

from vidcomp.functional.grids import without_gaps

__all__ = ["time_parts"]


def time_parts(frame_N: Tensor, part_tokens: int, most: int) -> Tensor:
    """[N] int64 part of each row: whole frames, parts of about the same number of rows.

    Args:
        frame_N: [N] int64 frame of each row, at least 0.
        part_tokens: rows of a part, if a frame has no more and ``most`` allows it.
        most: parts that there may be, at least 1.
    """
    size_F = torch.bincount(frame_N)
    num_parts = min(-(-len(frame_N) // part_tokens), most)
    twice_middle_F = 2 * size_F.cumsum(0) - size_F
    part_F = (twice_middle_F * num_parts).div(2 * len(frame_N), rounding_mode="floor")
    return without_gaps(part_F.clamp(max=num_parts - 1)[frame_N])
