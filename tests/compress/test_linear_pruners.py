"""EVS, differential token drop, VidCom2 and V-CAST, beside the laws."""

import itertools

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from oracles.linear_pruners import (
    changes_slowly,
    strongest_slowly,
    v_cast_slowly,
    vidcom2_slowly,
)
from strategies import make_video

from vidcomp.compress.prune.v_cast import published_shares
from vidcomp.errors import BudgetError, ConfigError, ShapeError
from vidcomp.registry import COMPRESSORS
from vidcomp.types import Grid, VideoTokens

make = COMPRESSORS.make


def of_frames(x_TnD, width=None):
    num_frames, n, dim = x_TnD.shape
    width = width or n
    start = torch.arange(num_frames).float()
    spans = torch.stack([start, start + 1], dim=1)
    return VideoTokens.from_grid(x_TnD.reshape(-1, dim), Grid(num_frames, n // width, width), spans)


def rows(out):
    """Patches of a dense video that are left."""
    return (out.assign >= 0).nonzero().squeeze(1).tolist()


def chunks_of(x_TnD, sizes):
    first = 0
    for size in sizes:
        part, spans = x_TnD[first : first + size], torch.arange(first, first + size).float()
        yield VideoTokens.from_grid(
            part.flatten(0, 1),
            Grid(size, 1, part.shape[1]),
            torch.stack([spans, spans + 1], dim=1),
            first_t=first,
        )
        first += size


def apart(scores):
    """No two scores so near that rounding decides."""
    return all(b - a > 1e-5 for a, b in itertools.pairwise(sorted(scores)))


videos = st.builds(
    lambda t, n, seed, step: (
        torch.randn(1, n, 6, generator=torch.Generator().manual_seed(seed))
        + step * torch.randn(t, n, 6, generator=torch.Generator().manual_seed(seed + 1)).cumsum(0)
    ),
    t=st.integers(1, 7),
    n=st.integers(1, 5),
    seed=st.integers(0, 999),
    step=st.sampled_from([0.1, 0.5]),
)
lawful = settings(deadline=None, max_examples=40)


@pytest.mark.parametrize("name", ["evs", "dtd"])
@given(x=videos, amount=st.floats(0, 1))
@lawful
def test_the_largest_changes_stay(name, x, amount):
    video = of_frames(x)
    assume(len(video) > 1)
    budget = 1 + round(amount * (len(video) - 2))
    change, _ = changes_slowly(video.tokens, video.positions, 2.0, "previous")
    assume(apart([c for c in change.values() if c < torch.inf]))
    assert rows(make(name)(video, budget)) == strongest_slowly(change, budget)


@given(x=videos, rate=st.sampled_from([0.3, 0.75, 0.9]))
@lawful
def test_evs_as_published_is_the_exact_form_at_its_count(x, rate):
    video, stage = of_frames(x), make("evs", mode="published", pruning_rate=rate)
    count = max(x.shape[1], int(len(video) * (1 - rate)))
    if count >= len(video):
        return
    assert stage.plan(video, len(video) - 1) == count
    assert rows(stage(video, len(video) - 1)) == rows(make("evs")(video, count))
    if count > 1:
        with pytest.raises(BudgetError, match=f"keeps {count} of {len(video)}"):
            stage(video, count - 1)


def test_evs_rounds_as_the_original_does():
    video = make_video(Grid(10, 2, 5))
    assert make("evs", mode="published", pruning_rate=0.9).plan(video, 99) == 10  # a whole frame
    video = make_video(Grid(100, 1, 1))
    assert make("evs", mode="published", pruning_rate=0.9).plan(video, 99) == 9


def test_a_small_budget_is_not_the_top_of_the_first_frame():
    video = make_video(Grid(8, 6, 6), dim=16)
    out = make("evs")(video, 10)
    first = out.positions[out.positions[:, 0] == 0]
    assert len(first) == 5
    assert float(first[:, 1].max()) >= 4


@pytest.mark.parametrize("reference", ["previous", "last_kept"])
@pytest.mark.parametrize("threshold", [0.5, 0.9])
@given(x=videos)
@lawful
def test_dtd_keeps_what_its_threshold_keeps(reference, threshold, x):
    video = of_frames(x)
    change, kept = changes_slowly(video.tokens, video.positions, threshold, reference)
    assume(all(abs(1 - c - threshold) > 1e-5 for c in change.values()))
    assume(apart([change[r] for r in kept if change[r] < torch.inf]))
    if len(kept) == len(video):
        return
    settings_ = {"threshold": threshold, "reference": reference}
    published = make("dtd", mode="published", **settings_)
    assert rows(published(video, len(video) - 1)) == sorted(kept)
    at_most = make("dtd", mode="at_most", **settings_)
    assert rows(at_most(video, len(video) - 1)) == sorted(kept)
    if len(kept) > 1:
        budget = len(kept) - 1
        allowed = {r: change[r] for r in kept}
        assert rows(at_most(video, budget)) == strongest_slowly(allowed, budget)
        with pytest.raises(BudgetError, match=f"keeps {len(kept)} of"):
            published(video, budget)


@given(x=videos, share=st.sampled_from([0.0, 0.5, 0.75]))
@lawful
def test_dtd_drops_a_share_of_every_frame(x, share):
    video = of_frames(x)
    num_frames, n, _ = x.shape
    change, _ = changes_slowly(video.tokens, video.positions, 2.0, "previous")
    assume(apart([c for c in change.values() if c < torch.inf]))
    left = n - int(n * share)
    expected = list(range(n))
    for t in range(1, num_frames):
        frame = sorted(range(t * n, (t + 1) * n), key=lambda r: -change[r])
        expected += sorted(frame[:left])
    if len(expected) < len(video):
        assert rows(make("dtd", mode="published", share=share)(video, len(video) - 1)) == expected
        exact = make("dtd", share=share)(video, len(expected))
        counts = torch.bincount(exact.positions[:, 0].long(), minlength=num_frames).tolist()
        assert counts == [n] + [left] * (num_frames - 1)
        assert rows(exact) == expected


def test_a_slow_rotation_is_not_starved_beside_flicker():
    """Every adjacent cosine is above .999; what flickers in place changes more at each frame."""
    angle = 0.03 * torch.arange(150.0)
    noise = 0.05 * torch.randn(150, 3, generator=torch.Generator().manual_seed(0))
    turn = torch.stack([angle.cos(), angle.sin(), torch.zeros(150)], dim=1)
    still = torch.tensor([0.0, 0.0, 1.0]) + noise
    video = of_frames(torch.stack([turn, still], dim=1))

    def kept_of_turn(out):
        return [row // 2 for row in rows(out) if row % 2 == 0]

    for name in ("evs", "dtd"):
        assert kept_of_turn(make(name)(video, 40)) == [0]
        kept = kept_of_turn(make(name, reference="last_kept")(video, 40))
        assert max(b - a for a, b in itertools.pairwise([*kept, 150])) <= 15
    tight = make("dtd", mode="published", threshold=0.98)
    assert kept_of_turn(tight(video, 299)) == [0]
    loose = make("dtd", mode="published", threshold=0.98, reference="last_kept")
    gaps = {b - a for a, b in itertools.pairwise(kept_of_turn(loose(video, 299)))}
    assert gaps == {7}  # cos(0.03 * 6) is above .98, cos(0.03 * 7) is not


@given(
    x=videos,
    budget=st.integers(1, 30),
    name=st.sampled_from(["evs", "dtd"]),
    data=st.data(),
)
@settings(deadline=None, max_examples=60)
def test_online_rows_are_those_of_the_whole_video(x, budget, name, data):
    forms = [{}]
    if name == "evs":
        forms += [{"mode": "published", "pruning_rate": 0.6}]
    else:
        forms += [
            {"mode": mode, "threshold": 0.9, "reference": reference}
            for mode in ("at_most", "published")
            for reference in ("previous", "last_kept")
        ]
        forms += [{"mode": "at_most", "share": 0.5}, {"mode": "published", "share": 0.5}]
    stage = make(name, **data.draw(st.sampled_from(forms)))
    cuts = sorted(data.draw(st.sets(st.integers(1, len(x)))) | {len(x)})
    stream = stage.stream(budget, (1, x.shape[1]), provenance=True)
    for chunk in chunks_of(x, [b - a for a, b in zip([0, *cuts], cuts, strict=False)]):
        stream.update(chunk)
    video = of_frames(x)
    refused = None
    try:
        expected = stage(video, budget)
    except BudgetError as error:
        refused = str(error)
    if refused is not None:
        with pytest.raises(BudgetError) as caught:
            stream.result()
        assert str(caught.value) == refused
        return
    out = stream.result()
    assert torch.equal(out.assign, expected.assign)
    assert torch.equal(out.tokens, expected.tokens)
    assert torch.equal(out.spans, expected.spans)


def test_forms_that_cannot_be_online_say_why():
    with pytest.raises(ConfigError, match="whole video"):
        make("evs", reference="last_kept").stream(9, (2, 2))
    with pytest.raises(ConfigError, match="number of frames"):
        make("dtd", share=0.5).stream(9, (2, 2))
    with pytest.raises(ConfigError, match="leave out the share"):
        make("dtd", share=0.5, reference="last_kept")


@pytest.mark.parametrize("temperature", [0.01, 1.0])
@given(x=videos, amount=st.floats(0, 1))
@lawful
def test_vidcom2_is_that_of_the_description(temperature, x, amount):
    compare_with_scores(
        x, amount, make("vidcom2", temperature=temperature), vidcom2_slowly, lowest=True
    )


@given(x=videos, amount=st.floats(0, 1))
@lawful
def test_v_cast_is_that_of_the_description(x, amount):
    assume(x.shape[1] > 1)
    compare_with_scores(x, amount, make("v_cast"), v_cast_slowly, lowest=False)


def compare_with_scores(x, amount, stage, oracle, *, lowest):
    num_frames, n, _ = x.shape
    assume(len(x) * n > 1)
    budget = 1 + round(amount * (num_frames * n - 2))
    assume(budget >= num_frames)  # below, one token a frame is not to be had
    score, share = oracle(x, budget, stage.temperature)
    for t in range(num_frames):
        assume(apart(score[t].tolist()))
    expected = []
    for t in range(num_frames):
        ranked = sorted(range(n), key=lambda i: float(score[t, i]) * (1 if lowest else -1))
        expected += sorted(t * n + i for i in ranked[: share[t]])
    assert rows(stage(of_frames(x), budget)) == expected


@pytest.mark.parametrize("name", ["vidcom2", "v_cast"])
def test_fewer_tokens_than_frames_go_to_the_frames_that_stand_out(name):
    x = torch.randn(1, 4, 8, generator=torch.Generator().manual_seed(1)).repeat(9, 1, 1)
    x[4] = torch.randn(4, 8, generator=torch.Generator().manual_seed(2))
    out = make(name)(of_frames(x), 3)
    assert len(out) == 3
    assert 4 in out.positions[:, 0].tolist() or name == "v_cast"
    assert len(set(out.positions[:, 0].tolist())) == 3


def test_published_counts_and_their_errors():
    video = make_video(Grid(5, 3, 3), dim=8)
    for name in ("vidcom2", "v_cast"):
        stage = make(name, mode="published", retention=0.25)
        count = stage.plan(video, 44)
        assert len(stage(video, 44)) == count
        with pytest.raises(BudgetError, match=f"keeps {count} of 45"):
            stage.plan(video, count - 1)
    one = make_video(Grid(1, 3, 3), dim=8)
    with pytest.raises(BudgetError, match="keeps 9 of 9"):
        make("v_cast", mode="published")(one, 8)


def test_published_shares_give_all_that_is_left_to_one_part():
    weights = torch.tensor([0.34, 0.33, 0.33])
    assert published_shares(weights, 11, 1, [9, 9, 9]) == [5, 3, 3]
    assert published_shares(weights, 11, 1, [4, 9, 9]) == [4, 4, 3]
    assert published_shares(weights, 2, 1, [9, 9, 9]) == [1, 1, 1]  # the least each has
    assert published_shares(weights, 99, 0, [2, 2, 2]) == [2, 2, 2]


@pytest.mark.parametrize("name", ["evs", "dtd", "vidcom2", "v_cast"])
def test_integer_ids_have_no_changes(name):
    video = make_video(Grid(2, 2, 2))
    ids = VideoTokens(
        tokens=torch.arange(8),
        positions=video.positions,
        spans=video.spans,
        mass=video.mass,
        grid=video.grid,
    )
    for call in (make(name), make(name).plan):
        with pytest.raises(ShapeError, match="ids: use"):
            call(ids, 4)
