"""A bank of bounded length at each place of the picture.

"MA-LMM: Memory-Augmented Large Multimodal Model for Long-Term Video Understanding" (He et al.,
2024).

Legend: P places, L rows of the longest bank, N rows, D features.
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from vidcomp.compress.base import About, Merge, Stream
from vidcomp.compress.merge._held import HeldRows, HeldStream, cells, groups_by_memory, places
from vidcomp.errors import BudgetError
from vidcomp.functional.similarity import paired_cosine
from vidcomp.registry import COMPRESSORS
from vidcomp.types import VideoTokens

__all__ = ["Banks", "MemoryBank", "level_shares"]


@COMPRESSORS.add("memory_bank")
class MemoryBank(Merge):
    """At each place of the picture, the most similar neighbours in time merge when a bank is full.

    From MA-LMM.  A frame's tokens join the banks of their places; a bank that is longer than its
    share merges the two neighbours that are most alike into their mass-weighted mean.  The shares
    of the budget are equal, the first places have one more where it does not divide, and what short
    banks do not need goes to the others.  With fewer tokens than places, areas of neighbouring
    places share a bank.

    Slots of different banks stand for different times; positions and spans tell which.  Mode
    ``published`` gives each bank ``length`` rows, whatever the budget.
    """

    about: ClassVar[About] = About(
        paper="MA-LMM: Memory-Augmented Large Multimodal Model for Long-Term Video Understanding "
        "(He, 2024), arXiv 2404.05726",
        cost="N D",
        scaling="linear",
    )
    streaming: ClassVar[bool] = True

    mode: Literal["exact", "published"] = "exact"
    """``exact``: banks share the budget.  ``published``: each has ``length`` rows, and more tokens
    than the budget are an error."""
    length: int = Field(20, ge=1)
    """Rows of a bank in mode ``published``."""

    @property
    def exact(self) -> bool:
        """False in mode ``published``."""
        return self.mode == "exact"

    def count(self, video: VideoTokens, budget: int) -> int:
        """The budget, or what banks of ``length`` hold.

        Raises:
            BudgetError: mode ``published`` holds more than the budget.
        """
        if self.mode == "exact":
            return budget
        rows_P = torch.bincount(cells(video))
        count = int(rows_P.clamp(max=self.length).sum())
        self._check(count, budget)
        return count

    def groups(self, video: VideoTokens, budget: int) -> Tensor:
        """[N] int64 slot of each row.

        Raises:
            BudgetError: mode ``published`` holds more than the budget.
        """
        self.count(video, budget)
        return groups_by_memory(video, self._banks(budget, video.grid[1:], keep_history=True))

    def _stream(self, budget: int, grid_hw: tuple[int, int], provenance: bool) -> Stream:
        if self.mode == "published":
            self._check(grid_hw[0] * grid_hw[1] * self.length, budget)
        banks = self._banks(budget, grid_hw, keep_history=provenance)
        return HeldStream(self.name, banks, grid_hw, provenance=provenance)

    def _banks(self, budget: int, grid_hw: tuple[int, int], *, keep_history: bool) -> "Banks":
        length = None if self.mode == "exact" else self.length
        num_cells = grid_hw[0] * grid_hw[1]
        most = budget if length is None else min(budget, num_cells * length)
        held = HeldRows(keep_history=keep_history, room=most + num_cells)
        return Banks(held, budget, grid_hw, length)

    def _check(self, count: int, budget: int) -> None:
        if count > budget:
            raise BudgetError(
                f"'memory_bank' with banks of length={self.length} holds {count} tokens, more than "
                f"a budget of {budget}: lower the length or use mode='exact'"
            )


class Banks:
    """The rows at each place in the order of time."""

    def __init__(
        self, held: HeldRows, budget: int, grid_hw: tuple[int, int], length: int | None
    ) -> None:
        self.held = held
        self._budget, self._grid_hw, self._length = budget, grid_hw, length
        num_cells = grid_hw[0] * grid_hw[1]
        num_places = num_cells if length is not None else min(budget, num_cells)
        self._length_P = torch.zeros(num_places, dtype=torch.int64)
        self._slot_PL = torch.zeros(num_places, 0, dtype=torch.int64)
        self._alike_PL = torch.zeros(num_places, 0)  # each with the next; -inf where there is none

    def take(self, slot_N: Tensor, cell_N: Tensor) -> None:
        """The next frame: slots of its rows, and cell h * w + w of each."""
        self._to(slot_N.device)
        place_N = places(cell_N, self._grid_hw, len(self._length_P))
        order_N = place_N.argsort(stable=True)
        starts = torch.ones_like(order_N, dtype=torch.bool)
        starts[1:] = place_N[order_N[1:]] != place_N[order_N[:-1]]
        row = torch.arange(len(order_N), device=slot_N.device)
        turn_N = row - row.masked_fill(~starts, 0).cummax(dim=0).values
        for turn in range(int(turn_N.max()) + 1):  # one row a place at a time
            mine = order_N[turn_N == turn]
            self._append(slot_N[mine], place_N[mine])
        if self._length is not None:
            self._shrink(self._length_P.clamp(max=self._length))
        elif int(self._length_P.sum()) > self._budget:
            self._shrink(level_shares(self._length_P, self._budget))

    def finish(self) -> None:
        """Nothing: banks are never too long."""

    def slots(self) -> Tensor:
        """[K] int64 slots in use, place by place."""
        column = torch.arange(self._slot_PL.shape[1], device=self._slot_PL.device)
        return self._slot_PL[column < self._length_P[:, None]]

    def _append(self, slot_N: Tensor, place_N: Tensor) -> None:
        column_N = self._length_P[place_N]
        if int(column_N.max()) >= (width := self._slot_PL.shape[1]):
            pad = (0, max(4, width // 4))
            self._slot_PL = torch.nn.functional.pad(self._slot_PL, pad, value=0)
            self._alike_PL = torch.nn.functional.pad(self._alike_PL, pad, value=-torch.inf)
        self._slot_PL[place_N, column_N] = slot_N
        self._length_P[place_N] += 1
        self._compare(place_N, column_N - 1)

    def _compare(self, place_J: Tensor, column_J: Tensor) -> None:
        """How alike the rows of ``column_J`` and the next are, where there are both."""
        there = (column_J >= 0) & (column_J + 1 < self._length_P[place_J])
        place_J, column_J = place_J[there], column_J[there]
        slots = (self._slot_PL[place_J, column] for column in (column_J, column_J + 1))
        x_SD = self.held.tokens
        self._alike_PL[place_J, column_J] = paired_cosine(x_SD, x_SD, *slots)

    def _shrink(self, share_P: Tensor) -> None:
        """Merges until every bank has its share, in all banks at once."""
        while len(place_J := (self._length_P > share_P).nonzero().squeeze(1)):
            alike_JL, slot_JL = self._alike_PL[place_J], self._slot_PL[place_J]
            at_J1 = alike_JL.argmax(dim=1, keepdim=True)
            self.held.merge(*slot_JL.gather(1, torch.cat([at_J1, at_J1 + 1], dim=1)).unbind(1))
            column_L = torch.arange(slot_JL.shape[1], device=slot_JL.device)
            last = slot_JL.shape[1] - 1
            # The second of the pair leaves the bank, and the similarity between the two with it.
            self._slot_PL[place_J] = slot_JL.gather(
                1, (column_L + (column_L > at_J1)).clamp(max=last)
            )
            alike_JL = alike_JL.gather(1, (column_L + (column_L >= at_J1)).clamp(max=last))
            self._length_P[place_J] -= 1
            beyond = column_L + 1 >= self._length_P[place_J, None]
            self._alike_PL[place_J] = alike_JL.masked_fill(beyond, -torch.inf)
            self._compare(place_J.repeat(2), torch.cat([at_J1[:, 0] - 1, at_J1[:, 0]]))

    def _to(self, device: torch.device) -> None:
        if self._length_P.device != device:
            self._length_P = self._length_P.to(device)
            self._slot_PL, self._alike_PL = self._slot_PL.to(device), self._alike_PL.to(device)


def level_shares(length_P: Tensor, total: int) -> Tensor:
    """[P] int64 shares up to one common level that sum to ``total``; the first may have one more.

    As ``apportion`` with equal wishes and caps, for one call a frame.

    Args:
        length_P: [P] int64 caps.
        total: at most their sum.
    """
    longer_L = torch.bincount(length_P).flip(0).cumsum(0).flip(0)[1:]  # banks of length >= 1, 2 ...
    level = int((longer_L.cumsum(0) <= total).sum())
    share_P = length_P.clamp(max=level)
    more = (length_P > level).nonzero().squeeze(1)[: total - int(share_P.sum())]
    share_P[more] += 1
    return share_P
