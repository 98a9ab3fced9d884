"""Frames with the token map drawn over them: what became of every patch, in one picture.

* A coloured outline is a token that spans frames: the same colour in the same place is the same
  token.  Neighbours in space and time differ in colour where seven colours are enough.
* A white outline is a token that stands for several patches of one frame.
* A hairline is a patch that kept a token of its own.
* A grey patch is one that no token stands for.

The colours are those of Okabe and Ito (Color Universal Design, 2008), which colour-blind people can
tell apart.

Legend: t h w grid, N tokens, H W 3 pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from vidcomp.errors import ShapeError
from vidcomp.report.groups import colour_groups, patch_tokens, spans_frames
from vidcomp.report.sheet import Panel, Swatch, contact_sheet
from vidcomp.types import Frames, VideoTokens

__all__ = ["frame_of_row", "pick_rows", "token_map"]

_COLOURS = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (213, 94, 0),
    (204, 121, 167),
    (0, 114, 178),
)
_PANEL_AREA = 360 * 202
_TINT = 0.25
_HAIRLINE = 0.5
_SHADOW = 0.5

Pixels = NDArray[np.float32]
Labels = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Style:
    """How each token is drawn; the last entry, read by index -1, is for no token."""

    colour: Pixels
    """[N + 1, 3]."""
    is_group: Mask
    """[N + 1] tokens of several patches."""
    is_spanning: Mask
    """[N + 1] tokens of several frames."""


def token_map(
    frames: Frames,
    video: VideoTokens,
    *,
    title: str = "",
    budget: int | None = None,
    num_before: int | None = None,
    rows: Sequence[int] | None = None,
    aspect: float | None = None,
    max_frames: int = 16,
    columns: int = 4,
) -> Image.Image:
    """A contact sheet of frames with the token map over them.

    Args:
        frames: pictures framed as the encoder saw them, at any scale: all that were sampled, or
            with ``rows`` one for each of those.
        video: tokens with provenance.
        title: what the caption begins with, e.g. the file's name.
        budget: tokens that were allowed; named in the caption.
        num_before: tokens before compression; by default the patches of the grid.
        rows: frames of the grid to show; by default evenly spaced ones, at most ``max_frames``.
        aspect: width over height in which frames are shown, where the encoder had them stretched;
            by default that of their pixels.
        max_frames: most frames to show.
        columns: most frames beside each other.

    Returns:
        RGB.

    Raises:
        ShapeError: no provenance, or frames that do not fit the grid.
    """
    if rows is None:
        rows = pick_rows(video.grid.t, max_frames)
        shown = [frame_of_row(row, len(frames), video.grid.t) for row in rows]
    else:
        shown = list(range(len(frames)))
    if len(rows) != len(shown) or not rows or max(rows) >= video.grid.t:
        raise ShapeError(
            f"{len(rows)} rows of a grid with {video.grid.t} frames need as many pictures, got "
            f"{len(shown)}: pass one picture a row"
        )
    token_THW = patch_tokens(video)
    style = _style(token_THW, list(rows), len(video))
    tokens = token_THW.numpy()
    panels = [
        _panel(frames, index, tokens[row], style, aspect)
        for row, index in zip(rows, shown, strict=True)
    ]
    return contact_sheet(
        panels,
        title=title,
        facts=_facts(video, budget, num_before, len(rows)),
        legend=_legend(tokens, style),
        columns=columns,
    )


def pick_rows(num: int, limit: int) -> list[int]:
    """At most ``limit`` of ``num`` rows, evenly spaced: the middles of equal parts."""
    limit = min(num, limit)
    return [(2 * i + 1) * num // (2 * limit) for i in range(limit)]


def frame_of_row(row: int, num_frames: int, num_rows: int) -> int:
    """The frame that stands for a row of the grid: the middle one of its tubelet.

    Raises:
        ShapeError: there are fewer frames than rows.
    """
    if num_frames < num_rows:
        raise ShapeError(
            f"a grid of {num_rows} frames needs at least as many pictures, got {num_frames}: pass "
            f"all that were sampled"
        )
    stack = -(-num_frames // num_rows)
    return min(row * stack + (stack - 1) // 2, num_frames - 1)


def _style(token_THW: Tensor, rows: list[int], num_tokens: int) -> _Style:
    counts = np.bincount(token_THW[token_THW >= 0].numpy(), minlength=num_tokens)
    spanning = spans_frames(token_THW, num_tokens)
    index = colour_groups(token_THW[rows], spanning, len(_COLOURS)).numpy()
    palette = np.array([*_COLOURS, (255, 255, 255)], dtype=np.float32)
    return _Style(
        colour=palette[np.append(index, -1)],
        is_group=np.append(counts > 1, False),
        is_spanning=np.append(spanning.numpy(), False),
    )


def _panel(
    frames: Frames, index: int, token_HW: Labels, style: _Style, aspect: float | None
) -> Panel:
    """A frame with its part of the map, its time and how many tokens are seen in it."""
    pixels_HW3 = frames.data[index].permute(1, 2, 0).cpu().numpy()
    pixels_HW3, token_HW = _without_bars(pixels_HW3, token_HW, frames.content)
    cell_h, cell_w = _cell_size(token_HW.shape, aspect or _aspect(pixels_HW3))
    size = (token_HW.shape[1] * cell_w, token_HW.shape[0] * cell_h)
    picture = Image.fromarray(pixels_HW3).resize(size, Image.Resampling.LANCZOS)
    token = token_HW.repeat(cell_h, axis=0).repeat(cell_w, axis=1)
    line = min(3, max(1, min(cell_h, cell_w) // 8))
    painted = _paint(np.asarray(picture, dtype=np.float32), token, style, line)
    num = len(np.unique(token_HW[token_HW >= 0]))
    tokens = f"{num} token" + "s" * (num != 1)
    return Panel(Image.fromarray(painted), f"{float(frames.pts_s[index]):.2f} s", tokens)


def _without_bars(
    pixels: NDArray[np.uint8], token_HW: Labels, content: tuple[int, int, int, int] | None
) -> tuple[NDArray[np.uint8], Labels]:
    """Pixels and map cut to the patches that hold any real pixel of a letterboxed frame."""
    if content is None:
        return pixels, token_HW
    top, left, height, width = content
    rows, columns = (
        slice(start * grid // size, -(-(start + length) * grid // size))
        for start, length, grid, size in zip(
            (top, left), (height, width), token_HW.shape, pixels.shape[:2], strict=True
        )
    )
    y, x = (
        slice(part.start * size // grid, part.stop * size // grid)
        for part, grid, size in zip((rows, columns), token_HW.shape, pixels.shape[:2], strict=True)
    )
    return np.ascontiguousarray(pixels[y, x]), token_HW[rows, columns]


def _aspect(pixels: NDArray[np.uint8]) -> float:
    return float(pixels.shape[1] / pixels.shape[0])


def _paint(pixels: Pixels, token: Labels, style: _Style, line: int) -> NDArray[np.uint8]:
    """Pixels [H, W, 3] with the map over them, given the token of each pixel [H, W]."""
    out, lost = pixels.copy(), token < 0
    # Neither black nor white: a lost patch must look lost in a dark and in a bright scene.
    out[lost] = 0.25 * pixels[lost].mean(axis=-1, keepdims=True) + 40
    spanning, group, colour = style.is_spanning[token], style.is_group[token], style.colour[token]
    # Dark pixels get a darker tint, or a night would look like day.
    brightness = np.minimum(1, pixels.mean(axis=-1, keepdims=True) / 255 + 0.25)
    out[spanning] += _TINT * (brightness * colour - out)[spanning]
    edge, inner = _border(token, 1), _border(token, 2)
    alone = group & ~spanning
    single = ~group & ~lost
    # White lines get a shadow, without which they would vanish on white pictures.
    for where, strength in ((alone, _SHADOW), (single, _SHADOW * _HAIRLINE)):
        out[where & inner] *= 1 - strength
    out[alone & edge] = 255
    out[single & edge] = pixels[single & edge] * (1 - _HAIRLINE) + 255 * _HAIRLINE
    thick = spanning & _border(token, line)
    out[thick] = colour[thick]
    return out.round().clip(0, 255).astype(np.uint8)


def _border(token: Labels, width: int) -> Mask:
    """[H, W] bool: pixels within ``width`` of another token or of the edge, diagonals included."""
    height, length = token.shape
    padded = np.pad(token, width, constant_values=-2)
    steps = (0, width, 2 * width)
    shifted = [padded[y : y + height, x : x + length] for y in steps for x in steps]
    different: Mask = np.any([other != token for other in shifted], axis=0)
    return different


def _cell_size(grid_hw: tuple[int, ...], aspect: float) -> tuple[int, int]:
    """Whole pixels (height, width) of a patch, so that outlines lie on patch borders."""
    aspect = min(4.0, max(0.25, aspect))
    height = (_PANEL_AREA / aspect) ** 0.5
    return max(3, round(height / grid_hw[0])), max(3, round(height * aspect / grid_hw[1]))


def _facts(
    video: VideoTokens, budget: int | None, num_before: int | None, num_shown: int
) -> list[str]:
    before = video.grid.num_patches if num_before is None else num_before
    allowed = "" if budget is None else f" (budget {budget})"
    facts = [
        f"{before} patch tokens in, {len(video)} tokens out{allowed}",
        f"reduction factor {before / max(1, len(video)):.1f}",
        f"grid (t, h, w) = {tuple(video.grid)}",
    ]
    if num_shown < video.grid.t:
        facts.append(f"{num_shown} of {video.grid.t} frames shown")
    if video.weights is not None:
        facts.append("each patch is drawn with its strongest token")
    return facts


def _legend(tokens: Labels, style: _Style) -> list[Swatch]:
    """Only the signs that occur."""
    used = np.unique(tokens)
    group, spanning = style.is_group[used], style.is_spanning[used]
    meanings = {
        "spanning": ("one token over several frames", bool(spanning.any())),
        "group": ("patches of one frame merged to a token", bool((group & ~spanning).any())),
        "single": ("a patch with a token of its own", bool((~group & (used >= 0)).any())),
        "lost": ("dropped", bool((used < 0).any())),
    }
    return [
        Swatch(_swatch(kind), meaning) for kind, (meaning, occurs) in meanings.items() if occurs
    ]


def _swatch(kind: str) -> Image.Image:
    """The sign drawn by the same brush as in the frames, on a middle grey."""
    token = np.zeros((16, 26), dtype=np.int64)
    token[:, 13:] = kind == "spanning"
    if kind == "lost":
        token[:] = -1
    style = _Style(
        colour=np.array([_COLOURS[0], _COLOURS[1], (255, 255, 255)], dtype=np.float32)
        if kind == "spanning"
        else np.full((3, 3), 255, dtype=np.float32),
        is_group=np.array([kind in ("spanning", "group")] * 2 + [False]),
        is_spanning=np.array([kind == "spanning"] * 2 + [False]),
    )
    pixels = np.full((16, 26, 3), 130, dtype=np.float32)
    return Image.fromarray(_paint(pixels, token, style, 3))
