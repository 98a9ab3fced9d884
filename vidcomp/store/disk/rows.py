"""Some rows of a record, checked, without the rest of it: what is read, and what it makes.

Nothing here opens a file: ``fetch`` reads byte ranges of the record.
"""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor

from vidcomp.errors import ShapeError, StoreCorruptError
from vidcomp.store.disk.blocks import check_head, check_rows
from vidcomp.store.disk.format import digest, escape_key
from vidcomp.store.disk.layout import BLOCK_ROWS, Counts, Field, Layout, Place, view_bytes
from vidcomp.store.disk.record import decode_tokens, unpack, unpack_rest
from vidcomp.store.disk.types import Location
from vidcomp.types import VideoTokens

__all__ = ["GAP_BYTES", "Fetch", "RangePlan", "in_window", "joined", "read_rows", "read_window"]

GAP_BYTES = 64 << 10
"""Ranges that lie so close are one read: on a disk that costs less than another one."""

Range: TypeAlias = tuple[int, int]
Fetch: TypeAlias = Callable[[list[Range]], Sequence[memoryview]]
"""Bytes of each range ``(start, stop)`` of a record, counted from the record's first byte."""


def read_rows(
    key: str, place: Location, start: int, stop: int, fetch: Fetch,
    *, verify: bool = True, gap: int = GAP_BYTES,
) -> VideoTokens:  # fmt: skip
    """Rows ``start`` to ``stop`` of a record, as ``select`` gives them of all of it.

    Args:
        key: of the record, not escaped.
        place: of the record, already known to fit into its file.
        start: the first row.
        stop: the row after the last one.
        fetch: is called once.
        verify: check the bytes.
        gap: ranges so many bytes apart, or less, are read as one.

    Raises:
        ShapeError: there are no such rows.
        StoreCorruptError: bytes that are not those that were written.
    """
    n = place.counts.num_tokens
    if not 0 <= start <= stop <= n:
        raise ShapeError(
            f"{key!r} has rows 0 to {n}, cannot give {start} to {stop}: ask for rows it has"
        )
    index = torch.arange(start, stop)
    if not _in_parts(place):
        return _whole(key, place, fetch, verify).select(index)
    plan = RangePlan(place.layout, place.counts, index)
    ranges = joined([*plan.head, *plan.rows], gap)
    return _assembled(key, plan, _Cut(ranges, fetch(ranges)), verify)


def read_window(
    key: str, place: Location, start_s: float, end_s: float, fetch: Fetch,
    *, verify: bool = True, gap: int = GAP_BYTES,
) -> VideoTokens:  # fmt: skip
    """Rows of a record that are seen in ``[start_s, end_s)``, as ``in_window`` chooses them.

    Args:
        key: of the record, not escaped.
        place: of the record, already known to fit into its file.
        start_s: seconds.
        end_s: seconds.
        fetch: is called once for a short record, else twice: for times, and then for rows.
        verify: check the bytes.
        gap: ranges so many bytes apart, or less, are read as one.

    Raises:
        ShapeError: the window does not end after it starts.
        StoreCorruptError: bytes that are not those that were written.
    """
    layout, counts = place.layout, place.counts
    if not _in_parts(place):
        video = _whole(key, place, fetch, verify)
        return video.select(in_window(video.spans, start_s, end_s))
    plan = RangePlan(layout, counts, torch.arange(0))
    size = layout.places(counts).nbytes
    ranges = [(0, size)] if size <= gap else joined(plan.head, gap)
    cut = _Cut(ranges, fetch(ranges))
    if verify:
        _check_head(key, plan, cut)
    spans = next(p for p in layout.places(counts).tensors if p.name == "spans")
    index = in_window(view_bytes(cut.bytes(spans.start, spans.stop), spans, 0), start_s, end_s)
    plan = RangePlan(layout, counts, index)
    if size > gap:
        more = joined([r for r in plan.rows if not cut.has(*r)], gap)
        cut = _Cut(cut.ranges + more, [*cut.data, *(fetch(more) if more else [])])
    return _assembled(key, plan, cut, verify)


