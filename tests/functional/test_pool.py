"""Pooling matrices against PyTorch's own pooling."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F  # noqa: N812  # as everybody calls it

from vidcomp.functional import pool
from vidcomp.functional.pool import (
    adaptive_weights,
    bilinear_weights,
    grid_weights,
    largest,
)
from vidcomp.types import Grid

side = st.integers(1, 7)


@st.composite
def pooled_grids(draw):
    grid = Grid(draw(side), draw(side), draw(side))
    return grid, Grid(*(draw(st.integers(1, n)) for n in grid))


def volume(x, grid):
    """[1, D, t, h, w], as PyTorch's layers want it."""
    return x.T.reshape(1, -1, *grid)


def rows(y):
    return y[0].flatten(1).T


@given(pooled_grids(), st.integers(0, 99))
@settings(deadline=None)
def test_adaptive_weights_are_adaptive_avg_pool3d(grids, seed):
    grid, cells = grids
    x = torch.randn(grid.num_patches, 3, generator=torch.Generator().manual_seed(seed)).double()
    weights = grid_weights([adaptive_weights(n, b) for n, b in zip(grid, cells, strict=True)])
    assert torch.allclose(weights @ x, rows(F.adaptive_avg_pool3d(volume(x, grid), cells)))
    assert torch.allclose(weights.to_dense().sum(1), torch.ones(cells.num_patches).double())


@given(pooled_grids(), st.integers(0, 99))
@settings(deadline=None)
def test_bilinear_weights_are_interpolate(grids, seed):
    grid, cells = grids
    x = torch.randn(grid.num_patches, 3, generator=torch.Generator().manual_seed(seed)).double()
    weights = grid_weights([bilinear_weights(n, b) for n, b in zip(grid, cells, strict=True)])
    expected = F.interpolate(volume(x, grid), size=cells, mode="trilinear", align_corners=False)
    assert torch.allclose(weights @ x, rows(expected))
    assert torch.allclose(weights.to_dense().sum(1), torch.ones(cells.num_patches).double())


@given(pooled_grids(), st.integers(0, 99), st.sampled_from([1, 30, 1 << 24]))
@settings(deadline=None)
def test_largest_is_adaptive_max_pool3d(grids, seed, block):
    grid, cells = grids
    draw = torch.Generator().manual_seed(seed)
    x = torch.randint(-2, 3, (grid.num_patches, 4), generator=draw).float()  # with ties
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pool, "_BLOCK", block)
        values, weights = largest(x, grid, cells)
    expected, _ = F.adaptive_max_pool3d(volume(x, grid), cells, return_indices=True)
    assert torch.equal(values, rows(expected))
    shares = weights.to_dense()
    inside = adaptive_members(grid, cells)
    for k in range(cells.num_patches):
        won = torch.zeros(grid.num_patches, dtype=torch.float64)
        for d in range(4):
            best = [p for p in inside[k] if x[p, d] == values[k, d]]
            won[min(best)] += 0.25
        assert torch.equal(shares[k], won)


def test_largest_has_a_gradient():
    x = torch.randn(24, 3, dtype=torch.float64, requires_grad=True)
    grid, cells = Grid(2, 3, 4), Grid(1, 2, 3)
    assert torch.autograd.gradcheck(lambda y: largest(y, grid, cells)[0], x)


def adaptive_members(grid, cells):
    weights = grid_weights([adaptive_weights(n, b) for n, b in zip(grid, cells, strict=True)])
    return [row.nonzero().squeeze(1).tolist() for row in weights.to_dense()]
