"""Grids and cells by plain loops."""

from itertools import product


def fit_slowly(grid, budget, free):
    """The coarser grid with most cells: each free axis the floor or ceiling of a common factor."""
    best = None
    for cells in product(*(range(1, n + 1) if f else [n] for n, f in zip(grid, free, strict=True))):
        count = cells[0] * cells[1] * cells[2]
        # Some factor s must satisfy cell - 1 < s * length < cell + 1 on every free axis.
        low = max([(c - 1) / n for c, n, f in zip(cells, grid, free, strict=True) if f], default=0)
        high = min([(c + 1) / n for c, n, f in zip(cells, grid, free, strict=True) if f], default=1)
        if low < min(high, 1) and count <= budget and (best is None or (count, cells) > best):
            best = (count, cells)
    return best


def cell_slowly(position, size, bins):
    """The cell of a position along one axis: cells begin at floor(i * size / bins)."""
    nearest = int(position + 0.5)
    return max(i for i in range(bins) if i * size // bins <= nearest)
