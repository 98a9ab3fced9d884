"""Boxes of a video that goes on: those that may yet be tokens, and no others.

While a video goes on the price of a token rises, since all of it shares one budget.  Of each
segment those boxes are kept that are tokens at one of the prices still ahead, on a scale of fixed
steps, and the splits between them; the best partition of what is kept is the best of the whole
video at every price of the scale, and near to it between.  From time to time boxes that the risen
price has left behind are dropped.

Legend: X boxes, K some of them, N rows of tokens, S segments or runs of them, D features.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from heapq import heapify, heappop, heappush
from itertools import accumulate, pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from vidcomp.functional.merge import merge_in_order
from vidcomp.functional.partition_boxes import Boxes, boxes_of, paint
from vidcomp.functional.partition_build import Cells, Patches, Rules, build_forest
from vidcomp.functional.partition_forest import Forest, Layer
from vidcomp.functional.partition_planner import Planner
from vidcomp.functional.partition_prices import Group, find_prices
from vidcomp.functional.partition_spend import spend, tighten
from vidcomp.types import Grid, VideoTokens

__all__ = ["Kept", "KeptBoxes"]

_PER_OCTAVE = 2
"""Prices of the scale between one price and its double."""

_TOGETHER = 8
"""Prices that are worked on at a time."""


class Kept(NamedTuple):
    """Boxes in no particular order."""

    left: Tensor
    """[3, X] int64 halves by a split along t, h, w; -1 where it is not kept."""
    right: Tensor
    level: Tensor
    """[X] int64 halves have lower levels."""
    spread: Tensor
    rows: Tensor
    """[X] int64 patches that have tokens."""
    bounds: Tensor
    """[X, 3, 2] int64 in frames of the whole stream."""
    token: Tensor
    """[X] int64 the row that is the box's mean; -1: it is made of those of its halves."""

    def join(self, other: "Kept") -> "Kept":
        """All boxes of both; those of the other come last, with the numbers that they then have."""
        left, right = (torch.cat(pair, dim=1) for pair in zip(self[:2], other[:2], strict=True))
        return Kept(left, right, *map(torch.cat, zip(self[2:], other[2:], strict=True)))

    def shifted(self, by: int) -> "Kept":
        """The same with numbers that count from ``by``."""
        left, right = (torch.where(side < 0, -1, side + by) for side in self[:2])
        return self._replace(left=left, right=right)


class _Run(NamedTuple):
    """A number of segments that is a power of two, and the box of all of them."""

    root: int
    size: int
    weight: Tensor
    mean: Tensor


