"""Frames that are alike become one; each keeps its most unique tokens, with what is near them."""

import math
from typing import ClassVar, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from vidcomp.compress._images import Metric, compared_rows
from vidcomp.compress.base import About, Compressor, Kind, Published
from vidcomp.errors import BudgetError, ShapeError
from vidcomp.functional.allocate import shares
from vidcomp.functional.geometry import (
    check_dense,
    frame_numbers,
    in_raster_order,
    nearest_cells,
)
from vidcomp.functional.grids import without_gaps
from vidcomp.functional.merge import float_rows, merge_in_order, resample
from vidcomp.functional.provenance import sparse_matrix
from vidcomp.functional.reduce import group_min, group_sum, wide
from vidcomp.functional.segment import frame_means
from vidcomp.functional.uniqueness import Unique, frame_groups, mean_cosines, unique_rows
from vidcomp.registry import COMPRESSORS
from vidcomp.types import VideoTokens

__all__ = ["UniComp", "published_quotas"]


class _Cells(NamedTuple):
    """Fused tokens: the rows at one place of the picture in one group of frames."""

    cell: Tensor
    """[N] int64 cell of each row, group after group."""
    first: Tensor
    """[M] int64 first row of each cell."""
    group: Tensor
    """[M] int64 group of each cell."""
    frames: Tensor
    """[T] int64 group of each frame that has tokens."""


