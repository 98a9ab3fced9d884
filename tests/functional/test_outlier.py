"""Rows unlike the middle of their frame, and frames where a video turns."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.linear_pruners import v_cast_slowly, vidcom2_slowly

from vidcomp.functional import outlier
from vidcomp.functional.outlier import (
    centre_similarity,
    curvature,
    frame_outliers,
    steady_channels,
)

lawful = settings(deadline=None, max_examples=30)


def features(t, n, dim, seed):
    x = torch.randn(t, n, dim, generator=torch.Generator().manual_seed(seed))
    return x * torch.linspace(1, 3, dim) + 5  # channels of different variance, far from 0


cases = {"t": st.integers(1, 5), "n": st.integers(1, 5), "seed": st.integers(0, 99)}


@given(**cases, small_blocks=st.booleans(), shuffled=st.booleans())
@lawful
def test_scores_equal_their_slow_twins_in_any_blocks_and_order(t, n, seed, small_blocks, shuffled):
    x = features(t, n + 1, 6, seed)
    n += 1
    frame = torch.arange(t).repeat_interleave(n)
    order = torch.arange(t * n)
    if shuffled:
        order = torch.randperm(t * n, generator=torch.Generator().manual_seed(seed))
    flat, frame, mass = x.flatten(0, 1)[order], frame[order], torch.ones(t * n)
    with pytest.MonkeyPatch.context() as patch:
        if small_blocks:
            patch.setattr(outlier, "_BLOCK", 1)
        channels = steady_channels(flat, frame, 3)
        similar = sum(centre_similarity(flat, mass, frame, channels))
        apart, means = frame_outliers(flat, mass, frame)
    variance = flat.double().var(dim=0, unbiased=False)
    assert channels.tolist() == sorted(variance.argsort()[:3].tolist())
    expected = vidcom2_slowly(x, t * n, 0.01)[0].flatten()[order]
    assert torch.allclose(similar.double(), expected, atol=1e-5)
    expected = v_cast_slowly(x, t * n, 0.7)[0].flatten()[order]
    assert torch.allclose(apart.double(), expected, atol=1e-5)
    assert torch.allclose(means, x.mean(dim=1), atol=1e-5)


def test_means_go_by_mass():
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    frame = torch.zeros(2, dtype=torch.int64)
    _, means = frame_outliers(x, torch.tensor([3.0, 1.0]), frame)
    assert means.tolist() == [[0.75, 0.25]]
    near, _ = centre_similarity(x, torch.tensor([3.0, 1.0]), frame, torch.arange(2))
    assert float(near[0]) > float(near[1])


def test_a_path_turns_where_it_bends():
    def at(*degrees):
        angle = torch.tensor(degrees) * math.pi / 180
        return torch.stack([angle.cos(), angle.sin()], dim=1)

    there_and_back = curvature(at(0.0, 10.0, 20.0, 10.0, 0.0)).tolist()
    assert there_and_back[0] == there_and_back[-1] == 1
    assert there_and_back[2] == pytest.approx(2, abs=0.05)
    assert max(there_and_back[1], there_and_back[3]) < 0.05
    assert curvature(torch.ones(4, 3)).tolist() == [1, 0, 0, 1]  # stays where it is
    assert curvature(torch.ones(1, 3)).tolist() == [1]
    assert curvature(at(0.0, 90.0)).tolist() == [1, 1]


def test_equal_norms_do_not_divide_by_zero():
    x = torch.eye(3)
    apart, _ = frame_outliers(x, torch.ones(3), torch.tensor([0, 0, 1]))
    assert torch.isfinite(apart).all()
    assert float(apart[2]) == 0
