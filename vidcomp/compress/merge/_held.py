"""Rows that a memory holds: weighted means that grow as the video goes on, at slots used again.

A memory takes frames one by one, whatever the chunks, so that its merges do not depend on where
chunks end.  Means are kept in the wide type and rounded once, when they are asked for.

Legend: S slots, N rows of a frame or video, J rows that merge, D features.
"""

import copy
from collections.abc import Iterator
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from vidcomp.compress._online import Seen
from vidcomp.compress.base import Stream
from vidcomp.errors import ShapeError
from vidcomp.functional.geometry import nearest_cells, raster_order
from vidcomp.functional.grids import without_gaps
from vidcomp.functional.merge import float_rows, merge_in_order
from vidcomp.functional.reduce import wide
from vidcomp.types import Grid, VideoTokens

__all__ = ["HeldRows", "HeldStream", "Memory", "cells", "groups_by_memory", "places"]


_BLOCK = 1 << 17
"""Numbers that are averaged at a time: they stay in the processor's cache."""


class HeldRows:
    """Means of rows and what belongs to them, by slot.

    Args:
        keep_history: remember what merged with what.
        room: slots that will be needed; more are made when they are.
    """

    def __init__(self, *, keep_history: bool, room: int = 0) -> None:
        self._room = room
        self._fields: dict[str, Tensor] = {}
        self._free = torch.zeros(0, dtype=torch.int64)
        self._joins: list[Tensor] | None = [] if keep_history else None
        self.num_rows = 0
        """Rows that were ever added."""

    def __len__(self) -> int:
        """Slots in use."""
        return self.mass.shape[0] - len(self._free) if self._fields else 0

    @property
    def tokens(self) -> Tensor:
        """[S, D] means, in the wide type."""
        return self._fields["tokens"]

    @property
    def mass(self) -> Tensor:
        """[S] masses, in the wide type."""
        return self._fields["mass"]

    @property
    def first(self) -> Tensor:
        """[S] int64 number of the first row that went in."""
        return self._fields["first"]

    def field(self, name: str, slot_N: Tensor) -> Tensor:
        """[N, ...] means of ``name``, in the wide type (spans as they are)."""
        return self._fields[name][slot_N]

    def names(self) -> list[str]:
        """What is held for each row."""
        return list(self._fields)

    def add(self, rows: dict[str, Tensor]) -> Tensor:
        """[N] int64 slots of new rows, given with ``tokens``, ``mass`` and more [N, ...] each."""
        n = len(rows["tokens"])
        device = rows["tokens"].device
        number_N = torch.arange(self.num_rows, self.num_rows + n, device=device)
        rows = rows | {"first": number_N}
        self.num_rows += n
        if len(self._free) < n or not self._fields:
            self._grow(rows, n - len(self._free))
        slot_N, self._free = self._free[:n], self._free[n:].clone()
        for name, value in rows.items():
            field = self._fields[name]
            for part in _parts(n, field):
                field.index_copy_(0, slot_N[part], value[part].to(field.dtype))
        return slot_N

    def merge(self, into_J: Tensor, gone_J: Tensor) -> None:
        """Pairs of slots become their weighted mean at ``into_J``; no slot is there twice."""
        if self._joins is not None:
            self._joins.append(torch.stack([self.first[gone_J], self.first[into_J]]))
        mass_J = self.mass[into_J] + self.mass[gone_J]
        share_J = torch.where(mass_J > 0, self.mass[gone_J] / mass_J, 0.5)
        for name, value in self._fields.items():
            if name == "spans":
                old, new = value[into_J], value[gone_J]
                start_J = torch.minimum(old[:, 0], new[:, 0])
                value[into_J] = torch.stack([start_J, torch.maximum(old[:, 1], new[:, 1])], dim=1)
            elif name not in ("mass", "first"):
                weight = share_J.reshape(-1, *[1] * (value.ndim - 1))
                for part in _parts(len(into_J), value):
                    old, new = (value.index_select(0, j[part]) for j in (into_J, gone_J))
                    value.index_copy_(0, into_J[part], new.sub_(old).mul_(weight[part]).add_(old))
        self._fields["mass"][into_J] = mass_J
        self._free = torch.cat([gone_J, self._free])

    def merge_runs(self, slot_N: Tensor, joined_N: Tensor) -> None:
        """Runs of slots become one each, at the slot of the first of a run.

        Args:
            slot_N: different slots.
            joined_N: [N] bool: the slot goes to the one before it; False for the first.
        """
        head_N = torch.arange(len(slot_N), device=slot_N.device).masked_fill(joined_N, 0)
        head_N = head_N.cummax(dim=0).values
        step_N = torch.arange(len(slot_N), device=slot_N.device) - head_N
        for step in range(1, int(step_N.max()) + 1 if len(slot_N) else 0):
            member_J = (step_N == step).nonzero().squeeze(1)
            self.merge(slot_N[head_N[member_J]], slot_N[member_J])

    def groups(self) -> Tensor:
        """[number of rows ever added] int64 number of the first row of the mean that each is in."""
        root_N = torch.arange(self.num_rows)
        if self._joins:
            gone, into = torch.cat(self._joins, dim=1).cpu()
            root_N[gone] = into
        while not torch.equal(root_N, further_N := root_N[root_N]):
            root_N = further_N
        return root_N

    def _grow(self, rows: dict[str, Tensor], missing: int) -> None:
        used = len(self._free) + len(self)
        # Room that a short video would never need is not made at once.
        more = max(missing, used // 4, min(self._room - used, 4 * (used + missing)))
        for name, value in rows.items():
            exact = name == "spans" or not value.is_floating_point()
            dtype = value.dtype if exact else wide(value[:0]).dtype
            new = value.new_empty(more, *value.shape[1:], dtype=dtype)
            old = self._fields.get(name)
            self._fields[name] = new if old is None else torch.cat([old, new])
        slots = torch.arange(used, used + more, device=rows["tokens"].device)
        self._free = torch.cat([self._free.to(slots.device), slots])


def _parts(num_rows: int, x: Tensor) -> Iterator[slice]:
    """Rows of ``x`` that are taken together."""
    step = num_rows if x.is_cuda else _BLOCK // max(1, x.shape[1:].numel())
    return (slice(i, i + max(1, step)) for i in range(0, num_rows, max(1, step)))


class Memory(Protocol):
    """What decides which of the held rows merge."""

    held: HeldRows

    def take(self, slot_N: Tensor, cell_N: Tensor) -> None:
        """The next frame: slots of its rows, and cell h * w + w of each."""

    def finish(self) -> None:
        """What is left to do when no more frames come."""

    def slots(self) -> Tensor:
        """[K] int64 slots in use."""


class HeldStream(Stream):
    """The stream of a memory."""

    def __init__(
        self, name: str, memory: Memory, grid_hw: tuple[int, int], *, provenance: bool
    ) -> None:
        self._seen = Seen(name, grid_hw, provenance)
        self._grid_hw = grid_hw
        self._memory = memory
        self._like: VideoTokens | None = None
        # Provenance, positions and spans of all rows, with tokens of no features.
        self._past: VideoTokens | None = None
        self._provenance = provenance

    def update(self, chunk: VideoTokens) -> None:
        """Take the next frames.

        Raises:
            ShapeError: a chunk of another grid, width or type, or one that goes back in time.
        """
        float_rows("tokens", chunk.tokens)
        for name, value in chunk.extras.items():
            float_rows(name, value)
        chunk = self._seen.admit(chunk)
        self._like = replace(
            chunk.select(torch.zeros(0, dtype=torch.int64)),
            assign=None,
            weights=None,
            frame_extras={},
        )
        if self._provenance:
            bare = replace(chunk, tokens=chunk.tokens.new_zeros(len(chunk), 0), extras={})
            self._past = self._seen.join(self._past, bare)
        _feed(chunk, self._memory, everything=True)

    def result(self) -> VideoTokens:
        """What remains of all that was seen, in raster order.

        Raises:
            ShapeError: nothing was seen yet.
        """
        if self._like is None:
            raise ShapeError(
                "the result of a stream needs at least one chunk, got none: call update first"
            )
        memory = copy.deepcopy(self._memory)
        memory.finish()
        slot_K, held = memory.slots(), memory.held
        if not len(slot_K):
            return replace(self._like, grid=Grid(self._seen.num_frames, *self._grid_hw))
        positions_K3 = held.field("positions", slot_K).float()
        slot_K = slot_K[raster_order(positions_K3, held.first[slot_K])]
        out = self._rows(held, slot_K)
        if self._past is None:
            return out
        rank_N = held.first.new_zeros(held.num_rows)
        rank_N[held.first[slot_K]] = torch.arange(len(slot_K), device=slot_K.device)
        group_N = rank_N[held.groups().to(slot_K.device)]
        past = merge_in_order(self._past, group_N)
        return replace(past, tokens=out.tokens, extras=out.extras)

    def _rows(self, held: HeldRows, slot_K: Tensor) -> VideoTokens:
        like = self._like
        assert like is not None  # noqa: S101  # the caller checked
        return VideoTokens(
            tokens=held.field("tokens", slot_K).to(like.tokens.dtype),
            positions=held.field("positions", slot_K).float(),
            spans=held.field("spans", slot_K),
            mass=held.field("mass", slot_K).float(),
            grid=Grid(self._seen.num_frames, *self._grid_hw),
            extras={
                name: held.field(f"extras.{name}", slot_K).to(value.dtype)
                for name, value in like.extras.items()
            },
        )


def groups_by_memory(video: VideoTokens, memory: Memory) -> Tensor:
    """[N] int64 groups, without gaps, into which a memory merges a whole video.

    The memory's rows have to keep their history.
    """
    float_rows("tokens", video.tokens)
    order_N = _feed(video, memory, everything=False)
    memory.finish()
    group_N = without_gaps(memory.held.groups().to(order_N.device))
    out_N = torch.empty_like(group_N)
    out_N[order_N] = group_N
    return out_N


def cells(video: VideoTokens) -> Tensor:
    """[N] int64 cell h * w + w of the frame that each row is nearest to."""
    cell_N2 = nearest_cells(video.positions[:, 1:])
    return cell_N2[:, 0] * video.grid.w + cell_N2[:, 1]


def places(cell_N: Tensor, grid_hw: tuple[int, int], most: int) -> Tensor:
    """[N] int64 number of the place of each cell: itself, or one of ``most`` areas.

    Args:
        cell_N: h * w + w of each row.
        grid_hw: the frame's grid.
        most: places that there may be; with fewer than cells, the frame is cut into that many areas
            of about one size and shape: strips, each into its share of areas.
    """
    height, width = grid_hw
    if most >= height * width:
        return cell_N
    least, largest = -(-most // width), min(height, most)
    strips = min(max(round((most * height / width) ** 0.5), least), largest)
    h_N, w_N = cell_N // width, cell_N % width
    strip_N = _part(h_N, height, torch.full_like(h_N, strips))
    first_N = _start(strip_N, most, strips)
    return first_N + _part(w_N, width, _start(strip_N + 1, most, strips) - first_N)


def _start(part: Tensor, size: int, bins: int) -> Tensor:
    return part * size // bins


def _part(index_N: Tensor, size: int, bins_N: Tensor) -> Tensor:
    """Which of ``bins_N`` nearly equal parts of 0..size - 1 each index lies in."""
    return ((index_N + 1) * bins_N - 1) // size


def _feed(video: VideoTokens, memory: Memory, *, everything: bool) -> Tensor:
    """All frames to a memory, one by one; [N] rows in the order in which they went in."""
    order_N, counts = _frames(video)
    rows = {"tokens": video.tokens.detach(), "mass": video.mass}
    if everything:
        rows |= {"positions": video.positions, "spans": video.spans}
        rows |= {f"extras.{name}": value.detach() for name, value in video.extras.items()}
    cell_N = cells(video)
    for row_n in torch.split(order_N, counts):
        frame = {name: value.index_select(0, row_n) for name, value in rows.items()}
        slot_n = memory.held.add(frame)
        memory.take(slot_n, cell_N[row_n])
    return order_N


def _frames(video: VideoTokens) -> tuple[Tensor, list[int]]:
    """Rows by frame (one between two belongs to the nearer), and how many each frame has."""
    if not len(video):
        return torch.zeros(0, dtype=torch.int64), []
    frame_N = nearest_cells(video.positions[:, 0])
    order_N = frame_N.argsort(stable=True)
    counts = torch.bincount(frame_N - frame_N[order_N[0]])
    return order_N, counts[counts > 0].tolist()
