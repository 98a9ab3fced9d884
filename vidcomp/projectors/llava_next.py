"""LLaVA-NeXT-Video, LLaVA-OneVision and LLaVA-Video: an MLP, a pool of each frame, and newlines.

LLaVA-OneVision: Easy Visual Task Transfer, 2024, https://arxiv.org/abs/2408.03326, and LLaVA-Video:
Video Instruction Tuning With Synthetic Data, 2024, https://arxiv.org/abs/2410.02713.  The original
doubles the stride with every further video of a batch, by mistake, and takes square frames only;
neither is imitated.

Legend: F frames, B videos, T H W patches, J K cells of a frame, D features, N tokens of cells.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any, Literal, NamedTuple, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from vidcomp.errors import BudgetError
from vidcomp.functional.grids import coarser_grids
from vidcomp.functional.pool import (
    adaptive_weights,
    bilinear_weights,
    window_weights,
)
from vidcomp.functional.regrid import regrid
from vidcomp.functional.structure import insert_rows
from vidcomp.projectors.base import ProjectorAbout
from vidcomp.projectors.blocks import apart, end_to_end, untraced
from vidcomp.projectors.pooled import PooledConfig, PooledProjector
from vidcomp.projectors.pooling import (
    between_cells,
    largest_cells,
    largest_windows,
    mean_cells,
    mean_windows,
)
from vidcomp.registry import PROJECTORS
from vidcomp.types import Grid, Query, VideoTokens
from vidcomp.types.tokens import ROW_FIELDS

__all__ = ["LlavaNext", "LlavaNextConfig"]


@PROJECTORS.add("llava_next")
class LlavaNextConfig(PooledConfig):
    """An MLP, a pool of each frame by a stride, and learned newlines (LLaVA-OneVision,
    LLaVA-Video).
    """

    about = ProjectorAbout(
        paper="LLaVA-OneVision: Easy Visual Task Transfer (Li, 2024); LLaVA-Video: Video "
        "Instruction Tuning With Synthetic Data (Zhang, 2024)",
        tokens="patches / `stride`² and newlines, or what a budget allows",
        reads="grid",
        checkpoint="LLaVA-VL/LLaVA-NeXT `mm_projector`, `image_newline` and `faster_token`, "
        "transformers' LlavaOnevision and LlavaNextVideo",
    )

    pool: Literal["average", "max", "bilinear"] = "bilinear"
    """How cells are made (``mm_spatial_pool_mode``): ``average`` and ``max`` leave out the rows and
    columns that the stride leaves over, ``bilinear`` has a cell more."""
    stride: int = Field(2, ge=1)
    """Patches along each side of a cell (``mm_spatial_pool_stride``)."""
    newline: Literal["grid", "frame", "one_token", "none"] = "grid"
    """Where the newline stands (``mm_newline_position``): behind each row of cells, behind each
    frame, or behind the video."""
    add_faster_video: bool = False
    """Frames between every ``faster_token_stride``-th one are pooled twice as much, and a learned
    token stands behind each frame; newlines are those of ``grid``."""
    faster_token_stride: int = Field(10, ge=1)
    """Frames from one detailed frame to the next."""

    @model_validator(mode="after")
    def _check_newline(self) -> Self:
        if self.add_faster_video and self.newline != "grid":
            raise ValueError(
                f"'llava_next' with add_faster_video has newline='grid', got {self.newline!r}: "
                f"change one of them"
            )
        return self

    def module(self) -> "LlavaNext":
        """A ``LlavaNext`` with torch's default initial weights; newlines are normal with a
        variance of ``1 / dim_out``, as the original's.
        """
        return LlavaNext(self)


class _Path(NamedTuple):
    """Some frames and the grid of their cells."""

    frames: Tensor
    """[F] int64."""
    cells: Grid


class LlavaNext(PooledProjector):
    """Newlines and faster tokens are structural rows, which ``num_tokens`` and budgets count."""

    config: LlavaNextConfig
    reference_names = ((r"^layers\.", "mm_projector."),)

    def __init__(self, config: LlavaNextConfig) -> None:
        super().__init__(config)
        scale = config.dim_out**-0.5
        if config.newline != "none":
            self.image_newline = nn.Parameter(torch.randn(config.dim_out) * scale)
        if config.add_faster_video:
            self.faster_token = nn.Parameter(torch.randn(config.dim_out) * scale)

    def cells(self, grid: Grid, budget: int | None = None) -> Grid:
        """Sides over ``stride``; with a budget the largest grid of the frame's aspect for which
        all frames and what stands behind them fit it.  It is that of the detailed frames.

        Raises:
            ShapeError: a side is shorter than the stride.
            BudgetError: one cell a frame is too much.
        """
        if budget is None:
            if self.config.pool != "bilinear":
                return self._divided(grid, self.config.stride)
            return Grid(grid.t, *(-(-n // self.config.stride) for n in grid[1:]))
        best, best_count = None, 0
        for cells in _coarser(grid.h, grid.w):
            count = self._count(cells := cells._replace(t=grid.t))
            if best_count < count <= budget:
                best, best_count = cells, count
        if best is None:
            least = self._count(Grid(grid.t, 1, 1))
            raise BudgetError(
                f"the projector 'llava_next' keeps every frame, so {grid.t} frames need at least "
                f"{least} tokens with newlines, and the budget is {budget}: sample fewer frames "
                f"or raise it"
            )
        return best

    def num_tokens(self, grid: Grid, budget: int | None = None) -> int:
        """Cells, newlines and faster tokens."""
        return self._count(self.cells(grid, budget))

    def maps(self, x_BTHWD: Tensor, cells: Grid) -> Tensor:
        """The pool; a grid that the stride, or twice it, gives is pooled by windows of that."""
        grid = Grid(*x_BTHWD.shape[1:4])
        if self.config.pool == "bilinear":
            return between_cells(x_BTHWD, cells)
        size, largest = self._window(grid, cells), self.config.pool == "max"
        if size is None:
            return (largest_cells if largest else mean_cells)(x_BTHWD, cells)
        return largest_windows(x_BTHWD, size) if largest else mean_windows(x_BTHWD, (1, size, size))

    def footprint(self, grid: Grid, cells: Grid) -> tuple[Tensor, Tensor, Tensor]:
        """What a cell is made of: of the largest value, all that it is chosen from."""
        size = self._window(grid, cells)

        def along(length: int, bins: int) -> Tensor:
            if self.config.pool == "bilinear":
                return bilinear_weights(length, bins)
            return (
                adaptive_weights(length, bins)
                if size is None
                else (window_weights(length, size, size))
            )

        eye = torch.eye(grid.t, dtype=torch.float64)
        return eye, along(grid.h, cells.h), along(grid.w, cells.w)

    def project(
        self,
        videos: Sequence[VideoTokens],
        budgets: Sequence[int | None],
        queries: Sequence[Query | None],
    ) -> list[VideoTokens]:
        """Frames of one size and one grid of cells side by side."""
        if not self.config.add_faster_video:
            return super().project(videos, budgets, queries)
        cells = [self.cells(v.grid, b) for v, b in zip(videos, budgets, strict=True)]
        rows = self.before(end_to_end([self._features(video) for video in videos]))
        parts = apart(rows, [v.grid.num_patches for v in videos])
        paths = [self._paths(c) for c in cells]
        jobs = [
            (path, x.view(*v.grid, -1)[path.frames.to(x.device)])
            for v, x, own in zip(videos, parts, paths, strict=True)
            for path in own
        ]
        maps = iter(
            self._grouped(
                [Grid(*x.shape[:3]) for _, x in jobs],
                [path.cells for path, _ in jobs],
                [x.flatten(0, 2) for _, x in jobs],
            )
        )
        return [
            self.finish(self._joined(v, own, [next(maps) for _ in own]), c)
            for v, own, c in zip(videos, paths, cells, strict=True)
        ]

    @untraced
    def finish(self, video: VideoTokens, cells: Grid) -> VideoTokens:
        """Newlines and faster tokens."""
        config = self.config
        if config.newline == "none":
            return video
        height_F, width_F = self._sizes(cells)
        frame_ends = (height_F * width_F).cumsum(0) - 1
        ends = {
            "grid": width_F.repeat_interleave(height_F).cumsum(0) - 1,
            "frame": frame_ends,
            "one_token": frame_ends[-1:],
        }[config.newline]
        tokens = self.image_newline.expand(len(ends), -1)
        if config.add_faster_video:
            ends = torch.cat([ends, frame_ends])
            tokens = torch.cat([tokens, self.faster_token.expand(len(frame_ends), -1)])
        return insert_rows(video, tokens, ends)

    def load_reference(self, state: Mapping[str, Tensor]) -> Self:
        """Weights by the names of LLaVA-NeXT (``mm_projector.0.weight``, ``image_newline``,
        ``faster_token``) or of transformers (``multi_modal_projector.linear_1.weight``), below
        ``model`` or not.
        """
        return super().load_reference({re.sub(r"^model\.", "", n): x for n, x in state.items()})

    def _prefix(self) -> str:
        return "mm_projector."

    def _window(self, grid: Grid, cells: Grid) -> int | None:
        """Patches along each side of windows that give these cells."""
        stride = self.config.stride
        sizes = (stride, 2 * stride)
        return next((n for n in sizes if (grid.h // n, grid.w // n) == cells[1:]), None)

    def _faster(self, cells: Grid) -> Grid:
        """The grid of the frames between: half of each side."""
        up = self.config.pool == "bilinear"
        return Grid(cells.t, *(max(1, (n + up) // 2) for n in cells[1:]))

    def _sizes(self, cells: Grid) -> tuple[Tensor, Tensor]:
        """[F] int64 height and width in cells of each frame."""
        slow_F = torch.arange(cells.t) % self.config.faster_token_stride == 0
        if not self.config.add_faster_video:
            slow_F = torch.ones_like(slow_F)
        fast = self._faster(cells)
        height_F, width_F = (
            torch.where(slow_F, a, b) for a, b in zip(cells[1:], fast[1:], strict=True)
        )
        return height_F, width_F

    def _count(self, cells: Grid) -> int:
        config = self.config
        num_slow = -(-cells.t // config.faster_token_stride) if config.add_faster_video else cells.t
        counts = [(num_slow, cells), (cells.t - num_slow, self._faster(cells))]
        line = config.newline == "grid"
        behind = (config.newline == "frame") + config.add_faster_video
        frames = sum(n * (c.h * (c.w + line) + behind) for n, c in counts)
        return frames + (config.newline == "one_token")

    def _paths(self, cells: Grid) -> list[_Path]:
        """The detailed frames, and those between if there are any."""
        slow_F = torch.arange(cells.t) % self.config.faster_token_stride == 0
        kinds = [(slow_F, cells), (~slow_F, self._faster(cells))]
        paths = [(frames.nonzero().squeeze(1), c) for frames, c in kinds]
        return [_Path(frames, c._replace(t=len(frames))) for frames, c in paths if len(frames)]

    @untraced
    def _joined(
        self, video: VideoTokens, paths: Sequence[_Path], tokens: Sequence[Tensor]
    ) -> VideoTokens:
        """The rows of both paths, frame by frame, with all else that belongs to them."""
        eye, parts, frames = torch.eye(video.grid.t, dtype=torch.float64), [], []
        for path, x_ND in zip(paths, tokens, strict=True):
            _, *sides = self.footprint(video.grid, path.cells)
            parts.append(regrid(video, [eye[path.frames], *sides], x_ND))
            frames.append(path.frames.repeat_interleave(path.cells.per_frame))
        rows: dict[str, Any] = {
            name: torch.cat([getattr(part, name) for part in parts]) for name in ROW_FIELDS
        }
        weights = [part.weights for part in parts if part.weights is not None]
        extras = {n: torch.cat([part.extras[n] for part in parts]) for n in video.extras}
        both = replace(parts[0], **rows, weights=_below(weights), extras=extras)
        return both.select(torch.cat(frames).argsort(stable=True))


def _below(weights: Sequence[Tensor]) -> Tensor | None:
    """Provenance of rows below each other, if there is any."""
    return torch.cat(list(weights)).coalesce() if weights else None


@cache
def _coarser(h: int, w: int) -> tuple[Grid, ...]:
    """Grids of a frame of the same aspect, the largest first."""
    found = coarser_grids(Grid(1, h, w), (False, True, True))
    return tuple(sorted(found, key=lambda g: (g.num_patches, g), reverse=True))
