"""How many cells a frame is pooled to, and tokens that are added to each frame or clip.

Legend: N tokens of a video, D features, E tokens added to a frame or clip.
"""

import math
from typing import Annotated

import torch
from pydantic import BeforeValidator
from torch import Tensor, nn

from vidcomp.errors import BudgetError
from vidcomp.functional.grids import fit_grid
from vidcomp.functional.structure import insert_rows
from vidcomp.projectors.blocks import untraced
from vidcomp.types import Grid, VideoTokens

__all__ = ["CellsPerFrame", "append_to_parts", "end_tokens", "factored", "frame_cells"]


def _check(value: object) -> object:
    sizes = value if isinstance(value, list | tuple) and len(value) == 2 else [value]
    if not all(type(size) is int and size >= 1 for size in sizes):
        raise ValueError(
            f"a frame has a number of cells or a pair (h, w), each at least 1, got {value!r}: pass "
            f"e.g. 144 or [12, 12]"
        )
    return value


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


def end_tokens(count: int, dim: int) -> nn.Parameter | None:
    """[1, count, dim] learned rows that end a frame or clip, or ``None`` if there are none."""
    if not count:
        return None
    return nn.Parameter(nn.init.trunc_normal_(torch.empty(1, count, dim), std=0.02))


@untraced
def append_to_parts(video: VideoTokens, num_parts: int, rows_ED: Tensor) -> VideoTokens:
    """The same tokens with E structural rows after those of each frame or clip.

    Args:
        video: N tokens, equally many of each part and part by part.
        num_parts: frames or clips.
        rows_ED: the rows to add, in the type of the video's tokens.
    """
    count = len(video) // num_parts
    last = torch.arange(1, num_parts + 1, device=video.tokens.device) * count - 1
    rows = rows_ED.expand(num_parts, -1, -1).flatten(0, 1)
    return insert_rows(video, rows, last.repeat_interleave(len(rows_ED)))
