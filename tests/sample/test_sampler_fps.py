"""A steady rate over real times."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.sampling import constant_rate, slow_fps, timeline, timelines

from vidcomp.errors import ConfigError
from vidcomp.sample.fps import Fps, fps_index


@settings(deadline=None, max_examples=200)
@given(
    video=timelines(),
    fps=st.sampled_from([0.1, 0.5, 1, 2, 3, 4.5, 10, 29.97]),
    offset=st.sampled_from([0.0, 0.5]),
)
def test_equals_a_walk_over_the_time_grid(video, fps, offset):
    span = (video.origin_s, video.end_s)
    ours = fps_index(video.pts_s, *span, fps, offset=offset)
    assert ours.tolist() == slow_fps(video.pts_s.tolist(), *span, fps, offset)


@pytest.mark.parametrize("rate", [10, 24, 25, 30000 / 1001, 30, 60, 90])
@pytest.mark.parametrize("start_s", [0.0, 0.1, 63.063])
@pytest.mark.parametrize("step", [1, 2, 3, 7])
def test_a_rate_that_divides_the_videos_takes_every_nth_frame(rate, start_s, step):
    # in floats many of these times fall just before the frame they mean
    video = constant_rate(200, fps=rate, start_s=start_s)
    ours = fps_index(video.pts_s, start_s, video.end_s, rate / step)
    assert ours.tolist() == list(range(0, 200, step))


def test_a_whole_number_of_seconds_gives_fps_frames_a_second():
    for rate in (10, 24, 25, 30):
        video = constant_rate(10 * rate, fps=rate)
        for point in ("start", "middle"):
            assert len(Fps(fps=2.0, point=point)(video).indices) == 20


def test_points_lie_at_the_start_or_in_the_middle():
    video = constant_rate(40, fps=10, start_s=60.0)
    assert Fps()(video).indices.tolist() == [0, 10, 20, 30]
    assert Fps(point="middle")(video).indices.tolist() == [5, 15, 25, 35]


def test_above_the_videos_rate_each_frame_comes_once():
    video = constant_rate(30, fps=10)
    for fps in (10.0, 11.0, 1e6):
        assert Fps(fps=fps)(video).indices.tolist() == list(range(30))


def test_a_frame_that_stays_is_taken_once():
    video = timeline([0.0, 0.1, 5.0, 5.1], end_s=7.0)
    assert Fps()(video).indices.tolist() == [0, 1, 2, 3]
    assert Fps(fps=0.5)(video).indices.tolist() == [0, 1, 3]


def test_a_range_that_starts_during_a_frame_starts_there():
    # a slide that came up at 20 s and stays until 61 s; the range asked for is 60 to 64 s
    video = timeline([20.0, 61.0, 62.5, 63.0], end_s=64.0, start_s=60.0)
    assert video.origin_s == 60.0
    assert Fps()(video).indices.tolist() == [0, 1, 3]  # on screen at 60, 61 and 62, 63
    assert Fps(fps=0.5)(video).indices.tolist() == [0, 1]


def test_a_video_shorter_than_half_an_interval_gives_its_middle():
    video = constant_rate(11, fps=25)
    assert Fps(point="middle")(video).indices.tolist() == [5]
    assert Fps()(video).indices.tolist() == [0]


@settings(deadline=None, max_examples=100)
@given(video=timelines(), most=st.integers(1, 12), fps=st.sampled_from([1.0, 5.0]))
def test_above_the_cap_the_same_frames_are_thinned_evenly(video, most, fps):
    every = Fps(fps=fps)(video).indices
    capped = Fps(fps=fps, max_frames=most)(video).indices
    assert len(capped) == min(most, len(every))
    assert torch.isin(capped, every).all()
    assert capped[0] == every[0]
    if most > 1:
        assert capped[-1] == every[-1]
        place = torch.searchsorted(every, capped)
        if len(place) > 1:
            assert place.diff().max() - place.diff().min() <= 1


def test_below_the_minimum_all_frames_are_spread():
    video = constant_rate(30, fps=10)
    assert Fps(min_frames=4)(video).indices.tolist() == [0, 9, 19, 29]
    short = constant_rate(3, fps=10)
    assert Fps(min_frames=4)(short).indices.tolist() == [0, 1, 2]
    assert Fps(min_frames=4, short="pad")(short)[1] == 1


def test_bounds_must_fit():
    with pytest.raises(ConfigError, match="at least min_frames=5"):
        Fps(min_frames=5, max_frames=4)
    with pytest.raises(ConfigError, match="greater than 0"):
        Fps(fps=0.0)
    with pytest.raises(ConfigError):
        Fps(fps=float("nan"))


def test_shorter_videos_have_rates_of_their_own():
    sampler = Fps(fps=1, by_length=((2, 5), (4, 2.5)))
    counts = [len(sampler(constant_rate(10 * seconds, fps=10))[0]) for seconds in (1, 2, 4, 6)]
    assert counts == [5, 10, 10, 6]
    assert Fps(**{k: v for k, v in sampler.dump().items() if k != "name"}) == sampler
    assert "by_length" not in Fps().dump()
    for wrong in ([[2, 5], [1, 3]], [[2, 0]]):
        with pytest.raises(ConfigError, match="ascending lengths"):
            Fps(by_length=wrong)
