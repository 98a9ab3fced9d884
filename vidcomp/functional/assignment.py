"""Linear assignment: different columns for all rows at the least total cost.

Shortest augmenting paths (Jonker and Volgenant, A Shortest Augmenting Path Algorithm for Dense and
Sparse Linear Assignment Problems, 1987).  Costs are asked for row by row, so that the matrix is
never held.

Legend: K rows, M columns.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from vidcomp.errors import ShapeError

__all__ = ["assign_rows"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def assign_rows(cost: Callable[[int], Floats], num_rows: int, num_columns: int) -> Ints:
    """The column of each row, all different, with the least sum of costs.

    Args:
        cost: gives the finite costs [M] of a row; the same each time it is asked.
        num_rows: K.
        num_columns: M, at least K.

    Returns:
        [K] int64 columns.  Among equal sums the choice is the same on every run.

    Raises:
        ShapeError: more rows than columns.
    """
    if num_rows > num_columns:
        raise ShapeError(
            f"{num_rows} rows cannot have different columns of {num_columns}: offer more columns"
        )
    column_of, row_of = np.full(num_rows, -1), np.full(num_columns, -1)
    row_price, column_price = np.zeros(num_rows), np.zeros(num_columns)
    left = []
    for row in range(num_rows):
        costs = cost(row)
        column = int(costs.argmin())
        row_price[row] = costs[column]
        if row_of[column] < 0:
            row_of[column], column_of[row] = row, column
        else:
            left.append(row)
    for row in left:
        _augment(row, cost, (column_of, row_of), (row_price, column_price))
    return column_of


def _augment(
    free_row: int,
    cost: Callable[[int], Floats],
    partners: tuple[Ints, Ints],
    prices: tuple[Floats, Floats],
) -> None:
    """Give ``free_row`` a column, moving others along the cheapest path of exchanges."""
    (column_of, row_of), (row_price, column_price) = partners, prices
    distance = np.full(len(row_of), np.inf)
    came_from = np.full(len(row_of), -1)
    done = np.zeros(len(row_of), dtype=bool)
    row, reached = free_row, 0.0
    while True:
        through = reached + cost(row) - row_price[row] - column_price
        better = ~done & (through < distance)
        distance[better], came_from[better] = through[better], row
        column = int(np.where(done, np.inf, distance).argmin())
        reached = distance[column]
        if row_of[column] < 0:
            break
        done[column] = True
        row = row_of[column]
    row_price[free_row] += reached
    row_price[row_of[done]] += reached - distance[done]
    column_price[done] -= reached - distance[done]
    while True:  # walk the path back, each row handing its column on
        row = came_from[column]
        row_of[column] = row
        column_of[row], column = column, column_of[row]
        if row == free_row:
            return
