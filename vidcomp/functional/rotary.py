"""Features turned by where their patches are, so that products also tell how far those lie apart.

RoFormer: Enhanced Transformer with Rotary Position Embedding (Su et al., 2021), over three axes:
the pairs of features are shared among t, h and w, and those of an axis turn by the position on it.

Legend: N rows, D features, J pairs of an axis.
"""

import torch
from torch import Tensor

from vidcomp.functional.reduce import wide

__all__ = ["rotated"]


def rotated(x_ND: Tensor, positions_N3: Tensor, theta: float = 1e4) -> Tensor:
    """[N, D] rows of the same lengths, in the wide type; nearby patches are turned alike.

    The D // 2 pairs are shared out evenly over t, h and w, the first axes have one more where that
    does not divide.  Pair j of J turns by ``position * theta ** (-j / J)``.  A feature that is left
    over stays.

    Args:
        x_ND: any float type.
        positions_N3: (t, h, w) of each row, fractions too.
        theta: ratio of the slowest turn to the fastest, at least 1.
    """
    parts, start = [], 0
    x_ND = wide(x_ND.detach())
    pairs = x_ND.shape[1] // 2
    for axis in range(3):
        size = (pairs + 2 - axis) // 3
        exponent_J = torch.arange(size, device=x_ND.device, dtype=x_ND.dtype) / max(1, size)
        angle_NJ = positions_N3[:, axis, None].to(x_ND.dtype) * theta**-exponent_J
        cos_NJ, sin_NJ = angle_NJ.cos(), angle_NJ.sin()
        a_NJ, b_NJ = x_ND[:, start : start + 2 * size].chunk(2, dim=1) if size else (angle_NJ,) * 2
        parts += [a_NJ * cos_NJ - b_NJ * sin_NJ, a_NJ * sin_NJ + b_NJ * cos_NJ]
        start += 2 * size
    return torch.cat([*parts, x_ND[:, start:]], dim=1)
