"""Stages that reduce a grid to a coarser one, beside the laws."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.pool import cell_slowly
from strategies import dense_videos, make_video, video_tokens
from torch.nn import functional as F  # noqa: N812  # as everybody calls it

from vidcomp.errors import BudgetError, ConfigError, ShapeError
from vidcomp.functional.geometry import first_t
from vidcomp.functional.merge import merge
from vidcomp.registry import COMPRESSORS
from vidcomp.types import Grid

make = COMPRESSORS.make
GRID_STAGES = ("adaptive_pool", "avg_pool", "bilinear_pool", "max_pool", "stride")


def volume(video):
    return video.tokens.T.reshape(1, -1, *video.grid)


@pytest.mark.parametrize("axes", ["both", "space", "time"])
@given(video=dense_videos(dtypes=[torch.float32], contents=["random"]), amount=st.floats(0, 1))
@settings(deadline=None, max_examples=25)
def test_pools_are_those_of_pytorch(axes, video, amount):
    budget = 1 + round(amount * max(0, len(video) - 2))
    if axes == "space":
        budget = max(budget, video.grid.t)
    if axes == "time":
        budget = max(budget, video.grid.per_frame)
    if budget >= len(video):
        return
    x = volume(video)
    for name, reference in {
        "adaptive_pool": lambda cells: F.adaptive_avg_pool3d(x, cells),
        "max_pool": lambda cells: F.adaptive_max_pool3d(x, cells),
        "bilinear_pool": lambda cells: F.interpolate(x, cells, mode="trilinear"),
    }.items():
        stage = make(name, axes=axes)
        cells, count = stage.fit(video, budget)
        expected = reference(cells)[0].flatten(1).T
        out = stage(video, budget)
        assert len(out) == count
        if name == "max_pool":  # in the order of the positions of what was won
            order = sorted(map(tuple, expected.tolist()))
            assert sorted(map(tuple, out.tokens.tolist())) == order
        else:
            torch.testing.assert_close(out.tokens, expected, atol=2e-6, rtol=1e-5)


def test_average_of_whole_cells_is_avg_pool3d():
    video = make_video(Grid(4, 6, 8))
    out = make("avg_pool", t=2, h=3, w=4)(video, 100)
    expected = F.avg_pool3d(volume(video), 2)[0].flatten(1).T
    torch.testing.assert_close(out.tokens, expected, atol=2e-6, rtol=1e-5)
    assert out.mass.tolist() == [8.0] * 24
    assert out.positions[0].tolist() == [0.5, 0.5, 0.5]


@given(video=video_tokens(), amount=st.floats(0, 1))
@settings(deadline=None, max_examples=40)
def test_average_goes_by_positions(video, amount):
    """Merged, dropped or letterboxed: tokens of one cell go together, and no others."""
    budget = 1 + round(amount * max(0, len(video) - 2))
    stage = make("avg_pool")
    if budget >= len(video):
        return
    cells, count = stage.fit(video, budget)
    offset = first_t(video)
    where = {}
    for row, position in enumerate(video.positions.tolist()):
        position = [position[0] - offset, *position[1:]]
        cell = tuple(
            cell_slowly(p, n, b) for p, n, b in zip(position, video.grid, cells, strict=True)
        )
        where.setdefault(cell, set()).add(row)
    groups = stage.groups(video, budget).tolist()
    assert len(where) == count
    assert {frozenset(rows) for rows in where.values()} == {
        frozenset(i for i, g in enumerate(groups) if g == k) for k in set(groups)
    }


def test_stride_two_is_every_second():
    video = make_video(Grid(4, 6, 8))
    out = make("stride")(video, 24)
    x = video.extras["row"].reshape(4, 6, 8)
    assert torch.equal(out.extras["row"], x[::2, ::2, ::2].flatten())
    assert (
        make("stride", axes="space")(video, 48).extras["row"].tolist()
        == x[:, ::2, ::2].flatten().tolist()
    )
    assert (
        make("stride", axes="time")(video, 96).extras["row"].tolist() == x[::2].flatten().tolist()
    )


@pytest.mark.parametrize("name", GRID_STAGES)
def test_a_size_that_is_asked_for(name):
    video = make_video(Grid(4, 6, 8))
    stage = make(name, axes="space", h=3, w=4)
    assert stage.plan(video, 191) == len(stage(video, 191)) == 48
    assert stage.plan(video, 48) == 48
    with pytest.raises(BudgetError, match="with 48 tokens, more than a budget of 47"):
        stage.plan(video, 47)
    with pytest.raises(BudgetError, match="with 48 tokens, more than a budget of 47"):
        stage(video, 47)
    assert make(name, h=3, w=4).plan(video, 47) == 36  # time may still shrink
    with pytest.raises(ShapeError, match="9 cells of 8 along w"):
        make(name, w=9)(video, 50)


@pytest.mark.parametrize("name", GRID_STAGES)
def test_settings_that_contradict(name):
    with pytest.raises(ConfigError, match="axes='space' leaves t as it is, so t=2 cannot be"):
        make(name, axes="space", t=2)
    with pytest.raises(ConfigError, match="axes='time' leaves h as it is"):
        make(name, axes="time", h=2)
    with pytest.raises(ConfigError, match="'w' is 0"):
        make(name, w=0)
    with pytest.raises(BudgetError, match="let more axes shrink"):
        make(name, axes="space")(make_video(Grid(4, 6, 8)), 3)


@pytest.mark.parametrize("name", ["adaptive_pool", "bilinear_pool", "max_pool"])
def test_pools_that_read_neighbours_need_all_of_them(name):
    video = make_video(Grid(2, 4, 4))
    for other in (video.select(torch.arange(31)), merge(video, torch.arange(32) // 2)):
        with pytest.raises(ShapeError, match=r"goes by positions \(avg_pool, stride\)"):
            make(name)(other, 8)


def test_a_letterboxed_video_fills_its_budget():
    """Bars count for nothing: the grid is finer than that of a full picture."""
    valid = torch.ones(2, 8, 8, dtype=torch.bool)
    valid[:, :2] = valid[:, 6:] = False
    video = make_video(Grid(2, 8, 8), valid=valid.flatten())
    assert len(video) == 64
    assert make("avg_pool", axes="space").plan(video, 32) > 16
    full = make_video(Grid(2, 8, 8))
    assert make("avg_pool", axes="space").plan(full, 32) == 32
    assert float(make("avg_pool")(video, 20).mass.sum()) == 64
