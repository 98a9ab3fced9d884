"""Segments against slow twins, and what each of them promises for every video."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.segments import segment_bounds, slow_cuts, slow_longest_runs, slow_windows

from vidcomp.functional.geometry import patch_cells
from vidcomp.functional.runs import chains, joins_above
from vidcomp.functional.segment import (
    cuts_by_similarity,
    frame_clusters,
    frame_means,
    longest_runs,
    split_long,
    static_windows,
    still_frames,
)
from vidcomp.types import Grid

quick = settings(deadline=None, max_examples=60)
seeds = st.integers(0, 999)


def walk(num_frames, dim, seed, step=0.7):
    """Frames that drift, with a few jumps."""
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(num_frames, dim, generator=draw).mul(step).cumsum(0)


@given(st.integers(1, 12), seeds, st.floats(-1, 1), st.integers(1, 15))
@quick
def test_cuts_are_those_of_the_definition(num_frames, seed, threshold, at_least):
    frames = walk(num_frames, 3, seed)
    bounds = segment_bounds(cuts_by_similarity(frames, threshold, at_least))
    assert [first for first, _ in bounds][1:] == slow_cuts(frames, threshold, at_least)
    assert len(bounds) >= min(at_least, num_frames)


def test_equal_frames_are_cut_first_to_last_if_they_have_to_be():
    frames = torch.ones(5, 4)
    assert cuts_by_similarity(frames, 0.9).tolist() == [0] * 5
    assert cuts_by_similarity(frames, 0.9, 3).tolist() == [0, 1, 2, 2, 2]
    assert cuts_by_similarity(torch.zeros(4, 2), 0.9).tolist() == [0] * 4


@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.integers(1, 10))
@quick
def test_long_segments_become_equal_parts_and_others_stay(lengths, most):
    segment = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    parts = segment_bounds(split_long(segment, most))
    expected = []
    for length in lengths:
        number = -(-length // most)
        expected.append((number, length))
    place = 0
    for number, length in expected:
        mine, place = parts[place : place + number], place + number
        sizes = [last - first + 1 for first, last in mine]
        assert sum(sizes) == length
        assert max(sizes) <= most
        assert max(sizes) - min(sizes) <= 1
    assert place == len(parts)


@given(st.integers(1, 9), st.integers(1, 5), seeds, st.integers(1, 10), st.floats(0.3, 1))
@quick
def test_windows_are_those_of_the_table_of_all_pairs(num_frames, places, seed, most, share):
    draw = torch.Generator().manual_seed(seed)
    stays = torch.rand(num_frames - 1, places, generator=draw) < share
    still = torch.zeros(num_frames, places, dtype=torch.int64)
    for t in range(1, num_frames):
        still[t] = torch.where(stays[t - 1], still[t - 1] + 1, 0)
    frame = torch.arange(num_frames).repeat_interleave(places)
    windows = static_windows(still.flatten(), frame, most)
    expected, _ = slow_windows(stays.tolist(), most)
    assert segment_bounds(windows) == expected


@given(st.integers(1, 6), seeds, st.integers(1, 18))
@quick
def test_still_frames_count_back_to_the_last_change(num_frames, seed, kept):
    grid = Grid(num_frames, 1, 3)
    draw = torch.Generator().manual_seed(seed)
    row = torch.randperm(grid.num_patches, generator=draw)[:kept].sort().values
    picture = torch.eye(2)[torch.randint(0, 2, (grid.num_patches,), generator=draw)]
    cells = patch_cells(grid)
    x, position = picture[row], cells[row]
    found = chains(position.float())
    _, alike = joins_above(x, torch.ones(len(x)), found, 0.5, "previous")
    still = still_frames(alike, found, position[:, 0], 0.5)
    there = {tuple(p): i for i, p in enumerate(position.tolist())}
    for i, (t, h, w) in enumerate(position.tolist()):
        count = 0
        while (j := there.get((t - count - 1, h, w))) is not None and torch.equal(x[i], x[j]):
            count += 1
        assert int(still[i]) == count


@given(st.lists(st.integers(0, 3), min_size=1, max_size=20))
@quick
def test_refined_labels_are_those_of_frame_after_frame(labels):
    assert longest_runs(torch.tensor(labels)).tolist() == slow_longest_runs(labels)


@given(st.integers(1, 10), seeds, st.integers(1, 10))
@quick
def test_clusters_of_frames_are_runs(num_frames, seed, num_clusters):
    frames = walk(num_frames, 3, seed)
    bounds = segment_bounds(frame_clusters(frames, min(num_clusters, num_frames)))
    assert bounds[-1][1] == num_frames - 1


def test_scenes_are_found_by_clusters():
    scene = torch.tensor([[5.0, 0], [0, 5], [-5, 0]])
    frames = scene.repeat_interleave(torch.tensor([4, 3, 5]), dim=0) + 0.01 * walk(12, 2, 0)
    assert segment_bounds(frame_clusters(frames, 3, neighbours=3)) == [(0, 3), (4, 6), (7, 11)]


def test_means_of_frames_count_mass_and_do_not_overflow():
    x = torch.tensor([[6e4, 0], [6e4, 3], [1, 2]], dtype=torch.float16)
    mean = frame_means(x, torch.tensor([1.0, 2, 5]), torch.tensor([0, 0, 1]))
    assert mean.dtype == torch.float32
    assert torch.allclose(mean, torch.tensor([[6e4, 2], [1, 2]]))
