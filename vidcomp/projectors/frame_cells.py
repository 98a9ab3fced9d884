"""How many cells a frame is pooled to, the pooling, and tokens that are added to each frame.

Legend: B videos, T frames, H W patches of a frame, J K cells of a frame, D features, E tokens added
to a frame.
"""

import math
from typing import Annotated

import torch
from pydantic import BeforeValidator, Field
from torch import Tensor

from vidcomp.errors import BudgetError
from vidcomp.functional.grids import fit_grid
from vidcomp.functional.pool import adaptive_weights
from vidcomp.functional.reduce import real
from vidcomp.functional.structure import insert_rows
from vidcomp.projectors.blocks import untraced
from vidcomp.types import Grid, VideoTokens

__all__ = ["CellsPerFrame", "Count", "append_to_frames", "factored", "frame_cells", "mean_cells"]


def _check(value: object) -> object:
    sizes = value if isinstance(value, list | tuple) and len(value) == 2 else [value]
    if not all(type(size) is int and size >= 1 for size in sizes):
        raise ValueError(
            f"a frame has a number of cells or a pair (h, w), each at least 1, got {value!r}: pass "
            f"e.g. 144 or [12, 12]"
        )
    return value


Count = Annotated[int, Field(ge=1)]
"""A number of frames, rows or columns in settings."""

CellsPerFrame = Annotated[int | tuple[int, int], BeforeValidator(_check)]
"""A number of cells, laid out with the aspect nearest the frame's among its divisors, or (h, w)."""


def frame_cells(
    name: str, wanted: int | tuple[int, int], grid: Grid, budget: int | None, added: int = 0
) -> Grid:
    """``wanted`` cells in each frame; with a budget the largest pooled grid that all frames can
    have within it.

    Args:
        name: of the projector, for errors.
        wanted: see ``CellsPerFrame``.
        grid: of the patches.
        budget: tokens of the whole video, or ``None``.
        added: tokens that each frame has besides.

    Raises:
        BudgetError: ``budget`` is less than one token a frame, and those that are added.
    """
    if budget is not None:
        least = grid.t * (1 + added)
        if budget < least:
            raise BudgetError(
                f"the projector {name!r} keeps every frame, so {grid.t} frames need at least "
                f"{least} tokens and the budget is {budget}: sample fewer frames or raise it"
            )
        frame = Grid(1, grid.h, grid.w)
        cells, _ = fit_grid(frame, budget // grid.t - added, (False, True, True))
        return cells._replace(t=grid.t)
    h, w = factored(wanted, grid.h / grid.w) if isinstance(wanted, int) else wanted
    return Grid(grid.t, h, w)


def factored(count: int, aspect: float) -> tuple[int, int]:
    """(h, w) whose product is ``count`` and whose quotient is nearest ``aspect``, in ratio; ties
    to the larger h.
    """
    heights = [h for h in range(count, 0, -1) if count % h == 0]
    height = min(heights, key=lambda h: abs(math.log(h * h / count / aspect)))
    return height, count // height


def mean_cells(x_BTHWD: Tensor, cells: Grid) -> Tensor:
    """[B, T, J, K, D] means of the bins of PyTorch's adaptive pooling, in float32 or better."""
    b, t, h, _, d = x_BTHWD.shape
    wide_BTHWD = real(x_BTHWD)
    rows_JH, columns_KW = _bins(x_BTHWD, cells)
    with torch.autocast(x_BTHWD.device.type, enabled=False):  # means stay means in half
        x_BTHKD = columns_KW @ wide_BTHWD
        x_BTJX = rows_JH @ x_BTHKD.view(b, t, h, -1)
    return x_BTJX.view(b, t, cells.h, cells.w, d).to(x_BTHWD.dtype)


@untraced
def _bins(x_BTHWD: Tensor, cells: Grid) -> tuple[Tensor, Tensor]:
    """[J, H] and [K, W] pooling matrices for float32 or better."""
    like = real(x_BTHWD.new_empty(0))
    _, _, h, w, _ = x_BTHWD.shape
    return adaptive_weights(h, cells.h).to(like), adaptive_weights(w, cells.w).to(like)


@untraced
def append_to_frames(video: VideoTokens, num_frames: int, rows_ED: Tensor) -> VideoTokens:
    """The same tokens with E structural rows after those of each frame.

    Args:
        video: N tokens, equally many of each frame and frame by frame.
        num_frames: T.
        rows_ED: the rows to add, in the type of the video's tokens.
    """
    count = len(video) // num_frames
    last_T = torch.arange(1, num_frames + 1, device=video.tokens.device) * count - 1
    rows = rows_ED.expand(num_frames, -1, -1).flatten(0, 1)
    return insert_rows(video, rows, last_T.repeat_interleave(len(rows_ED)))
