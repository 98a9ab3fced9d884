"""What holds for every projector and every video."""

from dataclasses import fields

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from projector_cases import (
    CASES,
    DIM_IN,
    DIM_OUT,
    DISCRETE,
    DROPS,
    NEEDS_GRID,
    REPEATS,
    dense,
    fitted,
    grids,
    make,
    provenance,
    pruned,
    videos,
)
from strategies import video_tokens
from torch import Tensor

from vidcomp.errors import BudgetError, ShapeError
from vidcomp.types import Grid, TokenBatch, VideoTokens

CLOSE = {"atol": 1e-5, "rtol": 1e-5}
every_case = pytest.mark.parametrize("case", CASES)
every_smooth_case = pytest.mark.parametrize("case", sorted(set(CASES) - DISCRETE))
every_telling_case = pytest.mark.parametrize("case", sorted(set(CASES) - REPEATS))
few = settings(deadline=None, max_examples=12)


def tensors(video: VideoTokens) -> dict[str, Tensor]:
    """All tensors of a video by name, provenance dense."""
    named = {f.name: getattr(video, f.name) for f in fields(video)}
    named |= {f"extras.{n}": t for n, t in video.extras.items()}
    named |= {f"frame_extras.{n}": t for n, t in video.frame_extras.items()}
    found = {n: t for n, t in named.items() if isinstance(t, Tensor)}
    return {n: t.to_dense() if t.is_sparse else t for n, t in found.items()}


def assert_same(a: VideoTokens, b: VideoTokens, **tolerance: float) -> None:
    assert a.grid == b.grid
    ours, theirs = tensors(a), tensors(b)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        close = dict(tolerance)
        if close.get("rtol") and value.is_floating_point() and value.numel():
            # Halves are rounded either way; an error of sums goes with their largest term.
            close["rtol"] = max(close["rtol"], torch.finfo(value.dtype).eps)
            close["atol"] *= max(1.0, float(value.detach().abs().max()))
        torch.testing.assert_close(value, theirs[name], **close, msg=f"{name} differs")


@every_case
@few
@given(grid=grids, seed=st.integers(0, 99))
def test_the_count_is_known_before_running(case: str, grid: Grid, seed: int) -> None:
    projector, grid = make(case), fitted(case, grid)
    out = projector(dense(grid, seed))
    assert len(out) == projector.num_tokens(grid)
    assert out.tokens.shape[1] == DIM_OUT
    assert out.grid == grid


@every_case
@few
@given(data=st.data())
def test_a_batch_equals_one_after_another(case: str, data: st.DataObject) -> None:
    projector = make(case)
    some = data.draw(st.lists(videos(case), min_size=1, max_size=4))
    keys = [str(i) for i in range(len(some))]
    batch = projector.many(TokenBatch.pack(some, keys))
    assert batch.keys == tuple(keys)
    for video, out in zip(some, batch, strict=True):
        assert_same(projector(video), out, **CLOSE)


@every_case
@few
@given(data=st.data())
def test_nothing_is_written_to_and_the_answer_stays(case: str, data: st.DataObject) -> None:
    projector = make(case)
    video = data.draw(videos(case))
    before = {n: t.clone() for n, t in tensors(video).items()}
    first, second = projector(video), projector(video)
    assert_same(first, second, atol=0, rtol=0)
    after = tensors(video)
    assert all(torch.equal(after[n], t) for n, t in before.items())


@every_case
@few
@given(data=st.data())
def test_geometry_follows_from_provenance(case: str, data: st.DataObject) -> None:
    video = data.draw(videos(case))
    out = make(case)(video)
    share_NP, patches = provenance(out), dense(video.grid)
    real = out.mass > 0
    assert not share_NP[~real].any()  # structural rows have mass 0 and stand for no patch
    torch.testing.assert_close(share_NP[real].sum(dim=1), torch.ones(int(real.sum())), **CLOSE)
    centre = share_NP @ patches.positions
    torch.testing.assert_close(out.positions[real], centre[real], atol=1e-4, rtol=1e-4)
    lost = (provenance(video).sum(dim=0) > 0) & (share_NP.sum(dim=0) == 0)
    assert case in DROPS or not lost.any()
    kept_mass = video.mass.sum() - lost.sum()
    torch.testing.assert_close(out.mass.sum(), kept_mass, atol=1e-4, rtol=1e-4)
    middle_s = share_NP @ patches.spans.mean(dim=1)
    assert (out.spans[real, 0] <= middle_s[real] + 1e-4).all()
    assert (out.spans[real, 1] >= middle_s[real] - 1e-4).all()
    assert out.spans.min() >= video.spans.min()
    assert out.spans.max() <= video.spans.max()


@pytest.mark.parametrize("case", sorted(set(CASES) - NEEDS_GRID))
@few
@given(video=video_tokens(soft=True))
def test_videos_of_every_kind_are_projected(case: str, video: VideoTokens) -> None:
    projector = make(case, dim_in=video.tokens.shape[1])
    out = projector(video)
    assert out.tokens.dtype == torch.float32
    assert out.tokens.isfinite().all()
    assert len(out) == len(video) or out.weights is not None
    torch.testing.assert_close(provenance(out).sum(dim=1), torch.ones(len(out)), **CLOSE)
    torch.testing.assert_close(out.mass.sum(), video.mass.sum(), atol=1e-3, rtol=1e-4)
    assert set(out.extras) == set(video.extras)
    assert_same(out, projector.many(TokenBatch.pack([video, video]))[1], atol=1e-4, rtol=1e-4)


