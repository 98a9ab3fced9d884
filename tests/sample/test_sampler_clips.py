"""Clips against pytorchvideo's own samplers, and the frames in them."""

import importlib.metadata
import importlib.util
import math
import random
from fractions import Fraction
from random import Random

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from oracles.sampling import constant_rate, timeline, timelines

from vidcomp.sample.clips import (
    Clip,
    ClipsConstant,
    ClipsRandom,
    ClipsUniform,
    clip_frames,
    constant_clips,
    random_clips,
    uniform_clips,
)

lengths = st.integers(1, 400).map(lambda n: n / 25)


@pytest.fixture(scope="module")
def theirs():
    """pytorchvideo's module alone: its package imports torchvision, which is not needed."""
    place = importlib.metadata.distribution("pytorchvideo").locate_file(
        "pytorchvideo/data/clip_sampling.py"
    )
    spec = importlib.util.spec_from_file_location("pytorchvideo_clip_sampling", place)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(sampler, seconds):
    """All clips of one video, as its datasets loop over them."""
    clips, end = [], 0.0
    while True:
        info = sampler(end, seconds, {})
        clips.append(Clip(info.clip_start_sec, info.clip_end_sec))
        end = info.clip_end_sec
        if info.is_last_clip:
            return clips


@settings(deadline=None, max_examples=150)
@given(seconds=lengths, clip=st.integers(1, 100), stride=st.integers(1, 100), back=st.booleans())
def test_uniform_clips_are_pytorchvideos(theirs, seconds, clip, stride, back):
    assume(stride <= clip)  # it refuses gaps between clips
    clip, stride = Fraction(clip, 25), Fraction(stride, 25)
    seconds = Fraction(round(seconds * 25), 25)
    sampler = theirs.UniformClipSampler(clip, stride, backpad_last=back)
    assert uniform_clips(seconds, clip, stride, backpad=back) == run(sampler, seconds)


def test_uniform_clips_by_hand():
    def starts(*args, **kwargs):
        return [float(start) for start, _ in uniform_clips(*args, **kwargs)]

    assert starts(10.04, 2) == [0, 2, 4, 6, 8]
    assert starts(10.04, 2, backpad=True) == pytest.approx([0, 2, 4, 6, 8, 8.04])
    assert starts(10.0, 2, 3.0) == [0, 3, 6]
    assert starts(1.0, 2) == [0]
    assert starts(1.0, 2, backpad=True) == [0]
    # ten times 0.1 is more than 1 in floats, and the last clip is there all the same
    assert len(starts(1.0, 0.1)) == 10
    assert len(starts(0.1 + 0.2, 0.1)) == 3


@settings(deadline=None, max_examples=60)
@given(seconds=lengths, clip=lengths, seed=st.integers(0, 99), count=st.integers(1, 4))
def test_random_clips_are_pytorchvideos_in_order(theirs, seconds, clip, seed, count):
    random.seed(seed)
    sampler = theirs.RandomMultiClipSampler(clip, count)
    info = sampler(0.0, seconds, {})
    expected = sorted(zip(info.clip_start_sec, info.clip_end_sec, strict=True))
    ours = random_clips(seconds, clip, count, Random(seed))
    for (start, stop), (their_start, their_stop) in zip(ours, expected, strict=True):
        assert math.isclose(start, their_start, abs_tol=1e-9)
        assert math.isclose(stop, their_stop, abs_tol=1e-9)
        assert start >= 0
        assert stop <= max(seconds, clip) + 1e-9


@settings(deadline=None, max_examples=60)
@given(seconds=lengths, clip=lengths, count=st.integers(1, 6))
def test_constant_clips_are_pytorchvideos_but_reach_the_end(theirs, seconds, clip, count):
    # Release 0.1.5 divides by n where n - 1 is right: its n clips are the first n of our n + 1.
    sampler = theirs.ConstantClipsPerVideoSampler(clip, count)
    ours = constant_clips(seconds, clip, count + 1)
    for (start, stop), (their_start, their_stop) in zip(
        ours[:-1], run(sampler, seconds), strict=True
    ):
        assert math.isclose(start, their_start, abs_tol=1e-9)
        assert math.isclose(stop, their_stop, abs_tol=1e-9)
    assert math.isclose(ours[-1].stop_s, max(seconds, clip), abs_tol=1e-9)


def test_constant_clips_by_hand():
    starts = [float(start) for start, _ in constant_clips(10.04, 2, 3)]
    assert starts == pytest.approx([0, 4.02, 8.04])
    assert constant_clips(10.0, 2, 1) == [Clip(0, 2)]
    assert constant_clips(1.0, 2, 2) == [Clip(0, 2), Clip(0, 2)]


@settings(deadline=None, max_examples=100)
@given(video=timelines(), start=st.integers(0, 30_000), length=st.integers(1, 9_000))
def test_a_clip_holds_the_frames_that_begin_in_it(video, start, length):
    elapsed_s = video.pts_s - video.origin_s
    elapsed = [round(1000 * t) for t in elapsed_s.tolist()]
    clip = Clip(Fraction(start, 1000), Fraction(start + length, 1000))
    inside = [i for i, t in enumerate(elapsed) if start <= t < start + length]
    shown = max(i for i, t in enumerate(elapsed) if t <= start)
    assert clip_frames(elapsed_s, clip).tolist() == (inside or [shown])


def test_clips_of_a_steady_video_do_not_overlap():
    for rate in (24, 25, 30000 / 1001, 30):
        video = constant_rate(300, fps=rate, start_s=12.3)
        size = round(rate)
        sampler = ClipsUniform(clip_s=size / rate, frames_per_clip=size)
        index = sampler(video).indices.tolist()
        assert index == list(range(300 // size * size))


def test_frames_are_spread_over_each_clip():
    video = constant_rate(100, fps=25)
    picked = ClipsUniform(clip_s=2.0, frames_per_clip=4)(video).indices.tolist()
    assert picked == [0, 16, 32, 49, 50, 66, 82, 99]
    picked = ClipsConstant(clip_s=1.0, frames_per_clip=2, num_clips=3)(video).indices.tolist()
    assert picked == [0, 24, 38, 62, 75, 99]


def test_a_video_shorter_than_a_clip():
    video = constant_rate(3, fps=25)
    for sampler, times in ((ClipsUniform, 1), (ClipsRandom, 1), (ClipsConstant, 3)):
        rows = sampler(frames_per_clip=4)(video).indices.tolist()
        assert rows == [0, 0, 1, 2] * times
        rows = sampler(frames_per_clip=4, short="keep")(video).indices.tolist()
        assert rows == [0, 1, 2] * times
        index, num_padded = sampler(frames_per_clip=4, short="pad")(video)
        assert index.tolist() == [0, 1, 2, 2] * times
        assert num_padded == 1


def test_a_gap_in_the_video_shows_the_frame_that_stays():
    video = timeline([0.0, 0.1, 7.0, 7.1], end_s=8.0)
    picked = ClipsUniform(clip_s=2.0, frames_per_clip=2)(video).indices.tolist()
    assert picked == [0, 1, 1, 1, 1, 1, 2, 3]


def test_random_clips_are_fixed_by_seed_and_video():
    video = constant_rate(1000)
    sampler = ClipsRandom(num_clips=2)
    assert sampler(video).indices.tolist() == sampler(constant_rate(1000)).indices.tolist()
    assert (
        sampler(video).indices.tolist() != ClipsRandom(num_clips=2, seed=1)(video).indices.tolist()
    )
    assert sampler(video).indices.tolist() != sampler(constant_rate(999)).indices.tolist()
