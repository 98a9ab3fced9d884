"""A contact sheet: panels in rows, a line under each, a caption above and a legend below."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from PIL import Image, ImageDraw, ImageFont

__all__ = ["INK", "PAPER", "Panel", "Swatch", "contact_sheet"]

Colour = tuple[int, int, int]
T = TypeVar("T")

PAPER: Colour = (250, 250, 248)
INK: Colour = (24, 24, 28)
_GREY: Colour = (96, 96, 102)
_MARGIN, _GAP = 24, 14
_TITLE, _TEXT = 22, 15


@dataclass(frozen=True, slots=True)
class Panel:
    """One picture and what stands under it."""

    picture: Image.Image
    left: str
    right: str = ""


@dataclass(frozen=True, slots=True)
class Swatch:
    """One line of the legend: a small picture and what it means."""

    picture: Image.Image
    meaning: str


def contact_sheet(
    panels: Sequence[Panel],
    *,
    title: str,
    facts: Sequence[str],
    legend: Sequence[Swatch] = (),
    columns: int = 4,
) -> Image.Image:
    """Panels of one size beside and below each other.

    Args:
        panels: at least one.
        title: largest line.
        facts: short phrases under it, broken into lines between phrases.
        legend: what the signs mean.
        columns: most panels in a row.

    Returns:
        RGB, as wide as its panels and at least as wide as two of usual size, so that words fit.
    """
    columns = min(columns, len(panels))
    width, height = panels[0].picture.size
    content = max(columns * (width + _GAP) - _GAP, 720)
    lines = _flow([(_width(fact, _TEXT), fact) for fact in facts], content)
    keys = _flow([(_width(s.meaning, _TEXT) + s.picture.width + 8, s) for s in legend], content)
    step = height + _line(_TEXT) + _GAP
    grid_top = _MARGIN + _line(_TITLE) * bool(title) + len(lines) * _line(_TEXT) + _GAP
    legend_top = grid_top + -(-len(panels) // columns) * step
    bottom = legend_top + len(keys) * (_line(_TEXT) + 4) + _MARGIN - _GAP * (not keys)
    sheet = Image.new("RGB", (content + 2 * _MARGIN, bottom), PAPER)
    draw = ImageDraw.Draw(sheet)
    _write(draw, _MARGIN, _MARGIN, title, _TITLE, INK)
    for i, line in enumerate(lines):
        y = grid_top - _GAP - (len(lines) - i) * _line(_TEXT)
        for x, fact in line:
            _write(draw, _MARGIN + x, y, fact, _TEXT, _GREY)
    for i, panel in enumerate(panels):
        x, y = _MARGIN + i % columns * (width + _GAP), grid_top + i // columns * step
        _place(sheet, draw, panel, x, y)
    for i, key in enumerate(keys):
        for x, swatch in key:
            _explain(sheet, draw, swatch, _MARGIN + x, legend_top + i * (_line(_TEXT) + 4))
    return sheet


def _place(sheet: Image.Image, draw: ImageDraw.ImageDraw, panel: Panel, x: int, y: int) -> None:
    sheet.paste(panel.picture, (x, y))
    below, right = y + panel.picture.height + 4, x + panel.picture.width
    _write(draw, x, below, panel.left, _TEXT, INK)
    _write(draw, right - _width(panel.right, _TEXT), below, panel.right, _TEXT, _GREY)


def _explain(sheet: Image.Image, draw: ImageDraw.ImageDraw, swatch: Swatch, x: int, y: int) -> None:
    sheet.paste(swatch.picture, (x, y + (_TEXT + 2 - swatch.picture.height) // 2))
    _write(draw, x + swatch.picture.width + 8, y, swatch.meaning, _TEXT, _GREY)


def _flow(items: Sequence[tuple[int, T]], room: int) -> list[list[tuple[int, T]]]:
    """Items with their widths, broken into lines: each line is (left edge, item) pairs."""
    lines: list[list[tuple[int, T]]] = []
    x = room + 1
    for width, item in items:
        if x + width > room:
            lines.append([])
            x = 0
        lines[-1].append((x, item))
        x += width + 2 * _GAP
    return lines


def _write(draw: ImageDraw.ImageDraw, x: int, y: int, text: str, size: int, colour: Colour) -> None:
    draw.text((x, y), _plain(text), fill=colour, font=_font(size))


def _width(text: str, size: int) -> int:
    return round(_font(size).getlength(_plain(text)))


def _line(size: int) -> int:
    return size + 7


def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont)  # noqa: S101  # it is when a size is given
    return font


def _plain(text: str) -> str:
    """What Pillow's own font can draw: accents are dropped, letters it lacks become ``?``."""
    parts = unicodedata.normalize("NFKD", text)
    letters = "".join(c for c in parts if not unicodedata.combining(c))
    return letters.encode("ascii", "replace").decode()
