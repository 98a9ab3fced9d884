"""Pictures cut up for encoders, number by number, straight from what each encoder reads."""

from torch import Tensor


def tubelet_rows(pixels: Tensor, k: int, m: int, p: int) -> list[list[float]]:
    """Rows of (colour, frame, row, column) of each patch; patches of one token in a row."""
    x, rows = pixels.tolist(), []
    frames, channels, height, width = pixels.shape
    for step in range(frames // k):
        for token_row in range(height // (m * p)):
            for token_column in range(width // (m * p)):
                for i in range(m):
                    for j in range(m):
                        top, left = (token_row * m + i) * p, (token_column * m + j) * p
                        rows.append(
                            [
                                x[step * k + frame][colour][top + a][left + b]
                                for colour in range(channels)
                                for frame in range(k)
                                for a in range(p)
                                for b in range(p)
                            ]
                        )
    return rows


def patch_rows(pixels: Tensor, p: int) -> list[list[list[float]]]:
    """Frames of patches of (row, column, colour), in raster order."""
    frames, channels, height, width = pixels.shape
    x = pixels.tolist()
    return [
        [
            [
                x[frame][colour][top + a][left + b]
                for a in range(p)
                for b in range(p)
                for colour in range(channels)
            ]
            for top in range(0, height, p)
            for left in range(0, width, p)
        ]
        for frame in range(frames)
    ]


def one_row(pixels: Tensor, p: int) -> list[list[list[float]]]:
    """Colours of p lines, in which the patches of all frames stand side by side."""
    frames, channels, height, width = pixels.shape
    x = pixels.tolist()
    return [
        [
            [
                x[frame][colour][top + line][left + b]
                for frame in range(frames)
                for top in range(0, height, p)
                for left in range(0, width, p)
                for b in range(p)
            ]
            for line in range(p)
        ]
        for colour in range(channels)
    ]


def windows(side: int, pool: tuple[int, int]) -> list[list[int]]:
    """The patches of each window, -1 outside; a missing row or column more goes to the end."""
    found = []
    rows, columns = -(-side // pool[0]), -(-side // pool[1])
    above, before = (rows * pool[0] - side) // 2, (columns * pool[1] - side) // 2
    for row in range(rows):
        for column in range(columns):
            window = []
            for i in range(pool[0]):
                for j in range(pool[1]):
                    y, x = row * pool[0] + i - above, column * pool[1] + j - before
                    inside = 0 <= y < side and 0 <= x < side
                    window.append(y * side + x if inside else -1)
            found.append(window)
    return found
