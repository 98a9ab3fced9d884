"""Tokens of events at several levels of detail.

Chat-UniVi: Unified Visual Representation Empowers Large Language Models with Image and Video
Understanding (Jin et al., 2023).

Legend: N tokens, n of an event or frame, T frames, M means, K new tokens, D features, E events or
entries of a sparse matrix.
"""

import math
from typing import ClassVar, Literal, NamedTuple, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from vidcomp.budget import apportion
from vidcomp.compress.base import About, Compressor, Kind
from vidcomp.errors import BudgetError
from vidcomp.functional.allocate import shares
from vidcomp.functional.cluster import density_peaks
from vidcomp.functional.geometry import frame_numbers, in_raster_order
from vidcomp.functional.grids import without_gaps
from vidcomp.functional.merge import float_rows, merge_by_assignment, resample
from vidcomp.functional.provenance import sparse_matrix
from vidcomp.functional.reduce import group_min, real
from vidcomp.functional.segment import frame_means
from vidcomp.registry import COMPRESSORS
from vidcomp.types import VideoTokens

__all__ = ["ChatUniVi"]


class _Rows(NamedTuple):
    """Means of some of a video's tokens."""

    x: Tensor
    """[M, D] float32 (float64 for float64)."""
    mass: Tensor
    """[M] what each counts in the next mean."""
    group: Tensor
    """[n] int64 the mean that each of the tokens is part of."""
    share: Tensor
    """[n] weight of each token in it."""


