"""TSN's mid-points and jitter, and key frames."""

from random import Random

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.sampling import constant_rate, slow_midpoint, timeline

from vidcomp.sample.keyframes import Keyframes, keyframe_index
from vidcomp.sample.segments import SegmentMidpoint, TsnJitter, jitter_index, midpoint_index

sizes = st.integers(1, 3000)
counts = st.integers(1, 200)


@settings(deadline=None)
@given(num_frames=sizes, count=counts)
def test_midpoints_equal_the_formula_in_fractions(num_frames, count):
    assert midpoint_index(num_frames, count).tolist() == slow_midpoint(num_frames, count)


def test_midpoints_by_hand():
    assert midpoint_index(100, 4).tolist() == [12, 37, 62, 87]
    assert midpoint_index(9, 1).tolist() == [4]
    assert midpoint_index(2, 5).tolist() == [0, 0, 1, 1, 1]
    assert SegmentMidpoint(num_frames=5)(constant_rate(2)).indices.tolist() == [0, 1]


@settings(deadline=None)
@given(num_frames=sizes, count=counts, seed=st.integers(0, 9), tail=st.booleans())
def test_jitter_takes_one_frame_of_each_part(num_frames, count, seed, tail):
    index = jitter_index(num_frames, count, Random(seed), tail=tail).tolist()
    if num_frames < count:  # as mmaction2, but never past the end
        published = np.around(np.arange(count) * (num_frames / count)).astype(int)
        assert index == np.minimum(published, num_frames - 1).tolist()
        return
    for i, row in enumerate(index):
        if tail:
            assert i * num_frames // count <= row < (i + 1) * num_frames // count
        else:
            size = num_frames // count
            assert i * size <= row < (i + 1) * size


def test_jitter_reaches_every_frame_of_its_parts_and_the_tail_on_request():
    seen = {tail: set() for tail in (False, True)}
    for seed in range(300):
        for tail in seen:
            seen[tail].update(jitter_index(11, 3, Random(seed), tail=tail).tolist())
    assert seen[False] == set(range(9))
    assert seen[True] == set(range(11))


def test_jitter_is_fixed_by_seed_and_video():
    sampler = TsnJitter(num_frames=8)
    film = constant_rate(300)
    assert torch.equal(sampler(film).indices, sampler(constant_rate(300)).indices)
    others = [
        TsnJitter(num_frames=8, seed=1)(film).indices,
        sampler(constant_rate(301)).indices,
        sampler(constant_rate(300, fps=30)).indices,
    ]
    for other in others:
        assert not torch.equal(sampler(film).indices, other)


@settings(deadline=None, max_examples=50)
@given(rate=st.sampled_from([8, 12.5, 16, 24, 25, 30000 / 1001, 30, 32, 48, 50, 60, 120]))
def test_another_decoders_last_digits_do_not_change_the_jitter(rate):
    video = constant_rate(500, fps=rate)
    noise = torch.linspace(-1e-6, 1e-6, 500, dtype=torch.float64)
    other = timeline((video.pts_s + noise).tolist(), end_s=video.end_s)
    sampler = TsnJitter(num_frames=16)
    assert torch.equal(sampler(video).indices, sampler(other).indices)


@settings(deadline=None)
@given(is_key=st.lists(st.booleans(), min_size=1, max_size=80), count=st.integers(1, 30))
def test_key_frames_come_first_and_others_fill(is_key, count):
    mask = torch.tensor(is_key)
    key = set(mask.nonzero().flatten().tolist())
    picked = keyframe_index(mask, count).tolist()
    assert len(picked) == min(count, len(is_key))
    assert picked == sorted(set(picked))
    if len(key) >= count:
        assert set(picked) <= key
    else:
        assert key <= set(picked)
    alone = keyframe_index(mask, count, fill=False).tolist()
    assert alone == (picked if len(key) >= count else sorted(key) or [0])


def test_key_frames_by_hand():
    video = timeline([i / 10 for i in range(100)], key=[0, 10, 50, 52, 90])
    assert Keyframes(num_frames=3)(video).indices.tolist() == [0, 50, 90]
    assert Keyframes(num_frames=4)(video).indices.tolist() == [0, 10, 52, 90]
    assert Keyframes(num_frames=5)(video).indices.tolist() == [0, 10, 50, 52, 90]
    assert Keyframes(num_frames=9, fill=False)(video).indices.tolist() == [0, 10, 50, 52, 90]
    # the middles of two halves of the 95 other frames
    assert Keyframes(num_frames=7)(video).indices.tolist() == [0, 10, 25, 50, 52, 75, 90]
