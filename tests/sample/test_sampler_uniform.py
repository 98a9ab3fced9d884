"""Uniform and Qwen's even counts: pinned values, slow twins, and the libraries they come from."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.sampling import constant_rate, slow_uniform, timeline

from vidcomp.errors import ConfigError
from vidcomp.sample.smart import SmartNFrames, smart_num_frames
from vidcomp.sample.uniform import Uniform, uniform_index

sizes = st.integers(1, 5000)


@settings(deadline=None)
@given(num_frames=sizes, count=st.integers(1, 300), rounding=st.sampled_from(["floor", "round"]))
def test_equals_linspace_in_fractions(num_frames, count, rounding):
    assert uniform_index(num_frames, count, rounding).tolist() == slow_uniform(
        num_frames, count, rounding
    )


@pytest.mark.parametrize(
    ("num_frames", "count", "floor", "nearest"),
    [
        (150, 8, [0, 21, 42, 63, 85, 106, 127, 149], [0, 21, 43, 64, 85, 106, 128, 149]),
        (10, 4, [0, 3, 6, 9], [0, 3, 6, 9]),
        (6, 3, [0, 2, 5], [0, 2, 5]),  # 2.5 rounds to the even 2
        (8, 3, [0, 3, 7], [0, 4, 7]),  # 3.5 rounds to the even 4
        (9, 1, [0], [0]),
        (1, 3, [0, 0, 0], [0, 0, 0]),
        (3, 8, [0, 0, 0, 0, 1, 1, 1, 2], [0, 0, 1, 1, 1, 1, 2, 2]),  # pytorchvideo's subsample
    ],
)
def test_both_roundings_are_pinned(num_frames, count, floor, nearest):
    assert uniform_index(num_frames, count, "floor").tolist() == floor
    assert uniform_index(num_frames, count, "round").tolist() == nearest


def test_numpy_differs_only_where_its_floats_fall_short_of_a_whole_number():
    num_pairs = num_short = 0
    for num_frames in range(2, 400, 3):
        for count in (2, 4, 8, 16, 32, 50, 64, 100):
            num_pairs += 1
            ours = uniform_index(num_frames, count).numpy()
            llava = np.linspace(0, num_frames - 1, count, dtype=int)
            short = ours != llava
            num_short += short.any()
            assert (ours - llava)[short].tolist() == [1] * short.sum()
            exact = np.arange(count) * (num_frames - 1) % (count - 1) == 0
            assert exact[short].all()
    assert 0 < num_short < 0.05 * num_pairs


@settings(deadline=None)
@given(num_frames=sizes, count=st.integers(2, 300))
def test_torch_differs_only_on_ties(num_frames, count):
    ours = uniform_index(num_frames, count, "round")
    qwen = torch.linspace(0, num_frames - 1, count, dtype=torch.float64).round().long()
    tie = (torch.arange(count) * (num_frames - 1) * 2) % (count - 1) == 0
    assert torch.equal(ours[~tie], qwen[~tie])
    assert (ours - qwen).abs().max() <= 1


def test_a_hundred_million_frames_keep_every_digit():
    # in float32, as upstream computes it, these are off by up to four frames
    index = uniform_index(100_000_001, 5)
    assert index.tolist() == [0, 25_000_000, 50_000_000, 75_000_000, 100_000_000]
    assert uniform_index(2**40 + 2, 3, "round").tolist() == [0, 2**39, 2**40 + 1]


def test_short_videos():
    video = constant_rate(3)
    assert Uniform(num_frames=5)(video).indices.tolist() == [0, 1, 2]
    assert Uniform(num_frames=5, short="repeat")(video).indices.tolist() == [0, 0, 1, 1, 2]
    index, num_padded = Uniform(num_frames=5, short="pad")(video)
    assert index.tolist() == [0, 1, 2, 2, 2]
    assert num_padded == 2


def qwen_count(num_frames, average_fps, fps, min_frames=4, max_frames=768):
    """qwen_vl_utils, in its own words' order: clamp, clamp, floor to even."""
    low = -(-min_frames // 2) * 2
    high = min(max_frames, num_frames) // 2 * 2
    wish = num_frames / average_fps * fps
    wish = min(min(max(wish, low), high), num_frames)
    return int(wish // 2) * 2


@settings(deadline=None)
@given(
    num_frames=st.integers(2, 4000),
    average_fps=st.sampled_from([10, 24, 25, 30000 / 1001, 60]),
    fps=st.sampled_from([0.5, 1, 2, 4]),
)
def test_smart_counts_equal_qwens_where_that_works(num_frames, average_fps, fps):
    seconds = num_frames / average_fps
    ours = smart_num_frames(num_frames, seconds, fps=fps)
    assert ours % 2 == 0
    assert 2 <= ours <= num_frames
    if abs(seconds * fps / 2 - round(seconds * fps / 2)) > 1e-6:  # else its floats may fall short
        assert ours == qwen_count(num_frames, average_fps, fps)


@pytest.mark.parametrize(
    ("num_frames", "fps", "settings", "index", "num_padded"),
    [
        (10, 25, {}, [0, 3, 6, 9], 0),
        (3, 25, {}, [0, 2], 0),  # two, as 3 is odd
        (1, 25, {}, [0, 0], 1),
        (1, 25, {"short": "keep"}, [0], 0),
        (1, 25, {"short": "repeat"}, [0, 0], 0),
        (5, 25, {"num_frames": 8}, [0, 1, 2, 3, 4, 4, 4, 4], 3),
        (5, 25, {"num_frames": 8, "short": "keep"}, [0, 1, 3, 4], 0),
        (9, 25, {"num_frames": 5}, [0, 3, 5, 8], 0),  # 5 / 2 rounds to the even 2
        (9, 25, {"num_frames": 1}, [0, 8], 0),  # never none
        (100, 10, {}, [round(i * 99 / 19) for i in range(20)], 0),
        (100, 10, {"max_frames": 5}, [0, 33, 66, 99], 0),
        (40, 25, {"factor": 4, "min_frames": 5}, [0, 6, 11, 17, 22, 28, 33, 39], 0),
    ],
)
def test_smart_nframes_by_hand(num_frames, fps, settings, index, num_padded):
    picked = SmartNFrames(**settings)(constant_rate(num_frames, fps))
    assert picked.indices.tolist() == index
    assert picked.num_padded == num_padded


def test_smart_nframes_uses_the_real_length_in_seconds():
    # four frames in the first second, then one that lasts nine: 10 s at 1 fps, of 5 frames
    video = timeline([0.0, 0.2, 0.4, 0.6, 1.0], end_s=10.0)
    assert len(SmartNFrames(fps=1.0)(video).indices) == 4
    assert len(SmartNFrames(fps=0.1, min_frames=2)(video).indices) == 2


def test_smart_bounds_must_leave_a_multiple():
    with pytest.raises(ConfigError, match="at least 6"):
        SmartNFrames(factor=3, min_frames=4, max_frames=5)
