"""UniComp beside the laws: groups of frames, shares, and what kept tokens take in."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.linear_pruners import unique_slowly
from strategies import make_video

from vidcomp.compress.merge.unicomp import UniComp, published_quotas
from vidcomp.errors import BudgetError, ShapeError
from vidcomp.functional.geometry import is_dense
from vidcomp.registry import COMPRESSORS
from vidcomp.types import Grid, VideoTokens

make = COMPRESSORS.make


def of_frames(x_TnD, keys=None, pooled=None):
    num_frames, n, dim = x_TnD.shape
    start = torch.arange(num_frames).float()
    return VideoTokens.from_grid(
        x_TnD.reshape(-1, dim),
        Grid(num_frames, 1, n),
        torch.stack([start, start + 1], dim=1),
        extras={} if keys is None else {"keys": keys},
        frame_extras={} if pooled is None else {"pooled": pooled},
    )


def scenes(lengths, n=4, dim=8, seed=0):
    """Frames that are the same within a scene."""
    draw = torch.Generator().manual_seed(seed)
    return torch.cat([torch.randn(1, n, dim, generator=draw).repeat(k, 1, 1) for k in lengths])


def test_frames_of_a_scene_become_one():
    x = scenes([3, 1, 4])
    out = make("unicomp", token_gap=0.0)(of_frames(x), 8)
    scene = {1.0: (0, 3), 3.0: (3, 1), 5.5: (4, 4)}  # by the middle of the scene
    assert set(out.positions[:, 0].tolist()) == set(scene)
    for row in range(8):
        t, _, w = out.positions[row].tolist()
        first, num_frames = scene[t]
        assert torch.allclose(out.tokens[row], x[first, int(w)], atol=1e-6)
        assert float(out.mass[row]) == num_frames
        assert out.spans[row].tolist() == [first, first + num_frames]
    two = make("unicomp", token_gap=0.0)(of_frames(x), 12)
    assert float(two.mass.max()) == 2  # as many frames as tokens become one


@given(
    lengths=st.lists(st.integers(1, 3), min_size=1, max_size=3),
    gap=st.sampled_from([0.0, 0.3, 0.7]),
    seed=st.integers(0, 99),
    amount=st.floats(0, 1),
)
@settings(deadline=None, max_examples=40)
def test_kept_tokens_are_half_themselves_and_half_what_is_near(lengths, gap, seed, amount):
    x = scenes(lengths, n=5, seed=seed)
    groups = torch.arange(len(lengths)).repeat_interleave(5).tolist()
    first = [sum(lengths[:i]) for i in range(len(lengths))]
    cells = x[first].flatten(0, 1)
    video = of_frames(x)
    budget = 1 + round(amount * (min(len(cells), len(video) - 1) - 1))
    if len(video) // budget < max(lengths):
        return  # a scene would be cut
    stage = UniComp(token_gap=gap)
    kept = stage._choose(video, budget)[1].rows.tolist()
    shares = torch.bincount(torch.tensor(groups)[kept], minlength=len(lengths)).tolist()
    near = unique_slowly(cells, shares, groups, gap, fill=True)
    assert sorted(near) == kept
    expected = [(cells[r] + cells[near[r]].mean(0)) / 2 for r in kept]
    out = stage(video, budget)
    assert len(out) == budget
    ours, theirs = (sorted(rows, key=lambda r: r.tolist()) for rows in (out.tokens, expected))
    assert torch.allclose(torch.stack(list(ours)), torch.stack(list(theirs)), atol=1e-5)


def test_unlike_frames_have_more_tokens():
    same = torch.randn(1, 8, 16, generator=torch.Generator().manual_seed(1))
    x = same.repeat(5, 1, 1) + 0.3 * torch.randn(
        5, 8, 16, generator=torch.Generator().manual_seed(2)
    )
    x[2] = torch.randn(8, 16, generator=torch.Generator().manual_seed(3))
    out = make("unicomp", frame_gap=0.0, token_gap=0.0)(of_frames(x), 20)
    counts = torch.bincount(out.positions[:, 0].long(), minlength=5)
    assert int(counts.argmax()) == 2
    assert int(counts.min()) >= 1


def test_keys_and_frame_extras_decide_if_asked():
    x, keys = scenes([1, 1, 1, 1]), scenes([1, 1, 1, 1], seed=5)
    pooled = torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 1]])
    video = of_frames(x, keys.flatten(0, 1), pooled)
    out = make("unicomp", frame_extra="pooled", metric="keys", token_gap=0.0)(video, 8)
    assert sorted(set(out.mass.tolist())) == [2.0]
    assert not torch.equal(out.tokens, make("unicomp")(video, 8).tokens)
    for wrong, match in (({"frame_extra": "cls"}, "cls"), ({"metric": "keys"}, "keys")):
        stage = make("unicomp", **wrong)
        for call in (stage, stage.plan):
            with pytest.raises(ShapeError, match=match):
                call(of_frames(x), 8)


def test_published_says_what_it_cannot_do():
    video = make_video(Grid(8, 3, 3), dim=8)
    stage = make("unicomp", mode="published", retention=0.5)
    count = stage.plan(video, 71)
    assert len(stage(video, 71)) == count <= 36
    with pytest.raises(BudgetError, match=f"keeps {count} of 72"):
        stage(video, count - 1)
    with pytest.raises(BudgetError, match="keeps 0 of 72"):
        make("unicomp", mode="published", retention=0.02, frame_gap=0.0)(video, 71)
    letterboxed = video.select(torch.arange(1, 72))
    assert not is_dense(letterboxed)
    for call in (stage, stage.plan):
        with pytest.raises(ShapeError, match="dense grid"):
            call(letterboxed, 60)


def test_published_quotas_round_down_twice():
    weights = torch.tensor([0.5, 0.3, 0.2])
    assert published_quotas(weights, 10, 49).tolist() == [5, 3, 2]
    assert published_quotas(weights, 10, 4).tolist() == [4, 3, 2]  # 1 more is 0.6 and 0.4
    assert published_quotas(torch.tensor([0.9, 0.06, 0.04]), 20, 49).tolist() == [12, 5, 2]
    assert published_quotas(torch.tensor([0.5, 0.5]), 1, 49).tolist() == [0, 0]


def test_a_static_video_reaches_every_budget():
    video = of_frames(scenes([12], n=3))
    for budget in (1, 2, 5, 17, 35):
        out = make("unicomp")(video, budget)
        assert len(out) == budget
        assert torch.isfinite(out.tokens).all()
