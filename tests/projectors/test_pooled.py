"""Pools with an MLP: other grids, budgets and kinds of rows than the recorded ones."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.projectors import slow_bins, slow_mlp
from projector_cases import DIM_IN, dense, grids, make, provenance, pruned, soft
from torch import Tensor
from torch.nn.functional import (
    adaptive_avg_pool1d,
    adaptive_avg_pool2d,
    adaptive_avg_pool3d,
    avg_pool1d,
    interpolate,
)

from vidcomp.errors import BudgetError, ConfigError, ShapeError
from vidcomp.projectors import pooling
from vidcomp.types import Grid, TokenBatch

few = settings(deadline=None, max_examples=25)
CLOSE = {"atol": 1e-5, "rtol": 1e-5}
ALONE = {"depth": 0, "dim_out": DIM_IN}


def maps(video) -> Tensor:
    """[T, D, H, W]."""
    return video.tokens.view(*video.grid, -1).permute(0, 3, 1, 2)


def rows(x_TDHW: Tensor) -> Tensor:
    return x_TDHW.permute(0, 2, 3, 1).flatten(0, 2)


@few
@given(grid=grids, frames=st.integers(1, 6), side=st.integers(1, 4))
def test_pllava_is_the_mlp_then_means_of_boxes(grid: Grid, frames: int, side: int) -> None:
    projector = make("pllava", num_frames=frames, tokens_per_frame=(side, 2))
    video = dense(grid)
    state = {n.removeprefix("layers."): t for n, t in projector.state_dict().items()}
    x_THWD = slow_mlp(video.tokens, state).view(*grid, -1)
    expected = [
        x_THWD[ts.start : ts.stop, ys.start : ys.stop, xs.start : xs.stop].mean(dim=(0, 1, 2))
        for ts in slow_bins(grid.t, frames)
        for ys in slow_bins(grid.h, side)
        for xs in slow_bins(grid.w, 2)
    ]
    out = projector(video)
    torch.testing.assert_close(out.tokens.double(), torch.stack(expected), **CLOSE)
    share = provenance(out).view(-1, *grid)
    first = torch.zeros(grid)
    ts, ys, xs = (slow_bins(n, b)[0] for n, b in zip(grid, (frames, side, 2), strict=True))
    first[ts.start : ts.stop, ys.start : ys.stop, xs.start : xs.stop] = 1
    torch.testing.assert_close(share[0], first / first.sum())


@few
@given(grid=grids, budget=st.integers(1, 99))
def test_pllava_keeps_frames_while_each_can_have_a_token(grid: Grid, budget: int) -> None:
    projector = make("pllava", num_frames=3)
    cells = projector.cells(grid, budget)
    assert cells.num_patches <= budget
    assert cells.t == min(3, grid.t, budget)
    assert len(projector(dense(grid), budget)) == cells.num_patches


def test_pllava_repeats_the_frames_of_short_clips_as_the_original() -> None:
    video = dense(Grid(2, 4, 4))
    out = make("pllava", num_frames=8, tokens_per_frame=(2, 2), **ALONE)(video)
    long = maps(video).repeat_interleave(4, dim=0).transpose(0, 1)
    expected = adaptive_avg_pool3d(long, (8, 2, 2)).permute(1, 2, 3, 0).flatten(0, 2)
    torch.testing.assert_close(out.tokens, expected)
    torch.testing.assert_close(out.mass, torch.ones(32))


def test_pllavas_own_sizes() -> None:
    projector = make("pllava", num_frames=16, tokens_per_frame=144)
    assert projector.cells(Grid(32, 24, 24)) == Grid(16, 12, 12)
    assert projector.num_tokens(Grid(32, 24, 24)) == 2304


@few
@given(grid=grids, ratio=st.integers(1, 3))
def test_perception_lm_has_bins_that_overlap_on_odd_sides(grid: Grid, ratio: int) -> None:
    projector = make("perception_lm", pooling_ratio=ratio, **ALONE)
    if min(grid.h, grid.w) < ratio:
        with pytest.raises(ShapeError, match=f"one cell of {ratio} x {ratio} patches"):
            projector.num_tokens(grid)
        with pytest.raises(ShapeError, match=f"frames of {grid.h} x {grid.w}"):
            projector(dense(grid))
        return
    video = dense(grid)
    expected = rows(adaptive_avg_pool2d(maps(video), (grid.h // ratio, grid.w // ratio)))
    torch.testing.assert_close(projector(video).tokens, expected, **CLOSE)
    torch.testing.assert_close(projector(video).mass.sum(), video.mass.sum())


@few
@given(grid=grids, size=st.integers(1, 4))
def test_videollama3_interpolates_any_sides(grid: Grid, size: int) -> None:
    projector = make("videollama3", merge_size=size, **ALONE)
    if min(grid.h, grid.w) < size:
        with pytest.raises(ShapeError, match="'videollama3'"):
            projector(dense(grid))
        return
    video = dense(grid)
    sides = (grid.h // size, grid.w // size)
    out = projector(video)
    expected = rows(interpolate(maps(video), sides, mode="bilinear"))
    torch.testing.assert_close(out.tokens, expected, **CLOSE)
    # The provenance is the interpolation itself.
    torch.testing.assert_close(provenance(out) @ video.tokens, expected, **CLOSE)


@pytest.mark.parametrize("case", ["perception_lm", "videollama3", "deco"])
@few
@given(grid=grids, per_frame=st.integers(1, 30))
def test_a_budget_chooses_the_grid_of_frames(case: str, grid: Grid, per_frame: int) -> None:
    projector = make(case)
    out = projector(dense(grid), per_frame * grid.t)
    assert len(out) == projector.num_tokens(grid, per_frame * grid.t) <= per_frame * grid.t
    if grid.h == grid.w:
        assert len(out) >= grid.t * min(math.isqrt(per_frame), grid.h) ** 2
    with pytest.raises(BudgetError, match=f"budget is {grid.t - 1}"):
        projector(dense(grid), grid.t - 1)


@pytest.mark.parametrize("kind", [dense, pruned, soft])
@few
@given(grid=grids, seed=st.integers(0, 99), group=st.integers(1, 7), ceil=st.booleans())
def test_groups_of_rows(kind, grid: Grid, seed: int, group: int, ceil: bool) -> None:
    video = kind(grid, seed)
    projector = make("avg_pool1d", out_tokens=None, group=group, ceil_mode=ceil, **ALONE)
    if len(video) < group and not ceil:
        with pytest.raises(ShapeError, match=f"of {group} rows, got {len(video)}"):
            projector(video)
        return
    out = projector(video)
    x_1DN = video.tokens.T[None]
    expected = avg_pool1d(x_1DN, group, ceil_mode=ceil, count_include_pad=False)[0].T
    torch.testing.assert_close(out.tokens, expected, **CLOSE)
    pooled = len(video) if ceil else len(video) // group * group
    torch.testing.assert_close(out.mass.sum(), video.mass[:pooled].sum(), **CLOSE)
    whole = projector.many(TokenBatch.pack([video, dense(Grid(2, 3, 3)), video]))
    torch.testing.assert_close(whole[2].tokens, out.tokens)
    torch.testing.assert_close(whole[2].positions, out.positions)


@pytest.mark.parametrize("kind", [dense, pruned, soft])
@few
@given(grid=grids, seed=st.integers(0, 99), count=st.integers(1, 40))
def test_rows_to_a_number_of_tokens_or_a_budget(kind, grid: Grid, seed: int, count: int) -> None:
    video = kind(grid, seed)
    out = make("avg_pool1d", out_tokens=count, **ALONE)(video)
    expected = adaptive_avg_pool1d(video.tokens.T[None], count)[0].T
    torch.testing.assert_close(out.tokens, expected, **CLOSE)
    elastic = make("avg_pool1d", **ALONE)(video, count)
    assert len(elastic) == min(count, len(video))
    if count <= len(video):
        torch.testing.assert_close(elastic.tokens, out.tokens)
    else:
        assert elastic.assign is video.assign


@pytest.mark.parametrize("sizes", [{"out_tokens": 3, "group": 3}, {"out_tokens": None}])
def test_rows_have_one_rule(sizes: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="either out_tokens or group"):
        make("avg_pool1d", **sizes)


def test_a_pool_alone_keeps_the_width() -> None:
    with pytest.raises(ConfigError, match="a pool alone keeps the width"):
        make("pllava", depth=0)


@few
@given(grid=grids, t=st.integers(1, 5), h=st.integers(1, 6), w=st.integers(1, 6))
def test_accelerators_pool_by_matrices_of_the_same_means(
    grid: Grid, t: int, h: int, w: int
) -> None:
    x = dense(grid).tokens.view(1, *grid, -1)
    cells = Grid(t, h, w)
    by_matrix = pooling._mixed(x, cells, pooling._adaptive)
    torch.testing.assert_close(by_matrix, pooling.mean_cells(x, cells), **CLOSE)
    cells = Grid(grid.t, h, w)
    by_matrix = pooling._mixed(x, cells, pooling._bilinear)
    torch.testing.assert_close(by_matrix, pooling.between_cells(x, cells), **CLOSE)


def mean_squares(x: Tensor, size: int) -> Tensor:
    return pooling.mean_windows(x, (1, size, size))


@pytest.mark.parametrize("pool", [mean_squares, pooling.largest_windows, pooling.stacked_windows])
def test_pools_keep_the_type_and_the_input(pool) -> None:
    x = torch.randn(2, 3, 4, 6, 5).bfloat16()
    before = x.clone()
    assert pool(x, 2).dtype == torch.bfloat16
    assert pool(x, 2).shape[:4] == (2, 3, 2, 3)
    assert torch.equal(x, before)
