"""The boxes of whole videos: segments of frames, and the trees that join segments to scenes.

A scene is divided into segments, whose boxes may be split along every axis; above them boxes are
whole frames of neighbouring segments and split along time only.  So memory and the size of a box
are bounded, and one price decides over all of it.  Scenes are never joined.

Boxes of all groups have one global number: that of the group's first, plus box x B + grid.

Legend: X boxes, B grids side by side, S segments, V videos, P prices, K some boxes, D features.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from vidcomp.functional.partition_boxes import box_bounds
from vidcomp.functional.partition_prices import Cheapest, Group, Plan, cheapest
from vidcomp.types import Grid

__all__ = ["Forest", "Layer", "Segment"]

_BLOCK = {"cpu": 1 << 20, "other": 1 << 24}
"""Boxes times prices that are worked on at a time: few on the CPU, for the sake of its caches."""


class Segment(NamedTuple):
    """Consecutive frames of a video whose boxes are divided by themselves."""

    video: int
    scene: int
    """Number of the scene, counted over all videos."""
    start: int
    """First frame."""
    stop: int
    """One past the last frame."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """A group, and where its boxes are."""

    group: Group
    grid: Grid
    """Shape of each grid; (S, 1, 1) for those whose patches are segments."""
    video: Tensor
    """[B] int64 on the CPU: the video of each grid."""
    frames: Tensor
    """[B, T + 1] int64 first frame of each step of time, and the end."""
    segments: Tensor | None = None
    """[S, B] int64 the segments that a grid's patches stand for; -1: none, the scene is over."""
    bounds: Tensor | None = None
    """[X, 3, 2] int64 where the boxes of a single grid start and stop, if not by ``grid``."""


