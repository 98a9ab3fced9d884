"""From the tokens of videos to the boxes that they may be divided into.

Legend: N tokens, D features, M patches that have tokens, T H W the grid, P = T H W, B grids side by
side, X boxes, S segments.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from vidcomp.functional.partition_boxes import (
    Boxes,
    box_counts,
    box_spread,
    boxes_of,
    crowded_boxes,
    grids_at_a_time,
)
from vidcomp.functional.partition_forest import Forest, Layer, Segment
from vidcomp.functional.partition_prices import Group
from vidcomp.functional.reduce import group_sum, wide
from vidcomp.types import Grid

__all__ = ["Cells", "Patches", "Rules", "build_forest"]


class Patches(NamedTuple):
    """The tokens of a video, and where they lie."""

    tokens: Tensor
    """[N, D] any float type; finite."""
    weight: Tensor
    """[N] wide, not negative: how much the distance of a token from its mean counts."""
    cell: Tensor
    """[N] int64 source patch of each token, in raster order of the grid."""
    grid: Grid
    starts: tuple[int, ...] = (0,)
    """First frames of scenes, ascending, the first one 0."""


class Rules(NamedTuple):
    """What partitions are looked at."""

    segment_frames: int = 64
    """Most frames of a segment; longer boxes are made of whole frames of whole segments."""
    time_price: float = 1.0
    """Price of a split along time, in units of one along height or width."""
    min_tokens_per_frame: int = 1
    """Tokens that each frame is covered by, as far as it has patches."""


class Cells(NamedTuple):
    """One row a patch that has tokens."""

    tokens: Tensor
    weight: Tensor
    row: Tensor
    """[P] int64 row of each source patch, -1 where there is no token."""

    @classmethod
    def of(cls, video: Patches) -> "Cells":
        """Tokens of one patch become their weighted mean."""
        count_P = torch.bincount(video.cell, minlength=video.grid.num_patches)
        x_ND, weight_N, cell_N = video.tokens, video.weight, video.cell
        row_P = torch.where(count_P > 0, count_P.gt(0).cumsum(0) - 1, -1)
        x_ND = _moderate(x_ND)
        if int(count_P.max()) > 1:
            group_N, num = row_P[cell_N], int((count_P > 0).sum())
            share_N = _shares(weight_N, group_N, num)
            x_ND = group_sum(x_ND, group_N, num, share_N)
            weight_N = group_sum(weight_N, group_N, num)
        else:
            row_P[cell_N] = torch.arange(len(cell_N), device=cell_N.device)
        return cls(x_ND, weight_N, row_P)


def _moderate(x_ND: Tensor) -> Tensor:
    """Squares of values beyond 1e100 would overflow; only float64 has them."""
    if x_ND.dtype != torch.float64 or not x_ND.numel():
        return x_ND
    largest = float(x_ND.abs().max())
    return x_ND / largest if largest > 1e100 else x_ND


def _shares(weight_N: Tensor, group_N: Tensor, num_groups: int) -> Tensor:
    """Each row's share of the weight of its group; equal ones where that is 0."""
    total_N = group_sum(weight_N, group_N, num_groups)[group_N]
    count_N = torch.bincount(group_N, minlength=num_groups)[group_N]
    return torch.where(total_N > 0, weight_N / torch.where(total_N > 0, total_N, 1), 1 / count_N)


def build_forest(videos: Sequence[Patches], cells: Sequence[Cells], rules: Rules) -> Forest:
    """All boxes of some videos of one type and width."""
    segments, scene = [], 0
    for v, video in enumerate(videos):
        for first, stop in pairwise([*video.starts, video.grid.t]):
            steps = range(first, stop, rules.segment_frames)
            segments += [Segment(v, scene, a, min(a + rules.segment_frames, stop)) for a in steps]
            scene += 1
    shapes = [Grid(s.stop - s.start, *videos[s.video].grid[1:]) for s in segments]
    kinds = sorted(set(shapes))
    # Numbers of segments go by layer.
    order = [i for kind in kinds for i, shape in enumerate(shapes) if shape == kind]
    layers, means, weights = [], [], []
    for kind in kinds:
        mine = [s for s, shape in zip(segments, shapes, strict=True) if shape == kind]
        layer, mean, weight = _segment_layer(mine, kind, videos, cells, rules)
        layers.append(layer)
        means.append(mean)
        weights.append(weight)
    number = torch.empty(len(order), dtype=torch.int64)
    number[torch.tensor(order)] = torch.arange(len(order))
    weight, mean = torch.cat(weights), torch.cat(means)
    layers += _Below(segments, number.tolist(), mean, weight, layers).scene_layers()
    return Forest(layers, len(videos), rules.time_price, weight, mean)


