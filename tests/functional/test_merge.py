"""Merging and resampling against plain loops."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.merge import merge_slowly, provenance_slowly
from strategies import make_video, video_tokens

from vidcomp.errors import ShapeError
from vidcomp.functional.merge import merge, merge_by_assignment, merge_in_order, resample
from vidcomp.functional.provenance import compose, patch_weights
from vidcomp.types import Grid, VideoTokens

EPS = {torch.float64: 1e-12, torch.float32: 1e-6, torch.bfloat16: 8e-3, torch.float16: 1e-3}


@st.composite
def groupings(draw, video):
    """Groups of the rows of a video, without gaps; some rows may be dropped."""
    seed = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    k = draw(st.integers(1, len(video)))
    raw = torch.randint(0, k, (len(video),), generator=seed)
    groups = raw.unique(return_inverse=True)[1]
    drop = draw(st.booleans()) & (torch.rand(len(video), generator=seed) < 0.3)
    dropped = torch.where(drop, -1, groups)
    kept = dropped[dropped >= 0].unique()
    renumber = torch.full((int(groups.max()) + 1,), -1)
    renumber[kept] = torch.arange(len(kept))
    return torch.where(dropped < 0, -1, renumber[dropped])


@given(data=st.data(), video=video_tokens(soft=True))
@settings(deadline=None, max_examples=60)
def test_merge_in_order_equals_its_slow_twin(data, video):
    groups = data.draw(groupings(video))
    out = merge_in_order(video, groups)
    expected = merge_slowly(video, groups)
    assert len(out) == len(expected)
    eps, scale = EPS[video.tokens.dtype], max(1.0, float(video.tokens.double().abs().max()))
    for k, want in enumerate(expected):
        assert torch.allclose(out.tokens[k].double(), want["tokens"], rtol=eps, atol=eps * scale)
        assert torch.allclose(out.positions[k].double(), want["positions"], rtol=1e-6, atol=1e-6)
        assert out.spans[k].tolist() == [want["start"], want["stop"]]
        assert float(out.mass[k]) == pytest.approx(want["mass"], rel=1e-6)
    before, after = provenance_slowly(video), torch.tensor(provenance_slowly(out))
    for k in range(len(out)):
        rows = (groups == k).nonzero().squeeze(1).tolist()
        mass = [float(video.mass[r]) for r in rows]
        mixed = sum(torch.tensor(before[r]) * m for r, m in zip(rows, mass, strict=True)) / sum(
            mass
        )
        assert torch.allclose(after[k], mixed, atol=1e-5)


@given(data=st.data(), video=video_tokens(soft=True))
@settings(deadline=None, max_examples=30)
def test_merge_is_merge_in_order_in_raster_order(data, video):
    groups = data.draw(groupings(video))
    a, b = merge(video, groups), merge_in_order(video, groups)
    row = {tuple(r.tolist()): i for i, r in enumerate(torch.cat([b.positions, b.mass[:, None]], 1))}
    if len(row) < len(b):
        return  # two tokens at one place with one mass
    index = [row[tuple(r.tolist())] for r in torch.cat([a.positions, a.mass[:, None]], 1)]
    assert sorted(index) == list(range(len(b)))
    assert torch.equal(a.tokens, b.tokens[index])
    assert [tuple(p) for p in a.positions.tolist()] == sorted(
        tuple(p) for p in b.positions.tolist()
    )


@pytest.mark.parametrize("dtype", EPS)
def test_half_precision_neither_overflows_nor_drifts(dtype):
    x = torch.full((5000, 3), 6e4).to(dtype)
    y, mass = merge_by_assignment(x, torch.ones(5000), torch.zeros(5000, dtype=torch.int64), 1)
    assert y.dtype == dtype
    assert torch.equal(y, x[:1])
    assert mass.tolist() == [5000.0]


def test_float32_does_not_overflow_between_the_largest_numbers():
    x = torch.tensor([[3e38], [3e38], [-3e38]])
    y, _ = merge_by_assignment(x, torch.full((3,), 100.0), torch.tensor([0, 0, 0]), 1)
    assert y.item() == pytest.approx(1e38)


def test_a_group_of_one_is_its_row_and_a_group_of_none_is_zero():
    x = torch.randn(2, 5)
    y, mass = merge_by_assignment(x, torch.tensor([3.0, 7.0]), torch.tensor([2, 0]), 4)
    assert torch.equal(y[[2, 0]], x)
    assert y[[1, 3]].tolist() == [[0.0] * 5] * 2
    assert mass.tolist() == [7.0, 0.0, 3.0, 0.0]


def test_merging_refuses_what_has_no_mean():
    video = make_video(Grid(1, 2, 2))
    groups = torch.tensor([0, 0, 1, 1])
    ids = VideoTokens(**{**fields(video), "tokens": torch.arange(4)})
    with pytest.raises(ShapeError, match="integer ids of"):
        merge(ids, groups)
    with pytest.raises(ShapeError, match="extra 'tag' is of"):
        merge(VideoTokens(**{**fields(video), "extras": {"tag": torch.arange(4)}}), groups)
    with pytest.raises(ShapeError, match="without gaps"):
        merge(video, torch.tensor([0, 0, 2, 2]))
    with pytest.raises(ShapeError, match="one group a token"):
        merge(video, groups[:3])
    with pytest.raises(ShapeError, match="one group a token"):
        merge(video, groups.float())
    with pytest.raises(ShapeError, match="float"):
        merge_by_assignment(torch.arange(4), torch.ones(4), groups, 2)


def test_everything_may_be_dropped():
    out = merge(make_video(Grid(1, 2, 2)), torch.full((4,), -1))
    assert len(out) == 0
    assert out.tokens.shape == (0, 6)
    assert out.assign.tolist() == [-1] * 4


def test_merging_of_chunks_keeps_global_positions():
    video = make_video(Grid(2, 1, 2), first_t=8)
    out = merge(video, torch.tensor([0, 1, 0, 1]))
    assert out.positions.tolist() == [[8.5, 0, 0], [8.5, 0, 1]]


@given(video=video_tokens(soft=True), data=st.data())
@settings(deadline=None, max_examples=40)
def test_resampling_equals_dense_arithmetic(video, data):
    n, k = len(video), data.draw(st.integers(1, 5))
    seed = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    weights = torch.rand(k, n, generator=seed, dtype=torch.float64)
    thin = data.draw(st.booleans())
    if thin:
        weights *= torch.rand(k, n, generator=seed) < 0.15
        weights[:, data.draw(st.integers(0, n - 1))] += 0.1
    weights /= weights.sum(1, keepdim=True)
    out = resample(video, weights.to_sparse())
    eps, scale = EPS[video.tokens.dtype], max(1.0, float(video.tokens.double().abs().max()))
    assert torch.allclose(out.tokens.double(), weights @ video.tokens.double(), atol=eps * scale)
    assert torch.allclose(out.positions.double(), weights @ video.positions.double(), atol=1e-5)
    taken = weights.sum(0)
    share = weights / torch.where(taken > 0, taken, 1)
    assert torch.allclose(out.mass.double(), share @ video.mass.double(), rtol=1e-5)
    assert float(out.mass.sum()) == pytest.approx(float(video.mass[taken > 0].sum()), rel=1e-5)
    before = torch.tensor(provenance_slowly(video), dtype=torch.float64)
    assert torch.allclose(out.weights.to_dense().double(), weights @ before, atol=1e-6)
    for i in range(k):
        support = video.spans[weights[i] > 0]
        assert out.spans[i].tolist() == [float(support[:, 0].min()), float(support[:, 1].max())]


def test_resampling_takes_tokens_made_elsewhere():
    video = make_video(Grid(1, 2, 2))
    weights = torch.full((3, 4), 0.25).to_sparse()
    made = torch.randn(3, 11, requires_grad=True)
    out = resample(video, weights, made)
    assert out.tokens is made
    assert out.positions.tolist() == [[0.0, 0.5, 0.5]] * 3
    assert out.mass.tolist() == pytest.approx([4 / 3] * 3)
    assert resample(ids_of(video), weights, made).tokens is made


def test_resampling_refuses_what_are_no_weights():
    video = make_video(Grid(1, 2, 2))
    for wrong, words in (
        (torch.full((2, 4), 0.2), "sum to 1"),
        (torch.tensor([[2.0, -1.0, 0.0, 0.0]]), ">= 0"),
        (torch.eye(3), "one column a token"),
    ):
        with pytest.raises(ShapeError, match=words):
            resample(video, wrong.to_sparse())
    with pytest.raises(ShapeError, match="ids"):
        resample(ids_of(video), torch.eye(4).to_sparse())


def test_resampling_has_a_gradient():
    video = make_video(Grid(1, 2, 2), dtype=torch.float64, extras=False)
    weights = torch.tensor([[0.5, 0.5, 0, 0], [0, 0, 0.1, 0.9]], dtype=torch.float64).to_sparse()

    def tokens(x):
        return resample(VideoTokens(**{**fields(video), "tokens": x}), weights).tokens

    assert torch.autograd.gradcheck(tokens, video.tokens.clone().requires_grad_())


@given(video=video_tokens(soft=True))
@settings(deadline=None, max_examples=25)
def test_patch_weights_say_the_same_as_the_provenance(video):
    weights = patch_weights(video)
    assert weights.dtype == torch.float32
    assert torch.allclose(weights.to_dense(), torch.tensor(provenance_slowly(video)), atol=1e-7)


def test_compose_is_the_matrix_product():
    draw = torch.Generator().manual_seed(0)
    a = torch.rand(3, 4, generator=draw) * (torch.rand(3, 4, generator=draw) < 0.6)
    b = torch.rand(4, 9, generator=draw) * (torch.rand(4, 9, generator=draw) < 0.4)
    b[2] = 0  # a row that comes from nowhere
    left = a.to_sparse().coalesce()
    out = compose(b.to_sparse(), *left.indices(), left.values(), 3)
    assert torch.allclose(out.to_dense(), a @ b)
    assert out.is_coalesced()


def ids_of(video):
    return VideoTokens(**{**fields(video), "tokens": torch.arange(len(video)), "extras": {}})


def fields(video):
    names = ("tokens", "positions", "spans", "mass", "grid", "assign", "weights")
    return {n: getattr(video, n) for n in names} | {"extras": dict(video.extras)}
