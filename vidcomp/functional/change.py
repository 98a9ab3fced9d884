"""How much a place of the picture changed: by its pixels, or by its tokens.

Video droppers keep what changed.  Published ones compare with the frame before, whether it was
kept or not, and cannot see a slow drift: sixty frames of which each is like the last may end
anywhere.  ``last_kept`` compares with what was last kept at the place.

Pixels as in TimeChat-Online: 80% Visual Tokens are Naturally Redundant in Streaming Videos (Yao et
al., 2025) and VideoLLaMA 3: Frontier Multimodal Foundation Models for Image and Video
Understanding (Zhang et al., 2025).

Legend: T frames, C channels, H W pixels, S tubelets of some frames, h w cells of some pixels, N
rows (tokens), D features, K kept rows.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from vidcomp.errors import ShapeError
from vidcomp.functional.reduce import wide

__all__ = ["PixelChange", "Reference", "pixel_change"]

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
