"""Memory banks of places and of frames, beside the laws."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.memory import bank_slowly, equal_levels_slowly, moviechat_slowly
from strategies import make_video

from vidcomp.budget import apportion
from vidcomp.compress.merge._held import HeldRows, places
from vidcomp.compress.merge.memory_bank import level_shares
from vidcomp.errors import BudgetError, ConfigError, ShapeError
from vidcomp.registry import COMPRESSORS
from vidcomp.types import Grid, VideoTokens

make = COMPRESSORS.make


def of_features(x_TPD, h=1):
    num_frames, n, dim = x_TPD.shape
    start = torch.arange(num_frames).float()
    return VideoTokens.from_grid(
        x_TPD.reshape(-1, dim),
        Grid(num_frames, h, n // h),
        torch.stack([start, start + 1], dim=1),
    )


def by_place(out):
    """{(h, w): [(row, times)]} in the order of time."""
    found = {}
    for k, (_, h, w) in enumerate(out.positions.tolist()):
        patches = (out.assign == k).nonzero().squeeze(1)
        times = (patches // out.grid.per_frame).tolist()
        found.setdefault((h, w), []).append((out.tokens[k], times))
    return found


@given(
    t=st.integers(2, 9),
    hw=st.sampled_from([(1, 1), (1, 3), (2, 2)]),
    extra=st.integers(0, 20),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=30)
def test_banks_are_those_of_the_description(t, hw, extra, seed):
    video = make_video(Grid(t, *hw), dim=5, seed=seed)
    n = video.grid.per_frame
    budget = n + extra
    if budget >= len(video):
        return
    x_TPD = video.tokens.reshape(t, n, 5)
    expected = bank_slowly(x_TPD, equal_levels_slowly(budget))
    found = by_place(make("memory_bank")(video, budget))
    for place, bank in zip(sorted(found), expected, strict=True):
        assert [times for _, times in found[place]] == [times for _, times in bank]
        for (x, _), (y, _) in zip(found[place], bank, strict=True):
            torch.testing.assert_close(x.double(), y, atol=1e-5, rtol=1e-5)


def test_published_banks_have_one_length_whatever_the_budget():
    video = make_video(Grid(7, 2, 3), dim=5)
    stage = make("memory_bank", mode="published", length=3)
    found = by_place(stage(video, 40))
    expected = bank_slowly(video.tokens.reshape(7, 6, 5), lambda rows: [3] * len(rows))
    for place, bank in zip(sorted(found), expected, strict=True):
        assert [times for _, times in found[place]] == [times for _, times in bank]
    assert stage.plan(video, 18) == 18
    assert not stage.exact
    with pytest.raises(BudgetError, match="holds 18 tokens, more than a budget of 17"):
        stage.plan(video, 17)
    with pytest.raises(BudgetError, match="holds 18 tokens"):
        stage.stream(17, (2, 3))


def test_what_changes_stays_and_what_does_not_merges():
    x_TPD = torch.zeros(5, 1, 2)
    x_TPD[:, 0] = torch.tensor([[1, 0], [1, 0.1], [0, 1], [0.1, 1], [-1, 0]])
    out = make("memory_bank")(of_features(x_TPD), 3)
    assert out.mass.tolist() == [2, 2, 1]
    torch.testing.assert_close(out.tokens[0], torch.tensor([1, 0.05]))
    assert out.spans.tolist() == [[0, 2], [2, 4], [4, 5]]


def test_a_budget_that_does_not_divide_is_used_up():
    video = make_video(Grid(6, 2, 2))
    for budget in range(1, 24):
        sizes = [len(bank) for bank in by_place(make("memory_bank")(video, budget)).values()]
        assert sum(sizes) == budget
        assert max(sizes) - min(sizes) <= 1


@given(length=st.lists(st.integers(0, 9), min_size=1, max_size=12), data=st.data())
@settings(deadline=None, max_examples=60)
def test_levels_are_equal_wishes_apportioned(length, data):
    total = data.draw(st.integers(0, sum(length)))
    expected = apportion([1.0] * len(length), total=total, caps=length)
    assert torch.equal(level_shares(torch.tensor(length), total), expected)


@given(h=st.integers(1, 9), w=st.integers(1, 9), data=st.data())
@settings(deadline=None, max_examples=100)
def test_areas_cover_the_frame_evenly(h, w, data):
    most = data.draw(st.integers(1, h * w))
    place = places(torch.arange(h * w), (h, w), most)
    sizes = torch.bincount(place, minlength=most)
    assert len(sizes) == most
    assert int(sizes.min()) >= 1
    for k in range(most):
        cells = (place == k).nonzero().squeeze(1)
        rows, columns = (cells // w).unique(), (cells % w).unique()
        assert len(cells) == len(rows) * len(columns)  # each area is a rectangle
        assert len(rows) == rows[-1] - rows[0] + 1
        assert len(columns) == columns[-1] - columns[0] + 1


def test_areas_are_of_one_shape():
    place = places(torch.arange(64), (8, 8), 16).reshape(8, 8)
    assert torch.equal(place[:2, :2], torch.zeros(2, 2, dtype=torch.int64))
    assert torch.bincount(place.flatten()).tolist() == [4] * 16


def test_moviechat_as_published():
    video = make_video(Grid(11, 2, 3), dim=5)
    x_TPD = video.tokens.reshape(11, 6, 5)
    stage = make("moviechat", mode="published", short=4, merged=2)
    assert stage.plan(video, 60) == (2 * 2 + 3) * 6
    out = stage(video, 60)
    expected = moviechat_slowly(x_TPD, 4, 2)
    torch.testing.assert_close(out.tokens.reshape(7, 6, 5).double(), expected, atol=1e-5, rtol=1e-5)
    assert float(out.mass.sum()) == 66
    with pytest.raises(BudgetError, match="leaves 42 tokens, more than a budget of 41"):
        stage(video, 41)
    with pytest.raises(ShapeError, match="dense"):
        stage.plan(video.select(torch.arange(60)), 42)
    with pytest.raises(ConfigError, match="grows with the video"):
        stage.stream(42, (2, 3))
    with pytest.raises(ConfigError, match="less than short"):
        make("moviechat", short=3, merged=3)


def test_published_halves_favour_the_latest_frames():
    """Three equal frames, then others: of the first three, the last has half of the weight."""
    x_TPD = torch.tensor([1.0, 1, 1, -5])[:, None, None] * torch.ones(4, 1, 2)
    x_TPD[:3, 0, 0] = torch.tensor([1.0, 2, 3])
    out = make("moviechat", mode="published", short=4, merged=2)(of_features(x_TPD), 3)
    assert out.tokens[:, 0].tolist() in ([1.75, -5], [2.25, -5])
    weighted = make("moviechat", short=4, merged=2)(of_features(x_TPD), 2)
    assert weighted.tokens[:, 0].tolist() == [2, -5]


def test_frames_merge_as_a_whole():
    video = make_video(Grid(9, 2, 3), dim=5, content="random")
    out = make("moviechat")(video, 4 * 6)
    times = [t for bank in by_place(out).values() for _, t in bank]
    runs = {tuple(t) for t in times}
    assert len(runs) == 4  # all six places merged the same frames
    assert sorted(t for run in runs for t in run) == list(range(9))


def test_the_last_pair_merges_as_far_as_needed():
    video = make_video(Grid(9, 2, 3), dim=5)
    sizes = {k: len(make("moviechat")(video, k)) for k in range(1, 54)}
    assert all(k == size for k, size in sizes.items())
    whole = {tuple(t) for b in by_place(make("moviechat")(video, 24)).values() for _, t in b}
    more = {tuple(t) for b in by_place(make("moviechat")(video, 26)).values() for _, t in b}
    assert len(more - whole) == 2  # two places keep both frames of one pair


def test_a_scene_that_stands_still_takes_one_frame():
    """Ten pictures of one scene, then three of others."""
    still = make_video(Grid(10, 2, 2), dim=8, content="static").tokens
    others = make_video(Grid(3, 2, 2), dim=8, seed=5).tokens
    video = of_features(torch.cat([still, others]).reshape(13, 4, 8), h=2)
    out = make("moviechat")(video, 16)
    assert sorted(out.mass.tolist()) == [1] * 12 + [10] * 4


def test_runs_merge_to_their_heads():
    held = HeldRows(keep_history=True)
    slots = held.add({"tokens": torch.arange(6.0)[:, None], "mass": torch.ones(6)})
    held.merge_runs(slots, torch.tensor([False, True, True, False, False, True]))
    assert len(held) == 3
    assert held.groups().tolist() == [0, 0, 0, 3, 4, 4]
    assert held.field("tokens", slots[[0, 3, 4]])[:, 0].tolist() == [1, 3, 4.5]
    again = held.add({"tokens": torch.ones(3, 1), "mass": torch.ones(3)})
    assert set(again.tolist()) == set(slots[[1, 2, 5]].tolist())  # slots are used again


@pytest.mark.parametrize("name", ["memory_bank", "moviechat"])
def test_online_equals_offline(name):
    video = make_video(Grid(12, 3, 4), dim=6)
    for budget in (5, 30, 40):
        stage = make(name)
        stream = stage.stream(budget, (3, 4), provenance=True)
        stream.update(video)
        out, whole = stream.result(), stage(video, budget)
        assert torch.equal(out.assign, whole.assign)
        torch.testing.assert_close(out.tokens, whole.tokens, atol=1e-6, rtol=1e-6)
        assert torch.equal(out.positions, whole.positions)
        assert torch.equal(out.mass, whole.mass)
