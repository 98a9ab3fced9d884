"""Averaging over time of what does not change, beside the laws."""

import pytest
import torch
from strategies import make_video

from vidcomp.errors import BudgetError, ConfigError
from vidcomp.registry import COMPRESSORS
from vidcomp.types import Grid, VideoTokens

make = COMPRESSORS.make


def scene(num_frames=8, moving=(3,), seed=0):
    """Six still places but for ``moving``, which change in every frame."""
    video = make_video(Grid(num_frames, 2, 3), dim=16, content="static", seed=seed)
    other = make_video(Grid(num_frames, 2, 3), dim=16, seed=seed + 1)
    mask = torch.zeros(6, dtype=torch.bool)
    mask[list(moving)] = True
    mask = mask.repeat(num_frames)[:, None]
    return replace(video, tokens=torch.where(mask, other.tokens, video.tokens))


def replace(video, **change):
    names = ("tokens", "positions", "spans", "mass", "grid", "assign", "weights")
    return VideoTokens(
        **{n: getattr(video, n) for n in names} | {"extras": dict(video.extras)} | change
    )


@pytest.mark.parametrize("reference", ["previous", "first", "mean"])
def test_still_places_merge_before_moving_ones(reference):
    video = scene()
    out = make("static_average", reference=reference)(video, 5 + 8)
    assert sorted(out.mass.tolist()) == [1.0] * 8 + [8.0] * 5
    moved = out.positions[out.mass == 1]
    assert set(map(tuple, moved[:, 1:].tolist())) == {(1.0, 0.0)}
    still = out.spans[out.mass == 8]
    assert still.tolist() == [[0.25, 4.25]] * 5


@pytest.mark.parametrize("reference", ["previous", "first", "mean"])
def test_modes(reference):
    video = scene()
    published = make("static_average", mode="published", threshold=0.9, reference=reference)
    at_most = make("static_average", mode="at_most", threshold=0.9, reference=reference)
    for budget in (13, 20, 40):
        assert published.plan(video, budget) == len(published(video, budget)) == 13
        assert at_most.plan(video, budget) == len(at_most(video, budget)) == 13
    assert at_most.plan(video, 9) == len(at_most(video, 9)) == 9
    with pytest.raises(BudgetError, match="leaves 13 of 48 tokens, more than a budget of 12"):
        published(video, 12)
    with pytest.raises(BudgetError, match="leaves 13 of 48"):
        published.plan(video, 12)


def test_what_time_alone_cannot_reach():
    for mode in ("exact", "at_most"):
        stage = make("static_average", mode=mode)
        assert len(stage(scene(), 6)) == 6
        for call in (stage, stage.plan):
            with pytest.raises(BudgetError, match="48 tokens at 6 places leave at least 6"):
                call(scene(), 5)
    with pytest.raises(ConfigError, match="'threshold' is 1"):
        make("static_average", threshold=1.5)


def test_black_patches_are_still():
    video = make_video(Grid(5, 1, 2), content="zeros")
    out = make("static_average", mode="published", threshold=0.99)(video, 9)
    assert out.mass.tolist() == [5.0, 5.0]


def test_a_cut_is_not_averaged_over():
    first = make_video(Grid(4, 2, 2), dim=16, content="static")
    second = make_video(Grid(4, 2, 2), dim=16, content="static", seed=5)
    video = make_video(Grid(8, 2, 2), dim=16)
    video = replace(video, tokens=torch.cat([first.tokens, second.tokens]))
    out = make("static_average")(video, 8)
    assert out.mass.tolist() == [4.0] * 8
    assert set(out.positions[:, 0].tolist()) == {1.5, 5.5}


def test_gaps_in_time_are_bridged():
    video = scene(moving=())
    sparse = video.select(torch.tensor([0, 1, 6, 30, 31, 42]))
    out = make("static_average")(sparse, 2)
    assert out.mass.tolist() == [2.0, 4.0]
    assert out.positions.tolist() == [[2.5, 0.0, 1.0], [3.25, 0.0, 0.0]]
