"""Groups of frames and unique rows."""

import itertools

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from oracles.linear_pruners import unique_slowly
from oracles.match import cosine_slowly

from vidcomp.functional import uniqueness
from vidcomp.functional.uniqueness import frame_groups, mean_cosines, unique_rows

lawful = settings(deadline=None, max_examples=40)


def walk(num_rows, step, seed, dim=4):
    draw = torch.Generator().manual_seed(seed)
    start = torch.randn(1, dim, generator=draw)
    return start + step * torch.randn(num_rows, dim, generator=draw).cumsum(0)


@given(
    num_frames=st.integers(1, 12),
    step=st.sampled_from([0.0, 0.1, 0.5]),
    max_gap=st.sampled_from([0.0, 0.01, 0.2]),
    max_frames=st.integers(1, 5),
    seed=st.integers(0, 99),
)
@lawful
def test_groups_are_runs_near_to_their_first_frame(num_frames, step, max_gap, max_frames, seed):
    frames = walk(num_frames, step, seed)
    expected, first = [0], 0
    for t in range(1, num_frames):
        gap = 1 - cosine_slowly(frames[t].tolist(), frames[first].tolist())
        assume(step == 0 or abs(gap - max_gap) > 1e-5)
        joins = gap <= max_gap + 1e-6 and t - first < max_frames
        first = first if joins else t
        expected.append(expected[-1] + (not joins))
    assert frame_groups(frames, max_gap, max_frames).tolist() == expected


def test_mean_cosines_are_means_of_a_row_of_the_matrix():
    x = walk(7, 1.0, 3)
    expected = [sum(cosine_slowly(a, b) for b in x.tolist()) / 7 for a in x.tolist()]
    assert mean_cosines(x).tolist() == pytest.approx(expected, abs=1e-6)


@given(
    sizes=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    max_gap=st.sampled_from([0.0, 0.05, 0.3, 1.0]),
    fill=st.booleans(),
    shuffled=st.booleans(),
    small_blocks=st.booleans(),
    seed=st.integers(0, 99),
    data=st.data(),
)
@lawful
def test_unique_rows_equal_their_slow_twin(
    sizes, max_gap, fill, shuffled, small_blocks, seed, data
):
    groups = [g for g, size in enumerate(sizes) for _ in range(size)]
    x = walk(len(groups), 0.5, seed)
    if shuffled:
        order = torch.randperm(len(groups), generator=torch.Generator().manual_seed(seed))
        groups = torch.tensor(groups)[order].tolist()
    shares = [data.draw(st.integers(0, size)) for size in sizes]
    cosines = [[cosine_slowly(a, b) for b in x.tolist()] for a in x.tolist()]
    flat = [1 - c for row in cosines for c in row]
    assume(all(abs(gap - max_gap) > 1e-5 for gap in flat if max_gap > 0))
    for g in range(len(sizes)):
        mine = [i for i, other in enumerate(groups) if other == g]
        means = sorted(sum(cosines[a][b] for b in mine) for a in mine)
        # A pair is as near to one as to the other: their means tie, and the lower row wins.
        assume(len(mine) <= 2 or all(b - a > 1e-4 for a, b in itertools.pairwise(means)))
    expected = unique_slowly(x, shares, groups, max_gap, fill)
    with pytest.MonkeyPatch.context() as patch:
        if small_blocks:
            patch.setattr(uniqueness, "_BLOCK", 1)
        got = unique_rows(x, torch.tensor(groups), torch.tensor(shares), max_gap, fill=fill)
    assert got.rows.tolist() == sorted(expected)
    if fill:
        assert len(got.rows) == sum(shares)
    for place, row in enumerate(got.rows.tolist()):
        assert sorted(got.near[got.kept == place].tolist()) == expected[row]
    assert got.kept.tolist() == sorted(got.kept.tolist())


def test_duplicates_are_passed_over_but_fill_up():
    x = torch.ones(5, 3)
    group, share = torch.zeros(5, dtype=torch.int64), torch.tensor([3])
    assert unique_rows(x, group, share, 0.2, fill=False).rows.tolist() == [0]
    assert unique_rows(x, group, share, 0.2, fill=True).rows.tolist() == [0, 1, 2]
    alone = unique_rows(x, group, share, 0.0, fill=True)  # nothing is nearer than 0
    assert alone.near.tolist() == [0, 1, 2]
