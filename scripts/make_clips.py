"""Writes a handful of small sample clips, each with another kind of motion.

    python scripts/make_clips.py [FOLDER]

moving shapes, hard cuts, a static scene, a slow pan, fast motion and a day of 60 seconds; 480 x 270
pixels, 25 frames a second, a few MB together.  The same pictures on every run; files that are
already there are left alone.
"""

import argparse
import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import av
from PIL import Image, ImageDraw, ImageFont

WIDTH, HEIGHT, FPS = 480, 270, 25
SCALE = 2  # drawn larger and then reduced, which smooths the edges

# Colours that colour-blind people can tell apart (Okabe and Ito, 2008).
SKY, VERMILION, GREEN, YELLOW, BLUE, ORANGE, PINK = (
    (86, 180, 233),
    (213, 94, 0),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (230, 159, 0),
    (204, 121, 167),
)
COLOURS = (SKY, VERMILION, GREEN, YELLOW, BLUE, ORANGE, PINK)
NIGHT, DUSK, PAPER, INK = (12, 16, 40), (46, 40, 84), (245, 243, 238), (28, 28, 34)

Colour = tuple[int, ...]
Point = tuple[float, float]


@dataclass(frozen=True)
class Clip:
    """A name, a length and what is seen at a time."""

    name: str
    seconds: float
    paint: Callable[[float], "Canvas"]


class Canvas:
    """A picture drawn in units of the finished clip's pixels."""

    def __init__(self, top: Colour, bottom: Colour, width: int = WIDTH) -> None:
        self.image = _gradient(top, bottom, width).copy()
        self._draw = ImageDraw.Draw(self.image)

    def circle(self, x: float, y: float, radius: float, fill: Colour) -> None:
        """A disc around (x, y)."""
        box = [(x - radius) * SCALE, (y - radius) * SCALE, (x + radius) * SCALE]
        self._draw.ellipse([*box, (y + radius) * SCALE], fill=fill)

    def polygon(self, points: list[Point], fill: Colour) -> None:
        """A filled outline."""
        self._draw.polygon([(x * SCALE, y * SCALE) for x, y in points], fill=fill)

    def box(self, x: float, y: float, width: float, height: float, fill: Colour) -> None:
        """A rectangle from its upper left corner."""
        right, bottom = (x + width) * SCALE - 1, (y + height) * SCALE - 1
        self._draw.rectangle([x * SCALE, y * SCALE, right, bottom], fill=fill)

    def regular(
        self, x: float, y: float, radius: float, corners: int, turn: float, fill: Colour
    ) -> None:
        """A regular polygon, ``turn`` in full turns."""
        angles = [math.tau * (turn + i / corners) for i in range(corners)]
        self.polygon([(x + radius * math.cos(a), y + radius * math.sin(a)) for a in angles], fill)

    def text(self, x: float, y: float, text: str, size: int, fill: Colour, anchor: str) -> None:
        """A line of text; ``anchor`` as Pillow names them."""
        font = ImageFont.load_default(size * SCALE)
        self._draw.text((x * SCALE, y * SCALE), text, fill=fill, font=font, anchor=anchor)


def moving_shapes(t: float) -> Canvas:
    """Discs, squares and triangles that bounce off the edges."""
    canvas = Canvas(DUSK, NIGHT)
    for i, colour in enumerate(COLOURS):
        radius = 18 + 5 * (i % 4)
        x = radius + _bounce(70 * i + (34 + 11 * i) * t, WIDTH - 2 * radius)
        y = radius + _bounce(41 * i + (58 - 5 * i) * t, HEIGHT - 2 * radius)
        if i % 3 == 0:
            canvas.circle(x, y, radius, colour)
        else:
            canvas.regular(x, y, radius * 1.2, 5 - i % 3, (0.1 + 0.03 * i) * t, colour)
    return canvas


