"""What a price leaves of the budget is spent on further splits, one token each.

The split that takes most from the spread comes first, of all boxes that are one token at that
moment; ties go to the box with more tokens, then to the earlier one.  Splits are found many at a
time: one that becomes possible by a split of less value follows it at once, so that it counts as
much as the least of those before it.

Legend: K boxes.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from vidcomp.functional.partition_forest import Forest

__all__ = ["Spent", "spend", "tighten"]


class Spent(NamedTuple):
    """What boxes have become."""

    boxes: Tensor
    """[K] global numbers of the boxes that are one token."""
    split: Tensor
    """Those of the boxes that were split on the way."""


class _Splits(NamedTuple):
    """Boxes that can be split, with their halves along the best axis."""

    box: Tensor
    gain: Tensor
    """[K] wide: by how much the split lessens the spread, for its price."""
    rows: Tensor
    start: Tensor
    """[K] int64 place of the first patch, which decides ties."""
    left: Tensor
    right: Tensor
    boss: Tensor
    """[K] int64 number of the split of least value on the way here."""

    def take(self, index: Tensor) -> "_Splits":
        return _Splits(*(part[index] for part in self))

    def join(self, other: "_Splits") -> "_Splits":
        return _Splits(*(torch.cat(pair) for pair in zip(self, other, strict=True)))


def spend(forest: Forest, box_K: Tensor, num_splits: int) -> Spent:
    """Boxes after ``num_splits`` splits, or after all there are.

    Args:
        forest: all boxes.
        box_K: global numbers of the boxes of one video that are one token.
        num_splits: tokens that may be added.
    """
    box_K, front = _splits(forest, box_K)
    taken: list[_Splits] = []
    while num_splits > 0 and len(front.box):
        found = _expand(forest, front, num_splits)
        boss, size = torch.unique(found.boss, return_counts=True)
        whole = int((size.cumsum(0) <= num_splits).sum())
        mine = torch.isin(found.boss, boss[:whole])
        taken.append(found.take(mine.nonzero().squeeze(1)))
        num_splits -= int(mine.sum())
        if whole == len(boss) or num_splits <= 0:
            break
        # Only some of the next group: its first split, and the best of what that makes possible.
        first = found.take(boss[whole : whole + 1])
        taken.append(first)
        num_splits -= 1
        _, front = _splits(forest, torch.cat([first.left, first.right]))
    return _apply(forest, box_K, taken)


def _expand(forest: Forest, front: _Splits, most: int) -> _Splits:
    """The best ``most`` splits or more, best first, whole groups with one ``boss`` each.

    Of each group the boss comes first, and ``boss`` is its place.
    """
    found = _in_order(front._replace(boss=torch.arange(len(front.box), device=front.box.device)))
    found = found.take(torch.arange(min(most, len(found.box)), device=found.box.device))
    new = torch.arange(len(found.box), device=found.box.device)
    while len(new):
        parent = found.take(new)
        _, more = _splits(forest, torch.cat([parent.left, parent.right]))
        known = len(found.box)
        boss = found.boss[new].repeat(2)[more.boss]
        itself = torch.arange(known, known + len(boss), device=boss.device)
        boss = torch.where(_below(more, found.take(boss)), itself, boss)
        found = found.join(more._replace(boss=boss))
        found, new = _keep(found, known, most)
    return found


def _keep(found: _Splits, known: int, most: int) -> tuple[_Splits, Tensor]:
    """The best groups that together have ``most`` splits, and the places of those not expanded."""
    is_new = torch.arange(len(found.box), device=found.box.device) >= known
    order = _order(found)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=order.device)
    boss_rank = rank[found.boss]
    by_group = (
        boss_rank * 2 + (found.boss != torch.arange(len(order), device=order.device))
    ).argsort(stable=True)
    limit = boss_rank[by_group[min(most, len(by_group)) - 1]]
    kept = by_group[boss_rank[by_group] <= limit]
    place = torch.full_like(order, -1)
    place[kept] = torch.arange(len(kept), device=order.device)
    result = found.take(kept)._replace(boss=place[found.boss[kept]])
    return result, is_new[kept].nonzero().squeeze(1)


def _below(splits: _Splits, others: _Splits) -> Tensor:
    """[K] bool: worth less than the other one."""
    equal = splits.gain == others.gain
    return (splits.gain < others.gain) | (equal & (splits.rows < others.rows))


def _order(splits: _Splits) -> Tensor:
    """[K] int64 the best split, the next one, ..."""
    order = splits.start.argsort(stable=True)
    order = order[splits.rows[order].argsort(stable=True, descending=True)]
    return order[splits.gain[order].argsort(stable=True, descending=True)]


def _in_order(splits: _Splits) -> _Splits:
    ordered = splits.take(_order(splits))
    return ordered._replace(boss=torch.arange(len(ordered.box), device=ordered.box.device))


def _splits(forest: Forest, box_K: Tensor) -> tuple[Tensor, _Splits]:
    """Boxes without empty halves, and the splits of those that have any.

    ``boss`` is the place of the box among those given.
    """
    box_K, left_3K, right_3K = tighten(forest, box_K)
    spread_3K = _spread(forest, left_3K) + _spread(forest, right_3K)
    gain_3K = forest.spread_of(box_K) - spread_3K
    gain_3K[0] /= forest.time_price
    # Rounding may say that a split does harm; it never does.
    gain_3K = gain_3K.clamp(min=0).masked_fill(left_3K < 0, -torch.inf)
    gain_K, axis_K = gain_3K.max(dim=0)
    each = torch.arange(len(box_K), device=box_K.device)
    start_K3 = forest.bounds_of(box_K)[:, :, 0]
    start_K = (start_K3[:, 0] << 42) + (start_K3[:, 1] << 21) + start_K3[:, 2]
    rows_K = forest.rows_of(box_K)
    made = _Splits(
        box_K, gain_K, rows_K, start_K, left_3K[axis_K, each], right_3K[axis_K, each], each
    )
    return box_K, made.take((left_3K >= 0).any(dim=0).nonzero().squeeze(1))


def tighten(forest: Forest, box_K: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Where a half of a box is empty, the other half takes its place.

    Returns:
        [K] boxes without empty halves, and [3, K] their halves, -1 where there is none.
    """
    box_K = box_K.clone()
    left_3K, right_3K = forest.halves(box_K)
    while True:
        full = [
            forest.rows_of(side.reshape(-1)).reshape(side.shape) > 0 for side in (left_3K, right_3K)
        ]
        loose = (left_3K >= 0) & (full[0] != full[1])
        which = loose.any(dim=0).nonzero().squeeze(1)
        if not len(which):
            return box_K, left_3K, right_3K
        axis = loose[:, which].int().argmax(dim=0)
        kept = torch.where(full[0][axis, which], left_3K[axis, which], right_3K[axis, which])
        box_K[which] = kept
        left_3K[:, which], right_3K[:, which] = forest.halves(kept)


def _spread(forest: Forest, box_3K: Tensor) -> Tensor:
    return forest.spread_of(box_3K.reshape(-1)).reshape(box_3K.shape)


def _apply(forest: Forest, box_K: Tensor, taken: list[_Splits]) -> Spent:
    """Each split box gives way to its halves."""
    if not taken:
        return Spent(box_K, box_K[:0])
    split = torch.cat([part.box for part in taken])
    halves = [side for part in taken for side in (part.left, part.right)]
    tight, _ = _splits(forest, torch.cat(halves))
    boxes = torch.cat([box_K, tight])
    return Spent(boxes[~torch.isin(boxes, split)], split)
