"""Token merging to any count, beside the laws."""

import json

import pytest
import torch
from safetensors import safe_open
from strategies import make_video

from vidcomp.errors import BudgetError, ShapeError
from vidcomp.functional.similarity import cosine
from vidcomp.registry import COMPRESSORS
from vidcomp.types import Grid, VideoTokens

make = COMPRESSORS.make


def replace(video, **change):
    names = ("tokens", "positions", "spans", "mass", "grid", "assign", "weights")
    return VideoTokens(
        **{n: getattr(video, n) for n in names} | {"extras": dict(video.extras)} | change
    )


@pytest.mark.parametrize("clip", [0, 1])
def test_published_mode_reproduces_videochat_flash(golden, clip):
    with safe_open(golden / "videochat_flash_tome.safetensors", "pt") as file:
        x, expected = file.get_tensor("input.x")[clip], file.get_tensor("output.tokens")[clip]
        meta = file.metadata()
    grid, parameters = Grid(**json.loads(meta["grid"])), json.loads(meta["parameters"])
    video = replace(make_video(grid, extras=False), tokens=x)
    stage = make("tome", mode="published", heads=parameters["heads"])
    out = stage(video, parameters["target"])
    torch.testing.assert_close(out.tokens, expected, atol=2e-5, rtol=1e-4)


def test_published_clips_are_merged_one_by_one(golden):
    with safe_open(golden / "videochat_flash_tome.safetensors", "pt") as file:
        x, expected = file.get_tensor("input.x"), file.get_tensor("output.tokens")
    video = replace(make_video(Grid(8, 6, 6), extras=False), tokens=x.flatten(0, 1))
    stage = make("tome", mode="published", heads=4, scope="clip", clip_frames=4)
    torch.testing.assert_close(
        stage(video, 128).tokens, expected.flatten(0, 1), atol=2e-5, rtol=1e-4
    )


def test_modes_make_equal_first_rounds():
    """One round from raster order merges the same rows in both modes; only the order differs."""
    video = make_video(Grid(2, 4, 4), dim=8)
    exact, published = make("tome")(video, 20), make("tome", mode="published")(video, 20)
    assert sorted(exact.mass.tolist()) == sorted(published.mass.tolist())
    a, b = (sorted(map(tuple, v.tokens.tolist())) for v in (exact, published))
    assert a == b
    assert published.positions.tolist() != exact.positions.tolist()


def test_duplicates_merge_first():
    video = make_video(Grid(1, 4, 8), dim=16, content="few")
    kinds = {tuple(r) for r in video.tokens.tolist()}
    assert len(kinds) == 3
    assert {tuple(r) for r in make("tome")(video, 18).tokens.tolist()} == kinds


@pytest.mark.parametrize(("scope", "frames"), [("frame", 1), ("clip", 3)])
def test_scopes_are_not_left(scope, frames):
    video = make_video(Grid(7, 3, 3), dim=8)
    stage = make("tome", scope=scope, clip_frames=3)
    out = stage(video, 20)
    assert len(out) == 20
    for row in range(20):
        patches = (out.assign == row).nonzero().squeeze(1) // 9
        assert len(set((patches // frames).tolist())) == 1
    parts = -(-7 // frames)
    assert len(stage(video, parts)) == parts
    for call in (stage, stage.plan):
        with pytest.raises(
            BudgetError, match=f"each of {parts} parts, more than a budget of {parts - 1}"
        ):
            call(video, parts - 1)


def test_the_budget_is_shared_in_proportion():
    valid = torch.ones(3, 16, dtype=torch.bool)
    valid[1, 4:] = False
    video = make_video(Grid(3, 4, 4), valid=valid.flatten())
    out = make("tome", scope="frame")(video, 9)
    assert out.positions[:, 0].tolist() == [0.0] * 4 + [1.0] + [2.0] * 4


def test_keys_decide_if_asked():
    video = make_video(Grid(2, 4, 4), dim=8)
    keys = make("tome", metric="keys")(video, 20)
    swapped = replace(video, tokens=video.extras["keys"].flatten(1))
    assert torch.equal(keys.assign, make("tome")(swapped, 20).assign)
    assert not torch.equal(keys.assign, make("tome")(video, 20).assign)
    heads = make("tome", metric="keys", heads=2)(video, 20)
    swapped = replace(video, tokens=video.extras["keys"].mean(1))
    assert torch.equal(heads.assign, make("tome")(swapped, 20).assign)
    for stage, words in (
        (make("tome", metric="keys"), r"needs extras\['keys'\]"),
        (make("tome", heads=3), "8 features do not split into heads=3"),
    ):
        bare = replace(video, extras={})
        for call in (stage, stage.plan):
            with pytest.raises(ShapeError, match=words):
                call(bare, 20)


def test_rounds():
    video = make_video(Grid(4, 4, 4), dim=8)
    few, many = make("tome")(video, 8), make("tome", rounds=12)(video, 8)
    assert len(few) == len(many) == 8
    assert not torch.equal(few.assign, many.assign)
    stage = make("tome", rounds=2)
    assert len(stage(video, 16)) == 16
    for call in (stage, stage.plan):
        with pytest.raises(BudgetError, match="takes 3 rounds, got rounds=2"):
            call(video, 15)


def test_half_precision_is_rounded_once():
    """Rounds compare in float32 and the result is one mean, however many rounds there were."""
    video = make_video(Grid(4, 8, 8), dim=8, dtype=torch.bfloat16, content="static")
    out = make("tome")(video, 4)
    for row in range(4):
        mean = video.tokens[out.assign == row].double().mean(0)
        assert torch.equal(out.tokens[row], mean.to(torch.bfloat16))


def test_merging_loses_less_than_striding():
    """The reason to merge: kept tokens are nearer to what they stand for."""
    video = make_video(Grid(6, 6, 6), dim=16, content="static")
    losses = {}
    for name in ("tome", "avg_pool"):
        out = make(name)(video, 40)
        losses[name] = float(
            1 - cosine(video.tokens, out.tokens)[torch.arange(216), out.assign].mean()
        )
    assert losses["tome"] < losses["avg_pool"]
