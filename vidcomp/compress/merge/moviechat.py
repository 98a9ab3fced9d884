"""A memory of whole frames: the most similar neighbours in time merge.

"MovieChat: From Dense Token to Sparse Memory for Long Video Understanding" (Song et al., 2023).

Legend: N rows of a frame or of two, D features.
"""

from dataclasses import replace
from itertools import pairwise
from typing import ClassVar, Literal, NamedTuple, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from vidcomp.compress.base import About, Compressor, Kind, Stream
from vidcomp.compress.merge._held import HeldRows, HeldStream, groups_by_memory, places
from vidcomp.errors import BudgetError, ConfigError
from vidcomp.functional.geometry import check_dense
from vidcomp.functional.merge import float_rows, merge, merge_by_assignment, merge_in_order
from vidcomp.functional.reduce import group_sum, wide
from vidcomp.functional.select import stable_topk
from vidcomp.functional.similarity import paired_cosine
from vidcomp.registry import COMPRESSORS
from vidcomp.types import VideoTokens

__all__ = ["FrameMemory", "MovieChat", "halves"]


@COMPRESSORS.add("moviechat")
class MovieChat(Compressor):
    """Neighbouring frames that are most alike become their mean, frame by frame of the memory.

    From MovieChat.  Frames gather in a short memory of ``short`` frames.  When it is full it is
    handed to the long memory, reduced to its fair share of the budget (at least ``merged`` frames);
    then the most similar neighbours anywhere in the long memory merge until the budget is met.  Two
    frames merge place by place into mass-weighted means, and are as alike as the mean cosine of
    their places; of the last pair only the most similar places merge, so that the count is exact.
    With fewer tokens than places, areas of neighbouring places count as one.

    Mode ``published`` does as the original: every full short memory becomes ``merged`` frames, what
    is left over stays as it is, means are unweighted halves (the latest frames weigh most), and
    frames are as alike as the mean dot product of all pairs of their patches, so that long vectors
    win over similar ones.
    """

    kind: ClassVar[Kind] = "merge"
    about: ClassVar[About] = About(
        paper="MovieChat: From Dense Token to Sparse Memory for Long Video Understanding "
        "(Song, 2023), arXiv 2307.16449",
        cost="N D",
        scaling="linear",
    )
    streaming: ClassVar[bool] = True

    mode: Literal["exact", "published"] = "exact"
    """``exact``: the budget, by weighted means and cosines.  ``published``: the original, whose
    count ``short`` and ``merged`` decide; one above the budget is an error."""
    short: int = Field(18, ge=2)
    """Frames of the short memory."""
    merged: int = Field(2, ge=1)
    """Frames that a full short memory becomes, at least."""

    @model_validator(mode="after")
    def _check_lengths(self) -> Self:
        if self.merged >= self.short:
            raise ConfigError(
                f"'moviechat' merges {self.short} frames of its short memory into fewer, got "
                f"merged={self.merged}: make it less than short"
            )
        return self

    @property
    def exact(self) -> bool:
        """False in mode ``published``."""
        return self.mode == "exact"

    def count(self, video: VideoTokens, budget: int) -> int:
        """The budget, or what is left of full short memories and of the last frames.

        Raises:
            BudgetError: mode ``published`` leaves more than the budget.
            ShapeError: mode ``published`` and the grid is not dense.
        """
        if self.mode == "exact":
            return budget
        check_dense(video)
        full, rest = divmod(video.grid.t, self.short)
        count = (full * self.merged + rest) * video.grid.per_frame
        if count > budget:
            raise BudgetError(
                f"'moviechat' with short={self.short} and merged={self.merged} leaves {count} "
                f"tokens, more than a budget of {budget}: change them or use mode='exact'"
            )
        return count

    def reduce(self, video: VideoTokens, budget: int) -> VideoTokens:
        """The memory after the last frame."""
        if self.mode == "exact":
            memory = self._memory(budget, video.grid[1:], keep_history=True)
            return merge(video, groups_by_memory(video, memory))
        self.count(video, budget)
        return self._published(video)

    def _stream(self, budget: int, grid_hw: tuple[int, int], provenance: bool) -> Stream:
        if self.mode == "published":
            raise ConfigError(
                "'moviechat' has no online form in mode 'published', whose memory grows with the "
                "video: use mode='exact'"
            )
        memory = self._memory(budget, grid_hw, keep_history=provenance)
        return HeldStream(self.name, memory, grid_hw, provenance=provenance)

    def _published(self, video: VideoTokens) -> VideoTokens:
        """Tokens are unweighted halves; all that belongs to them is as of any merged tokens."""
        num_frames, n = video.grid.t, video.grid.per_frame
        x_ND = float_rows("tokens", video.tokens)
        frame_N = torch.arange(num_frames).repeat_interleave(n).to(x_ND.device)
        mean_TD = group_sum(x_ND.detach(), frame_N, num_frames) / n
        group_T, share_T = halves(mean_TD, self.short, self.merged)
        place_N = torch.arange(n).repeat(num_frames).to(x_ND.device)
        group_N = group_T.to(x_ND.device)[frame_N] * n + place_N
        share_N = wide(share_T).to(x_ND.device)[frame_N]
        num_groups = (int(group_T.max()) + 1) * n
        tokens, _ = merge_by_assignment(x_ND, share_N, group_N, num_groups)
        return replace(merge_in_order(video, group_N), tokens=tokens)

    def _memory(
        self, budget: int, grid_hw: tuple[int, int], *, keep_history: bool
    ) -> "FrameMemory":
        # The long memory is within the budget whenever the short one is empty.
        room = budget + self.short * grid_hw[0] * grid_hw[1]
        held = HeldRows(keep_history=keep_history, room=room)
        return FrameMemory(held, budget, grid_hw, self.short, self.merged)