@COMPRESSORS.add("chat_univi")
class ChatUniVi(Compressor):
    """Each event of a video is told several times over, in ever fewer tokens.

    From Chat-UniVi.  The means of the frames are clustered by density peaks into ``event_rate`` of
    their number; the frames of an event need not follow each other.  The tokens of an event are
    clustered into those of each level, and all levels are returned: each patch is part of a token
    of every level, among which its mass is shared.  A frame is clustered alone first.

    Mode ``exact`` spends the budget on the events by their tokens and on the levels in proportion
    to ``levels``, clusters the tokens of one level into those of the next, averages by mass, and
    has fewer events if the budget is less than one token each.  Mode ``published`` makes ``levels``
    tokens of each event, each level from the same level of its frames, by means of means without
    weights, and returns them event by event, level by level.
    """

    about: ClassVar[About] = About(
        paper="Chat-UniVi: Unified Visual Representation Empowers Large Language Models with Image "
        "and Video Understanding (Jin, 2023), arXiv 2311.08046",
        cost="N n D + E p^2 D, events of p tokens after their frames are clustered",
        scaling="parts",
    )
    kind: ClassVar[Kind] = "resample"

    mode: Literal["exact", "published"] = "exact"
    """``exact``: as many as the budget.  ``published``: as many as events and levels make; more
    than the budget are an error."""
    levels: tuple[int, ...] = Field((64, 32, 16), min_length=1)
    """Tokens of each level of an event, falling; in mode ``exact`` only their proportion counts."""
    neighbours: tuple[int, ...] = Field((5, 3, 3), min_length=1)
    """Tokens that vote on a density, one a level; the last one holds for all levels after it."""
    event_rate: float = Field(1 / 16, gt=0, le=1)
    """Events a frame, rounded up."""

    @property
    def exact(self) -> bool:
        """False in mode ``published``."""
        return self.mode == "exact"

    @model_validator(mode="after")
    def _levels_fall(self) -> Self:
        if min(self.levels) < 1 or list(self.levels) != sorted(self.levels, reverse=True):
            raise ValueError(f"levels are at least 1 and do not rise, got {self.levels}")
        if min(self.neighbours) < 1:
            raise ValueError(f"neighbours are at least 1, got {self.neighbours}")
        return self

    def count(self, video: VideoTokens, budget: int) -> int:
        """The budget, or what events and levels make.

        Raises:
            BudgetError: the published count is above the budget.
            ShapeError: integer ids.
        """
        float_rows("tokens", video.tokens)
        if self.mode == "exact":
            return budget
        events = self._events(video, budget)
        made = sum(
            min(level, sum(min(level, n) for n in sizes))
            for _, sizes in events
            for level in self.levels
        )
        if made > budget:
            raise BudgetError(
                f"'chat_univi' with levels={self.levels} makes {made} tokens of {len(events)} "
                f"events, more than a budget of {budget}: lower the levels or use mode='exact'"
            )
        return made

    def reduce(self, video: VideoTokens, budget: int) -> VideoTokens:
        """All levels of all events."""
        self.count(video, budget)
        events = self._events(video, budget)
        total_E = torch.tensor([len(row_n) for row_n, _ in events])
        share_E = shares(total_E, budget, total_E, 1).tolist()
        new, old, value, first = [], [], [], 0
        for (row_n, sizes), share in zip(events, share_E, strict=True):
            x_nD = real(video.tokens[row_n].detach())
            frames = [
                _tokens(x, mass, self.exact)
                for x, mass in zip(
                    torch.split(x_nD, sizes), torch.split(video.mass[row_n], sizes), strict=True
                )
            ]
            for made in self._exact(frames, share) if self.exact else self._published(frames):
                new.append(first + made.group)
                old.append(row_n)
                value.append(made.share)
                first += len(made.x)
        shape = (first, len(video))
        new_E, old_E = torch.cat(new), torch.cat(old)
        if self.exact:  # levels may have the same token: by lowest row, whatever provenance says
            rank_K = torch.empty(first, dtype=torch.int64, device=new_E.device)
            order_K = group_min(old_E, new_E, first).argsort(stable=True)
            rank_K[order_K] = torch.arange(first, device=new_E.device)
            new_E = rank_K[new_E]
        out = resample(video, sparse_matrix(new_E, old_E, torch.cat(value), shape))
        return in_raster_order(out) if self.exact else out

    def _exact(self, frames: list[_Rows], budget: int) -> list[_Rows]:
        """Levels of an event that together have as many rows as the budget."""
        sizes = torch.tensor([len(frame.x) for frame in frames])
        counts = [n for n in apportion([float(n) for n in self.levels], total=budget).tolist() if n]
        # What a frame gets alone is fine enough for the first level, and not its square.
        start = max(self.levels[0] * len(frames), 2 * counts[0])
        start_F = shares(sizes, min(start, int(sizes.sum())), sizes, 1).tolist()
        rows = _joined([self._clustered(f, n, 0) for f, n in zip(frames, start_F, strict=True)])
        made = []
        for level, count in enumerate(counts):
            rows = self._clustered(rows, count, level)
            made.append(rows)
        return made

    def _published(self, frames: list[_Rows]) -> list[_Rows]:
        """Levels of an event, each from the same level of its frames."""
        made = []
        for level, count in enumerate(self.levels):
            frames = [self._clustered(frame, count, level) for frame in frames]
            made.append(self._clustered(_joined(frames), count, level))
        return made

    def _clustered(self, rows: _Rows, count: int, level: int) -> _Rows:
        if count >= len(rows.x):
            return rows
        assign_M = density_peaks(rows.x, count, self._neighbours(count, level))[1]
        x_KD, mass_K = merge_by_assignment(rows.x, rows.mass, assign_M, count)
        share_M = rows.mass / mass_K[assign_M]
        return _Rows(
            x_KD,
            mass_K if self.exact else torch.ones_like(mass_K),
            assign_M[rows.group],
            rows.share * share_M[rows.group],
        )

    def _neighbours(self, count: int, level: int) -> int:
        """How many vote; as published fewer where there are few clusters."""
        wanted = self.neighbours[min(level, len(self.neighbours) - 1)]
        few = min(3, max(count // 2, 1))
        return few if wanted > count and not self.exact else wanted

    def _events(self, video: VideoTokens, budget: int) -> list[tuple[Tensor, list[int]]]:
        """Rows of each event, frame by frame, and how many each of its frames has."""
        frame_N = without_gaps(frame_numbers(video))
        mean_TD = frame_means(float_rows("tokens", video.tokens).detach(), video.mass, frame_N)
        num_frames = len(mean_TD)
        events = math.ceil(num_frames * self.event_rate)
        events = min(events, budget) if self.exact else events
        event_T = density_peaks(mean_TD, events, self._neighbours(events, 0))[1]
        rows_T = torch.split(frame_N.argsort(stable=True), torch.bincount(frame_N).tolist())
        parts: list[list[Tensor]] = [[] for _ in range(events)]
        for event, row_n in zip(event_T.tolist(), rows_T, strict=True):
            parts[event].append(row_n)
        return [(torch.cat(part), [len(row_n) for row_n in part]) for part in parts]


def _tokens(x_nD: Tensor, mass_n: Tensor, weighted: bool) -> _Rows:
    each_n = torch.arange(len(x_nD), device=x_nD.device)
    mass_n = mass_n if weighted else torch.ones_like(mass_n)
    return _Rows(x_nD, mass_n, each_n, torch.ones_like(mass_n))


def _joined(parts: list[_Rows]) -> _Rows:
    group, first = [], 0
    for part in parts:
        group.append(first + part.group)
        first += len(part.x)
    return _Rows(
        torch.cat([part.x for part in parts]),
        torch.cat([part.mass for part in parts]),
        torch.cat(group),
        torch.cat([part.share for part in parts]),
    )
