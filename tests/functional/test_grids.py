"""Coarser grids that fit a budget, and the cells that positions lie in."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.pool import cell_slowly, fit_slowly

from vidcomp.errors import BudgetError, ShapeError
from vidcomp.functional.geometry import patch_cells
from vidcomp.functional.grids import (
    cell_edges,
    cell_numbers,
    cell_of,
    coarser_grids,
    count_occupied,
    fit_grid,
    nearest_to_centres,
    occupied_patches,
    without_gaps,
)
from vidcomp.types import Grid

BOTH, SPACE, TIME = (True, True, True), (False, True, True), (True, False, False)
side = st.integers(1, 9)


@given(st.integers(1, 60), st.data())
def test_cells_are_as_equal_as_can_be(size, data):
    bins = data.draw(st.integers(1, size))
    edges = cell_edges(size, bins)
    lengths = {b - a for a, b in itertools.pairwise(edges)}
    assert (edges[0], edges[-1]) == (0, size)
    assert lengths <= {size // bins, -(-size // bins)}
    position = data.draw(st.floats(0, size - 1, width=32))
    assert int(cell_of(torch.tensor([position]), size, bins)) == cell_slowly(position, size, bins)


@given(grid=st.builds(Grid, side, side, side), budget=st.integers(1, 800), data=st.data())
@settings(deadline=None, max_examples=200)
def test_fit_equals_its_slow_twin(grid, budget, data):
    free = data.draw(st.sampled_from([BOTH, SPACE, TIME]))
    expected = fit_slowly(grid, budget, free)
    if expected is None:
        with pytest.raises(BudgetError, match="let more axes shrink"):
            fit_grid(grid, budget, free)
    else:
        assert fit_grid(grid, budget, free)[::-1] == expected


@given(
    grid=st.builds(Grid, side, side, side),
    free=st.sampled_from([BOTH, SPACE, TIME]),
    budgets=st.tuples(st.integers(1, 800), st.integers(1, 800)),
)
@settings(deadline=None)
def test_a_larger_budget_never_gives_fewer(grid, free, budgets):
    counts = []
    for budget in sorted(budgets):
        try:
            counts.append(fit_grid(grid, budget, free)[1])
        except BudgetError:
            counts.append(0)
    assert counts == sorted(counts)


@pytest.mark.parametrize(
    ("grid", "budget", "free", "sizes", "expected"),
    [
        (Grid(8, 16, 16), 512, SPACE, (None,) * 3, Grid(8, 8, 8)),
        (Grid(32, 16, 16), 196, BOTH, (None,) * 3, Grid(9, 5, 4)),
        (Grid(32, 16, 16), 1024, TIME, (None,) * 3, Grid(4, 16, 16)),
        (Grid(1, 18, 32), 144, BOTH, (None,) * 3, Grid(1, 9, 16)),  # 16:9 stays wide
        (Grid(1, 9, 16), 40, BOTH, (None,) * 3, Grid(1, 5, 8)),
        (Grid(1, 9, 16), 39, BOTH, (None,) * 3, Grid(1, 4, 9)),
        (Grid(8, 16, 16), 2000, BOTH, (None, 14, 14), Grid(8, 14, 14)),
        (Grid(8, 16, 16), 1000, BOTH, (None, 14, 14), Grid(5, 14, 14)),
        (Grid(8, 16, 16), 2047, BOTH, (8, 4, 4), Grid(8, 4, 4)),
        (Grid(5, 1, 1), 3, BOTH, (None,) * 3, Grid(3, 1, 1)),
        (Grid(4, 4, 4), 1, BOTH, (None,) * 3, Grid(1, 1, 1)),
    ],
)
def test_fit_by_hand(grid, budget, free, sizes, expected):
    assert fit_grid(grid, budget, free, sizes) == (expected, expected.num_patches)


def test_what_cannot_fit_says_so():
    with pytest.raises(BudgetError, match=r"\(8, 1, 1\) with 8 tokens, more than a budget of 7"):
        fit_grid(Grid(8, 16, 16), 7, SPACE)
    with pytest.raises(ShapeError, match="24 cells of 16 along h"):
        fit_grid(Grid(8, 16, 16), 7, BOTH, (None, 24, None))
    with pytest.raises(BudgetError, match=r"\(8, 14, 14\) with 1568 tokens"):
        fit_grid(Grid(8, 16, 16), 1567, BOTH, (8, 14, 14))


@given(grid=st.builds(Grid, side, side, side), seed=st.integers(0, 99), data=st.data())
@settings(deadline=None, max_examples=20)
def test_only_occupied_cells_count(grid, seed, data):
    draw = torch.Generator().manual_seed(seed)
    occupied = torch.rand(grid, generator=draw) < data.draw(st.sampled_from([0.1, 0.5, 0.9]))
    if data.draw(st.booleans()):  # a box
        occupied = occupied.amax((1, 2))[:, None, None] & occupied.amax((0, 2))[:, None]
        occupied = occupied.expand(grid).clone()
    occupied.view(-1)[int(torch.randint(0, grid.num_patches, (1,), generator=draw))] = True
    rows = patch_cells(grid)[occupied.flatten()].float()
    assert torch.equal(occupied_patches(rows, grid), occupied)

    def count(cells):
        return len(set(cell_numbers(rows, grid, cells).tolist()))

    budget = data.draw(st.integers(1, grid.num_patches))
    counts = {cells: count(cells) for cells in coarser_grids(grid, BOTH)}
    assert all(count_occupied(occupied, cells) == n for cells, n in counts.items())
    fitting = [n for n in counts.values() if n <= budget]
    cells, tokens = fit_grid(grid, budget, BOTH, occupied_THW=occupied)
    assert tokens == max(fitting) == counts[cells]


def test_nearest_to_centres():
    grid, cells = Grid(1, 1, 6), Grid(1, 1, 3)
    rows = patch_cells(grid).float()
    numbers = cell_numbers(rows, grid, cells)
    assert numbers.tolist() == [0, 0, 1, 1, 2, 2]
    assert nearest_to_centres(rows, numbers, grid, cells).tolist() == [0, 2, 4]  # x[::2]
    grid, cells = Grid(1, 5, 5), Grid(1, 1, 1)
    rows = patch_cells(grid).float()
    numbers = cell_numbers(rows, grid, cells)
    assert nearest_to_centres(rows, numbers, grid, cells).tolist() == [12]
    rest = torch.tensor([0, 3, 24])
    assert nearest_to_centres(rows[rest], numbers[rest], grid, cells).tolist() == [1]


def test_without_gaps():
    assert without_gaps(torch.tensor([7, 3, 3, 9])).tolist() == [1, 0, 0, 2]
    assert without_gaps(torch.tensor([], dtype=torch.int64)).tolist() == []


def test_an_hour_of_letterboxed_video_is_planned_at_once():
    """Neither the number of candidate grids nor that of tokens may make a plan slow."""
    occupied = torch.ones(3600, 14, 14, dtype=torch.bool)
    occupied[:, :2] = False
    _, tokens = fit_grid(Grid(3600, 14, 14), 20_000, BOTH, occupied_THW=occupied)
    assert 19_000 < tokens <= 20_000
