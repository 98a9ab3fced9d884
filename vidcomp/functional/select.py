"""Which rows stay: indices in ascending order, exact counts, ties to the lower index.

Legend: N rows, K kept rows.
"""

import torch
from torch import Tensor

from vidcomp.functional.reduce import real

__all__ = ["evenly_spaced", "random_rows", "stable_topk"]


def stable_topk(score_N: Tensor, k: int) -> Tensor:
    """[K] int64 rows of the ``k`` highest scores, ascending; ties go to the lower index.

    Args:
        score_N: finite, any real type; compared in float32 or better.
        k: at most N.
    """
    order_N = real(score_N).argsort(descending=True, stable=True)
    return order_N[:k].sort().values


def evenly_spaced(n: int, k: int, device: torch.device | None = None) -> Tensor:
    """[K] int64 the middle row of each of ``k`` equal parts of ``n`` rows, ascending.

    All different as long as ``k <= n``; computed in whole numbers.
    """
    part_K = torch.arange(k, device=device)
    return (2 * part_K + 1) * n // (2 * k)


def random_rows(n: int, k: int, seed: int, device: torch.device | None = None) -> Tensor:
    """[K] int64 rows drawn without replacement, ascending.

    Depends on ``n``, ``k`` and ``seed`` only: drawn on the CPU from a generator of its own, the
    same on every device, and the rows of a smaller ``k`` are among those of a larger one.
    """
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(n, generator=generator)[:k].sort().values.to(device)
