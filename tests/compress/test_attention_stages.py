"""VisionZip and PruMerge, beside the laws: slow twins, and what exact modes repair."""

from dataclasses import replace

import pytest
import torch
from oracles.attention import prumerge_slowly, visionzip_slowly
from strategies import make_video

from vidcomp.errors import BudgetError, ShapeError
from vidcomp.registry import COMPRESSORS
from vidcomp.types import Grid, VideoTokens

make = COMPRESSORS.make
CLOSE = {"atol": 1e-5, "rtol": 1e-4}


def pictures(num_frames, side, seed, dim=6):
    """A video with keys, and attention of which few tokens get much."""
    video = make_video(Grid(num_frames, side, side), dim=dim, seed=seed)
    draw = torch.Generator().manual_seed(seed)
    attention = torch.randn(len(video), generator=draw).mul(1.2).exp()
    return replace(video, extras={**video.extras, "saliency": attention / attention.sum()})


def frames(video):
    n = video.grid.per_frame
    keys = video.extras["keys"].flatten(1)
    for t in range(video.grid.t):
        rows = slice(t * n, (t + 1) * n)
        yield video.tokens[rows], video.extras["saliency"][rows].tolist(), keys[rows].tolist()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("dominant", "merged"), [(5, 3), (0, 4), (7, 1)])
def test_published_visionzip_is_its_slow_twin(seed, dominant, merged):
    video = pictures(2, 5, seed)
    kept = dominant + merged
    stage = make("visionzip", mode="published", metric="keys", dominant=dominant / kept)
    slow = [visionzip_slowly(*frame, dominant, merged) for frame in frames(video)]
    out = stage(video, 2 * kept + 1)  # equal whole shares: the odd token is not spent
    torch.testing.assert_close(out.tokens, torch.cat(slow), **CLOSE)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("neighbors", "plus"), [(3, False), (32, False), (4, True)])
def test_published_prumerge_is_its_slow_twin(seed, neighbors, plus):
    video = pictures(1, 9, seed)
    stage = make("prumerge", mode="published", metric="keys", neighbors=neighbors, plus=plus)
    slow = torch.cat([prumerge_slowly(*f, neighbors, plus) for f in frames(video)])
    torch.testing.assert_close(stage(video, len(video) - 1).tokens, slow, **CLOSE)
    for call in (stage, stage.plan):
        with pytest.raises(BudgetError, match=f"keeps {len(slow)} tokens, as outliers"):
            call(video, len(slow) - 1)


def test_outliers_of_all_frames_together_decide_for_each():
    video = pictures(3, 4, 0)
    saliency = torch.rand(48, generator=torch.Generator().manual_seed(0))
    saliency[[1, 2, 3, 4, 5, 6]] = 50.0  # all in the first frame
    out = make("prumerge", mode="published")(
        replace(video, extras={**video.extras, "saliency": saliency}), 40
    )
    assert len(out) == 3 * (int(16 * 6 / 48) + 1)


@pytest.mark.parametrize(("value", "share"), [(1.0, "0"), (0.0, "0")])
def test_a_grid_without_outliers_is_refused(value, share):
    video = pictures(1, 4, 0)
    video = replace(video, extras={**video.extras, "saliency": torch.full((16,), value)})
    stage = make("prumerge", mode="published", plus=True)
    for call in (stage, stage.plan):
        with pytest.raises(BudgetError, match=f"at most a third, got {share}"):
            call(video, 12)


def test_the_most_attended_tokens_stay_as_they_are():
    video = pictures(3, 5, 1)
    out = make("visionzip", dominant=0.5)(video, 24)  # four of eight in each frame
    kept = {tuple(row) for row in out.tokens.tolist()}
    for x, saliency, _ in frames(video):
        best = sorted(range(25), key=lambda i: -saliency[i])[:4]
        assert all(tuple(x[i].tolist()) in kept for i in best)
    assert float(out.mass.sum()) == 75


def test_exact_anchors_reach_the_end_of_a_picture():
    """As published they stand at the first places of a fixed step, and what follows has none."""
    video = make_video(Grid(1, 1, 15), content="zeros")
    ramp = torch.eye(15)  # no token is like another, so anchors show where they stand
    video = replace(video, tokens=ramp)
    exact = make("visionzip", dominant=0.0, importance="norm")(video, 8)
    published = make("visionzip", mode="published", dominant=0.0, importance="norm")(video, 8)
    assert exact.assign[14] == 7
    assert published.assign[7] == 7
    assert published.assign[8:].tolist() == [0] * 7


def test_fewer_tokens_than_frames_share_pictures():
    video = pictures(6, 3, 2)
    for name in ("visionzip", "prumerge"):
        out = make(name)(video, 2)
        assert len(out) == 2
        assert out.spans[:, 0].tolist() == [0.25, 1.75]
    for call in (stage := make("visionzip", mode="published")), stage.plan:
        with pytest.raises(BudgetError, match="of 6 frames, at least one, more than a budget of 5"):
            call(video, 5)


def test_exact_prumerge_stays_close_to_what_it_kept_and_tells_of_the_rest():
    video = pictures(1, 6, 3)
    stage = make("prumerge", neighbors=4)
    out = stage(video, 9)
    weights = out.weights.to_dense()
    order = sorted(range(36), key=lambda i: -float(video.extras["saliency"][i]))
    own = [row for row in range(9) if int((weights[row] > 0).sum()) == 5]
    assert len(own) == 8
    assert {int(weights[row].argmax()) for row in own} == set(order[:8])
    rest = next(row for row in range(9) if row not in own)
    assert set(weights[rest].nonzero().squeeze(1).tolist()) == set(order[8:])
    assert bool((weights.sum(0) > 0).all())
    assert float(out.mass.sum()) == pytest.approx(36)


def test_a_quarter_by_attention_and_a_grid():
    video = pictures(1, 6, 4)
    out = make("prumerge", plus=True, neighbors=0)(video, 13)
    weights = out.weights.to_dense()
    kept = {int(w.argmax()) for w in weights if int((w > 0).sum()) == 1}
    order = sorted(range(36), key=lambda i: -float(video.extras["saliency"][i]))
    assert len(kept) == 12
    assert set(order[:3]) <= kept
    gaps = torch.tensor(sorted(kept - set(order[:3]))).diff()
    assert int(gaps.max()) <= 7  # 33 others have 9 places


def test_nobody_looks_at_anything():
    video = pictures(2, 3, 0)
    video = replace(video, extras={**video.extras, "saliency": torch.zeros(18)})
    out = make("prumerge")(video, 2)
    torch.testing.assert_close(out.tokens, video.tokens.reshape(2, 9, 6).mean(1), **CLOSE)


@pytest.mark.parametrize("name", ["visionzip", "prumerge"])
def test_importance_may_be_the_norm(name):
    video = pictures(2, 4, 5)
    norm = video.tokens.norm(dim=1)
    by_norm = make(name, importance="norm")(replace(video, extras={}), 10)
    told = make(name)(replace(video, extras={"saliency": norm}), 10)
    torch.testing.assert_close(by_norm.tokens, told.tokens)
    bare: VideoTokens = replace(video, extras={})
    stage = make(name)
    for call in (stage, stage.plan):
        with pytest.raises(ShapeError, match=r"needs extras\['saliency'\]"):
            call(bare, 10)
