"""The sizes that video processors choose: integers in, integers out.

Each is the rule of the family's own code in transformers 5, whose results they repeat to the pixel.
"""

import math
from typing import NamedTuple

from vidcomp.errors import ShapeError

__all__ = [
    "Bounds",
    "fitting_size",
    "in_area",
    "longest_edge_size",
    "patch_target",
    "smart_size",
    "volume_size",
]

_MAX_ASPECT = 200


class Bounds(NamedTuple):
    """Pixels a picture (or a video) may have."""

    least: int
    most: int


def smart_size(height: int, width: int, factor: int, bounds: Bounds) -> tuple[int, int]:
    """Qwen2-VL (2024): multiples of ``factor``, pixels within bounds, the aspect nearly kept.

    Raises:
        ShapeError: an aspect above 200.
    """
    return _rounded(height, width, factor, bounds, frames=1, steps=1)


def volume_size(
    num_frames: int, height: int, width: int, factor: int, bounds: Bounds, tubelet: int
) -> tuple[int, int]:
    """GLM-4.1V (2025) and Qwen3-VL (2025): the bounds hold for all frames together.

    A video shorter than a tubelet counts as one.

    Raises:
        ShapeError: an aspect above 200.
    """
    frames = max(num_frames, tubelet)
    if height < factor or width < factor:
        scale = max(factor / height, factor / width)
        height, width = int(height * scale), int(width * scale)
    steps = round(frames / tubelet) * tubelet
    return _rounded(height, width, factor, bounds, frames=frames, steps=steps)


def _rounded(
    height: int, width: int, factor: int, bounds: Bounds, *, frames: int, steps: int
) -> tuple[int, int]:
    if max(height, width) > _MAX_ASPECT * min(height, width):
        raise ShapeError(
            f"the model takes an aspect of at most {_MAX_ASPECT}, got {height} x {width}: crop or "
            f"stretch the video"
        )
    # Python rounds half to even, and so does the original; a side may become 0 and then grows.
    h, w = (round(side / factor) * factor for side in (height, width))
    if steps * h * w > bounds.most:
        beta = math.sqrt(frames * height * width / bounds.most)
        h, w = (max(factor, math.floor(side / beta / factor) * factor) for side in (height, width))
    elif steps * h * w < bounds.least:
        beta = math.sqrt(bounds.least / (frames * height * width))
        h, w = (math.ceil(side * beta / factor) * factor for side in (height, width))
    return h, w


def fitting_size(height: int, width: int, unit: int, max_units: int) -> tuple[int, int]:
    """Gemma 4 (2026): the largest multiples of ``unit`` with at most ``max_units`` squares.

    Pictures are enlarged too.
    """
    scale = math.sqrt(max_units * unit * unit / (height * width))
    h, w = (math.floor(scale * side / unit) for side in (height, width))
    if not h:
        h, w = 1, min(width // height, max_units)
    elif not w:
        h, w = min(height // width, max_units), 1
    return h * unit, w * unit


def in_area(height: int, width: int, side: int, unit: int) -> tuple[int, int]:
    """MiniCPM-V 4.6 (2026): the area of a square of ``side``, sides to the nearest ``unit``."""
    aspect = width / height
    h = int(side / math.sqrt(aspect))
    w = int(h * aspect)
    h, w = (max(round(length / unit) * unit, unit) for length in (h, w))
    return h, w


def longest_edge_size(height: int, width: int, edge: int) -> tuple[int, int]:
    """SmolVLM (2025): the long side to ``edge``, the short one in proportion and even."""
    aspect = width / height
    if width >= height:
        short = int(edge / aspect)
        return max(short + short % 2, 1), edge
    short = int(edge * aspect)
    return edge, max(short + short % 2, 1)


def patch_target(
    height: int, width: int, target: int, divisor: int, *, keep_aspect: bool
) -> tuple[int, int]:
    """Nemotron-H Omni (2026): patches (h, w) near ``target`` in all, multiples of ``divisor``."""
    if not keep_aspect:
        side = max(divisor, math.isqrt(target) // divisor * divisor)
        return side, side
    aspect = width / height
    h = max(round(math.sqrt(target / aspect)), 1)
    w = max(round(math.sqrt(target * aspect)), 1)
    up_h, up_w = (-(-side // divisor) * divisor for side in (h, w))
    if up_h * up_w <= target:
        return up_h, up_w
    h, w = (max(divisor, side // divisor * divisor) for side in (h, w))
    return h, w
