"""Methods on segments: as published against slow twins, and what the exact forms promise."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.segments import (
    slow_cuts,
    slow_dycoke,
    slow_fastvid,
    slow_flashvid,
    slow_holitom,
    slow_prunevid,
)
from strategies import make_video

from vidcomp.compress.merge._trees import event_relevance, root_rows
from vidcomp.errors import BudgetError, ConfigError, ShapeError
from vidcomp.functional.runs import chains
from vidcomp.functional.segment import row_in_frame, spread_shares
from vidcomp.registry import COMPRESSORS
from vidcomp.types import Grid, VideoTokens

make = COMPRESSORS.make
NAMES = ["dycoke", "fastvid", "flashvid", "holitom", "prunevid"]
seeds = st.integers(0, 99)
few = settings(deadline=None, max_examples=12)


def video_of(x_TND, saliency_TN=None):
    """Tokens [T, n, D] in frames of one row of patches."""
    num_frames, n, _ = x_TND.shape
    start = torch.arange(num_frames).float()
    extras = {} if saliency_TN is None else {"saliency": saliency_TN.flatten()}
    return VideoTokens.from_grid(
        x_TND.flatten(0, 1),
        Grid(num_frames, 1, n),
        torch.stack([start, start + 1], dim=1),
        extras=extras,
    )


def drifting(num_frames, n, dim, seed, change=0.4):
    """Places that move a little from frame to frame, and scenes that begin anew."""
    draw = torch.Generator().manual_seed(seed)
    picture, frames = torch.randn(n, dim, generator=draw), []
    for _ in range(num_frames):
        if torch.rand((), generator=draw) < 0.25:
            picture = torch.randn(n, dim, generator=draw)
        amount = change * torch.rand(n, 1, generator=draw).square()
        picture = picture + amount * torch.randn(n, dim, generator=draw)
        frames.append(picture)
    return torch.stack(frames), torch.rand(num_frames, n, generator=draw)


def assert_close(ours, theirs):
    assert ours.shape == theirs.shape
    assert torch.allclose(ours.double(), theirs.double(), atol=2e-5, rtol=1e-4)


@given(st.integers(2, 11), seeds, st.floats(0, 1))
@few
def test_dycoke_as_published(num_frames, seed, drop):
    # Far apart: places that hardly change have no order that rounding would not decide.
    x = torch.randn(num_frames, 7, 5, generator=torch.Generator().manual_seed(seed))
    video, expected = video_of(x), slow_dycoke(x, drop)
    if len(expected) < len(video):
        out = make("dycoke", mode="published", drop=drop)(video, len(video) - 1)
        assert_close(out.tokens, torch.stack([x[t, i] for t, i in expected]))
    else:
        assert num_frames % 2 == 0


def test_dycoke_as_published_loses_a_frame_without_a_partner():
    x, _ = drifting(7, 4, 5, 0)
    out = make("dycoke", mode="published")(video_of(x), 27)
    assert int(out.positions[:, 0].max()) == 5
    with pytest.raises(ShapeError, match="leaves nothing of 1 frame"):
        make("dycoke", mode="published")(video_of(x[:1]), 3)


@given(st.integers(4, 9), seeds, st.sampled_from([0.5, 0.9, 0.97]), st.sampled_from([0.25, 0.5]))
@few
def test_prunevid_as_published(num_frames, seed, threshold, share):
    x, _ = drifting(num_frames, 18, 6, seed)
    settings = {"threshold": threshold, "clusters_per_frame": share, "neighbours": 3}
    stage = make("prunevid", mode="published", retention=0.4, **settings)
    expected = slow_prunevid(x, threshold, int(num_frames * share), 3, 0.4)
    assert_close(stage(video_of(x), num_frames * 18 - 1).tokens, expected)


@given(st.integers(1, 8), seeds, st.sampled_from([0.5, 0.9, 0.97]), st.floats(0.1, 0.6))
@few
def test_holitom_as_published(num_frames, seed, threshold, ratio):
    x, attention = drifting(num_frames, 9, 6, seed)
    stage = make("holitom", mode="published", threshold=threshold, retention=ratio, neighbours=3)
    expected = slow_holitom(x, attention, threshold, 3, ratio, 0.6)
    assert_close(stage(video_of(x, attention), num_frames * 9 - 1).tokens, expected)


@given(st.integers(2, 9), seeds, st.integers(1, 4), st.integers(2, 4))
@few
def test_fastvid_as_published(num_frames, seed, num_segments, stride):
    x, attention = drifting(num_frames, 20, 6, seed)
    cuts = slow_cuts(x.mean(dim=1), 0.8, num_segments)
    stage = make(
        "fastvid",
        mode="published",
        threshold=0.8,
        num_segments=num_segments,
        stride=stride,
        retention=0.25,
    )
    expected = slow_fastvid(x, attention, cuts, 0.25, 0.4, stride, 4, 0.6)
    assert_close(stage(video_of(x, attention), num_frames * 20 - 1).tokens, expected)


@given(st.integers(1, 7), seeds, st.integers(1, 4), st.sampled_from([0.5, 0.9, 0.98]))
@few
def test_flashvid_as_published(num_frames, seed, num_segments, link):
    x, attention = drifting(num_frames, 16, 6, seed)
    cuts = slow_cuts(x.mean(dim=1), 0.8, num_segments)
    stage = make(
        "flashvid",
        mode="published",
        threshold=0.8,
        num_segments=num_segments,
        link=link,
        neighbours=5,
        retention=0.3,
    )
    expected = slow_flashvid(x, attention, cuts, 0.3, 1.25, 0.7, link, 5)
    assert_close(stage(video_of(x, attention), num_frames * 16 - 1).tokens, expected)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("num_frames", [1, 2, 5, 9])
def test_every_budget_is_met(name, num_frames):
    for content in ("static", "random", "equal", "zeros"):
        video = make_video(Grid(num_frames, 2, 3), dim=4, content=content)
        stage = make(name)
        for budget in range(1, len(video)):
            assert len(stage(video, budget)) == budget == stage.plan(video, budget)


@pytest.mark.parametrize("name", NAMES)
def test_a_small_budget_is_spread_over_time(name):
    """No budget goes to the first frames only because all frames wish the same."""
    video = make_video(Grid(40, 2, 3), dim=8)
    out = make(name)(video, 8)
    centre = ((out.spans[:, 0] + out.spans[:, 1]) / 2).sort().values / 20
    assert float(centre[0]) < 0.35
    assert float(centre[-1]) > 0.65


@pytest.mark.parametrize("name", ["fastvid", "flashvid", "prunevid"])
def test_merging_methods_lose_nothing(name):
    video = make_video(Grid(12, 3, 3), dim=8, content="static")
    for budget in (1, 7, 40, 107):
        out = make(name)(video, budget)
        assert float(out.mass.sum()) == len(video)
        assert out.assign is not None
        assert bool((out.assign >= 0).all())


@pytest.mark.parametrize("name", NAMES)
def test_published_counts_above_a_budget_are_named(name):
    video = make_video(Grid(6, 5, 5), dim=8)
    stage = make(name, mode="published")
    count = stage.plan(video, len(video) - 1)
    assert len(stage(video, count)) == count
    for call in (stage.plan, stage):
        with pytest.raises(BudgetError, match=f" {count} of 150 tokens"):
            call(video, count - 1)


def test_dycoke_has_the_published_shares_where_the_budget_is_theirs():
    x, _ = drifting(8, 10, 5, 1)
    out = make("dycoke")(video_of(x), 2 * 10 + 6 * 3)
    assert torch.bincount(out.positions[:, 0].long()).tolist() == [10, 3, 3, 3, 10, 3, 3, 3]
    wanted = slow_dycoke(x, 0.7)
    kept = {(t, i) for t, i in wanted if t in (1, 2, 3, 5, 7)}  # 6 has no second pass as published
    assert kept <= {(int(p[0]), int(p[2])) for p in out.positions}


def test_a_still_chain_is_its_mean_and_as_published_too_large():
    x = torch.eye(3)[None].repeat(4, 1, 1) * torch.tensor([1.0, 2, 3, 4])[:, None, None]
    video = video_of(x, torch.ones(4, 3))
    settings = {"num_segments": 1, "selection": "diversity", "salient": 0.0}
    out = make("flashvid", **settings)(video, 3)
    assert out.mass.tolist() == [4.0] * 3
    assert torch.allclose(out.tokens, 2.5 * torch.eye(3))
    published = make("flashvid", mode="published", retention=1 / 12, expansion=3.0, **settings)
    assert torch.allclose(published(video, 11).tokens, 5.0 * torch.eye(3))  # 10 / 2, not 10 / 4


def test_flashvid_as_published_may_hold_a_token_twice_and_exact_does_not():
    x, attention = drifting(1, 16, 6, 3)
    found = 0
    for seed in range(6):
        x, attention = drifting(1, 16, 6, seed)
        settings = {"mode": "published", "retention": 0.5}
        out = make("flashvid", **settings)(video_of(x, attention), 15)
        assert out.weights is not None
        found += int((out.weights.to_dense() > 0).sum(dim=0).max() > 1)
        rows = make("flashvid", **settings).published_rows(video_of(x, attention), 15)
        assert len(rows) == len(out)
        assert bool((rows.diff() >= 0).all())
        exact = make("flashvid")(video_of(x, attention), 10)
        assert exact.assign is not None
        assert torch.bincount(exact.assign).min() > 0
    assert found
    with pytest.raises(ConfigError, match="mode='published'"):
        make("flashvid").published_rows(video_of(x, attention), 10)


def test_still_places_merge_over_time_and_others_stay_in_their_frames():
    """Two places stand still for six frames, one changes: 2 + 6 tokens."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(1, 3, 8, generator=draw).repeat(6, 1, 1)
    x[:, 1] = torch.randn(6, 8, generator=draw)
    video = video_of(x, torch.ones(6, 3))
    for name, more in {"holitom": {}, "prunevid": {"clusters_per_frame": 0.01}}.items():
        out = make(name, **more)(video, 8)
        assert sorted(out.mass.tolist()) == [1.0] * 6 + [6.0] * 2
        assert set(out.positions[out.mass > 1][:, 2].tolist()) == {0.0, 2.0}


