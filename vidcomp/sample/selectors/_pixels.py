"""What selectors by pixel differences share: cells of the grid, exact shares, what is carried on.

Legend: S steps of the grid (tubelets of one or more frames), C channels, H W pixels, h w cells.
"""

import math
from abc import abstractmethod

import torch
from pydantic import Field
from torch import Tensor

from vidcomp.budget import Budget
from vidcomp.errors import BudgetError, ShapeError
from vidcomp.functional.change import Reference, pixel_change, strongest
from vidcomp.functional.select import stable_topk
from vidcomp.sample.selectors.base import FrameSelector, SelectorStream
from vidcomp.types import Frames, Grid

__all__ = ["PixelSelector", "PixelStream"]

_PASSES = 24
"""Halvings in the search of a threshold: to a ten-millionth of the range."""


class PixelSelector(FrameSelector):
    """Keeps patches whose pixels differ from those before at the same place."""

    threshold: float = Field(0.1, ge=0)
    """Smallest change that is kept; has no effect with ``retention``."""
    retention: float | None = Field(None, gt=0, le=1)
    """Share of a video's patches that is kept, exactly: rounded down, at least one.  Every chunk
    keeps its part of it (what is rounded off is carried on), the patches that changed most."""
    reference: Reference = "previous"
    """What a patch is compared with: the frame before (``previous``, as published, which cannot see
    a slow drift), or the last frame in which it was kept (``last_kept``)."""
    merge: int = Field(1, ge=1)
    """Patches along each side that are compared as one, where a model merges them later."""
    min_tokens: int = Field(0, ge=0)
    """Patches of each step of the grid that are kept at least: its first ones, as published; with
    ``retention`` those that changed most."""

    @property
    @abstractmethod
    def scale(self) -> tuple[float, ...]:
        """What the differences of each channel (0..1) are multiplied by."""

    @abstractmethod
    def keeps(self, change_hw: Tensor, valid_hw: Tensor) -> Tensor:
        """[h, w] bool: what of a step is kept without ``retention``; changes may be infinite."""

    def kept(self, change_hw: Tensor, valid_hw: Tensor) -> Tensor:
        """[h, w] bool: what of a step is kept without ``retention``, the least number included."""
        kept_hw = self.keeps(change_hw, valid_hw) & valid_hw
        if int(kept_hw.sum()) >= self.min_tokens:
            return kept_hw
        rank_hw = valid_hw.flatten().cumsum(0).reshape(valid_hw.shape)
        return kept_hw | (valid_hw & (rank_hw <= self.min_tokens))

    def stream(self, *, tubelet: int = 1, patch: tuple[int, int] | None = None) -> "PixelStream":
        """The state of one video."""
        return PixelStream(self, tubelet, patch)


