"""The block transform from its definition, with plain loops."""

import math

ROTATION = [
    [1 / math.sqrt(3)] * 3,
    [1 / math.sqrt(2), 0.0, -1 / math.sqrt(2)],
    [-1 / math.sqrt(6), 2 / math.sqrt(6), -1 / math.sqrt(6)],
]


def slow_zigzag(size: int) -> list[tuple[int, int]]:
    """Walk the square as JPEG does: along each diagonal, turning at its end."""
    row = column = 0
    cells = []
    for _ in range(size * size):
        cells.append((row, column))
        if (row + column) % 2 == 0:  # going up
            if column == size - 1:
                row += 1
            elif row == 0:
                column += 1
            else:
                row, column = row - 1, column + 1
        elif row == size - 1:
            column += 1
        elif column == 0:
            row += 1
        else:
            row, column = row + 1, column - 1
    return cells


def slow_patch(pixels: list[list[list[int]]], count: int) -> list[float]:
    """Features of one patch [row][column][r, g, b] of 0..255: ``count`` of each channel."""
    size = len(pixels)
    features = []
    for axis in ROTATION:
        for u, v in slow_zigzag(size)[:count]:
            total = 0.0
            for y in range(size):
                for x in range(size):
                    level = sum(
                        a * (p / 255 - 0.5) for a, p in zip(axis, pixels[y][x], strict=True)
                    )
                    wave = math.cos(math.pi * (2 * y + 1) * u / (2 * size))
                    wave *= math.cos(math.pi * (2 * x + 1) * v / (2 * size))
                    total += level * wave
            scale = math.sqrt((1 if u == 0 else 2) / size) * math.sqrt((1 if v == 0 else 2) / size)
            features.append(scale * total)
    return features
