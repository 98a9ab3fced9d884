"""Coarser grids: which ones fit a budget, and which cell a position lies in.

A cell is a run of grid indices along each axis; the cells of an axis are as equal as possible.

Legend: N tokens, B cells along an axis.
"""

import math
from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise, product

import torch
from torch import Tensor

from vidcomp.errors import BudgetError, ShapeError
from vidcomp.functional.geometry import nearest_cells
from vidcomp.types import Grid

__all__ = [
    "cell_edges",
    "cell_numbers",
    "cell_of",
    "coarser_grids",
    "count_occupied",
    "fit_grid",
    "nearest_to_centres",
    "occupied_patches",
    "without_gaps",
]

Sizes = tuple[int | None, int | None, int | None]


def cell_edges(size: int, bins: int) -> list[int]:
    """[B + 1] where cells begin and end: cell ``i`` is indices ``edges[i]`` to ``edges[i + 1]``."""
    return [i * size // bins for i in range(bins + 1)]


def cell_of(position_N: Tensor, size: int, bins: int) -> Tensor:
    """[N] int64 cell along one axis of (maybe fractional) positions in 0..size - 1.

    A position between two cells belongs to the nearer one, half-way to the later one.
    """
    edges = torch.tensor(cell_edges(size, bins)[1:-1], device=position_N.device)
    return torch.bucketize(position_N.contiguous(), edges - 0.5, right=True)


def coarser_grids(grid: Grid, axes: Sequence[bool], sizes: Sizes = (None, None, None)) -> set[Grid]:
    """All grids that keep the aspect of ``grid``, as far as whole numbers can.

    Each free axis has the floor or the ceiling (at least 1) of its length times one common
    factor in 0..1.

    Args:
        grid: the full grid.
        axes: for t, h, w: whether the axis may shrink; the others keep their length.
        sizes: for t, h, w: a fixed number of cells, or ``None``.

    Raises:
        ShapeError: a fixed number of cells is more than there are.
    """
    for name, length, size in zip(grid._fields, grid, sizes, strict=True):
        if size is not None and size > length:
            raise ShapeError(
                f"cannot make {size} cells of {length} along {name} in a grid of {tuple(grid)}: "
                f"ask for at most {length}"
            )
    fixed = [
        size if size is not None else (None if free else length)
        for length, free, size in zip(grid, axes, sizes, strict=True)
    ]
    lengths = [length for length, size in zip(grid, fixed, strict=True) if size is None]
    # Between two neighbouring factors k / length no floor and no ceiling changes.
    marks = sorted({(k, n) for n in lengths for k in range(n + 1)}, key=lambda m: m[0] / m[1])
    marks = marks or [(0, 1)]
    found = set()
    for (a, n), (b, m) in pairwise([*marks, marks[-1]]):
        above, below = a * m + b * n, 2 * n * m  # a factor half-way
        options = [
            [max(1, length * above // below), max(1, -(-length * above // below))]
            if size is None
            else [size]
            for length, size in zip(grid, fixed, strict=True)
        ]
        found |= {Grid(*cells) for cells in product(*options)}
    return found


def occupied_patches(position_N3: Tensor, grid: Grid) -> Tensor:
    """[t, h, w] bool on the CPU: patches nearest to a token, half-way to the later one."""
    last_3 = torch.tensor(grid) - 1  # structural rows lie behind the last column
    cell_N3 = nearest_cells(position_N3).cpu().minimum(last_3)
    occupied = torch.zeros(grid, dtype=torch.bool)
    occupied[tuple(cell_N3.unbind(1))] = True
    return occupied


def count_occupied(occupied_THW: Tensor, cells: Grid) -> int:
    """Cells of a coarser grid in which there is a token."""
    return int((_cell_sums(_integral(occupied_THW), cells) > 0).sum())


def fit_grid(
    grid: Grid,
    budget: int,
    axes: Sequence[bool],
    sizes: Sizes = (None, None, None),
    occupied_THW: Tensor | None = None,
) -> tuple[Grid, int]:
    """The coarser grid with the largest count within a budget, and that count.

    Ties go to the larger t, then h.

    Args:
        grid: the full grid.
        budget: most cells.
        axes: for t, h, w: whether the axis may shrink.
        sizes: for t, h, w: a fixed number of cells, or ``None``.
        occupied_THW: [t, h, w] bool; only cells with a patch in here count.  By default all do.

    Raises:
        BudgetError: even the coarsest has more.
        ShapeError: a fixed number of cells is more than there are.
    """
    candidates = coarser_grids(grid, axes, sizes)
    count = _counter(grid, budget, occupied_THW)
    best, best_count = None, 0
    for cells in sorted(candidates, key=lambda g: (g.num_patches, g), reverse=True):
        if cells.num_patches <= best_count:
            break
        if best_count < (tokens := count(cells)) <= budget:
            best, best_count = cells, tokens
    if best is None:
        least = min(candidates, key=lambda g: (count(g), g))
        raise BudgetError(
            f"the coarsest grid that may be made of {tuple(grid)} is {tuple(least)} with "
            f"{count(least)} tokens, more than a budget of {budget}: raise the budget or let more "
            f"axes shrink"
        )
    return best, best_count


def _counter(grid: Grid, budget: int, occupied_THW: Tensor | None) -> Callable[[Grid], int]:
    """Tokens that a coarser grid yields; of what is above ``budget``, maybe only that it is."""
    if occupied_THW is None:
        return lambda cells: cells.num_patches
    total = int(occupied_THW.sum())
    axes = [occupied_THW.amax(dim=other) for other in ((1, 2), (0, 2), (0, 1))]
    is_box = total == math.prod(int(axis.sum()) for axis in axes)  # as letterboxing leaves it
    integral = _integral(occupied_THW)

    @cache
    def along(axis: int, bins: int) -> int:
        index = axes[axis].nonzero().squeeze(1)
        full = len(index) == grid[axis]
        return bins if full else len(set(cell_of(index, grid[axis], bins).tolist()))

    def count(cells: Grid) -> int:
        largest = math.prod(-(-n // m) for n, m in zip(grid, cells, strict=True))
        if (least := -(-total // largest)) > budget:
            return least  # as good as the count, which is not smaller, and much quicker
        if is_box:
            return math.prod(along(axis, bins) for axis, bins in enumerate(cells))
        return int((_cell_sums(integral, cells) > 0).sum())

    return count


def _integral(occupied_THW: Tensor) -> Tensor:
    """[t + 1, h + 1, w + 1] int64: how many are occupied before each corner."""
    total = torch.nn.functional.pad(occupied_THW.long(), (1, 0, 1, 0, 1, 0))
    return total.cumsum(0).cumsum(1).cumsum(2)


def _cell_sums(integral: Tensor, cells: Grid) -> Tensor:
    sums = integral
    for axis, bins in enumerate(cells):
        edges = torch.tensor(cell_edges(integral.shape[axis] - 1, bins))
        sums = sums.index_select(axis, edges).diff(dim=axis)
    return sums


def cell_numbers(position_N3: Tensor, grid: Grid, cells: Grid) -> Tensor:
    """[N] int64 cell of each position, counted in raster order; cells without tokens count too."""
    number_N = torch.zeros(len(position_N3), dtype=torch.int64, device=position_N3.device)
    for axis, (size, bins) in enumerate(zip(grid, cells, strict=True)):
        number_N = number_N * bins + cell_of(position_N3[:, axis], size, bins)
    return number_N


def nearest_to_centres(position_N3: Tensor, number_N: Tensor, grid: Grid, cells: Grid) -> Tensor:
    """[K] int64 the row nearest to the centre of each occupied cell, ascending.

    Squared distance in patches, ties to the lower row: of a cell of two patches the first.

    Args:
        position_N3: (t, h, w) of each token, counted from the grid's first frame.
        number_N: [N] int64 from ``cell_numbers``.
        grid: the full grid.
        cells: the coarser grid.
    """
    distance_N = torch.zeros(len(number_N), dtype=torch.float64)
    for axis, (size, bins) in enumerate(zip(grid, cells, strict=True)):
        edges = torch.tensor(cell_edges(size, bins), dtype=torch.float64)
        centres = (edges[:-1] + edges[1:] - 1) / 2
        cell_N = cell_of(position_N3[:, axis], size, bins).cpu()
        distance_N += (position_N3[:, axis].cpu().double() - centres[cell_N]).square()
    order_N = distance_N.argsort(stable=True)
    order_N = order_N[number_N.cpu()[order_N].argsort(stable=True)]
    sorted_N = number_N.cpu()[order_N]
    is_first = torch.ones_like(sorted_N, dtype=torch.bool)
    is_first[1:] = sorted_N[1:] != sorted_N[:-1]
    return order_N[is_first].sort().values.to(number_N.device)


def without_gaps(number_N: Tensor) -> Tensor:
    """[N] int64 the same groups, numbered 0, 1, 2 ... in the same order."""
    present = torch.bincount(number_N) > 0
    return (present.cumsum(0) - 1)[number_N]
