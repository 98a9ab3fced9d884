"""What every compressor promises, for every video."""

import copy
import re
from itertools import pairwise

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from laws.variants import STAGES, keeps_means, keeps_raster_order, kind_of
from oracles.merge import merge_slowly, provenance_slowly
from strategies import make_video, video_tokens

from vidcomp.compress.pipeline import Pipeline
from vidcomp.errors import BudgetError, ShapeError
from vidcomp.functional.geometry import first_patches, first_t, patch_cells
from vidcomp.types import Grid, TokenBatch, VideoTokens

TOLERANCE = {
    torch.float64: 1e-6,  # positions and spans are float32 whatever the tokens are
    torch.float32: 2e-6,
    torch.bfloat16: 8e-3,
    torch.float16: 1e-3,
}

every_stage = pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES)
lawful = settings(
    deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
amounts = st.sampled_from([0.0, 1.0]) | st.floats(0, 1)


def budget_of(video, amount):
    """1 to N - 1, both ends included."""
    return 1 + round(amount * max(0, len(video) - 2))


def attempt(stage, video, budget):
    """The output, or the error that planning and running agree on."""
    refused = None
    try:
        planned = stage.plan(video, budget)
    except (BudgetError, ShapeError) as error:
        refused = error
    if refused is not None:
        with pytest.raises(type(refused)) as caught:
            stage(video, budget)
        assert str(caught.value) == str(refused)
        assert ": " in str(refused)  # what was wanted, what came: what to do
        return None
    out = stage(video, budget)
    assert len(out) == planned <= budget or (out is video and budget >= len(video))
    return out


def tensors(video):
    yield from ((n, getattr(video, n)) for n in ("tokens", "positions", "spans", "mass"))
    yield from ((n, v) for n in ("assign", "weights") if (v := getattr(video, n)) is not None)
    yield from video.extras.items()
    yield from video.frame_extras.items()


def assert_same(a, b):
    for (name, x), (other, y) in zip(tensors(a), tensors(b), strict=True):
        x, y = (v.to_dense() if v.is_sparse else v for v in (x, y))
        assert name == other
        assert x.dtype == y.dtype
        assert torch.equal(x, y), name


def close(x, y, dtype, scale=None):
    scale = max(1.0, float(y.double().abs().max()) if scale is None else scale)
    return float((x.double() - y.double()).abs().max()) <= TOLERANCE[dtype] * scale


@every_stage
@given(video=video_tokens(soft=True), amount=amounts)
@lawful
def test_count_order_types_and_repeatability(stage, video, amount):
    budget = budget_of(video, amount)
    before, state = copy.deepcopy(video), torch.random.get_rng_state()
    out = attempt(stage, video, budget)
    assert_same(video, before)
    assert torch.equal(torch.random.get_rng_state(), state)
    if out is None:
        return
    assert out.tokens.dtype == video.tokens.dtype
    assert {n: v.dtype for n, v in out.extras.items()} == {
        n: v.dtype for n, v in video.extras.items()
    }
    assert out.grid == video.grid
    for name, value in video.frame_extras.items():
        assert torch.equal(out.frame_extras[name], value)
    assert all(torch.isfinite(v.to_dense().float()).all() for _, v in tensors(out))
    assert bool((out.mass > 0).all())
    assert float(out.mass.sum()) <= float(video.mass.sum()) * (1 + 1e-5)
    if keeps_raster_order(stage):
        keys = [(*p, f) for p, f in zip(out.positions.tolist(), first_patches(out), strict=True)]
        assert all(a <= b for a, b in pairwise(keys))
    assert_same(out, stage(video, budget))


@every_stage
@given(video=video_tokens(soft=True), extra=st.integers(0, 3))
@settings(deadline=None, max_examples=5)
def test_nothing_happens_if_nothing_must_go(stage, video, extra):
    assert stage(video, len(video) + extra) is video
    assert stage.plan(video, len(video) + extra) == len(video)
    for wrong in (0, -1):
        with pytest.raises(BudgetError, match="at least 1"):
            stage(video, wrong)
        with pytest.raises(BudgetError, match="at least 1"):
            stage.plan(video, wrong)


def of_kind(kind):
    chosen = {
        label: stage
        for label, stage in STAGES.items()
        if not isinstance(stage, Pipeline)  # which mix all the others
        and kind_of(stage) == kind
    }
    return pytest.mark.parametrize("stage", chosen.values(), ids=chosen)


@of_kind("prune")
@given(video=video_tokens(soft=True), amount=amounts)
@lawful
def test_pruning_returns_rows_bit_for_bit(stage, video, amount):
    row = torch.arange(len(video))
    video = VideoTokens(**{**fields(video), "extras": {**video.extras, "tag": row}})
    out = attempt(stage, video, budget_of(video, amount))
    if out is None:
        return
    kept = out.extras["tag"]
    assert_same(out, video.select(kept))  # which refuses a row that is there twice


@of_kind("merge")
@given(video=video_tokens(), amount=amounts)
@lawful
def test_merging_is_the_weighted_mean_of_groups(stage, video, amount):
    out = attempt(stage, video, budget_of(video, amount))
    if out is None or out is video:
        return
    assert bool((groups_of(video, out) >= 0).all())
    assert_merged(stage, video, out)
    assert float(out.mass.sum()) == pytest.approx(float(video.mass.sum()), rel=1e-6)
    if keeps_means(stage):
        dtype, largest = video.tokens.dtype, float(video.tokens.double().abs().max())
        weighted = (video.mass[:, None] * video.tokens.double()).sum(0)
        after = (out.mass[:, None] * out.tokens.double()).sum(0)
        assert close(after, weighted, dtype, float(video.mass.sum()) * largest)


@of_kind("mixed")
@given(video=video_tokens(), amount=amounts)
@lawful
def test_mixing_drops_rows_or_merges_them(stage, video, amount):
    out = attempt(stage, video, budget_of(video, amount))
    if out is None or out is video:
        return
    assert_merged(stage, video, out)


def groups_of(video, out):
    """The token that each row went to, -1 if to none: all patches of a row go to one token."""
    groups = torch.full((len(video),), -2)
    for patch, row in enumerate(video.assign.tolist()):
        if row >= 0:
            assert groups[row] in (-2, out.assign[patch])
            groups[row] = out.assign[patch]
        else:
            assert out.assign[patch] == -1
    return groups


def assert_merged(stage, video, out):
    """Each token of ``out``, with all its fields, is the mean of rows that provenance names."""
    expected = merge_slowly(video, groups_of(video, out))
    assert len(expected) == len(out)
    dtype, largest = video.tokens.dtype, float(video.tokens.double().abs().max())
    for k, want in enumerate(expected):
        if keeps_means(stage):
            assert close(out.tokens[k], want["tokens"], dtype, largest)
        assert close(out.positions[k], want["positions"], torch.float32)
        assert out.spans[k].tolist() == [want["start"], want["stop"]]
        assert float(out.mass[k]) == pytest.approx(want["mass"], rel=1e-6)
        for name, value in want["extras"].items():
            assert close(out.extras[name][k], value, out.extras[name].dtype)


@of_kind("merge")
@given(video=video_tokens(contents=["random", "few", "some zeros"]), amount=amounts)
@lawful
def test_mass_is_the_number_of_patches(stage, video, amount):
    """However a video was merged and pruned before, masses and positions are those of patches."""
    out = attempt(stage, video, budget_of(video, amount))
    if out is None:
        return
    counts = torch.bincount(out.assign[out.assign >= 0], minlength=len(out))
    assert close(out.mass, counts, torch.float32)
    cells = patch_cells(out.grid).double() + torch.tensor([first_t(out), 0, 0])
    for k in range(len(out)):
        assert close(out.positions[k], cells[out.assign == k].mean(0), torch.float32)


@of_kind("resample")
@given(video=video_tokens(), amount=amounts)
@lawful
def test_resampling_follows_its_weights(stage, video, amount):
    out = attempt(stage, video, budget_of(video, amount))
    if out is None or out is video:
        return
    of_patches = torch.tensor(provenance_slowly(out), dtype=torch.float64)
    assert out.assign is None
    assert not bool(of_patches[:, video.assign < 0].any())
    weights = torch.zeros(len(out), len(video) + 1, dtype=torch.float64)
    weights = weights.index_add(1, video.assign % (len(video) + 1), of_patches)[:, :-1]
    assert close(weights.sum(1), torch.ones(len(out)), torch.float32)
    assert close(out.positions, weights @ video.positions.double(), torch.float32)
    taken = weights.sum(0)
    share = torch.where(taken > 0, weights / taken.clamp(min=1e-300), 0)
    assert close(out.mass, share @ video.mass.double(), torch.float32)
    covered = video.mass[taken > 0].sum()
    assert float(out.mass.sum()) == pytest.approx(float(covered), rel=1e-5)
    dtype = video.tokens.dtype
    if stage.name != "max_pool" and keeps_means(stage):
        largest = float(video.tokens.double().abs().max())
        assert close(out.tokens, weights @ video.tokens.double(), dtype, largest)
    for name, value in video.extras.items():
        mixed = (weights @ value.double().reshape(len(value), -1)).reshape(out.extras[name].shape)
        assert close(out.extras[name], mixed, value.dtype)


@every_stage
@given(video=video_tokens(soft=True), amount=amounts)
@settings(deadline=None, max_examples=10)
def test_provenance_and_spans_cover_what_a_token_stands_for(stage, video, amount):
    out = attempt(stage, video, budget_of(video, amount))
    if out is None:
        return
    shares = torch.tensor(provenance_slowly(out))
    cells = patch_cells(out.grid).float() + torch.tensor([float(first_t(video)), 0, 0])
    assert close(shares.sum(1), torch.ones(len(out)), torch.float32, 10)
    assert close(out.positions, shares @ cells, torch.float32, 10)
    start = torch.arange(out.grid.t) * 0.5 + 0.25  # make_video's times
    for k in range(len(out)):
        frames = (shares[k] > 0).nonzero().squeeze(1) // out.grid.per_frame
        assert float(out.spans[k, 0]) <= float(start[frames.min()])
        assert float(out.spans[k, 1]) >= float(start[frames.max()]) + 0.5


@every_stage
@given(
    videos=st.lists(video_tokens(dtypes=[torch.float32]), min_size=1, max_size=3), data=st.data()
)
@settings(deadline=None, max_examples=8)
def test_a_batch_is_its_videos_one_by_one(stage, videos, data):
    dim = videos[0].tokens.shape[1]
    videos = [
        v for v in videos if v.tokens.shape[1] == dim and set(v.extras) == set(videos[0].extras)
    ]
    budgets = [budget_of(v, data.draw(amounts)) for v in videos]
    keys = [f"clip{i}" for i in range(len(videos))]
    batch = TokenBatch.pack(videos, keys)
    alone = []
    try:
        alone = [stage(v, b) for v, b in zip(videos, budgets, strict=True)]
    except (BudgetError, ShapeError) as error:
        with pytest.raises(type(error)):
            stage.many(batch, budgets)
        return
    out = stage.many(batch, budgets)
    assert out.keys == tuple(keys)
    for a, b in zip(alone, out, strict=True):
        # A batch files extras by name.
        assert_same(VideoTokens(**{**fields(a), "extras": dict(sorted(a.extras.items()))}), b)
    with pytest.raises(BudgetError, match="as many budgets"):
        stage.many(batch, [*budgets, 1])


@every_stage
def test_threads_do_not_matter(stage):
    video = make_video(Grid(6, 12, 11), dim=40, content="static")
    threads = torch.get_num_threads()
    outs = []
    try:
        for n in (1, 4):
            torch.set_num_threads(n)
            outs.append(stage(video, 300))
    finally:
        torch.set_num_threads(threads)
    assert_same(*outs)


@every_stage
def test_strides_of_memory_do_not_matter(stage):
    video = make_video(Grid(4, 6, 6), dim=8)
    other = VideoTokens(
        **{
            **fields(video),
            "tokens": video.tokens.t().contiguous().t(),
            "positions": video.positions.t().contiguous().t(),
            "spans": video.spans.repeat(1, 2)[:, :2],
        }
    )
    assert not other.tokens.is_contiguous()
    assert_same(stage(video, 80), stage(other, 80))


@every_stage
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_reach_the_tokens(stage, dtype):
    video = make_video(Grid(4, 4, 4), dim=8, dtype=dtype)
    tokens = video.tokens.clone().requires_grad_()
    out = stage(VideoTokens(**{**fields(video), "tokens": tokens}), 40)
    out.tokens.float().sum().backward()
    assert tokens.grad is not None
    assert bool(torch.isfinite(tokens.grad).all())
    if keeps_means(stage):  # each output is a mean (or a choice), so its derivatives sum to 1
        assert float(tokens.grad.float().sum()) == pytest.approx(len(out) * 8, rel=1e-2)
    assert not out.positions.requires_grad
    assert not out.mass.requires_grad


@every_stage
def test_every_stage_does_its_work_somewhere(stage):
    """No law above may hold only because the stage refuses everything."""
    video = make_video(Grid(4, 6, 6), dim=8)
    out = stage(video, 80)
    assert 1 <= len(out) <= 80
    assert len(out) == stage.plan(video, 80)


@every_stage
def test_a_video_without_provenance_has_none_after(stage):
    video = make_video(Grid(4, 6, 6), dim=8)
    out = stage(VideoTokens(**{**fields(video), "assign": None}), 80)
    with_provenance = stage(video, 80)
    assert out.assign is None
    assert out.weights is None
    assert torch.equal(out.tokens, with_provenance.tokens)


@every_stage
def test_an_empty_video_stays_empty(stage):
    video = make_video(Grid(2, 2, 2), valid=torch.zeros(8, dtype=torch.bool))
    assert stage(video, 1) is video


@every_stage
def test_integer_ids_are_pruned_or_refused(stage):
    video = make_video(Grid(4, 6, 6))
    ids = VideoTokens(**{**fields(video), "tokens": torch.arange(144)})
    refused = None
    try:
        out = stage(ids, 80)
    except ShapeError as error:
        refused = str(error)
    if refused is None:
        assert stage.kind == "prune"
        assert torch.equal(out.tokens, stage(video, 80).extras["row"].long())
    else:
        assert re.search(r"int64|ids", refused)
        assert stage.kind != "prune" or "features" in stage.about.needs


def fields(video):
    names = ("tokens", "positions", "spans", "mass", "grid", "assign", "weights")
    rest = {"extras": dict(video.extras), "frame_extras": dict(video.frame_extras)}
    return {n: getattr(video, n) for n in names} | rest
