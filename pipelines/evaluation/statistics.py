"""How sure a score is: intervals and paired tests that know which questions share a video.

Questions about one video are answered alike, so videos are what is resampled, never questions.

Legend: N questions, V videos, G groups of questions, R resamples.
"""

import math
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..comparison import Interval

__all__ = ["McNemar", "Paired", "mcnemar", "mean_over_videos", "paired"]

_RESAMPLES = 2000


class Paired(NamedTuple):
    """The difference of two runs over the same questions."""

    difference: Interval
    """Mean and 95 % interval."""
    p: float | None
    """Two-sided, of the bootstrap; ``None`` for a single video."""


class McNemar(NamedTuple):
    """Questions that only one of two runs answers right."""

    gained: int
    """Only the first."""
    lost: int
    """Only the second."""
    p: float
    """Exact, two-sided; takes questions of one video as independent."""


def mean_over_videos(
    values: Sequence[float],
    videos: Sequence[Hashable],
    groups: Sequence[Hashable] | None = None,
    *,
    seed: int = 0,
) -> Interval:
    """The mean over questions with its 95 % interval, bootstrapped over videos.

    Args:
        values: [N].
        videos: [N] video of each question.
        groups: [N] group of each question: the mean of the groups' means is taken.
        seed: of the resampling.
    """
    mean, means_R = _resampled(values, videos, groups, seed)
    return Interval(mean) if means_R is None else Interval(mean, *_ends(means_R))


def paired(
    first: Sequence[float],
    second: Sequence[float],
    videos: Sequence[Hashable],
    groups: Sequence[Hashable] | None = None,
    *,
    seed: int = 0,
) -> Paired:
    """Mean of ``first - second`` over the same questions, see ``mean_over_videos``."""
    values = [a - b for a, b in zip(first, second, strict=True)]
    mean, means_R = _resampled(values, videos, groups, seed)
    if means_R is None:
        return Paired(Interval(mean), None)
    below, above = int((means_R <= 0).sum()), int((means_R >= 0).sum())
    p = min(1.0, 2 * (min(below, above) + 1) / (len(means_R) + 1))
    return Paired(Interval(mean, *_ends(means_R)), p)


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> McNemar:
    """The exact test of McNemar (1947) on questions that the two runs do not answer alike."""
    pairs = list(zip(first, second, strict=True))
    gained = sum(a and not b for a, b in pairs)
    lost = sum(b and not a for a, b in pairs)
    num = gained + lost
    tail = sum(math.comb(num, k) for k in range(min(gained, lost) + 1))
    return McNemar(gained, lost, min(1.0, _ratio(2 * tail, num)))


def _ratio(count: int, num: int) -> float:
    """``count / 2**num`` where both are too large for floats."""
    return count / (1 << num)


def _resampled(
    values: Sequence[float],
    videos: Sequence[Hashable],
    groups: Sequence[Hashable] | None,
    seed: int,
) -> tuple[float, Tensor | None]:
    """The mean, and [R] means of resampled videos; ``None`` where there is one video."""
    sum_VG, count_VG = _tables(values, videos, ["" for _ in values] if groups is None else groups)
    num = len(sum_VG)
    every = torch.ones(1, num, dtype=torch.float64)
    mean = float(_means(every, sum_VG, count_VG))
    if num < 2:
        return mean, None
    draw = torch.Generator().manual_seed(seed)
    picked = torch.randint(num, (_RESAMPLES, num), generator=draw)
    times_RV = torch.zeros(_RESAMPLES, num, dtype=torch.float64)
    times_RV.scatter_add_(1, picked, torch.ones_like(picked, dtype=torch.float64))
    return mean, _means(times_RV, sum_VG, count_VG)


def _means(times_RV: Tensor, sum_VG: Tensor, count_VG: Tensor) -> Tensor:
    """[R] means; a group that a resample lacks does not count there."""
    return ((times_RV @ sum_VG) / (times_RV @ count_VG)).nanmean(dim=1)


def _tables(
    values: Sequence[float], videos: Sequence[Hashable], groups: Sequence[Hashable]
) -> tuple[Tensor, Tensor]:
    row = {video: i for i, video in enumerate(dict.fromkeys(videos))}
    column = {group: i for i, group in enumerate(dict.fromkeys(groups))}
    place = torch.tensor(
        [row[v] * len(column) + column[g] for v, g in zip(videos, groups, strict=True)]
    )
    value_N = torch.tensor(list(values), dtype=torch.float64)
    total = torch.zeros(len(row) * len(column), dtype=torch.float64)
    count = total.clone().index_add_(0, place, torch.ones_like(value_N))
    shape = (len(row), len(column))
    return total.index_add_(0, place, value_N).view(shape), count.view(shape)


def _ends(means_R: Tensor) -> tuple[float, float]:
    low, high = means_R.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high