class _Frame(NamedTuple):
    """Rows of one frame of the memory, or of several that were merged, by ascending place."""

    slot: Tensor
    place: Tensor


class FrameMemory:
    """Frames in the order of time, with how alike each is to the next."""

    def __init__(
        self, held: HeldRows, budget: int, grid_hw: tuple[int, int], short: int, merged: int
    ) -> None:
        self.held = held
        self._budget, self._grid_hw, self._short, self._merged = budget, grid_hw, short, merged
        self._frames: list[_Frame] = []
        self._alike: list[float] = []
        self._num_long = 0  # frames of the long memory; those after are the short one

    def take(self, slot_N: Tensor, cell_N: Tensor) -> None:
        """The next frame: slots of its rows, and cell h * w + w of each."""
        place_N = places(cell_N, self._grid_hw, self._budget)
        order_N = place_N.argsort(stable=True)
        self._frames.append(_Frame(slot_N[order_N], place_N[order_N]))
        if len(self._frames) > 1:
            self._alike.append(self._likeness(len(self._frames) - 2))
        if len(self._frames) - self._num_long == self._short:
            self.finish()

    def finish(self) -> None:
        """The short memory goes to the long one, and the budget is met."""
        start, seen = self._num_long, max(1, self.held.num_rows)
        fair = -(-self._budget * self._num_rows(start) // seen)
        while (
            len(self._frames) - start > self._merged
            and self._excess() > 0
            and self._num_rows(start) > fair
        ):
            self._merge_best(start)
        while len(self._frames) > 1 and self._excess() > 0:
            self._merge_best(0)
        if self._excess() > 0:  # one frame is left, and areas have several rows of it
            slot_N, place_N = self._frames[0]
            kept = ~self._join(slot_N, place_N)
            self._frames[0] = _Frame(slot_N[kept], place_N[kept])
        self._num_long = len(self._frames)

    def slots(self) -> Tensor:
        """[K] int64 slots in use, frame by frame."""
        slots = [frame.slot for frame in self._frames]
        return torch.cat(slots) if slots else torch.zeros(0, dtype=torch.int64)

    def _num_rows(self, start: int) -> int:
        return sum(len(frame.slot) for frame in self._frames[start:])

    def _excess(self) -> int:
        return len(self.held) - self._budget

    def _likeness(self, i: int) -> float:
        """Mean cosine of frames ``i`` and ``i + 1`` over the places of both; -2 without any."""
        one, two = self._frames[i], self._frames[i + 1]
        at_N = torch.searchsorted(one.place, two.place).clamp(max=len(one.place) - 1)
        both = one.place[at_N] == two.place
        if not bool(both.any()):
            return -2.0
        x_SD = self.held.tokens
        alike_N = paired_cosine(x_SD, x_SD, one.slot[at_N[both]], two.slot[both])
        return float(wide(alike_N).mean().float())

    def _merge_best(self, start: int) -> None:
        """The most similar neighbours from frame ``start`` on merge, as far as the budget needs."""
        i = max(range(start, len(self._alike)), key=lambda k: (self._alike[k], -k))
        one, two = self._frames[i : i + 2]
        slot_N, place_N = torch.cat([one.slot, two.slot]), torch.cat([one.place, two.place])
        order_N = place_N.argsort(stable=True)
        slot_N, place_N = slot_N[order_N], place_N[order_N]
        kept = ~self._join(slot_N, place_N)
        # What the budget lets stand of the second frame stays behind the first.
        late = (order_N >= len(one.slot)) & (self._excess() == 0)
        parts = [_Frame(slot_N[m], place_N[m]) for m in (kept & ~late, kept & late)]
        parts = [frame for frame in parts if len(frame.slot)]
        self._frames[i : i + 2] = parts
        self._alike[i : i + 1] = [0.0] * (len(parts) - 1)
        for k in range(max(0, i - 1), min(i + len(parts), len(self._alike))):
            self._alike[k] = self._likeness(k)

    def _join(self, slot_N: Tensor, place_N: Tensor) -> Tensor:
        """Rows of one place merge, the most similar first, until the budget is met.

        Args:
            slot_N: rows by ascending place, within a place by time.
            place_N: their places.

        Returns:
            [N] bool: the row went to the one before it.
        """
        may_N = torch.zeros_like(place_N, dtype=torch.bool)
        may_N[1:] = place_N[1:] == place_N[:-1]
        joined_N = may_N
        if int(may_N.sum()) > (needed := self._excess()):
            row_J = may_N.nonzero().squeeze(1)
            x_SD = self.held.tokens
            alike_J = paired_cosine(x_SD, x_SD, slot_N[row_J - 1], slot_N[row_J])
            joined_N = torch.zeros_like(may_N)
            joined_N[row_J[stable_topk(alike_J, needed)]] = True
        self.held.merge_runs(slot_N, joined_N)
        return joined_N


def halves(mean_TD: Tensor, short: int, merged: int) -> tuple[Tensor, Tensor]:
    """Which frames the original merges, and how much each counts.

    The mean dot product of all pairs of patches of two frames is that of the frames' means, and a
    half of two frames has the half of their means.

    Args:
        mean_TD: mean patch of each frame, in the wide type.
        short: frames of a full short memory.
        merged: frames that it becomes.

    Returns:
        [T] int64 frame of the memory that each frame went to, and [T] float64 its share of that.
    """
    group_T, share_T = [0] * len(mean_TD), [1.0] * len(mean_TD)
    num_left = 0
    for start in range(0, len(mean_TD), short):
        window = range(start, min(start + short, len(mean_TD)))
        frames = [(mean_TD[t], [t]) for t in window]
        while len(frames) > merged and len(window) == short:
            alike = [float((a @ b).float()) for (a, _), (b, _) in pairwise(frames)]
            i = alike.index(max(alike))
            (a, one), (b, two) = frames[i : i + 2]
            for t in (*one, *two):
                share_T[t] /= 2
            frames[i : i + 2] = [((a + b) / 2, one + two)]
        for _, members in frames:
            for t in members:
                group_T[t] = num_left
            num_left += 1
    return torch.tensor(group_T), torch.tensor(share_T, dtype=torch.float64)
