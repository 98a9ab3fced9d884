"""Boxes of a grid, what splits them, and how much their patches differ.

Each axis has a binary tree of intervals, split after the middle (the first half is the longer one)
until they are one patch long.  A box is a product of three intervals, one an axis: a grid of P
patches has about 8 P of them.  It can be split in two along any axis that is longer than one.

Boxes are numbered level by level, so that the halves of a box always come before it: a level is a
run of numbers, and the last box is the whole grid.

Legend: L length of an axis, M = 2 L - 1 its intervals, X boxes, B grids of one shape side by side,
D features, R all that is beside an axis.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from vidcomp.functional.reduce import wide
from vidcomp.types import Grid

__all__ = [
    "Boxes",
    "Intervals",
    "box_bounds",
    "box_counts",
    "box_spread",
    "boxes_of",
    "crowded_boxes",
    "feature_step",
    "grids_at_a_time",
    "interval_tree",
    "paint",
]

_BLOCK = 1 << 22
"""Numbers that are held at a time for the means of boxes (32 MiB)."""


class Intervals(NamedTuple):
    """The tree of an axis; intervals of height 0 (single patches) first, the whole axis last."""

    start: Tensor
    """[M] int64 first index."""
    stop: Tensor
    """[M] int64 one past the last index."""
    left: Tensor
    """[M] int64 the interval that is the first half; -1 for single patches."""
    right: Tensor
    """[M] int64 the second half."""
    heights: list[tuple[int, int]]
    """First number, and one past the last, of each height: 0, 1, 2 ..."""

    @property
    def height(self) -> Tensor:
        """[M] int64 steps down to single patches."""
        lengths = torch.tensor([stop - start for start, stop in self.heights])
        return torch.repeat_interleave(lengths)


class Boxes(NamedTuple):
    """All boxes of a grid, or some of them that are closed under the splits that are listed."""

    left: Tensor
    """[3, X] int64 the first half by a split along t, h, w; X where there is none."""
    right: Tensor
    """[3, X] int64 the second half."""
    levels: list[tuple[int, int]]
    """First number, and one past the last, of each level, from single patches up."""
    number: Tensor
    """[X] int64 number of (t interval, h interval, w interval) in raster order."""
    axes: tuple[int, ...]
    """Axes along which anything can be split."""


@lru_cache(maxsize=64)
def interval_tree(length: int, device: torch.device) -> Intervals:
    """The intervals of an axis of ``length`` patches."""
    nodes: dict[tuple[int, int], tuple[int, int]] = {}  # interval -> height, middle

    def visit(start: int, stop: int) -> int:
        middle, height = (start + stop + 1) // 2, 0
        if stop - start > 1:
            height = 1 + max(visit(start, middle), visit(middle, stop))
        nodes[start, stop] = (height, middle)
        return height

    visit(0, length)
    order = sorted(nodes, key=lambda node: (nodes[node][0], node))
    number = {node: i for i, node in enumerate(order)}
    halves = [
        (number[a, nodes[a, b][1]], number[nodes[a, b][1], b]) if b - a > 1 else (-1, -1)
        for a, b in order
    ]
    rows = torch.tensor([(*node, *half) for node, half in zip(order, halves, strict=True)])
    heights = torch.tensor([nodes[node][0] for node in order])
    start, stop, left, right = rows.T.contiguous().to(device)
    return Intervals(start, stop, left, right, _runs(heights))


@lru_cache(maxsize=4)
def boxes_of(grid: Grid, device: torch.device) -> Boxes:
    """All boxes of a grid."""
    trees = [interval_tree(length, torch.device("cpu")) for length in grid]
    shape = [len(tree.start) for tree in trees]
    index = torch.cartesian_prod(*(torch.arange(n) for n in shape)).reshape(-1, 3)
    level = sum(tree.height[index[:, axis]] for axis, tree in enumerate(trees))
    assert isinstance(level, Tensor)  # noqa: S101  # a grid has axes
    order = level.argsort(stable=True)
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order))
    index, strides = index[order], (shape[1] * shape[2], shape[2], 1)
    halves = []
    for side in ("left", "right"):
        children = []
        for axis, tree in enumerate(trees):
            child = getattr(tree, side)[index[:, axis]]
            number = order + (child - index[:, axis]) * strides[axis]
            children.append(torch.where(child < 0, len(order), place[number.clamp(min=0)]))
        halves.append(torch.stack(children).to(device))
    axes = tuple(axis for axis, length in enumerate(grid) if length > 1)
    left, right = halves
    return Boxes(left, right, _runs(level[order]), order.to(device), axes)


def box_bounds(grid: Grid, number_K: Tensor) -> Tensor:
    """[K, 3, 2] int64 (t, h, w) where boxes start and stop, from ``Boxes.number``."""
    rest, bounds = number_K, []
    for length in reversed(grid):
        tree = interval_tree(length, number_K.device)
        rest, index = rest // len(tree.start), rest % len(tree.start)
        bounds.append(torch.stack([tree.start[index], tree.stop[index]], dim=1))
    return torch.stack(bounds[::-1], dim=1)


def box_counts(amount_BTHW: Tensor) -> Tensor:
    """[X, B] sums over every box of a number a patch, in the type given."""
    grid = Grid(*amount_BTHW.shape[1:])
    sums = amount_BTHW.permute(3, 2, 1, 0)  # w, h, t, B
    for axis in (2, 1, 0):
        sums = _next_axis(_add_up(sums, grid[axis]))
    return sums.permute(2, 1, 0, 3).reshape(-1, len(amount_BTHW))[
        boxes_of(grid, amount_BTHW.device).number
    ]


def crowded_boxes(there_BTHW: Tensor, parts: int) -> Tensor:
    """[X, B] bool: the box has more than its part of the patches of some frame.

    A frame that is covered by boxes none of which is crowded is covered by ``parts`` boxes at
    least, or by one a patch if it has fewer.

    Args:
        there_BTHW: bool, patches that count.
        parts: a box may have one ``parts``-th of a frame's patches, or a single one.
    """
    grid = Grid(*there_BTHW.shape[1:])
    sums = there_BTHW.int().permute(3, 2, 1, 0)
    for axis in (2, 1):
        sums = _next_axis(_add_up(sums, grid[axis]))
    crowded = (sums * parts > sums[:, -1:, -1:]) & (sums > 1)
    sums = _next_axis(_add_up(crowded.int(), grid.t)) > 0
    return sums.permute(2, 1, 0, 3).reshape(-1, len(there_BTHW))[
        boxes_of(grid, there_BTHW.device).number
    ]


def _add_up(sums: Tensor, length: int) -> Tensor:
    """Sums over the intervals of the first axis."""
    tree = interval_tree(length, sums.device)
    sums = _grow(sums, tree)
    for first, stop in tree.heights[1:]:
        sums[first:stop] = sums[tree.left[first:stop]] + sums[tree.right[first:stop]]
    return sums


def box_spread(
    features: Callable[[int, int], Tensor], num_features: int, weight_BTHW: Tensor
) -> tuple[Tensor, Tensor]:
    """How far the patches of each box are from their weighted mean.

    Two halves are joined by Chan's rule (Chan, Golub and LeVeque, "Updating Formulae and a Pairwise
    Algorithm for Computing Sample Variances", 1979): nothing large is subtracted, so that offsets
    do no harm and equal patches differ by exactly 0.

    Args:
        features: ``features(a, b)`` gives columns a to b as [B, T, H, W, b - a]; finite everywhere.
        num_features: D.
        weight_BTHW: weight of each patch, not negative, 0 where there is none.

    Returns:
        [X, B] weighted sum of squared distances in the wide type, and [B, D] means of whole grids.
    """
    boxes = boxes_of(Grid(*weight_BTHW.shape[1:]), weight_BTHW.device)
    weight_BTHW = wide(weight_BTHW)
    spread = weight_BTHW.new_zeros(len(boxes.number), len(weight_BTHW))
    means = []
    step = feature_step(len(boxes.number), num_features)
    for first in range(0, num_features, step):
        x_BTHWD = wide(features(first, min(first + step, num_features)))
        part, mean = _spread(x_BTHWD, weight_BTHW)
        spread += part
        means.append(mean)
    return spread[boxes.number], torch.cat([weight_BTHW.new_zeros(len(weight_BTHW), 0), *means], 1)


def feature_step(num_boxes: int, num_features: int) -> int:
    """Features that are taken at a time.

    By the shape of the grid only: the order of a sum must not change with the batch.
    """
    return max(1, min(num_features, _BLOCK // num_boxes))


def grids_at_a_time(num_boxes: int, num_features: int) -> int:
    """Grids side by side that ``box_spread`` should be given."""
    return max(1, _BLOCK // (num_boxes * feature_step(num_boxes, num_features)))


def _spread(x_BTHWD: Tensor, weight_BTHW: Tensor) -> tuple[Tensor, Tensor]:
    """Boxes in raster order of their intervals."""
    mean = x_BTHWD.permute(3, 2, 1, 0, 4)  # w, h, t, B, D
    weight = weight_BTHW.permute(3, 2, 1, 0)
    spread = torch.zeros_like(weight)
    for axis in (2, 1, 0):
        tree = interval_tree(x_BTHWD.shape[1 + axis], weight.device)
        mean, weight, spread = (_grow(part, tree) for part in (mean, weight, spread))
        for first, stop in tree.heights[1:]:
            left, right = tree.left[first:stop], tree.right[first:stop]
            total = weight[left] + (w_right := weight[right])
            share = w_right / torch.where(total > 0, total, 1)
            near = mean[left]
            far = mean[right].sub_(near)
            apart = far.square().sum(dim=-1)
            spread[first:stop] = spread[left] + spread[right] + weight[left] * share * apart
            weight[first:stop] = total
            torch.addcmul(near, far, share[..., None], out=mean[first:stop])
        mean, weight, spread = (_next_axis(part) for part in (mean, weight, spread))
    whole = mean[-1, -1, -1]
    return spread.permute(2, 1, 0, 3).reshape(-1, spread.shape[3]), whole


def paint(bounds_K32: Tensor, grid: Grid) -> Tensor:
    """[P] int64 number of the box that each patch lies in, -1 for none; boxes do not overlap.

    Args:
        bounds_K32: [K, 3, 2] int64 start and stop along t, h, w; a stop of -1 is the end.
        grid: T, H, W.
    """
    edges = bounds_K32.clone()
    for axis, length in enumerate(grid):
        edges[:, axis, 1] = torch.where(edges[:, axis, 1] < 0, length, edges[:, axis, 1])
    strides = ((grid.h + 1) * (grid.w + 1), grid.w + 1, 1)
    label_K = torch.arange(1, len(edges) + 1, device=edges.device)
    steps = label_K.new_zeros((grid.t + 1) * strides[0])
    for corner in torch.cartesian_prod(*[torch.arange(2)] * 3).tolist():
        place_K = torch.stack([edges[:, a, c] * strides[a] for a, c in enumerate(corner)]).sum(0)
        steps.index_add_(0, place_K, label_K * (-1) ** sum(corner))
    painted = steps.reshape(grid.t + 1, grid.h + 1, grid.w + 1)
    painted = painted.cumsum(0).cumsum(1).cumsum(2)[:-1, :-1, :-1]
    return painted.reshape(-1) - 1


def _grow(part: Tensor, tree: Intervals) -> Tensor:
    """Room for the longer intervals behind the single patches along the first axis."""
    grown = part.new_empty(len(tree.start), *part.shape[1:])
    grown[: len(part)] = part
    return grown


def _next_axis(part: Tensor) -> Tensor:
    """The next of three axes comes first; after three times all are where they were."""
    return part.permute(1, 2, 0, *range(3, part.ndim))


def _runs(sorted_N: Tensor) -> list[tuple[int, int]]:
    """Where each of the values 0, 1, 2 ... begins and ends."""
    stops = torch.bincount(sorted_N).cumsum(0).tolist()
    return list(zip([0, *stops[:-1]], stops, strict=True))
