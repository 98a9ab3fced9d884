"""Raster order, dense grids and where chunks begin."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import dense_videos, make_video, video_tokens

from vidcomp.errors import ShapeError
from vidcomp.functional.geometry import (
    dense,
    first_patches,
    first_t,
    in_raster_order,
    is_dense,
    local_positions,
    patch_cells,
    raster_order,
)
from vidcomp.functional.merge import merge, resample
from vidcomp.types import Grid, VideoTokens


@given(
    rows=st.lists(st.tuples(*[st.sampled_from([0.0, 0.5, 1.0])] * 3), max_size=12),
    data=st.data(),
)
def test_raster_order_is_lexicographic_with_ties_by_patch(rows, data):
    patches = data.draw(st.permutations(range(len(rows))))
    order = raster_order(torch.tensor(rows).reshape(-1, 3), torch.tensor(patches).long())
    assert order.tolist() == sorted(range(len(rows)), key=lambda i: (*rows[i], patches[i]))


@given(video=video_tokens(soft=True), seed=st.integers(0, 9))
@settings(deadline=None)
def test_any_shuffle_is_put_right(video, seed):
    ordered = in_raster_order(video)
    shuffle = torch.randperm(len(video), generator=torch.Generator().manual_seed(seed))
    again = in_raster_order(ordered.select(shuffle))
    assert torch.equal(again.tokens, ordered.tokens)
    assert torch.equal(again.positions, ordered.positions)
    assert in_raster_order(again) is again


@given(video=dense_videos())
@settings(deadline=None)
def test_dense_is_a_view_of_the_grid(video):
    assert is_dense(video)
    x = dense(video)
    assert x.shape == (*video.grid, video.tokens.shape[1])
    assert x.data_ptr() == video.tokens.data_ptr()
    t, h, w = (n - 1 for n in video.grid)
    assert torch.equal(x[t, h, w], video.tokens[-1])
    assert torch.equal(patch_cells(video.grid)[-1], torch.tensor([t, h, w]))


def test_dense_refuses_what_is_not():
    video = make_video(Grid(2, 2, 3))
    dropped = video.select(torch.arange(11))
    swapped = video.select(torch.arange(11, -1, -1))
    merged = merge(video, torch.arange(12) // 2)
    soft = resample(video, torch.eye(12).to_sparse())
    refused = [dropped, swapped, merged, soft, *map(without_provenance, (dropped, swapped, merged))]
    for other in refused:
        with pytest.raises(ShapeError, match="put this stage first"):
            dense(other)
    assert dense(without_provenance(video)).shape == (2, 2, 3, 6)


@given(video=video_tokens(soft=True))
@settings(deadline=None)
def test_first_t_comes_from_provenance(video):
    assert first_t(video) in (0, 3)
    local = local_positions(video)
    assert float(local.min()) >= -1e-5
    assert float(local[:, 0].max()) <= video.grid.t - 1 + 1e-5


def test_first_t_without_provenance():
    video = without_provenance(make_video(Grid(4, 2, 2)))
    assert first_t(video) == 0
    later = without_provenance(make_video(Grid(4, 2, 2), first_t=8))
    with pytest.raises(ShapeError, match="keep assign"):
        first_t(later)
    assert first_t(video.select(torch.arange(0))) == 0


def test_first_patches():
    video = make_video(Grid(1, 2, 3))
    merged = merge(video, torch.tensor([0, 1, 2, 0, 1, -1]))
    assert first_patches(merged).tolist() == [2, 0, 1]  # (0, 2) lies before (0.5, 0)
    weights = torch.tensor([[0, 0.5, 0.5, 0, 0, 0], [0.5, 0, 0, 0, 0, 0.5]]).to_sparse()
    assert first_patches(resample(video, weights)).tolist() == [1, 0]
    assert first_patches(without_provenance(video)).tolist() == list(range(6))


def without_provenance(video):
    return VideoTokens(
        tokens=video.tokens,
        positions=video.positions,
        spans=video.spans,
        mass=video.mass,
        grid=video.grid,
    )