def _segment_layer(
    segments: Sequence[Segment],
    grid: Grid,
    videos: Sequence[Patches],
    cells: Sequence[Cells],
    rules: Rules,
) -> tuple[Layer, Tensor, Tensor]:
    """A layer of segments of one shape, with their means [S, D] and weights [S]."""
    device, num_features = cells[0].tokens.device, cells[0].tokens.shape[1]
    boxes = boxes_of(grid, device)
    step = grids_at_a_time(len(boxes.number), num_features)
    spreads, rows, crowds, means, weights = [], [], [], [], []
    for i in range(0, len(segments), step):
        some = segments[i : i + step]
        row_BP = torch.stack([_rows(s, videos[s.video].grid, cells[s.video]) for s in some])
        there_BP = row_BP >= 0
        weight_BP = torch.stack(
            [cells[s.video].weight[row.clamp(min=0)] for s, row in zip(some, row_BP, strict=True)]
        ).masked_fill(~there_BP, 0)

        sources = [cells[s.video].tokens for s in some]
        features = _columns(sources, row_BP, grid)
        spread, mean = box_spread(features, num_features, weight_BP.reshape(-1, *grid))
        spreads.append(spread)
        means.append(mean)
        there_BTHW = there_BP.reshape(-1, *grid)
        rows.append(box_counts(there_BTHW.int()))
        if rules.min_tokens_per_frame > 1:
            crowds.append(crowded_boxes(there_BTHW, rules.min_tokens_per_frame))
        weights.append(weight_BP.sum(dim=1))
    spread, rows_XB = _side_by_side(spreads), _side_by_side(rows)
    crowded = _side_by_side(crowds) if rules.min_tokens_per_frame > 1 else None
    group = _group(boxes, spread, rows_XB, crowded)
    start = torch.tensor([s.start for s in segments], device=device)
    layer = Layer(
        group=group,
        grid=grid,
        video=torch.tensor([s.video for s in segments]),
        frames=start[:, None] + torch.arange(grid.t + 1, device=device),
    )
    return layer, torch.cat(means), torch.cat(weights)


def _columns(sources: Sequence[Tensor], row_BP: Tensor, grid: Grid) -> Callable[[int, int], Tensor]:
    """``columns(a, b)`` gives features a to b as [B, T, H, W, b - a], 0 where there is no token."""
    rows = row_BP.clamp(min=0)

    def columns(a: int, b: int) -> Tensor:
        parts = [wide(x[:, a:b][row]) for x, row in zip(sources, rows, strict=True)]
        x_BPD = torch.stack(parts).masked_fill_((row_BP < 0)[..., None], 0)
        return x_BPD.reshape(-1, *grid, b - a)

    return columns


def _side_by_side(parts: Sequence[Tensor]) -> Tensor:
    """[X, B] of all grids; in memory grid after grid, as they are worked on a few at a time."""
    return torch.cat([part.T for part in parts]).T


def _group(boxes: Boxes, spread: Tensor, rows: Tensor, crowded: Tensor | None) -> Group:
    cost = spread if crowded is None else spread.masked_fill(crowded, torch.inf)
    return Group(boxes, spread, torch.nn.functional.pad(rows.T, (0, 1)).T, cost)


def _rows(segment: Segment, grid: Grid, cells: Cells) -> Tensor:
    return cells.row[segment.start * grid.per_frame : segment.stop * grid.per_frame]


class _Below(NamedTuple):
    """Segments of all layers, as scenes are made of them."""

    segments: Sequence[Segment]
    number: list[int]
    """Of each segment, in the order of the layers."""
    mean: Tensor
    """[S, D] wide."""
    weight: Tensor
    layers: list[Layer]

    def scene_layers(self) -> list[Layer]:
        """Scenes side by side.

        The segments of a scene are filled up to a power of two, so that their tree stays as it is
        while a scene goes on: a stream finds the same boxes.
        """
        scenes: dict[int, list[int]] = {}
        for i, segment in enumerate(self.segments):
            scenes.setdefault(segment.scene, []).append(i)
        room = {scene: 1 << (len(parts) - 1).bit_length() for scene, parts in scenes.items()}
        return [
            self._layer([parts for scene, parts in scenes.items() if room[scene] == n], n)
            for n in sorted(set(room.values()))
        ]

    def _layer(self, scenes: list[list[int]], room: int) -> Layer:
        grid, device = Grid(room, 1, 1), self.mean.device
        numbers = [[self.number[i] for i in parts] for parts in scenes]
        index_BS = torch.tensor([n + [-1] * (room - len(n)) for n in numbers], device=device)
        row_BS, absent_BS = index_BS.clamp(min=0), index_BS < 0

        def of(value_S: Tensor) -> Tensor:
            return value_S[row_BS].masked_fill(absent_BS, 0).reshape(-1, *grid)

        spread_S = torch.cat([layer.group.spread[-1] for layer in self.layers])
        rows_S = torch.cat([layer.group.rows[-2] for layer in self.layers])
        x_BTD = self.mean[row_BS].reshape(len(scenes), *grid, self.mean.shape[1])
        between, _ = box_spread(lambda a, b: x_BTD[..., a:b], x_BTD.shape[-1], of(self.weight))
        whole_S = torch.cat([layer.group.cost[-1] == torch.inf for layer in self.layers])
        ends = []
        for parts in scenes:
            stop = self.segments[parts[-1]].stop
            starts = [self.segments[i].start for i in parts]
            ends.append(starts + [stop] * (room + 1 - len(parts)))
        return Layer(
            group=_group(
                boxes_of(grid, device),
                between + box_counts(of(spread_S)),
                box_counts(of(rows_S)),
                box_counts(of(whole_S.int())) > 0,
            ),
            grid=grid,
            video=torch.tensor([self.segments[parts[0]].video for parts in scenes]),
            frames=torch.tensor(ends, device=device),
            segments=index_BS.T.contiguous(),
        )
