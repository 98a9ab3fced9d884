"""Anchors are different patches, the tokens' own as far as there are enough."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.assignment import best_cost
from oracles.merge import provenance_slowly
from strategies import make_video, video_tokens

from vidcomp.errors import ShapeError
from vidcomp.functional.anchors import anchors
from vidcomp.functional.assignment import assign_rows
from vidcomp.functional.geometry import first_t, patch_cells
from vidcomp.functional.merge import merge, resample
from vidcomp.types import Grid, VideoTokens


@given(st.integers(1, 5), st.integers(0, 3), st.integers(0, 9999), st.booleans())
@settings(deadline=None, max_examples=200)
def test_assignment_is_optimal(num_rows, spare, seed, coarse):
    draw = np.random.default_rng(seed)
    costs = draw.random((num_rows, num_rows + spare)) - 0.3
    if coarse:
        costs = np.round(costs * 3)  # many ties
    columns = assign_rows(lambda i: costs[i], num_rows, num_rows + spare)
    assert len(set(columns.tolist())) == num_rows
    total = sum(costs[i, j] for i, j in enumerate(columns))
    assert total == pytest.approx(best_cost(costs.tolist()), abs=1e-9)


def test_assignment_refuses_too_many_rows():
    with pytest.raises(ShapeError, match="more columns"):
        assign_rows(lambda i: np.zeros(2), 3, 2)


@given(video=video_tokens())
@settings(deadline=None)
def test_hard_anchors_are_the_nearest_of_their_own(video):
    found = anchors(video)
    cells = patch_cells(video.grid).double()
    for row, patch in enumerate(found.tolist()):
        own = (video.assign == row).nonzero().squeeze(1)
        centre = cells[own].mean(0)
        distance = ((cells[own] - centre) ** 2).sum(1)
        assert video.assign[patch] == row
        best = own[distance <= distance.min() + 1e-9]
        assert patch == int(best.min())
    assert len(set(found.tolist())) == len(video)
    offset = torch.tensor([first_t(video), 0, 0])
    alone = video.mass == 1
    assert torch.equal((cells[found] + offset).float()[alone], video.positions[alone])


@given(video=video_tokens(soft=True), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=30)
def test_soft_anchors_are_different_and_their_own_where_that_can_be(video, seed):
    draw = torch.Generator().manual_seed(seed)
    k = max(1, len(video) // 3)
    weights = torch.rand(k, len(video), generator=draw)
    soft = resample(video, (weights / weights.sum(1, keepdim=True)).to_sparse())
    found = anchors(soft).tolist()
    assert len(set(found)) == k
    shares = provenance_slowly(soft)
    assert all(shares[row][patch] > 0 for row, patch in enumerate(found))


def test_soft_anchors_minimise_the_distance():
    video = make_video(Grid(1, 1, 6))
    weights = torch.tensor([[0, 0.5, 0.5, 0, 0, 0], [0, 0.5, 0.5, 0, 0, 0], [0.5, 0.5, 0, 0, 0, 0]])
    # All own two patches, there are three patches: nobody has to take a foreign one.
    assert sorted(anchors(resample(video, weights.to_sparse())).tolist()) == [0, 1, 2]
    alike = torch.full((4, 6), 1 / 6)
    assert sorted(anchors(resample(video, alike.to_sparse())).tolist()) == [1, 2, 3, 4]
    crowded = torch.tensor([[0, 0, 1.0, 0, 0, 0]] * 3)
    assert sorted(anchors(resample(video, crowded.to_sparse())).tolist()) == [1, 2, 3]


def test_anchors_need_provenance():
    video = make_video(Grid(1, 2, 2))
    names = ("tokens", "positions", "spans", "mass", "grid")
    bare = VideoTokens(**{n: getattr(video, n) for n in names})
    with pytest.raises(ShapeError, match=r"store\.assign=true"):
        anchors(bare)
    merged = merge(video, torch.tensor([0, 0, 1, 1]))
    lost = VideoTokens(**{n: getattr(merged, n) for n in names}, assign=torch.tensor([0, 0, 0, -1]))
    with pytest.raises(ShapeError, match="1 without"):
        anchors(lost)
    many = resample(video, torch.full((5, 4), 0.25).to_sparse())
    with pytest.raises(ShapeError, match="reduce first"):
        anchors(many)


def test_many_soft_tokens_are_anchored_in_reasonable_time():
    """A learned resampler whose latents all look at the middle is the hardest case."""
    video = make_video(Grid(8, 14, 14), dim=2, extras=False)
    alike = torch.full((64, 1568), 1 / 1568)
    found = anchors(resample(video, alike.to_sparse()))
    assert len(set(found.tolist())) == 64
