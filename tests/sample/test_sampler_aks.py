"""AKS against recorded outputs, a slow twin, and by hand."""

import json
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.sampling import constant_rate, slow_aks, timeline
from safetensors import safe_open

from vidcomp.errors import ConfigError, ShapeError
from vidcomp.sample.aks import AKS, aks_index, aks_parts

# exact in binary, so that thresholds are met or missed alike in any order of summation
values = st.integers(0, 64).map(lambda i: i / 64)
score_lists = st.lists(values, min_size=1, max_size=90)


@pytest.fixture(scope="module")
def recorded(golden):
    with safe_open(golden / "aks.safetensors", "pt") as file:
        settings = json.loads(file.metadata()["parameters"])
        return settings, {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118


@pytest.mark.parametrize("count", [8, 20, 32])
def test_the_published_form_equals_the_recorded_one(recorded, count):
    settings, tensors = recorded
    thresholds = {"t1": settings["t1"], "t2": settings["t2"], "depth": settings["all_depth"]}
    scores = tensors["input.scores"]
    index = aks_index(scores, count, exact=False, **thresholds)
    assert torch.equal(index, tensors[f"output.n{count}.frames"])
    parts = aks_parts(scores, count, **thresholds)
    assert len(parts) == int(tensors[f"output.n{count}.num_segments"])
    exact = aks_index(scores, count, **thresholds)
    assert len(exact) == count
    assert torch.isin(index, exact).all()


@settings(deadline=None, max_examples=200)
@given(
    scores=score_lists,
    count=st.integers(1, 40),
    t1=st.sampled_from([0.1003, 0.3003, 0.8003]),
    t2=st.sampled_from([-100.0, 0.1007]),
    depth=st.integers(0, 6),
)
def test_the_published_form_equals_its_definition(scores, count, t1, t2, depth):
    index = aks_index(torch.tensor(scores), count, t1=t1, t2=t2, depth=depth, exact=False)
    assert index.tolist() == slow_aks(scores, count, t1, t2, depth)


@settings(deadline=None, max_examples=200)
@given(scores=score_lists, count=st.integers(1, 40), depth=st.integers(0, 6))
def test_the_exact_form_fills_up_with_the_best_that_are_left(scores, count, depth):
    published = slow_aks(scores, count, 0.8, -100, depth)
    index = aks_index(torch.tensor(scores), count, depth=depth).tolist()
    assert len(index) == min(count, len(scores))
    assert index == sorted(set(index))
    assert set(published) <= set(index)
    left = sorted(set(range(len(scores))) - set(published), key=lambda i: (-scores[i], i))
    assert set(index) == set(published) | set(left[: min(count, len(scores)) - len(published)])


@settings(deadline=None, max_examples=100)
@given(scores=score_lists, count=st.integers(1, 20), depth=st.integers(0, 6))
def test_parts_cover_the_candidates_in_order(scores, count, depth):
    parts = aks_parts(torch.tensor(scores), count, depth=depth)
    assert parts[0].start == 0
    assert parts[-1].stop == len(scores)
    assert all(a.stop == b.start for a, b in pairwise(parts))
    assert max(part.depth for part in parts) <= depth


def test_scale_and_offset_of_the_scores_do_not_matter():
    random = torch.Generator().manual_seed(0)
    scores = torch.rand(100, generator=random, dtype=torch.float64)
    assert torch.equal(aks_index(scores, 12), aks_index(7 * scores - 3, 12))


def test_equal_scores_spread_over_the_video():
    flat = torch.full((64,), 0.3)
    assert aks_index(flat, 8, depth=3, exact=False).tolist() == list(range(0, 64, 8))
    assert len(aks_index(flat, 10, depth=3)) == 10


def test_one_outstanding_moment_takes_all():
    scores = torch.zeros(100)
    scores[40:48] = 1
    assert aks_index(scores, 8).tolist() == list(range(40, 48))


def test_scores_must_be_numbers():
    with pytest.raises(ShapeError, match="1 that are not finite"):
        aks_index(torch.tensor([0.1, torch.nan, 0.2]), 2)
    with pytest.raises(ShapeError, match="one finite number"):
        aks_index(torch.zeros(3, 1), 2)


def test_scores_at_one_a_second_pick_frames_of_the_video():
    video = constant_rate(250, fps=25)
    scores = [0.1, 0.2, 0.9, 0.8, 0.1, 0.1, 0.2, 0.95, 0.1, 0.3]
    sampler = AKS(num_frames=3, depth=0).bind(scores, range(10))
    assert sampler(video).indices.tolist() == [50, 75, 175]
    # the same part of the file as a time range: scores outside it do not count
    part = timeline([2 + i / 25 for i in range(50)], end_s=4.0)
    assert sampler(part).indices.tolist() == [0, 25]


def test_two_scores_of_one_frame_count_as_the_better():
    video = timeline([0.0, 1.0, 5.0], end_s=6.0)
    sampler = AKS(num_frames=1).bind([0.0, 0.4, 0.9, 0.5], [0.0, 1.0, 2.0, 5.0])
    assert sampler(video).indices.tolist() == [1]


def test_few_candidates():
    video = constant_rate(250, fps=25)
    few = AKS(num_frames=4).bind(torch.tensor([0.5, 0.1]), torch.tensor([2.0, 8.0]))
    assert few(video).indices.tolist() == [50, 200]
    pad = AKS(num_frames=4, short="pad").bind([0.5, 0.1], [2.0, 8.0])
    assert pad(video).indices.tolist() == [50, 200, 200, 200]
    assert pad(video).num_padded == 2
    repeat = AKS(num_frames=4, short="repeat").bind([0.5, 0.1], [2.0, 8.0])
    assert repeat(video).indices.tolist() == [50, 50, 50, 200]


def test_published_never_returns_nothing():
    video = constant_rate(64)
    sampler = AKS(num_frames=3, depth=5, mode="published").bind([i % 7 for i in range(64)])
    assert sampler(video).indices.tolist() == [6]


def test_scores_must_fit_the_video():
    video = constant_rate(10, fps=1)
    with pytest.raises(ConfigError, match="none are bound"):
        AKS()(video)
    with pytest.raises(ConfigError, match="each of 10 frames, got 3"):
        AKS().bind([1, 2, 3])(video)
    with pytest.raises(ConfigError, match="one time for each of 3 scores"):
        AKS().bind([1, 2, 3], [0.0])
    with pytest.raises(ConfigError, match="between 0 and 10 s"):
        AKS().bind([1, 2], [11.0, 12.0])(video)
    with pytest.raises(ConfigError, match="finite"):
        AKS().bind([1.0, float("nan")], [1.0, 2.0])