def in_window(spans_N2: Tensor, start_s: float, end_s: float) -> Tensor:
    """Which tokens are seen in ``[start_s, end_s)``, seconds: spans that overlap it.

    Times are compared as float32, the type of spans; a span without length is a moment, and
    counts if it lies in the window.

    Returns:
        [K] int64 rows, rising.

    Raises:
        ShapeError: the window does not end after it starts.
    """
    if not start_s < end_s:
        raise ShapeError(
            f"a window of time ends after it starts, got {start_s} to {end_s}: swap or widen it"
        )
    start, end = torch.tensor([start_s, end_s], dtype=torch.float32)
    begins, ends = spans_N2.unbind(1)
    seen: Tensor = (begins < end) & ((ends > start) | (begins >= start))
    return seen.nonzero().squeeze(1)


def joined(ranges: Sequence[Range], gap: int) -> list[Range]:
    """The ranges in order, those that overlap or lie at most ``gap`` bytes apart made one."""
    out: list[Range] = []
    for start, stop in sorted(r for r in ranges if r[0] < r[1]):
        if out and start - out[-1][1] <= gap:
            out[-1] = (out[-1][0], max(stop, out[-1][1]))
        else:
            out.append((start, stop))
    return out


class _Run(NamedTuple):
    """Consecutive rows of whole blocks."""

    start: int
    stop: int


