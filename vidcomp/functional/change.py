"""How much a place of the picture changed, by its pixels or by its tokens, and what changed most.

Video droppers keep what changed.  Published ones compare with the frame before, whether it was
kept or not, and cannot see a slow drift: sixty frames of which each is like the last may end
anywhere.  ``last_kept`` compares with what was last kept at the place.

Pixels as in TimeChat-Online: 80% Visual Tokens are Naturally Redundant in Streaming Videos (Yao et
al., 2025) and VideoLLaMA 3: Frontier Multimodal Foundation Models for Image and Video
Understanding (Zhang et al., 2025).

Legend: T frames, C channels, H W pixels, S tubelets of some frames, h w cells of some pixels, N
rows (tokens), D features, K kept rows.
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from vidcomp.errors import ShapeError
from vidcomp.functional.reduce import wide
from vidcomp.functional.runs import Chains, chains, joins_above, joins_around
from vidcomp.functional.runs import Reference as RunReference
from vidcomp.functional.select import evenly_spaced, stable_topk

__all__ = [
    "PixelChange",
    "Reference",
    "changed_above",
    "last_rows",
    "most_changed",
    "pixel_change",
    "strongest",
    "token_chains",
]

Reference = Literal["previous", "last_kept"]
"""What a place is compared with: the frame before, or the last frame in which it was kept."""


class PixelChange(NamedTuple):
    """What ``pixel_change`` found."""

    change: Tensor
    """[S, h, w] float32 mean absolute difference; infinite where there is nothing before."""
    kept: Tensor
    """[S, h, w] bool: the change is above the threshold."""
    last: Tensor
    """[C, H, W] what the next tubelet is compared with: ``before`` of the next chunk."""


def pixel_change(
    frames_TCHW: Tensor,
    cell: tuple[int, int],
    *,
    threshold: float = 0.0,
    tubelet: int = 1,
    scale: Sequence[float] | None = None,
    reference: Reference = "previous",
    before: Tensor | None = None,
) -> PixelChange:
    """How much each cell differs from the same cell before.

    A tubelet's last frame is compared with the first frame of the one before: neighbouring frames
    if tubelets are single frames (VideoLLaMA 3), and frames three apart in tubelets of two, with
    two between that are never looked at (TimeChat-Online).  The last tubelet is filled up with
    the last frame.

    Args:
        frames_TCHW: uint8, which counts as 0 to 1, or float values as they are.
        cell: pixels of a cell along height and width.
        threshold: changes above it are ``kept``; with ``last_kept`` those become the reference.
        tubelet: frames of a tubelet.
        scale: [C] what the differences of a channel are multiplied by, e.g. one over the standard
            deviation that the encoder divides by.  The mean cancels out.
        reference: what a cell is compared with.
        before: ``last`` of the chunk before, if these frames go on; chunks end with a tubelet.

    Raises:
        ShapeError: not [T, C, H, W], or cells that do not fill the frame.
    """
    _check_frames(frames_TCHW, cell, tubelet)
    num_tubelets = -(-len(frames_TCHW) // tubelet)
    cells = (frames_TCHW.shape[2] // cell[0], frames_TCHW.shape[3] // cell[1])
    change = torch.full((num_tubelets, *cells), torch.inf, device=frames_TCHW.device)
    last = frames_TCHW[0] if before is None else before
    for s in range(num_tubelets):
        first = frames_TCHW[s * tubelet]
        final = frames_TCHW[min((s + 1) * tubelet, len(frames_TCHW)) - 1]
        if s or before is not None:
            change[s] = _cell_means(final, last, cell, scale)
        if reference == "previous":
            last = first
        else:
            kept_HW = (change[s] > threshold).repeat_interleave(cell[0], dim=0)
            last = torch.where(kept_HW.repeat_interleave(cell[1], dim=1), first, last)
    return PixelChange(change, change > threshold, last.clone())


def token_chains(positions_N3: Tensor) -> Chains:
    """Rows at the same place of the picture in the order of time; a place is the nearest patch."""
    place_N3 = positions_N3.clone()
    place_N3[:, 1:] = (place_N3[:, 1:] + 0.5).floor()
    return chains(place_N3)


def changed_above(
    x_ND: Tensor, found: Chains, max_cosine: float, reference: Reference
) -> tuple[Tensor, Tensor]:
    """Rows that are not more alike than ``max_cosine`` to what they are compared with.

    Args:
        x_ND: float features.
        found: chains of the rows; their first rows are compared with nothing, and kept.
        max_cosine: a row above it is dropped; 2 drops none.
        reference: the row before in the chain, or the last row before that was kept.

    Returns:
        [N] bool: kept; and [N] float32 one minus the cosine, infinite where a chain starts.
    """
    runs: RunReference = (
        "previous" if reference == "previous" else "first"
    )  # a run starts with what was kept
    least = _next_float(max_cosine)  # runs join what is equal to the threshold
    joined_N, cosine_N = joins_above(x_ND, x_ND.new_ones(len(x_ND)), found, least, runs)
    return ~joined_N, 1 - cosine_N


def most_changed(x_ND: Tensor, found: Chains, k: int, reference: Reference) -> Tensor:
    """[K] int64 rows that changed most, ascending: the ``strongest`` changes.

    With ``last_kept`` two neighbouring thresholds are looked for, of which one keeps at most and
    the other at least as many as wanted: frames up to a point go by the finer one, frames from
    there on by the coarser, so that the count is exact.

    Args:
        x_ND: float features.
        found: chains of the rows.
        k: 1 to N.
        reference: what a row is compared with.
    """
    if reference == "previous":
        return strongest(changed_above(x_ND, found, 2.0, reference)[1], k)
    num_new = int(found.starts.sum())
    num_changed = _num_changed(num_new, len(x_ND), k)
    joined_N = _joined_exactly(x_ND, found, len(x_ND) - num_new - num_changed)
    change_N = joined_N.float().masked_fill(joined_N, -torch.inf)
    return strongest(change_N.masked_fill(found.starts, torch.inf), k)


def _joined_exactly(x_ND: Tensor, found: Chains, num_joins: int) -> Tensor:
    """[N] bool: like the last row kept before it in its chain."""
    mass_N = x_ND.new_ones(len(x_ND))
    more_N, _, fewer_N = joins_around(x_ND, mass_N, found, num_joins, "first", both=True)
    # Fewer joins in the first rows and more in the others: from row to row of the border the count
    # changes by at most one, so that some border has it exactly.
    joins_N = fewer_N.long().cumsum(0) + int(more_N.sum()) - more_N.long().cumsum(0)
    border = int((joins_N == num_joins).nonzero()[0]) + 1 if int(more_N.sum()) > num_joins else 0
    return torch.cat([fewer_N[:border], more_N[border:]])


def strongest(change_N: Tensor, k: int) -> Tensor:
    """[K] int64 the rows with the largest changes, ascending; ties to the lower row.

    Infinite changes, rows with nothing before them, come first: the first frame is all kept.  If
    there are more of them than ``k``, they are evenly spaced and leave half to the others, as far
    as there are any: a small budget is not only the top of the first frame.

    Args:
        change_N: of each row; minus infinity: never chosen.
        k: at most the rows that may be chosen.
    """
    new_K = (change_N == torch.inf).nonzero().squeeze(1)
    if len(new_K) <= k:
        return stable_topk(change_N, k)
    num_others = _num_changed(len(new_K), len(new_K) + int(change_N.isfinite().sum()), k)
    others = stable_topk(change_N.masked_fill(change_N == torch.inf, -torch.inf), num_others)
    spread = evenly_spaced(len(new_K), k - num_others, change_N.device)
    return torch.cat([new_K[spread], others]).sort().values


def last_rows(found: Chains, kept_N: Tensor | None = None) -> Tensor:
    """[C] int64 last row of each chain, of those kept if that is given (the first of each is)."""
    present_LC = found.rows >= 0
    if kept_N is not None:
        present_LC = present_LC & kept_N[found.rows]
    step_L1 = torch.arange(len(found.rows), device=found.rows.device)[:, None]
    last_1C = torch.where(present_LC, step_L1, 0).amax(dim=0, keepdim=True)
    return found.rows.gather(0, last_1C).squeeze(0)


def _num_changed(num_new: int, num_rows: int, k: int) -> int:
    """How many of ``k`` rows are others than the ``num_new`` that have nothing before them."""
    return k - num_new if num_new <= k else min(k // 2, num_rows - num_new)


def _next_float(x: float) -> float:
    """The float32 number after the one nearest to ``x``."""
    nearest = torch.tensor(x, dtype=torch.float32)
    return float(torch.nextafter(nearest, torch.tensor(math.inf)))


def _cell_means(
    x_CHW: Tensor, y_CHW: Tensor, cell: tuple[int, int], scale: Sequence[float] | None
) -> Tensor:
    """[h, w] float32 mean absolute differences; sums of uint8 are whole numbers, hence exact."""
    is_bytes = x_CHW.dtype == torch.uint8
    x_CHW, y_CHW = (v.int() if is_bytes else wide(v) for v in (x_CHW, y_CHW))
    shape = (len(x_CHW), x_CHW.shape[1] // cell[0], cell[0], x_CHW.shape[2] // cell[1], cell[1])
    parts_ChHwW = (x_CHW - y_CHW).abs().reshape(shape)
    sum_Chw = wide(parts_ChHwW.sum(dim=(2, 4))) / (255 if is_bytes else 1)
    if scale is not None:
        sum_Chw = sum_Chw * sum_Chw.new_tensor(list(scale))[:, None, None]
    return (sum_Chw.sum(dim=0) / (len(x_CHW) * cell[0] * cell[1])).float()


def _check_frames(frames_TCHW: Tensor, cell: tuple[int, int], tubelet: int) -> None:
    shape = tuple(frames_TCHW.shape)
    if len(shape) != 4 or not shape[0] or tubelet < 1:
        raise ShapeError(
            f"changes of pixels need at least one frame [T, C, H, W] in tubelets of 1 or more, got "
            f"{list(shape)} in tubelets of {tubelet}: pass the frames of one video"
        )
    if min(cell) < 1 or shape[2] % cell[0] or shape[3] % cell[1]:
        raise ShapeError(
            f"cells of {cell[0]} x {cell[1]} pixels must fill a frame, got frames of {shape[2]} x "
            f"{shape[3]}: resize the frames as the encoder does"
        )