@COMPRESSORS.add("unicomp")
class UniComp(Compressor):
    """Similar frames are averaged; in each the most unique tokens take in those near to them.

    UniComp: Rethinking Video Compression Through Informational Uniqueness (Yuan et al., 2025),
    without attention.  Frames join the group of the frame before while they are near to its first
    frame.  Groups share the budget by a softmax of how unlike the others they are.  In a group,
    tokens are visited from the most unique on; those near to a kept one are passed over.  A kept
    token is the mean of itself and of the mean of all tokens near to it.

    Mode ``published`` may keep far fewer than ``retention`` (nothing fills up what is passed over)
    and puts a frame more into a group than it says; without ``frame_extra`` it compares frames, for
    their shares, by the means over channels of their tokens, not by their mean tokens.  It needs a
    dense grid.  Mode ``exact`` compares mean tokens, groups at most as many frames as tokens become
    one, and fills up with the most unique tokens that were passed over.  Tokens that are near to no
    kept one are dropped.
    """

    kind: ClassVar[Kind] = "resample"
    about: ClassVar[About] = About(
        paper="UniComp: Rethinking Video Compression Through Informational Uniqueness "
        "(Yuan, 2025), arXiv 2512.03575",
        cost="T n² D",
        scaling="parts",
        published=(
            Published("LLaVA-OneVision-7B", 25, 101.4, "UniComp"),
            Published("LLaVA-OneVision-7B", 10, 99.7, "UniComp"),
        ),
    )

    mode: Literal["exact", "published"] = "exact"
    """``exact``: the budget.  ``published``: at most ``retention`` of the tokens, in the original's
    order; more than the budget is an error."""
    retention: float = Field(0.25, gt=0, le=1)
    """Share of the tokens that mode ``published`` keeps at most."""
    frame_gap: float = Field(0.005, ge=0, le=2)
    """One minus the cosine up to which a frame joins a group."""
    token_gap: float = Field(0.2, ge=0, le=2)
    """One minus the cosine below which tokens are near to each other."""
    metric: Metric = "tokens"
    """What tokens are compared by: themselves, or ``extras["keys"]``, which the paper advises."""
    frame_extra: str | None = None
    """Entry of ``frame_extras`` that frames are compared by; ``None``: their mean tokens."""

    @property
    def exact(self) -> bool:
        """False in mode ``published``."""
        return self.mode == "exact"

    def count(self, video: VideoTokens, budget: int) -> int:
        """The budget, or what mode ``published`` keeps.

        Raises:
            BudgetError: mode ``published`` keeps more, or nothing.
            ShapeError: integer ids, no keys, no such frame extra, or not dense if ``published``.
        """
        if not self.exact:
            return len(self._choose(video, budget)[1].rows)
        compared_rows(video, self.metric, self.name)
        self._frames(video)
        return budget

    def reduce(self, video: VideoTokens, budget: int) -> VideoTokens:
        """Kept tokens, mixed with what is near to them."""
        cells, chosen = self._choose(video, budget)
        itself_E = chosen.rows[chosen.kept] == chosen.near
        num_near_K = torch.bincount(chosen.kept)
        value_E = (itself_E + 1 / wide(num_near_K)[chosen.kept]) / 2
        shape = (len(chosen.rows), len(cells.first))
        weights_KM = sparse_matrix(chosen.kept, chosen.near, value_E, shape)
        out = resample(merge_in_order(video, cells.cell), weights_KM)
        return in_raster_order(out) if self.exact else out

    def _choose(self, video: VideoTokens, budget: int) -> tuple[_Cells, Unique]:
        metric_ND = compared_rows(video, self.metric, self.name)
        if not self.exact:
            check_dense(video)
        cells = self._cells(video, budget)
        weight_G = self._weights(video, cells.frames)
        if self.exact:
            size_G = torch.bincount(cells.group)
            cap_G = size_G.clamp(max=max(1, 2 * (budget // len(size_G))))
            cap_G = cap_G if int(cap_G.sum()) >= budget else size_G
            share_G = shares(weight_G, budget, cap_G, 1)
        else:
            total = max(1, int(len(video) * self.retention))
            share_G = published_quotas(weight_G, total, video.grid.per_frame)
        if not torch.equal(cells.first, torch.arange(len(video), device=cells.first.device)):
            metric_ND = metric_ND.index_select(0, cells.first)
        chosen = unique_rows(metric_ND, cells.group, share_G, self.token_gap, fill=self.exact)
        self._check(len(chosen.rows), len(video), budget)
        return cells, chosen

    def _cells(self, video: VideoTokens, budget: int) -> _Cells:
        """Cells of groups of frames; in mode ``exact`` at least as many as the budget."""
        max_frames = max(1, len(video) // budget) if self.exact else int(1 / self.retention) + 1
        frame_N, frame_TD = self._frames(video)
        place_N2 = nearest_cells(video.positions[:, 1:])
        place_N = place_N2[:, 0] * video.grid.w + place_N2[:, 1]
        while True:
            group_T = frame_groups(frame_TD, self.frame_gap, max_frames)
            cell_N = without_gaps(group_T[frame_N] * video.grid.per_frame + place_N)
            if max_frames == 1 and self.exact:  # what was merged before may share a cell
                cell_N = torch.arange(len(video), device=cell_N.device)
            num_cells = int(cell_N.max()) + 1
            if num_cells >= budget or not self.exact:
                break
            max_frames //= 2
        row_N = torch.arange(len(video), device=cell_N.device)
        first_M = group_min(row_N, cell_N, num_cells)
        return _Cells(cell_N, first_M, group_T[frame_N[first_M]], group_T)

    def _frames(self, video: VideoTokens) -> tuple[Tensor, Tensor]:
        """[N] int64 frame of each row, of those that have any, and [T, D] what stands for it."""
        time_N = frame_numbers(video)
        frame_N = without_gaps(time_N)
        if self.frame_extra is None:
            return frame_N, frame_means(float_rows("tokens", video.tokens), video.mass, frame_N)
        if self.frame_extra not in video.frame_extras:
            raise ShapeError(
                f"'unicomp' compares frames by frame_extras[{self.frame_extra!r}], got "
                f"{sorted(video.frame_extras) or 'none'}: let the encoder keep it, or leave out "
                f"frame_extra"
            )
        has_rows_T = torch.bincount(time_N, minlength=video.grid.t) > 0
        return frame_N, video.frame_extras[self.frame_extra][has_rows_T].detach().flatten(1)

    def _weights(self, video: VideoTokens, frames_T: Tensor) -> Tensor:
        """[G] share of each group of frames."""
        num_groups = int(frames_T[-1]) + 1
        if self.exact or self.frame_extra is not None:
            step_T = torch.arange(len(frames_T), device=frames_T.device)
            vector_GD = self._frames(video)[1][group_min(step_T, frames_T, num_groups)]
        else:
            mean_Tn = wide(video.tokens.detach()).mean(dim=1).reshape(len(frames_T), -1)
            size_G1 = torch.bincount(frames_T)[:, None]
            vector_GD = group_sum(mean_Tn, frames_T, num_groups) / size_G1
        unlike_G = (1 - mean_cosines(vector_GD)) * math.sqrt(num_groups)
        return unlike_G.softmax(dim=0)

    def _check(self, count: int, num_rows: int, budget: int) -> None:
        if not 1 <= count <= budget:
            raise BudgetError(
                f"'unicomp' in mode 'published' with retention={self.retention} keeps {count} of "
                f"{num_rows} tokens, for a budget of {budget}: change the retention or use "
                f"mode='exact'"
            )


def published_quotas(weight_G: Tensor, total: int, per_frame: int) -> Tensor:
    """[G] int64 tokens of each group at most, as the original rounds them.

    The weighted total rounded down, at most twice an even share, and what that cuts off shared out
    once more, rounded down, among those that it did not cut.

    Args:
        weight_G: [G] float, sums to 1.
        total: most that is handed out.
        per_frame: tokens of a group.
    """
    cap = min(per_frame, max(1, 2 * (total // len(weight_G))))
    share_G = (weight_G * total).floor().long().clamp(max=cap)
    open_G = weight_G * (share_G < cap)
    if float(open_G.sum()) > 0:
        more_G = open_G / open_G.sum() * (total - int(share_G.sum()))
        share_G = (share_G + more_G.floor().long()).clamp(max=cap)
    return share_G