def hard_cuts(t: float) -> Canvas:
    """Another picture every 1.25 seconds, with little motion inside each shot."""
    shot, since = int(t / 1.25), t % 1.25
    front, back = COLOURS[shot % 7], COLOURS[(shot + 3) % 7]
    canvas = Canvas(back, tuple(c // 2 for c in back))
    patterns = (_rays, _rings, _checks, _dots)
    patterns[shot % 4](canvas, since, front)
    canvas.circle(WIDTH / 2, HEIGHT / 2, 42, PAPER)
    canvas.text(WIDTH / 2, HEIGHT / 2, str(shot + 1), 50, INK, "mm")
    return canvas


def static_scene(t: float) -> Canvas:
    """A night in which nothing moves; once, for two seconds, a window is lit."""
    canvas = Canvas(NIGHT, DUSK)
    dice = random.Random(5)
    for _ in range(70):
        x, y = dice.uniform(0, WIDTH), dice.uniform(0, 150)
        canvas.circle(x, y, dice.uniform(0.5, 1.3), PAPER)
    canvas.circle(385, 62, 26, PAPER)
    canvas.circle(375, 56, 23, (20, 22, 50))
    _ridge(canvas, 150, 34, 3, (38, 46, 82))
    _ridge(canvas, 195, 22, 8, (26, 34, 60))
    canvas.box(0, 236, WIDTH, 34, (14, 22, 34))
    canvas.box(108, 194, 84, 46, (70, 48, 44))
    canvas.polygon([(98, 196), (150, 160), (202, 196)], (44, 30, 34))
    canvas.box(124, 206, 18, 18, YELLOW if 4 <= t < 6 else (30, 28, 40))
    canvas.box(160, 206, 16, 34, (40, 28, 28))
    return canvas


def slow_pan(t: float) -> Canvas:
    """A landscape past which the camera moves by less than a pixel a frame."""
    canvas = Canvas(PAPER, PAPER)
    offset = round(20 * t * SCALE)
    canvas.image.paste(_landscape().crop((offset, 0, offset + WIDTH * SCALE, HEIGHT * SCALE)))
    return canvas


def fast_motion(t: float) -> Canvas:
    """A wheel of two turns a second and balls that cross the picture, with trails."""
    canvas = Canvas((24, 60, 66), (10, 20, 30))
    for i in range(12):
        canvas.regular(WIDTH / 2, HEIGHT / 2, 128, 3, 2 * t + i / 12, (18, 52 + 6 * (i % 2), 62))
    for i in range(8):
        angles = [math.tau * (2 * t + i / 8 + d) for d in (0, 0.06)]
        rim = [(WIDTH / 2 + 92 * math.cos(a), HEIGHT / 2 + 92 * math.sin(a)) for a in angles]
        canvas.polygon([(WIDTH / 2, HEIGHT / 2), *rim], COLOURS[i % 7])
    for i, colour in enumerate((ORANGE, PINK, YELLOW)):
        for age in range(6, -1, -1):
            s = t - age * 0.02
            x = WIDTH / 2 + 215 * math.sin(math.tau * (0.9 + 0.2 * i) * s + i)
            y = HEIGHT / 2 + 105 * math.sin(math.tau * (1.3 - 0.3 * i) * s + 2 * i)
            fade = 1 - age / 8
            canvas.circle(x, y, 17 * fade, tuple(round(c * fade + 20 * (1 - fade)) for c in colour))
    return canvas


def day_of_a_minute(t: float) -> Canvas:
    """A town from dawn to night in 60 seconds: sun, clouds, traffic, and lights at the end."""
    light = max(0.0, math.sin(math.pi * min(t, 48) / 48)) ** 0.6
    canvas = Canvas(_mix(NIGHT, SKY, light), _mix((180, 96, 70), (214, 236, 244), light))
    angle = math.pi * (t + 2) / 50
    canvas.circle(WIDTH / 2 - 220 * math.cos(angle), 225 - 185 * math.sin(angle), 17, YELLOW)
    for i in range(4):
        x = (130 * i + (5 + 2 * i) * t) % (WIDTH + 120) - 60
        _cloud(canvas, x, 44 + 17 * i, _mix((70, 66, 100), PAPER, light))
    _town(canvas, light)
    canvas.box(0, 236, WIDTH, 34, _mix((22, 22, 30), (96, 96, 104), light))
    for i in range(5):
        direction = 1 if i % 2 else -1
        x = (direction * (38 + 9 * i) * t + 110 * i) % (WIDTH + 60) - 30
        _car(canvas, x, 241 + 13 * (i % 2), COLOURS[i], is_lit=light < 0.45)
    return canvas


CLIPS = (
    Clip("moving_shapes", 10, moving_shapes),
    Clip("hard_cuts", 10, hard_cuts),
    Clip("static_scene", 10, static_scene),
    Clip("slow_pan", 10, slow_pan),
    Clip("fast_motion", 6, fast_motion),
    Clip("one_minute", 60, day_of_a_minute),
)


def write_clips(folder: Path, clips: tuple[Clip, ...] = CLIPS) -> list[Path]:
    """Paths of all clips in ``folder``; those that are missing are written."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{clip.name}.mp4" for clip in clips]
    for clip, path in zip(clips, paths, strict=True):
        if not path.exists():
            # Renamed when complete: an interrupted run leaves no half clip to be skipped later.
            part = path.with_name(f".{path.name}.part")
            _encode(clip, part)
            part.replace(path)
    return paths


def frame(clip: Clip, t: float) -> Image.Image:
    """What ``clip`` shows at ``t`` seconds, [HEIGHT, WIDTH] RGB, with its name."""
    canvas = clip.paint(t)
    # No clock beside the name: it would move in the scene where nothing moves.
    label = clip.name.replace("_", " ")
    canvas.box(8, 8, ImageFont.load_default(13).getlength(label) + 14, 20, INK)
    canvas.text(15, 18, label, 13, PAPER, "lm")
    return canvas.image.reduce(SCALE)


def _encode(clip: Clip, path: Path) -> None:
    codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream(codec, rate=FPS)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        # One thread and no macroblock tree: else x264 writes other bytes now and then.
        options = {"crf": "23", "preset": "veryfast", "g": "50", "threads": "1", "mbtree": "0"}
        stream.options = options if codec == "libx264" else {"qscale": "4", "g": "50"}
        stream.time_base = Fraction(1, FPS)
        for i in range(round(clip.seconds * FPS)):
            container.mux(stream.encode(av.VideoFrame.from_image(frame(clip, i / FPS))))
        container.mux(stream.encode(None))


@lru_cache(maxsize=64)
def _gradient(top: Colour, bottom: Colour, width: int) -> Image.Image:
    column = Image.new("RGB", (1, HEIGHT))
    for y in range(HEIGHT):
        column.putpixel((0, y), _mix(top, bottom, y / (HEIGHT - 1)))
    return column.resize((width * SCALE, HEIGHT * SCALE))


def _mix(a: Colour, b: Colour, share: float) -> Colour:
    return tuple(round(x + (y - x) * share) for x, y in zip(a, b, strict=True))


def _bounce(distance: float, room: float) -> float:
    return room - abs(distance % (2 * room) - room)


def _rays(canvas: Canvas, t: float, colour: Colour) -> None:
    for i in range(10):
        angles = [math.tau * (i / 10 + d + 0.02 * t) for d in (0, 0.05)]
        rim = [(WIDTH / 2 + 300 * math.cos(a), HEIGHT / 2 + 300 * math.sin(a)) for a in angles]
        canvas.polygon([(WIDTH / 2, HEIGHT / 2), *rim], colour)


def _rings(canvas: Canvas, t: float, colour: Colour) -> None:
    for i in range(7, 0, -1):
        shade = colour if i % 2 else _mix(colour, INK, 0.6)
        canvas.circle(WIDTH / 2, HEIGHT / 2, 38 * i + 6 * t, shade)


def _checks(canvas: Canvas, t: float, colour: Colour) -> None:
    for i in range(-1, 9):
        for j in range(5):
            if (i + j) % 2:
                canvas.box(60 * i + 8 * t, 54 * j, 60, 54, colour)


def _dots(canvas: Canvas, t: float, colour: Colour) -> None:
    for i in range(9):
        for j in range(5):
            canvas.circle(30 + 53 * i, 30 + 53 * j, 13 + 4 * math.sin(3 * t + i + j), colour)


def _ridge(canvas: Canvas, base: float, height: float, seed: int, colour: Colour) -> None:
    width = canvas.image.width / SCALE
    top = [
        (x, base - height * (math.sin(0.013 * x + seed) + 0.5 * math.sin(0.037 * x + 2 * seed)))
        for x in range(0, round(width) + 8, 8)
    ]
    canvas.polygon([(0, HEIGHT), *top, (width, HEIGHT)], colour)


@lru_cache(maxsize=1)
def _landscape() -> Image.Image:
    """The whole panorama of the pan, wider than the picture by its length."""
    canvas = Canvas(SKY, (226, 240, 246), WIDTH + 220)
    canvas.circle(560, 58, 24, YELLOW)
    for i in range(6):
        _cloud(canvas, 60 + 125 * i, 52 + 24 * (i % 3), PAPER)
    _ridge(canvas, 150, 30, 4, (128, 158, 178))
    _ridge(canvas, 188, 20, 9, (76, 138, 110))
    _ridge(canvas, 228, 12, 2, (52, 110, 74))
    dice = random.Random(11)
    for i in range(22):
        x, size = 32 * i + dice.uniform(-9, 9), dice.uniform(13, 24)
        y = 232 + dice.uniform(-8, 22)
        canvas.box(x - 2, y - 4, 4, 12, (92, 64, 44))
        for k in range(3):
            half, foot = size * (1 - 0.22 * k) / 1.6, y - 0.55 * size * k
            triangle = [(x - half, foot), (x + half, foot), (x, foot - size)]
            canvas.polygon(triangle, (20, 84 + 12 * k, 58))
    return canvas.image


def _cloud(canvas: Canvas, x: float, y: float, colour: Colour) -> None:
    for dx, dy, radius in ((-20, 4, 10), (-7, -3, 14), (9, 0, 12), (22, 5, 8)):
        canvas.circle(x + dx, y + dy, radius, colour)


def _town(canvas: Canvas, light: float) -> None:
    dice = random.Random(3)
    for i in range(13):
        x, width, height = 38 * i - 6, dice.uniform(28, 40), dice.uniform(48, 128)
        tint = dice.choice(COLOURS)
        wall = _mix((26, 26, 44), _mix(tint, (150, 150, 160), 0.55), 0.15 + 0.85 * light)
        canvas.box(x, 238 - height, width, height, wall)
        for row in range(int(height / 15)):
            for column in range(int(width / 11)):
                is_lit = dice.random() > light * 1.6
                glass = (250, 214, 110) if is_lit else _mix(wall, NIGHT, 0.45)
                canvas.box(x + 4 + 11 * column, 244 - height + 15 * row, 5, 8, glass)


def _car(canvas: Canvas, x: float, y: float, colour: Colour, *, is_lit: bool) -> None:
    canvas.box(x - 14, y, 28, 8, colour)
    canvas.polygon([(x - 9, y + 1), (x - 5, y - 6), (x + 6, y - 6), (x + 10, y + 1)], colour)
    for wheel in (-8, 8):
        canvas.circle(x + wheel, y + 8, 3.4, INK)
    if is_lit:
        canvas.circle(x - 14, y + 3, 1.8, YELLOW)
        canvas.circle(x + 14, y + 3, 1.8, YELLOW)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=Path("demo"))
    for path in write_clips(parser.parse_args().folder):
        print(f"{path}  {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
