"""Shots found in thumbnails, and frames shared among them."""

from itertools import pairwise

import av
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.sampling import slow_change, slow_shot_starts, timeline

from vidcomp.errors import ConfigError, ShapeError
from vidcomp.sample.scenes import SceneAdaptive, frame_changes, scene_index, shot_starts
from vidcomp.sample.segments import midpoint_index


def film(*shots, noise=0, seed=0):
    """A timeline of shots: (number of frames, colour)."""
    random = torch.Generator().manual_seed(seed)
    data = torch.cat(
        [torch.tensor(color).view(1, 3, 1, 1).expand(length, 3, 6, 8) for length, color in shots]
    )
    if noise:
        data = data + torch.randint(-noise, noise + 1, data.shape, generator=random)
    data = data.clamp(0, 255).to(torch.uint8)
    return timeline([i / 25 for i in range(len(data))], thumbnails=lambda: data)


@settings(deadline=None, max_examples=40)
@given(
    num_frames=st.integers(1, 6),
    size=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    levels=st.sampled_from([2, 5, 256]),
    seed=st.integers(0, 99),
)
def test_changes_equal_pythons_own_colour_conversion(num_frames, size, levels, seed):
    random = torch.Generator().manual_seed(seed)
    data = torch.randint(0, levels, (num_frames, 3, *size), generator=random) * (
        255 // (levels - 1)
    )
    change = frame_changes(data.to(torch.uint8))
    slow = [0.0] + [slow_change(a, b) for a, b in pairwise(data)]
    torch.testing.assert_close(change, torch.tensor(slow), atol=1e-3, rtol=1e-4)


def test_changes_are_the_same_in_chunks():
    random = torch.Generator().manual_seed(0)
    data = torch.randint(0, 256, (600, 3, 4, 4), generator=random, dtype=torch.uint8)
    pairs = [frame_changes(data[i : i + 2])[1] for i in range(599)]
    assert torch.equal(frame_changes(data)[1:], torch.stack(pairs))


def test_hue_goes_the_short_way_round():
    almost = torch.tensor([[255, 0, 4], [255, 4, 0]], dtype=torch.uint8).view(2, 3, 1, 1)
    assert frame_changes(almost)[1] < 1


@settings(deadline=None, max_examples=200)
@given(
    change=st.lists(st.sampled_from([0.0, 1.0, 5.0, 15.0, 30.0, 60.0, 90.0]), min_size=1),
    ratio=st.sampled_from([1.0, 2.0, 3.0]),
    min_change=st.sampled_from([0.0, 15.0, 40.0]),
    window=st.integers(1, 4),
)
def test_cuts_equal_the_definition(change, ratio, min_change, window):
    ours = shot_starts(
        torch.tensor(change), ratio=ratio, min_change=min_change, window=window
    ).tolist()
    assert ours == slow_shot_starts(change, ratio, min_change, window)


def test_a_cut_stands_out_and_a_pan_does_not():
    assert shot_starts(torch.tensor([0.0, 1, 1, 40, 1, 1, 1])).tolist() == [0, 3]
    assert shot_starts(torch.tensor([0.0, 40, 40, 40, 40, 40])).tolist() == [0]
    assert shot_starts(torch.tensor([0.0, 0.1, 0.1, 14.9, 0.1, 0.1])).tolist() == [0]
    assert shot_starts(torch.tensor([0.0, 15.0])).tolist() == [0, 1]


@st.composite
def shots(draw):
    """Number of frames, first frames of the shots, and a count."""
    lengths = draw(st.lists(st.integers(1, 30), min_size=1, max_size=12))
    starts = [sum(lengths[:i]) for i in range(len(lengths))]
    return lengths, starts, draw(st.integers(1, sum(lengths)))


@settings(deadline=None, max_examples=200)
@given(case=shots())
def test_every_shot_gets_its_share_at_mid_points(case):
    lengths, starts, count = case
    index = scene_index(sum(lengths), torch.tensor(starts), count).tolist()
    assert len(index) == count
    assert index == sorted(set(index))
    share = [
        sum(start <= i < start + length for i in index)
        for start, length in zip(starts, lengths, strict=True)
    ]
    for start, length, got in zip(starts, lengths, share, strict=True):
        inside = [i - start for i in index if start <= i < start + length]
        assert inside == midpoint_index(length, got).tolist()
    if count >= len(lengths):
        rest = count - len(lengths)
        wish = [rest * length / sum(lengths) for length in lengths]
        capped = any(w > length - 1 for w, length in zip(wish, lengths, strict=True))
        for got, w in zip(share, wish, strict=True):
            assert got >= 1
            assert capped or 1 + int(w) <= got <= 2 + int(w)
    else:
        assert max(share) == 1
        chosen = sorted((-length, i) for i, length in enumerate(lengths))[:count]
        assert sorted(i for _, i in chosen) == [i for i, got in enumerate(share) if got]


def test_shots_by_hand():
    video = film((60, [200, 30, 30]), (20, [20, 20, 90]), (20, [30, 220, 30]))
    # one each, then 3 more: 1.8, 0.6, 0.6 -> 2 (whole 1, largest remainder), 1, 0
    assert SceneAdaptive(num_frames=6)(video).indices.tolist() == [10, 30, 50, 65, 75, 90]
    # fewer than shots: the longest, then the earlier
    assert SceneAdaptive(num_frames=2)(video).indices.tolist() == [30, 70]
    assert SceneAdaptive(num_frames=1)(video).indices.tolist() == [30]


@settings(deadline=None, max_examples=30)
@given(length=st.integers(2, 80), count=st.integers(1, 40), noise=st.sampled_from([0, 3]))
def test_a_static_video_is_sampled_at_mid_points(length, count, noise):
    video = film((length, [120, 90, 60]), noise=noise)
    expected = midpoint_index(length, min(count, length))
    assert torch.equal(SceneAdaptive(num_frames=count)(video).indices, expected)


def test_thumbnails_are_needed_only_where_there_is_a_choice():
    blind = timeline([0.0, 0.1, 0.2])
    assert SceneAdaptive(num_frames=3)(blind).indices.tolist() == [0, 1, 2]
    with pytest.raises(ConfigError, match="has none"):
        SceneAdaptive(num_frames=2)(blind)
    wrong = timeline([0.0, 0.1], thumbnails=lambda: torch.zeros(3, 3, 2, 2, dtype=torch.uint8))
    with pytest.raises(ShapeError, match="one for each frame"):
        SceneAdaptive(num_frames=1)(wrong)


def thumbnails_of(path):
    """Every frame at 48 x 27, by Pillow's reduction."""
    with av.open(str(path)) as container:
        pictures = [frame.to_image().resize((48, 27)) for frame in container.decode(video=0)]
    rows = [torch.frombuffer(bytearray(p.tobytes()), dtype=torch.uint8) for p in pictures]
    return torch.stack(rows).view(-1, 27, 48, 3).permute(0, 3, 1, 2)


def test_the_cuts_of_a_real_film_are_found(videos):
    starts = shot_starts(frame_changes(thumbnails_of(videos / "bikes_cuts.mp4"))).tolist()
    assert starts == [0, 30, 76, 137, 187, 242]  # every one seen by eye, and no more


def test_a_real_static_film_has_no_cuts(videos):
    changes = frame_changes(thumbnails_of(videos / "flower_h264_bframes.mp4"))
    assert shot_starts(changes).tolist() == [0]
