"""What every registered sampler promises, for any timeline."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.sampling import constant_rate, timeline, timelines

from vidcomp.errors import ConfigError, DecodeError
from vidcomp.registry import SAMPLERS
from vidcomp.sample.base import Timeline

count = st.integers(1, 40)
short = st.sampled_from(["keep", "repeat", "pad"])
SETTINGS = {
    "uniform": {"num_frames": count, "rounding": st.sampled_from(["floor", "round"])},
    "fps": {
        "fps": st.floats(0.05, 200),
        "max_frames": st.none() | st.integers(8, 40),
        "min_frames": st.integers(1, 8),
        "point": st.sampled_from(["start", "middle"]),
    },
    "smart_nframes": {
        "fps": st.floats(0.05, 200),
        "num_frames": st.none() | count,
        "factor": st.integers(1, 4),
    },
    "segment_midpoint": {"num_frames": count},
    "tsn_jitter": {"num_frames": count, "seed": st.integers(0, 3), "tail": st.booleans()},
    "keyframes": {"num_frames": count, "fill": st.booleans()},
    "scene_adaptive": {"num_frames": count, "window": st.integers(1, 3)},
    "aks": {
        "num_frames": count,
        "t1": st.floats(0, 1),
        "depth": st.integers(0, 5),
        "mode": st.sampled_from(["exact", "published"]),
    },
    "clips_uniform": {
        "clip_s": st.floats(0.05, 9),
        "stride_s": st.none() | st.floats(0.5, 9),
        "frames_per_clip": st.integers(1, 9),
        "backpad": st.booleans(),
    },
    "clips_random": {
        "clip_s": st.floats(0.05, 9),
        "num_clips": st.integers(1, 4),
        "frames_per_clip": st.integers(1, 9),
        "seed": st.integers(0, 3),
    },
    "clips_constant": {
        "clip_s": st.floats(0.05, 9),
        "num_clips": st.integers(1, 4),
        "frames_per_clip": st.integers(1, 9),
    },
}
FIXED = ("uniform", "segment_midpoint", "tsn_jitter", "keyframes", "scene_adaptive", "aks")


def test_every_registered_sampler_is_under_these_laws():
    assert set(SAMPLERS.names()) == set(SETTINGS)


@st.composite
def cases(draw, names=tuple(SETTINGS)):
    """A timeline and a sampler for it (AKS with a score for every frame)."""
    video = draw(timelines())
    name = draw(st.sampled_from(names))
    sampler = SAMPLERS.make(name, short=draw(short), **draw(st.fixed_dictionaries(SETTINGS[name])))
    if name == "aks":
        number = st.sampled_from([0.0, 0.5, 1.0]) | st.floats(-9, 9)
        sampler = sampler.bind(draw(st.lists(number, min_size=len(video), max_size=len(video))))
    return video, sampler


@settings(deadline=None, max_examples=400)
@given(case=cases())
def test_rows_exist_in_order_and_padding_only_repeats_the_last(case):
    video, sampler = case
    index, num_padded = sampler(video)
    assert index.dtype == torch.int64
    assert index.ndim == 1
    assert len(index) >= 1
    assert index.min() >= 0
    assert index.max() < len(video)
    assert 0 <= num_padded < len(index)
    assert (index[len(index) - num_padded :] == index[len(index) - num_padded - 1]).all()
    if not sampler.name.startswith("clips"):
        assert (index.diff() >= 0).all()
        if sampler.short != "repeat":
            assert (index[: len(index) - num_padded].diff() > 0).all()
    assert num_padded == 0 or sampler.short == "pad"


@settings(deadline=None, max_examples=150)
@given(case=cases())
def test_the_same_video_gives_the_same_rows_and_settings_survive_yaml(case):
    video, sampler = case
    again = SAMPLERS.parse(sampler.dump())
    assert again == sampler
    assert torch.equal(sampler(video).indices, again(video).indices)


@settings(deadline=None, max_examples=150)
@given(case=cases(names=FIXED))
def test_counts_are_exact(case):
    video, sampler = case
    index, num_padded = sampler(video)
    wanted, there = sampler.num_frames, len(video)
    if (sampler.name == "aks" and sampler.mode == "published") or (
        sampler.name == "keyframes" and not sampler.fill
    ):
        assert len(index) <= max(wanted, there)
    elif sampler.short == "keep":
        assert len(index) == min(wanted, there)
    else:
        assert len(index) == wanted
        assert num_padded == (max(0, wanted - there) if sampler.short == "pad" else 0)


@settings(deadline=None, max_examples=200)
@given(case=cases(), shift=st.sampled_from([0.001, 1.0, 4711.25]))
def test_where_a_time_range_lies_in_its_file_does_not_matter(case, shift):
    video, sampler = case
    later = Timeline(
        pts_s=video.pts_s + shift,
        end_s=video.end_s + shift,
        is_key=video.is_key,
        thumbnails=video.thumbnails,
        start_s=None if video.start_s is None else video.start_s + shift,
    )
    assert torch.equal(sampler(video).indices, sampler(later).indices)


@pytest.mark.parametrize("name", sorted(SETTINGS))
@pytest.mark.parametrize("policy", ["keep", "repeat", "pad"])
def test_one_frame_never_fails(name, policy):
    video = timeline([12.5], thumbnails=lambda: torch.zeros(1, 3, 2, 2, dtype=torch.uint8))
    sampler = SAMPLERS.make(name, short=policy)
    if name == "aks":
        sampler = sampler.bind([0.3])
    index, num_padded = sampler(video)
    assert (index == 0).all()
    assert len(index) - num_padded == 1 or policy == "repeat" or "clips" in name


@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_asking_for_one_frame_never_fails(name):
    one = "frames_per_clip" if name.startswith("clips") else "num_frames"
    settings = {"min_frames": 1, "max_frames": 1} if name == "fps" else {one: 1}
    video = constant_rate(10)
    sampler = SAMPLERS.make(name, **settings)
    if name == "aks":
        sampler = sampler.bind(range(10))
    if name == "scene_adaptive":
        thumbs = torch.zeros(10, 3, 2, 2, dtype=torch.uint8)
        video = timeline(video.pts_s.tolist(), thumbnails=lambda: thumbs)
    assert len(sampler(video).indices) == (2 if name == "smart_nframes" else max(1, _clips(name)))


def _clips(name):
    return {"clips_constant": 3}.get(name, 1)


@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_no_frames_is_a_clear_error(name):
    empty = Timeline(
        pts_s=torch.zeros(0, dtype=torch.float64),
        end_s=0.0,
        is_key=torch.zeros(0, dtype=torch.bool),
    )
    with pytest.raises(DecodeError, match="at least one frame"):
        SAMPLERS.make(name)(empty)


@pytest.mark.parametrize("name", sorted(set(SETTINGS) - {"fps"}))
def test_a_count_of_zero_is_refused(name):
    field = "frames_per_clip" if name.startswith("clips") else "num_frames"
    with pytest.raises(ConfigError, match="greater than or equal to 1"):
        SAMPLERS.make(name, **{field: 0})