@dataclass(slots=True)
class Forest:
    """All layers: those of segments, then those of scenes."""

    layers: list[Layer]
    num_videos: int
    time_price: float
    weight: Tensor | None = None
    """[S] wide weights of segments."""
    mean: Tensor | None = None
    """[S, D] wide means of segments."""
    first: list[int] = field(init=False)
    """Global number of each layer's first box."""
    roots: Tensor = field(init=False)
    """[S] int64 global number of each segment's largest box."""

    def __post_init__(self) -> None:
        sizes = [layer.group.spread.numel() for layer in self.layers]
        self.first = [sum(sizes[:i]) for i in range(len(sizes) + 1)]
        roots = [self._tops(i) for i, layer in enumerate(self.layers) if layer.segments is None]
        self.roots = torch.cat(roots)

    @property
    def device(self) -> torch.device:
        """Where the boxes are."""
        return self.layers[0].group.spread.device

    def spread(self) -> list[float]:
        """[V] spread of videos whose scenes are one token each."""
        total = torch.zeros(self.num_videos, dtype=torch.float64)
        for layer in self.layers:
            if layer.segments is not None:
                total.index_add_(0, layer.video, layer.group.spread[-1].cpu().double())
        return total.tolist()

    def plans(
        self, price_VP: Tensor, segments_of: Callable[[int, Tensor], Cheapest] | None = None
    ) -> list[list[Plan]]:
        """The best plan of each video for each of its prices.

        Args:
            price_VP: prices.
            segments_of: what ``segments_at`` finds for a layer of segments, if it is known.
        """
        totals = torch.zeros(3, *price_VP.shape, dtype=torch.float64)
        segments: list[Cheapest] = []
        for i, layer in enumerate(self.layers):
            if layer.segments is None:
                segments.append((segments_of or self.segments_at)(i, price_VP[layer.video]))
                continue
            found = self._cheapest(layer, price_VP[layer.video], self._below(layer, segments))
            for total_VP, part_BP in zip(totals, found, strict=True):
                total_VP.index_add_(0, layer.video, part_BP.cpu().double())
        return [
            [
                Plan(p, round(n), paid, cost - p * paid)
                for p, cost, n, paid in zip(*row, strict=True)
            ]
            for row in zip(price_VP.tolist(), *totals.tolist(), strict=True)
        ]

    def segments_at(self, number: int, price_BP: Tensor, which_B: Tensor | None = None) -> Cheapest:
        """[B, P] each: the cheapest partition of the segments of a layer, or of some of them."""
        return self._cheapest(self.layers[number], price_BP, which_B=which_B)

    def choose(self, price_VP: Tensor) -> tuple[list[Tensor], Tensor]:
        """What each video is divided into at each of its prices.

        Returns:
            [K] global numbers of the boxes that are one token, V P times; and of all boxes on the
            way to them, with them.
        """
        num_prices = price_VP.shape[1]
        segments: list[Cheapest] = []
        choices, tops, owners = [], [], []
        for i, layer in enumerate(self.layers):
            num_boxes, num_grids = layer.group.spread.shape
            shape = (num_grids, num_boxes, num_prices)  # in memory as the other numbers of boxes
            choice = torch.zeros(shape, dtype=torch.int8, device=self.device).transpose(0, 1)
            below = None if layer.segments is None else self._below(layer, segments)
            found = self._cheapest(layer, price_VP[layer.video], below, choice)
            choices.append(choice.reshape(-1, num_prices))
            if layer.segments is None:
                segments.append(found)
                continue
            tops.append(self._tops(i).repeat_interleave(num_prices))
            owner = layer.video[:, None] * num_prices + torch.arange(num_prices)
            owners.append(owner.reshape(-1).to(self.device))
        box_K, owner_K = torch.cat(tops), torch.cat(owners)
        return self._leaves(torch.cat(choices), box_K, owner_K, price_VP.numel())

    def halves(self, box_K: Tensor) -> tuple[Tensor, Tensor]:
        """[3, K] global numbers of both halves by a split along t, h, w; -1 where there is none."""
        left, right = (box_K.new_full((3, len(box_K)), -1) for _ in range(2))
        for i, mine, x, b in self._by_layer(box_K):
            layer = self.layers[i]
            for out, side in ((left, layer.group.boxes.left), (right, layer.group.boxes.right)):
                half = side[:, x]
                number = self.first[i] + half * len(layer.video) + b
                if layer.segments is not None:
                    number = self._alias(layer, half, b, number)
                out[:, mine] = torch.where(half < len(layer.group.spread), number, -1)
        return left, right

    def spread_of(self, box_K: Tensor) -> Tensor:
        """[K] wide spread of boxes; 0 for -1."""
        out = self.layers[0].group.spread.new_zeros(len(box_K))
        for i, mine, x, b in self._by_layer(box_K):
            out[mine] = self.layers[i].group.spread[x, b]
        return out

    def rows_of(self, box_K: Tensor) -> Tensor:
        """[K] int64 patches with a token in boxes; 0 for -1."""
        out = box_K.new_zeros(len(box_K))
        for i, mine, x, b in self._by_layer(box_K):
            out[mine] = self.layers[i].group.rows[x, b].long()
        return out

    def bounds_of(self, box_K: Tensor) -> Tensor:
        """[K, 3, 2] int64 (t, h, w) where boxes start and stop, in frames of the video.

        A box of whole segments has all of (h, w): 0 to -1.
        """
        out = box_K.new_zeros(len(box_K), 3, 2)
        for i, mine, x, b in self._by_layer(box_K):
            layer = self.layers[i]
            if layer.bounds is not None:
                out[mine] = layer.bounds[x]
                continue
            bounds = box_bounds(layer.grid, layer.group.boxes.number[x])
            bounds[:, 0] = layer.frames[b[:, None], bounds[:, 0]]
            if layer.segments is not None:
                bounds[:, 1:, 1] = -1
            out[mine] = bounds
        return out

    def _cheapest(
        self,
        layer: Layer,
        price_BP: Tensor,
        below: Cheapest | None = None,
        choice_XBP: Tensor | None = None,
        which_B: Tensor | None = None,
    ) -> Cheapest:
        """[B, P] each, of whole grids, or of those whose numbers are given."""
        spread = layer.group.spread
        price_BP = price_BP.to(spread.dtype).to(spread.device)
        most = _BLOCK.get(spread.device.type, _BLOCK["other"])
        step = max(1, most // (len(spread) * price_BP.shape[1]))
        parts = []
        for b in range(0, len(price_BP), step):
            some = slice(b, b + step)
            grids = some if which_B is None else which_B[some]
            group = Group(
                layer.group.boxes, *(part[:, grids].contiguous() for part in layer.group[1:])
            )
            leaves = below and Cheapest(*(part[:, some] for part in below))
            choice = None if choice_XBP is None else choice_XBP[:, some]
            found = cheapest(group, price_BP[some], self.time_price, leaves, choice)
            parts.append([part[len(spread) - 1] for part in found])
        return Cheapest(*(torch.cat(part) for part in zip(*parts, strict=True)))

    def _below(self, layer: Layer, segments: list[Cheapest]) -> Cheapest:
        """[S, B, P] each: what the patches of a layer of scenes are divided into."""
        assert layer.segments is not None  # noqa: S101  # the caller checked
        joined = (torch.cat(part) for part in zip(*segments, strict=True))
        absent, index = (layer.segments < 0)[..., None], layer.segments.clamp(min=0)
        return Cheapest(*(part[index].masked_fill(absent, 0) for part in joined))

    def _leaves(
        self, choice: Tensor, box_K: Tensor, owner_K: Tensor, num_owners: int
    ) -> tuple[list[Tensor], Tensor]:
        """Follow the choices from the largest boxes down; an owner is a video and a price."""
        found, way, num_prices = [], [], choice.shape[1]
        while len(box_K):
            filled = self.rows_of(box_K) > 0
            box_K, owner_K = box_K[filled], owner_K[filled]
            way.append(box_K)
            axis_K = choice[box_K, owner_K % num_prices].long()
            done = axis_K == 0
            found.append((box_K[done], owner_K[done]))
            box_K, owner_K, axis_K = box_K[~done], owner_K[~done], axis_K[~done] - 1
            each = torch.arange(len(box_K), device=self.device)
            left, right = (half[axis_K, each] for half in self.halves(box_K))
            box_K, owner_K = torch.cat([left, right]), owner_K.repeat(2)
        box_K, owner_K = (torch.cat(part) for part in zip(*found, strict=True))
        order = owner_K.argsort(stable=True)
        sizes = torch.bincount(owner_K, minlength=num_owners).tolist()
        return list(torch.split(box_K[order], sizes)), torch.cat(way)

    def _tops(self, i: int) -> Tensor:
        """[B] global numbers of the largest boxes of a layer."""
        layer = self.layers[i]
        num_boxes, num_grids = layer.group.spread.shape
        b = torch.arange(num_grids, device=layer.group.spread.device)
        if layer.segments is not None and layer.grid.t == 1:
            return self.roots[layer.segments[0]]
        return self.first[i] + (num_boxes - 1) * num_grids + b

    def _alias(self, layer: Layer, x: Tensor, b: Tensor, number: Tensor) -> Tensor:
        """The largest box of a segment in place of the box that stands for it."""
        assert layer.segments is not None  # noqa: S101  # the caller checked
        segment = layer.segments[x.clamp(max=layer.grid.t - 1), b]
        stands = (x < layer.grid.t) & (segment >= 0)
        return torch.where(stands, self.roots[segment.clamp(min=0)], number)

    def _by_layer(self, box_K: Tensor) -> "list[tuple[int, Tensor, Tensor, Tensor]]":
        """For each layer with some of the boxes: which, their numbers in it, their grids."""
        found = []
        for i, layer in enumerate(self.layers):
            mine = ((box_K >= self.first[i]) & (box_K < self.first[i + 1])).nonzero().squeeze(1)
            if len(mine):
                local = box_K[mine] - self.first[i]
                found.append((i, mine, local // len(layer.video), local % len(layer.video)))
        return found