@every_case
def test_row_extras_follow_and_frame_extras_stay(case: str) -> None:
    video = dense(fitted(case, Grid(3, 4, 4)))
    out = make(case)(video)
    share_NP = provenance(out)
    torch.testing.assert_close(out.extras["saliency"], share_NP @ video.extras["saliency"], **CLOSE)
    assert torch.equal(out.frame_extras["score"], video.frame_extras["score"])


@every_case
def test_gradients_reach_every_parameter_and_the_tokens(case: str) -> None:
    projector = make(case)
    video = dense(fitted(case, Grid(4, 4, 4)))
    video.tokens.requires_grad_()
    projector(video).tokens.square().sum().backward()
    flat = [n for n, p in projector.named_parameters() if p.grad is None or not p.grad.any()]
    assert not flat
    assert video.tokens.grad is not None
    assert case in DROPS or video.tokens.grad.abs().sum(dim=1).min() > 0


@every_case
def test_gradients_in_a_ragged_batch_are_those_of_single_runs(case: str) -> None:
    sizes = (Grid(2, 3, 4), Grid(5, 2, 2), Grid(1, 4, 4))
    some = [dense(fitted(case, grid), seed) for seed, grid in enumerate(sizes)]
    if case not in NEEDS_GRID:
        some.append(pruned(Grid(3, 3, 3), 4))
    alone, together = make(case), make(case)
    for video in some:
        alone(video).tokens.square().sum().backward()
    together(TokenBatch.pack(some)).tokens.square().sum().backward()
    for (name, a), b in zip(alone.named_parameters(), together.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, atol=1e-3, rtol=1e-4, msg=f"{name} differs")


@every_smooth_case
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_close_to_float32(case: str, dtype: torch.dtype) -> None:
    video = dense(fitted(case, Grid(3, 4, 4)))
    exact = make(case)(video)
    half = make(case).to(dtype)(video.to(dtype=dtype))
    assert half.tokens.dtype == dtype
    scale = float(exact.tokens.detach().abs().max())
    assert float((half.tokens.float() - exact.tokens).detach().abs().max()) < 0.1 * scale
    assert half.positions.dtype == half.mass.dtype == half.spans.dtype == torch.float32
    torch.testing.assert_close(half.positions, exact.positions, atol=0.1, rtol=0.05)


@every_case
def test_tokens_of_any_type_are_computed_in_that_of_the_weights(case: str) -> None:
    video = dense(fitted(case, Grid(2, 4, 4)))
    out = make(case)(video.to(dtype=torch.float64))
    assert out.tokens.dtype == torch.float32
    assert_same(out, make(case)(video), **CLOSE)


@pytest.mark.parametrize("case", sorted(set(CASES) - DISCRETE - REPEATS))
def test_a_fresh_projector_tells_tokens_apart_and_keeps_their_scale(case: str) -> None:
    video = make(case, dim_in=64, dim_out=64)(dense(fitted(case, Grid(3, 4, 6)), dim=64))
    out = video.tokens[video.mass > 0]  # newlines are all alike
    apart = torch.cdist(out, out) + torch.eye(len(out)) * 1e9
    assert apart.min() > 1e-2
    assert 0.05 < float(out.detach().std()) < 3


@every_telling_case
def test_a_tiny_regression_is_learned(case: str) -> None:
    projector = make(case, dim_in=16).train()
    video = dense(fitted(case, Grid(2, 4, 4)), dim=16)
    target = torch.randn(
        projector.num_tokens(video.grid), DIM_OUT, generator=torch.Generator().manual_seed(7)
    )
    real = projector(video).mass > 0  # newlines are all alike
    # A single matrix of 16 x 10 cannot fit 32 rows: it must only come down to its best.
    best = 0.9 if case == "linear" else 0.6 if case in DISCRETE else 0.3
    optimizer = torch.optim.Adam(projector.parameters(), lr=3e-2)
    first = last = float("inf")
    for step in range(150):
        loss = (projector(video).tokens - target)[real].square().mean()
        last = float(loss.detach())
        first = first if step else last
        if last < best * first:
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert last < best * first


@every_case
def test_a_budget_is_kept_or_refused(case: str) -> None:
    projector, video = make(case), dense(fitted(case, Grid(4, 4, 4)))
    count = projector.num_tokens(video.grid)
    assert len(projector(video, count)) == count
    if projector.is_elastic:
        return
    with pytest.raises(BudgetError, match=rf"{count} tokens.* {count - 1}"):
        projector(video, count - 1)


@every_case
def test_budgets_of_a_batch_are_one_each(case: str) -> None:
    projector, batch = make(case), TokenBatch.pack([dense(fitted(case, Grid(2, 2, 2)))] * 2)
    with pytest.raises(BudgetError, match="2 videos need as many budgets, got 3"):
        projector(batch, [99, 99, 99])
    with pytest.raises(BudgetError, match="one video has one budget"):
        projector(batch[0], [99])
    assert len(projector(batch, 99)) == len(projector.many(batch, [99, 99])) == 2


@every_case
def test_wrong_tokens_are_named(case: str) -> None:
    projector = make(case)
    with pytest.raises(ShapeError, match=f"dim_in={DIM_IN} features, got 5"):
        projector(dense(Grid(1, 2, 2), dim=5))
    ids = VideoTokens.from_grid(torch.arange(4), Grid(1, 2, 2), torch.tensor([[0.0, 1.0]]))
    with pytest.raises(ShapeError, match="integer ids"):
        projector(ids)


@every_case
@pytest.mark.compile
@pytest.mark.filterwarnings("ignore:.torch.jit.*is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # torch's own
def test_compiled_equals_eager(case: str) -> None:
    projector = make(case)
    compiled = torch.compile(projector)
    for grid in (Grid(3, 4, 4), Grid(2, 3, 5)):
        video = dense(fitted(case, grid))
        assert_same(projector(video), compiled(video), **CLOSE)