def test_fewer_places_are_averaged_where_a_budget_asks_for_more_tokens():
    video = make_video(Grid(6, 1, 4), dim=8, content="static")
    for name in ("holitom", "prunevid"):
        out = make(name, threshold=0.5)(video, 20)
        assert len(out) == 20
        assert float(out.mass.max()) <= 5


def test_holitom_keeps_what_is_important_and_merges_the_rest_if_asked():
    x = torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(1))
    attention = torch.tensor([[0.0, 1, 2, 3, 4, 5], [5.0, 4, 3, 2, 1, 0]])
    out = make("holitom")(video_of(x, attention), 4)
    assert out.positions[:, [0, 2]].tolist() == [[0, 4], [0, 5], [1, 0], [1, 1]]
    assert float(out.mass.sum()) == 4
    out = make("holitom", contextual=0.5)(video_of(x, attention), 4)
    assert sorted(out.mass.tolist()) == [1.0, 1.0, 5.0, 5.0]
    with pytest.raises(ConfigError, match="no contextual tokens"):
        make("holitom", mode="published", contextual=0.5)


def test_fastvid_merges_into_the_segment_only():
    one, two = torch.randn(2, 1, 5, 8, generator=torch.Generator().manual_seed(2))
    x = torch.cat([one.repeat(5, 1, 1), two.repeat(3, 1, 1)])
    out = make("fastvid", num_segments=2)(video_of(x, torch.rand(8, 5)), 12)
    assert not bool(((out.spans[:, 0] < 5) & (out.spans[:, 1] > 5)).any())
    assert float(out.mass[out.spans[:, 1] <= 5].sum()) == 25


