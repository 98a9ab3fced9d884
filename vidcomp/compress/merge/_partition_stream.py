"""The online form of ``partition``.

Everything is kept while it is no more than twice the budget, and the result is that of the whole
video.  After that each segment is reduced to boxes that may yet be tokens as soon as it is over.

Legend: N rows, K boxes, P source patches.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from vidcomp.compress._online import Seen, frame_rows
from vidcomp.compress.base import Stream
from vidcomp.errors import ShapeError
from vidcomp.functional.geometry import nearest_cells, raster_order
from vidcomp.functional.merge import float_rows, merge_in_order
from vidcomp.functional.partition import Patches, Rules, partition
from vidcomp.functional.partition_boxes import paint
from vidcomp.functional.partition_kept import KeptBoxes
from vidcomp.functional.reduce import group_min
from vidcomp.types import Grid, VideoTokens

__all__ = ["Moments", "PartitionStream"]


class Moments:
    """Mean and variance of all numbers so far, by weight."""

    def __init__(self) -> None:
        self.weight, self.mean, self.spread = 0.0, 0.0, 0.0

    def take(self, value_N: Tensor, weight_N: Tensor) -> tuple[float, float]:
        """The mean and the standard deviation with some more numbers."""
        weight = float(weight_N.sum())
        mean = float((value_N * weight_N).sum()) / weight if weight else 0.0
        total, far = (self.weight + weight) or 1.0, mean - self.mean
        self.spread += float(((value_N - mean).square() * weight_N).sum())
        self.spread += self.weight * weight / total * far * far
        self.weight, self.mean = self.weight + weight, self.mean + far * weight / total
        return self.mean, math.sqrt(self.spread / total)


class PartitionStream(Stream):
    """One video, segment by segment."""

    def __init__(
        self,
        name: str,
        budget: int,
        grid_hw: tuple[int, int],
        rules: Rules,
        patches: Callable[[VideoTokens, Moments], Patches],
        *,
        provenance: bool,
    ) -> None:
        """A stream that has seen nothing.

        Args:
            name: of the stage.
            budget: tokens of the result.
            grid_hw: of the frames.
            rules: of the partition.
            patches: where the tokens of the next frames lie and what they weigh.
            provenance: keep positions, spans and source patches of all rows.
        """
        self._name, self._budget, self._grid_hw, self._rules = name, budget, grid_hw, rules
        self._patches, self._moments = patches, Moments()
        self._seen = Seen(name, grid_hw, provenance)
        self._raw: list[VideoTokens] = []  # frames that are not boxes yet, cut at segments
        self._kept = KeptBoxes(budget, rules)
        self._num_kept = 0  # frames that are boxes
        self._past: VideoTokens | None = None
        self._provenance = provenance

    def update(self, chunk: VideoTokens) -> None:
        """Take the next frames.

        Raises:
            ShapeError: a chunk of another grid, width or type, one that goes back in time, or two
                tokens at one patch.
        """
        float_rows("tokens", chunk.tokens)
        for name, value in chunk.extras.items():
            float_rows(name, value)
        self._check_places(chunk)
        done = self._seen.num_frames
        chunk = self._seen.admit(chunk)
        if self._provenance:
            bare = replace(chunk, tokens=chunk.tokens.new_zeros(len(chunk), 0), extras={})
            self._past = self._seen.join(self._past, bare)
        rows = frame_rows(chunk, self._seen.first_t + done)
        while rows:
            num = self._rules.segment_frames - done % self._rules.segment_frames
            some, rows = rows[:num], rows[num:]
            self._raw.append(_part(chunk, torch.cat(some), len(some)))
            done += len(some)
            if done % self._rules.segment_frames == 0:
                self._reduce()

    def result(self) -> VideoTokens:
        """The tokens of all that was seen, in raster order.

        Raises:
            ShapeError: nothing was seen yet.
        """
        if not self._raw and not self._num_kept:
            return self._seen.result(None)
        raw = _join(self._raw) if self._raw else None
        if not self._num_kept:
            assert raw is not None  # noqa: S101  # all frames are there
            out, cell_P = self._whole(raw)
        else:
            kept = copy.deepcopy(self._kept)
            if raw is not None and len(raw):
                self._add(kept, raw, self._num_kept, copy.copy(self._moments))
            out, bounds = kept.result()
            cell_P = paint(bounds, self._grid)
        order = raster_order(out.positions, _first(cell_P, len(out)))
        out = replace(out.select(order), grid=self._grid)
        if self._past is None:
            return out
        rank = torch.empty_like(order)
        rank[order] = torch.arange(len(order), device=order.device)
        group_N = rank[cell_P[self._cells(self._past, 0)]]
        past = merge_in_order(self._past, group_N) if len(out) < len(self._past) else self._past
        return replace(past, tokens=out.tokens, extras=out.extras)

    def _whole(self, raw: VideoTokens) -> tuple[VideoTokens, Tensor]:
        """The result while nothing was reduced, and the [P] row that each patch went to."""
        cell_N = self._cells(raw, 0)
        group_N = torch.arange(len(raw), device=cell_N.device)
        if len(raw) > self._budget:
            local = self._local(raw, 0)
            group_N = partition([self._patches(local, Moments())], [self._budget], self._rules)[0]
            raw = merge_in_order(raw, group_N)
        cell_P = torch.full((self._grid.num_patches,), -1, device=cell_N.device)
        cell_P[cell_N] = group_N
        return raw, cell_P

    def _reduce(self) -> None:
        """A segment is over: keep it as it is, or all that is there as boxes."""
        if not self._num_kept and sum(map(len, self._raw)) <= 2 * self._budget:
            return
        while self._raw:
            num, some = 0, []
            while num < self._rules.segment_frames:
                some.append(self._raw.pop(0))
                num += some[-1].grid.t
            segment = _join(some)
            if len(segment):
                self._add(self._kept, segment, self._num_kept, self._moments)
            self._num_kept += num

    def _add(self, kept: KeptBoxes, segment: VideoTokens, first: int, moments: Moments) -> None:
        kept.add(segment, self._patches(self._local(segment, first), moments), first)

    @property
    def _grid(self) -> Grid:
        return Grid(self._seen.num_frames, *self._grid_hw)

    def _local(self, video: VideoTokens, first: int) -> VideoTokens:
        """Positions counted from frame ``first`` of the stream."""
        offset = video.positions.new_tensor([self._seen.first_t + first, 0, 0])
        return replace(video, positions=video.positions - offset)

    def _cells(self, video: VideoTokens, first: int) -> Tensor:
        """[N] int64 patch of each row, counted from frame ``first`` of the stream."""
        place_N3 = nearest_cells(self._local(video, first).positions)
        h, w = self._grid_hw
        return (place_N3[:, 0] * h + place_N3[:, 1]) * w + place_N3[:, 2]

    def _check_places(self, chunk: VideoTokens) -> None:
        place_N3 = nearest_cells(chunk.positions)
        if (places := len(torch.unique(place_N3, dim=0))) < len(chunk):
            raise ShapeError(
                f"a stream of {self._name!r} takes one token a patch, got {len(chunk)} tokens at "
                f"{places} patches: compress the video as a whole, or stream it before it is merged"
            )


def _part(chunk: VideoTokens, row_N: Tensor, num_frames: int) -> VideoTokens:
    """Some frames of a chunk, as a copy without provenance."""
    bare = replace(chunk, assign=None, weights=None, frame_extras={})
    return replace(bare.select(row_N.sort().values), grid=Grid(num_frames, *chunk.grid[1:]))


def _join(parts: list[VideoTokens]) -> VideoTokens:
    return VideoTokens.cat(parts)


def _first(cell_P: Tensor, num_rows: int) -> Tensor:
    """[K] int64 the first patch of each row."""
    patch_K = (cell_P >= 0).nonzero().squeeze(1)
    return group_min(patch_K, cell_P[patch_K], num_rows)