@dataclass(frozen=True)
class RangePlan:
    """Which bytes of a record hold some of its rows, and what checks them.

    The record must have block checks.
    """

    layout: Layout
    counts: Counts
    index: Tensor
    """[K] int64 rows that are wanted, rising."""

    @cached_property
    def head(self) -> list[Range]:
        """What every partial read needs: block checks, spans, and all fields without rows."""
        chosen = {"blocks", *(field.name for field in self.layout.head_fields)}
        return [(p.start, p.stop) for p in self.places if p.name in chosen]

    @cached_property
    def rows(self) -> list[Range]:
        """The wanted rows, whole blocks of them, of each field that has rows."""
        return [self.row_range(f, run) for f in self.layout.block_fields for run in self.runs]

    @cached_property
    def runs(self) -> list[_Run]:
        """Rows of the blocks that hold the wanted ones."""
        n = self.counts.num_tokens
        runs: list[_Run] = []
        for block in np.unique(self.index.numpy() // BLOCK_ROWS).tolist():
            start, stop = block * BLOCK_ROWS, min((block + 1) * BLOCK_ROWS, n)
            if runs and runs[-1].stop == start:
                runs[-1] = _Run(runs[-1].start, stop)
            else:
                runs.append(_Run(start, stop))
        return runs

    @property
    def places(self) -> tuple[Place, ...]:
        """All tensors of the record."""
        return self.layout.places(self.counts).tensors

    def row_range(self, field: Field, run: _Run) -> Range:
        """Bytes of consecutive rows of a field."""
        place = self._by_name[field.name]
        size = (place.stop - place.start) // self.counts.num_tokens
        return place.start + run.start * size, place.start + run.stop * size

    @cached_property
    def _by_name(self) -> dict[str, Place]:
        return {place.name: place for place in self.places}


class _Cut:
    """Bytes of some ranges of a record."""

    def __init__(self, ranges: list[Range], data: Sequence[memoryview]) -> None:
        self.ranges: list[Range] = []
        self.data: list[memoryview] = []
        pairs = sorted(zip(ranges, data, strict=True), key=lambda p: (p[0][0], -p[0][1]))
        for found, part in pairs:
            # Without ranges inside of others, the last one that begins early enough reaches
            # farthest, though two may overlap.
            if not self.ranges or found[1] > self.ranges[-1][1]:
                self.ranges.append(found)
                self.data.append(memoryview(part))
        self._starts = [start for start, _ in self.ranges]

    def has(self, start: int, stop: int) -> bool:
        """Whether all bytes of a range are there."""
        i = bisect_right(self._starts, start) - 1
        return i >= 0 and stop <= self.ranges[i][1]

    def bytes(self, start: int, stop: int) -> memoryview:
        """Bytes of a range that is there."""
        if start == stop:
            return memoryview(b"")
        i = bisect_right(self._starts, start) - 1
        return self.data[i][start - self._starts[i] : stop - self._starts[i]]


def _in_parts(place: Location) -> bool:
    """Whether rows can be read alone."""
    return place.layout.has_blocks and place.counts.num_tokens > 0


def _whole(key: str, place: Location, fetch: Fetch, verify: bool) -> VideoTokens:
    (data,) = fetch([(0, place.nbytes)])
    if verify and digest(data) != place.checksum:
        raise StoreCorruptError(
            f"{key!r} has other bytes than were written: run verify, then extract the video again"
        )
    return unpack(memoryview(data), place.layout, place.counts)


def _check_head(key: str, plan: RangePlan, cut: _Cut) -> memoryview:
    """Checks the head; returns the block checks."""
    found = {p.name: cut.bytes(p.start, p.stop) for p in plan.places if cut.has(p.start, p.stop)}
    head = [found.get(field.name, memoryview(b"")) for field in plan.layout.head_fields]
    check_head(escape_key(key), found["blocks"], head)
    return found["blocks"]


def _check_rows(plan: RangePlan, blocks: memoryview, cut: _Cut) -> None:
    for run in plan.runs:
        for start in range(run.start, run.stop, BLOCK_ROWS):
            block = _Run(start, min(start + BLOCK_ROWS, run.stop))
            parts = (cut.bytes(*plan.row_range(f, block)) for f in plan.layout.block_fields)
            check_rows(blocks, start // BLOCK_ROWS, list(parts))


def _assembled(key: str, plan: RangePlan, cut: _Cut, verify: bool) -> VideoTokens:
    """The video of the wanted rows."""
    layout, counts = plan.layout, plan.counts
    if verify:
        _check_rows(plan, _check_head(key, plan, cut), cut)
    n, heads = counts.num_tokens, {field.name for field in layout.head_fields}
    fixed = {
        p.name: view_bytes(cut.bytes(p.start, p.stop), p, 0) for p in plan.places if p.name in heads
    }
    rows = {field.name: _gather(plan, field, cut) for field in layout.block_fields}
    tokens = decode_tokens({**rows, **fixed}, layout, counts)
    try:
        # A video of all rows but for what they hold: provenance is cut where it always is.
        video = VideoTokens(
            tokens=torch.zeros(1, dtype=torch.int64).expand(n),
            positions=torch.zeros(1, 1).expand(n, 3),
            spans=fixed["spans"],
            mass=torch.zeros(1).expand(n),
            grid=counts.grid,
            **unpack_rest(fixed, layout, counts),
        ).select(plan.index)
        return replace(
            video,
            tokens=tokens,
            positions=rows["positions"],
            mass=rows["mass"],
            extras={name: rows[field] for field, name in layout.extras},
        )
    except (KeyError, ValueError) as error:
        raise StoreCorruptError(
            f"the fields of {key!r} make no tokens ({error}): run verify"
        ) from error


def _gather(plan: RangePlan, field: Field, cut: _Cut) -> Tensor:
    """The wanted rows of a field."""
    index, inner = plan.index, field.sizes(plan.counts)[1:]
    if len(plan.runs) <= 1:
        first = int(index[0]) if len(index) else 0
        last = int(index[-1]) if len(index) else -1
        start, stop = plan.row_range(field, _Run(first, last + 1))
        span = Place(field.name, field.dtype, (last + 1 - first, *inner), start, stop)
        rows = view_bytes(cut.bytes(start, stop), span, 0)
        return rows if len(rows) == len(index) else rows[index - first]
    parts = [cut.bytes(*plan.row_range(field, run)) for run in plan.runs]
    data = memoryview(bytearray().join(parts))
    lengths = torch.tensor([run.stop - run.start for run in plan.runs])
    starts = torch.tensor([run.start for run in plan.runs])
    run = torch.searchsorted(starts, index, right=True) - 1
    local = index - starts[run] + (lengths.cumsum(0) - lengths)[run]
    sizes = (int(lengths.sum()), *inner)
    return view_bytes(data, Place(field.name, field.dtype, sizes, 0, len(data)), 0)[local]