def test_what_a_stage_needs_is_said():
    video = make_video(Grid(4, 2, 2), extras=False)
    for name in ("fastvid", "flashvid", "holitom"):
        with pytest.raises(ShapeError, match="needs extras"):
            make(name)(video, 5)
        assert len(make(name, importance="norm")(video, 5)) == 5
    for name in ("fastvid", "prunevid"):
        with pytest.raises(ShapeError, match="frame_extras"):
            make(
                name, frame_features="pooled", **{"importance": "norm"} if name == "fastvid" else {}
            )(video, 5)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=8), st.data())
@few
def test_shares_are_spread(sizes, data):
    size = torch.tensor(sizes)
    total = data.draw(st.integers(1, sum(sizes)))
    share = spread_shares(size, total, size)
    assert int(share.sum()) == total
    assert bool((share <= size).all())
    assert total < len(sizes) or int(share.min()) >= 1


def test_shares_of_equal_units_are_evenly_spaced():
    ones = torch.ones(9, dtype=torch.int64)
    assert spread_shares(ones, 3, ones).nonzero().squeeze(1).tolist() == [1, 4, 7]


def test_rows_of_other_frames_are_found_by_place():
    position = torch.tensor([[0, 0, 0], [0, 0, 1], [1, 0, 1], [3, 0, 0], [3, 0, 1]]).float()
    frame = position[:, 0].long()
    found = row_in_frame(chains(position), frame, torch.tensor([1, 1, 0, 0, -1]))
    assert found.tolist() == [-1, 2, 1, 0, -1]


def test_links_lead_to_their_roots():
    root = root_rows(7, torch.tensor([1, 2, 3, 6]), torch.tensor([0, 1, 2, 5]))
    assert root.tolist() == [0, 0, 0, 0, 4, 5, 5]


def test_relevance_for_an_event_may_be_negative_and_never_overflows():
    x = torch.tensor([[6e4, 6e4], [-6e4, -6e4], [0, 0]], dtype=torch.float16)
    relevance = event_relevance(x, torch.full((3, 2), 6e4))
    assert relevance.tolist() == [1, -1, 0]