class PixelStream(SelectorStream):
    """Carries on one picture, and how many patches were seen and kept."""

    def __init__(
        self, selector: PixelSelector, tubelet: int, patch: tuple[int, int] | None
    ) -> None:
        self._selector, self._tubelet, self._patch = selector, tubelet, patch
        self._before: Tensor | None = None
        self._next_index: int | None = None
        self._num_seen = self._num_kept = 0

    def update(self, frames: Frames, grid: Grid, valid: Tensor | None = None) -> Tensor:
        """[t, h, w] bool on the CPU: the patches of the next chunk that are kept."""
        valid_Shw = torch.ones(grid, dtype=torch.bool) if valid is None else valid.cpu()
        self._check(frames, grid, valid_Shw)
        pictures, cell = self._pictures(frames.data, grid)
        if self._before is not None and self._before.shape != pictures.shape[1:]:
            raise ShapeError(
                f"a video has frames of one size, got {list(pictures.shape[1:])} after "
                f"{list(self._before.shape)}: make one stream a video"
            )
        if self._selector.retention is None:
            kept = self._kept_step_by_step(pictures, cell, valid_Shw)
        else:
            kept = self._kept_share(pictures, cell, valid_Shw, self._selector.retention)
        self._next_index = frames.first_index + len(frames)
        return kept

    def _kept_step_by_step(
        self, pictures_TCHW: Tensor, cell: tuple[int, int], valid_Shw: Tensor
    ) -> Tensor:
        kept = []
        for tubelet, valid_hw in zip(
            torch.split(pictures_TCHW, self._tubelet), valid_Shw, strict=True
        ):
            change_hw = self._changes(tubelet, cell, math.inf)[0][0]
            kept_hw = self._selector.kept(change_hw, valid_hw)
            kept.append(kept_hw)
            self._before = self._next_reference(tubelet[0], kept_hw)
        return torch.stack(kept)

    def _next_reference(self, picture_CHW: Tensor, kept_hw: Tensor) -> Tensor:
        """What the next step is compared with; a copy, as chunks belong to the caller."""
        if self._selector.reference == "previous" or self._before is None:
            return picture_CHW.clone()
        height, width = picture_CHW.shape[1:]
        kept_HW = kept_hw.repeat_interleave(height // kept_hw.shape[0], dim=0)
        kept_HW = kept_HW.repeat_interleave(width // kept_hw.shape[1], dim=1)
        return torch.where(kept_HW.to(picture_CHW.device), picture_CHW, self._before)

    def _kept_share(
        self, pictures_TCHW: Tensor, cell: tuple[int, int], valid_Shw: Tensor, share: float
    ) -> Tensor:
        seen = self._num_seen + int(valid_Shw.sum())
        total = min(Budget(retention=share).resolve(seen, 0, 0.0), seen)
        wanted = total - self._num_kept
        change, last = self._changes(pictures_TCHW, cell, math.inf)
        if self._selector.reference == "last_kept":
            change, last = self._search(pictures_TCHW, cell, valid_Shw, wanted)
        change = change.masked_fill(~valid_Shw, -torch.inf)
        kept = _most_changed(change, wanted, self._selector.min_tokens)
        self._before, self._num_seen, self._num_kept = last, seen, total
        return kept

    def _search(
        self, pictures_TCHW: Tensor, cell: tuple[int, int], valid_Shw: Tensor, wanted: int
    ) -> tuple[Tensor, Tensor]:
        """Changes against the last kept ones, at the lowest threshold that keeps few enough.

        What is above that threshold is raised above all else, so that it is kept.
        """
        largest = max(self._selector.scale)
        low, high = 0.0, largest
        for _ in range(_PASSES):
            middle = (low + high) / 2
            change, _ = self._changes(pictures_TCHW, cell, middle)
            excess = int(((change > middle) & valid_Shw).sum()) - wanted
            low, high = (low, middle) if excess <= 0 else (middle, high)
            if not excess:
                break
        change, last = self._changes(pictures_TCHW, cell, high)
        return torch.where(change > high, change + largest, change), last

    def _changes(
        self, pictures_TCHW: Tensor, cell: tuple[int, int], threshold: float
    ) -> tuple[Tensor, Tensor]:
        """[S, h, w] changes of the patches, and the picture that the next step is compared with."""
        merge = self._selector.merge
        found = pixel_change(
            pictures_TCHW,
            (cell[0] * merge, cell[1] * merge),
            threshold=threshold,
            tubelet=self._tubelet,
            scale=self._selector.scale,
            reference=self._selector.reference,
            before=self._before,
        )
        change = found.change.cpu().repeat_interleave(merge, 1).repeat_interleave(merge, 2)
        return change, found.last

    def _pictures(self, data_TCHW: Tensor, grid: Grid) -> tuple[Tensor, tuple[int, int]]:
        """The pixels that the cells share, and pixels of a cell.

        Where they do not share the picture evenly, lines of pixels are repeated until they do.
        """
        height, width = data_TCHW.shape[2:]
        if self._patch is not None:  # what is right of the last patch and below is never seen
            return data_TCHW[
                :, :, : grid.h * self._patch[0], : grid.w * self._patch[1]
            ], self._patch
        cell = (-(-height // grid.h), -(-width // grid.w))
        for axis, (size, count, pixels) in enumerate(
            ((height, grid.h, cell[0]), (width, grid.w, cell[1])), start=2
        ):
            if size != count * pixels:
                line = torch.arange(count * pixels, device=data_TCHW.device)
                data_TCHW = data_TCHW.index_select(axis, line * size // (count * pixels))
        return data_TCHW, cell

    def _check(self, frames: Frames, grid: Grid, valid_Shw: Tensor) -> None:
        merge, size = self._selector.merge, frames.data.shape[2:]
        steps = -(-len(frames) // self._tubelet)
        patch = self._patch or (1, 1)
        fits = size[0] >= grid.h * patch[0] and size[1] >= grid.w * patch[1]
        if grid.t != steps or not steps or not fits or valid_Shw.shape != torch.Size(grid):
            raise ShapeError(
                f"{len(frames)} frames of {size[0]} x {size[1]} pixels in tubelets of "
                f"{self._tubelet} do not have a grid of {tuple(grid)} (valid: "
                f"{list(valid_Shw.shape)}): pass encoder.grid, encoder.tubelet and encoder.patch"
            )
        if grid.h % merge or grid.w % merge:
            raise ShapeError(
                f"merge={merge} does not divide a grid of {grid.h} x {grid.w} patches: choose "
                f"another merge, or another size of pictures"
            )
        if self._next_index is not None and frames.first_index != self._next_index:
            raise ShapeError(
                f"chunks follow in time: frame {self._next_index} comes next, got "
                f"{frames.first_index}: make one stream a video and pass its chunks in order"
            )


def _most_changed(change_Shw: Tensor, k: int, least: int) -> Tensor:
    """[S, h, w] bool: ``k`` patches, of them ``least`` of each step, that changed most."""
    kept_SP = torch.zeros(len(change_Shw), change_Shw[0].numel(), dtype=torch.bool)
    change_SP = change_Shw.flatten(1)
    for kept_P, change_P in zip(kept_SP, change_SP, strict=True):
        kept_P[stable_topk(change_P, min(least, int((change_P > -torch.inf).sum())))] = True
    rest = k - int(kept_SP.sum())
    if rest < 0:
        raise BudgetError(
            f"min_tokens={least} of {len(kept_SP)} steps are {int(kept_SP.sum())} patches, and "
            f"retention leaves {k}: lower the one or raise the other"
        )
    left_N = change_SP.masked_fill(kept_SP, -torch.inf).flatten()
    kept_SP.view(-1)[strongest(left_N, rest)] = True
    return kept_SP.reshape(change_Shw.shape)