class KeptBoxes:
    """What is left of the segments so far, and their tokens."""

    def __init__(self, budget: int, rules: Rules) -> None:
        self._budget, self._rules = budget, rules
        self._floor = 0.0  # prices below it are behind
        self._most_rows = 2 * budget  # before they are looked through
        self._runs: list[_Run] = []
        self._boxes: Kept | None = None
        self.rows: VideoTokens | None = None
        """Tokens of boxes, which overlap; ``token`` counts them."""

    def add(self, video: VideoTokens, patches: Patches, first: int) -> None:
        """The next segment.

        Args:
            video: its tokens, without provenance; one a patch at most, and at least one.
            patches: where they lie in a grid of this segment only.
            first: its first frame in the whole stream.
        """
        forest = build_forest([patches], [Cells.of(patches)], self._rules)
        parts, way, _ = self._partitions(forest, self._floor)
        kept, number = _from_forest(forest, way)
        tight = number[tighten(forest, torch.cat(parts))[0]]
        for box in torch.split(tight, [len(part) for part in parts]):
            new = box[kept.token[box] < 0]
            if len(new):
                group_N = paint(kept.bounds[new], patches.grid)[patches.cell]
                kept.token[new] = self._append(merge_in_order(video, group_N))
        kept.bounds[:, 0] += first
        shift = 0 if self._boxes is None else len(self._boxes.level)
        self._boxes = kept if self._boxes is None else self._boxes.join(kept.shifted(shift))
        root = shift + len(kept.level) - 1  # boxes of a segment go by level
        assert forest.weight is not None and forest.mean is not None  # noqa: PT018, S101
        self._runs.append(_Run(root, 1, forest.weight[0], forest.mean[0]))
        self._tidy()

    def result(self) -> tuple[VideoTokens, Tensor]:
        """The tokens of the best partition, as many as the budget, and the [K, 3, 2] boxes."""
        boxes, forest, order = self._forest()
        plan = find_prices(
            Planner(forest), forest.spread(), [self._budget], self._rules.time_price
        )[0]
        (box_K,), _ = forest.choose(_prices([plan.price]))
        box_K = order[spend(forest, box_K, self._budget - len(box_K)).boxes]
        if len(box_K) < self._budget:
            box_K, _ = _coarsest(boxes, order, self._budget)
        return self._tokens(boxes, box_K), boxes.bounds[box_K]

    def _partitions(self, forest: Forest, floor: float) -> tuple[list[Tensor], Tensor, float]:
        """The finest partition and those of the scale, all boxes on the way, the lowest price."""
        spread, total = forest.spread()[0], int(forest.rows_of(forest.roots).sum())
        most, time_price = min(2 * self._budget, total), self._rules.time_price
        finest = find_prices(Planner(forest), [spread], [most], time_price)[0].price
        parts, ways = [], []
        if finest >= floor:
            (box_K,), way = forest.choose(_prices([finest]))
            fine = spend(forest, box_K, most - len(box_K))
            parts, ways = [fine.boxes], [way, *fine]
        lowest = max(finest, floor, spread / total * 1e-6) or 1.0
        step = math.ceil(math.log2(lowest) * _PER_OCTAVE)
        while not parts or len(parts[-1]) > 1:
            scale = [2.0 ** ((step + i) / _PER_OCTAVE) for i in range(_TOGETHER)]
            found, way = forest.choose(_prices(scale))
            parts += found
            ways.append(way)
            step += _TOGETHER
        return parts, torch.cat(ways), finest

    def _tidy(self) -> None:
        """Join runs of one size, so that they are few, and drop what no price ahead will use."""
        while self._join_runs():
            pass
        assert self._boxes is not None  # noqa: S101  # there is a segment
        if len(self._rows()) <= self._most_rows:
            return
        boxes, forest, order = self._forest()
        num = len(self._boxes.level)
        parts, way, finest = self._partitions(forest, 0.0)
        parts, way = [order[box_K] for box_K in parts], order[way]
        if len(parts[0]) < 2 * self._budget:  # no splits are left where they would do most
            fine, more = _coarsest(boxes, order, 2 * self._budget)
            parts, way = [fine, *parts], torch.cat([way, fine, more])
        if finest > 0:
            step = math.floor(math.log2(finest) * _PER_OCTAVE)
            self._floor = max(self._floor, 2.0 ** (step / _PER_OCTAVE))
        roots = torch.tensor([run.root for run in self._runs], device=order.device)
        used = [roots]
        for part in parts:
            box = part[part < num]  # those of several runs are made when they are asked for
            new = box[boxes.token[box] < 0]
            if len(new):
                boxes.token[new] = self._append(self._tokens(boxes, new))
            used.append(box)
        kept = torch.unique(torch.cat([way, *used]))
        self._keep(boxes, kept[kept < num], torch.cat(used))
        self._most_rows = max(2 * self._budget, len(self._rows()) + self._budget // 4)

    def _keep(self, boxes: Kept, kept: Tensor, used: Tensor) -> None:
        """Some boxes, of which only those that are used keep their tokens."""
        is_used = torch.zeros_like(boxes.token, dtype=torch.bool)
        is_used[used] = True
        small, number = _subset(boxes._replace(token=boxes.token.where(is_used, -1)), kept)
        has = small.token >= 0
        row, place = torch.unique(small.token[has], return_inverse=True)
        small.token[has] = place
        self.rows, self._boxes = self._rows().select(row), small
        self._runs = [run._replace(root=int(number[run.root])) for run in self._runs]

    def _join_runs(self) -> bool:
        """The last two runs become one, if they are of one size."""
        boxes, pair = self._boxes, self._runs[-2:]
        if len(pair) < 2 or pair[0].size != pair[1].size:
            return False
        assert boxes is not None  # noqa: S101  # there are runs
        self._boxes, run = _over(boxes, pair)
        root = torch.tensor([run.root], device=boxes.level.device)
        self._boxes.token[root] = self._append(self._tokens(self._boxes, root))
        self._runs[-2:] = [run]
        return True

    def _forest(self) -> tuple[Kept, Forest, Tensor]:
        """All boxes, with those of several runs; as a forest; and [X] the number of each in it."""
        assert self._boxes is not None  # noqa: S101  # there is a segment
        boxes, _ = _over(self._boxes, self._runs)
        boxes = boxes._replace(token=boxes.token.clone())
        order = boxes.level.argsort(stable=True)
        return boxes, _as_forest(boxes, order, self._rules), order

    def _rows(self) -> VideoTokens:
        assert self.rows is not None  # noqa: S101  # there is a segment
        return self.rows

    def _append(self, rows: VideoTokens) -> Tensor:
        """[K] int64 numbers of new rows."""
        first = 0 if self.rows is None else len(self.rows)
        self.rows = rows if self.rows is None else _stack(self.rows, rows)
        return torch.arange(first, first + len(rows), device=rows.tokens.device)

    def _tokens(self, boxes: Kept, box_K: Tensor) -> VideoTokens:
        """One row a box: its own, or the mean of those of its halves."""
        group_K = torch.arange(len(box_K), device=box_K.device)
        rows, groups = [], []
        while len(box_K):
            token = boxes.token[box_K]
            has = token >= 0
            rows.append(token[has])
            groups.append(group_K[has])
            box_K, group_K = box_K[~has], group_K[~has]
            axis = (boxes.left[:, box_K] >= 0).int().argmax(dim=0)
            box_K = torch.cat([boxes.left[axis, box_K], boxes.right[axis, box_K]])
            group_K = group_K.repeat(2)
        return merge_in_order(self._rows().select(torch.cat(rows)), torch.cat(groups))


def _prices(prices: list[float]) -> Tensor:
    return torch.tensor([prices], dtype=torch.float64)


def _stack(rows: VideoTokens, more: VideoTokens) -> VideoTokens:
    """Rows one after another, wherever they lie."""
    return replace(
        rows,
        tokens=torch.cat([rows.tokens, more.tokens]),
        positions=torch.cat([rows.positions, more.positions]),
        spans=torch.cat([rows.spans, more.spans]),
        mass=torch.cat([rows.mass, more.mass]),
        extras={name: torch.cat([x, more.extras[name]]) for name, x in rows.extras.items()},
    )


def _from_forest(forest: Forest, way: Tensor) -> tuple[Kept, Tensor]:
    """Boxes of a segment and all splits between them, by level; and [X] the new numbers."""
    box, left, right = tighten(forest, torch.unique(tighten(forest, way)[0]))
    halves = [tighten(forest, side.reshape(-1).clamp(min=0))[0] for side in (left, right)]
    layer = forest.layers[0]
    levels = torch.tensor([stop - start for start, stop in layer.group.boxes.levels])
    level = torch.repeat_interleave(levels).to(box.device)
    number = torch.full((len(level) + 1,), -1, device=box.device)
    number[box] = torch.arange(len(box), device=box.device)
    ends = [
        torch.where(s < 0, -1, number[h.reshape(3, -1)])
        for s, h in zip((left, right), halves, strict=True)
    ]
    both = (ends[0] >= 0) & (ends[1] >= 0)
    kept = Kept(
        left=ends[0].where(both, -1),
        right=ends[1].where(both, -1),
        level=level[box],
        spread=forest.spread_of(box),
        rows=forest.rows_of(box),
        bounds=forest.bounds_of(box),
        token=torch.full_like(box, -1),
    )
    return kept, number


def _subset(boxes: Kept, kept: Tensor) -> tuple[Kept, Tensor]:
    """Some boxes, with the splits both of whose halves are there; and [X] the new numbers."""
    number = torch.full((len(boxes.level) + 1,), -1, device=kept.device)  # -1 reads the last
    number[kept] = torch.arange(len(kept), device=kept.device)
    left, right = number[boxes.left[:, kept]], number[boxes.right[:, kept]]
    both = (left >= 0) & (right >= 0)
    rest = (part[kept] for part in boxes[2:])
    return Kept(left.where(both, -1), right.where(both, -1), *rest), number


def _over(boxes: Kept, runs: Sequence[_Run]) -> tuple[Kept, _Run]:
    """Boxes, with those of several runs behind them, and the run of all."""
    num = len(boxes.level)
    tops: list[Kept] = []

    def box(number: int) -> tuple[Tensor, ...]:
        """Level, spread, rows and bounds."""
        found = tops[number - num][2:6] if number >= num else boxes[2:6]
        return tuple(part[0 if number >= num else number] for part in found)

    def join(runs: Sequence[_Run]) -> _Run:
        if len(runs) == 1:
            return runs[0]
        half = 1 << (sum(run.size for run in runs) - 1).bit_length() - 1
        sizes = list(accumulate(run.size for run in runs))
        cut = sizes.index(half) + 1
        one, two = join(runs[:cut]), join(runs[cut:])
        weight = one.weight + two.weight
        share, far = two.weight / torch.where(weight > 0, weight, 1), two.mean - one.mean
        pairs = list(zip(box(one.root), box(two.root), strict=True))
        level, spread, rows = (torch.stack(pair) for pair in pairs[:3])
        between = one.weight * share * far.square().sum()
        start, stop = torch.stack(pairs[3]).unbind(2)
        link = torch.full((3, 1), -1, device=boxes.level.device)
        left, right = link.clone(), link.clone()
        left[0], right[0] = one.root, two.root
        bounds = torch.stack([start.amin(dim=0), stop.amax(dim=0)], dim=1)
        spread = spread.sum() + between
        parts = (level.amax() + 1, spread, rows.sum(), bounds, link[0, 0])
        tops.append(Kept(left, right, *(part[None] for part in parts)))
        return _Run(num + len(tops) - 1, one.size + two.size, weight, one.mean + far * share)

    run = join(runs)
    if not tops:
        return boxes, run
    left, right = (torch.cat(side, dim=1) for side in zip(*(top[:2] for top in tops), strict=True))
    rest = map(torch.cat, zip(*(top[2:] for top in tops), strict=True))
    return boxes.join(Kept(left, right, *rest)), run


def _as_forest(boxes: Kept, order: Tensor, rules: Rules) -> Forest:
    """One layer of all boxes, sorted by level."""
    num, device = len(order), order.device
    place = torch.empty(num + 1, dtype=torch.int64, device=device)
    place[order] = torch.arange(num, device=device)
    place[num] = num  # -1 reads the last: no half
    stops = torch.bincount(boxes.level).cumsum(0).tolist()
    shape = Boxes(
        left=place[boxes.left[:, order]],
        right=place[boxes.right[:, order]],
        levels=list(pairwise([0, *stops])),
        number=order,
        axes=(0, 1, 2),
    )
    spread, rows = boxes.spread[order, None], boxes.rows[order, None].int()
    top, nothing = spread[-1:], torch.zeros_like(rows[:1])
    layer = Layer(
        group=Group(shape, spread, torch.cat([rows, nothing]), spread),
        grid=Grid(1, 1, 1),
        video=torch.zeros(1, dtype=torch.int64),
        frames=torch.zeros(1, 2, dtype=torch.int64, device=device),
        bounds=boxes.bounds[order],
    )
    scene = Layer(
        group=Group(boxes_of(Grid(1, 1, 1), device), top, torch.cat([rows[-1:], nothing]), top),
        grid=Grid(1, 1, 1),
        video=layer.video,
        frames=layer.frames,
        segments=torch.zeros(1, 1, dtype=torch.int64, device=device),
    )
    return Forest([layer, scene], 1, rules.time_price)


def _finest(boxes: Kept, order: Tensor) -> tuple[list[int], dict[int, tuple[int, int]]]:
    """The partition with the most boxes: these, and the splits that lead to them."""
    left, right = boxes.left.T.tolist(), boxes.right.T.tolist()
    count: dict[int, int] = {}
    split: dict[int, tuple[int, int]] = {}
    for number in order.tolist():
        count[number] = 1
        for halves in zip(left[number], right[number], strict=True):
            if halves[0] >= 0 and (most := count[halves[0]] + count[halves[1]]) > count[number]:
                count[number], split[number] = most, halves
    leaves, stack, used = [], [order.tolist()[-1]], {}
    while stack:
        if (number := stack.pop()) in split:
            used[number] = split[number]
            stack += split[number]
        else:
            leaves.append(number)
    return leaves, used


def _coarsest(boxes: Kept, order: Tensor, budget: int) -> tuple[Tensor, Tensor]:
    """[budget] boxes: the finest ones, but for the splits that do least; and those that are split.

    Only where the splits that are kept do not lead from the best partition to the budget.
    """
    found, split = _finest(boxes, order)
    leaves, spread = set(found), dict(enumerate(map(float, boxes.spread)))
    above = {half: number for number, halves in split.items() for half in halves}

    def loss(number: int) -> float:
        return spread[number] - sum(spread[half] for half in split[number])

    ready = [(loss(n), n) for n, halves in split.items() if leaves.issuperset(halves)]
    heapify(ready)
    while len(leaves) > budget:
        _, number = heappop(ready)
        leaves -= set(split.pop(number))
        leaves.add(number)
        if (parent := above.get(number)) is not None and leaves.issuperset(split[parent]):
            heappush(ready, (loss(parent), parent))
    kept, way = (torch.tensor(sorted(ids), device=order.device) for ids in (leaves, split))
    return kept, way.long()
