"""DeCo's pooled grid: exact counts, any frame, the same means as PyTorch."""

import math

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.projectors import slow_adaptive_pool, slow_bins, slow_mlp
from projector_cases import DIM_IN, dense, grids, make, provenance, pruned, soft
from torch.nn.functional import adaptive_avg_pool2d

from vidcomp.errors import BudgetError, ConfigError, ShapeError
from vidcomp.functional.merge import merge
from vidcomp.registry import PROJECTORS
from vidcomp.types import Grid, TokenBatch

few = settings(deadline=None, max_examples=25)


@few
@given(grid=grids, cells=st.tuples(st.integers(1, 6), st.integers(1, 6)))
def test_tokens_are_means_of_bins_then_the_mlp(grid: Grid, cells: tuple[int, int]) -> None:
    projector, video = make("deco", tokens_per_frame=cells, depth=2), dense(grid)
    x_THWD = video.tokens.view(*grid, DIM_IN)
    pooled = slow_adaptive_pool(x_THWD, *cells).flatten(0, 2)
    state = {n.removeprefix("layers."): t for n, t in projector.state_dict().items()}
    expected = slow_mlp(pooled, state)
    torch.testing.assert_close(projector(video).tokens.double(), expected, atol=1e-5, rtol=1e-5)
    by_torch = adaptive_avg_pool2d(x_THWD.permute(0, 3, 1, 2), cells).permute(0, 2, 3, 1)
    torch.testing.assert_close(pooled.float(), by_torch.flatten(0, 2), atol=1e-6, rtol=1e-5)


@few
@given(grid=grids, cells=st.tuples(st.integers(1, 6), st.integers(1, 6)))
def test_provenance_is_the_bins_themselves(grid: Grid, cells: tuple[int, int]) -> None:
    out = make("deco", tokens_per_frame=cells)(dense(grid))
    share_NTHW = provenance(out).view(len(out), *grid)
    row = 0
    for t in range(grid.t):
        for ys in slow_bins(grid.h, cells[0]):
            for xs in slow_bins(grid.w, cells[1]):
                expected = torch.zeros(grid)
                expected[t, ys.start : ys.stop, xs.start : xs.stop] = 1 / len(ys) / len(xs)
                torch.testing.assert_close(share_NTHW[row], expected)
                assert out.spans[row].tolist() == [t * 0.5, t * 0.5 + 0.5]
                assert float(out.positions[row, 0]) == pytest.approx(t)
                row += 1


@few
@given(grid=grids, count=st.integers(1, 60))
def test_a_count_is_met_with_the_aspect_nearest_the_frames(grid: Grid, count: int) -> None:
    cells = make("deco", tokens_per_frame=count).cells(grid)
    assert cells.t == grid.t
    assert cells.h * cells.w == count

    def off(h: int) -> float:
        return abs(math.log((h / (count / h)) / (grid.h / grid.w)))

    assert off(cells.h) <= min(off(h) for h in range(1, count + 1) if count % h == 0) + 1e-9


@pytest.mark.parametrize(
    ("h", "w", "count", "expected"),
    [(24, 24, 144, (12, 12)), (9, 16, 144, (9, 16)), (27, 48, 36, (4, 9)), (16, 9, 144, (16, 9))],
)
def test_known_layouts(h: int, w: int, count: int, expected: tuple[int, int]) -> None:
    assert make("deco", tokens_per_frame=count).cells(Grid(3, h, w)) == Grid(3, *expected)


@few
@given(grid=grids, per_frame=st.integers(1, 40), rest=st.integers(0, 4))
def test_a_budget_chooses_the_grid(grid: Grid, per_frame: int, rest: int) -> None:
    projector = make("deco")
    budget = per_frame * grid.t + min(rest, grid.t - 1)
    out = projector(dense(grid), budget)
    assert len(out) == projector.num_tokens(grid, budget) <= budget
    # Square frames reach every square.
    if grid.h == grid.w:
        assert len(out) >= grid.t * min(math.isqrt(per_frame), grid.h) ** 2


def test_a_large_budget_keeps_every_patch() -> None:
    video = dense(Grid(2, 3, 4))
    out = make("deco")(video, 24)
    assert torch.equal(out.positions, video.positions)
    assert torch.equal(out.mass, video.mass)
    assert torch.equal(out.extras["saliency"], video.extras["saliency"])


def test_budgets_of_a_batch_may_differ() -> None:
    video = dense(Grid(2, 4, 4))
    projector = make("deco")
    batch = projector.many(TokenBatch.pack([video, video]), [8, 32])
    assert batch.lengths.tolist() == [8, 32]
    torch.testing.assert_close(batch[0].tokens, projector(video, 8).tokens)


def test_a_budget_below_one_token_a_frame_is_refused() -> None:
    with pytest.raises(BudgetError, match="3 frames need at least 3 tokens and the budget is 2"):
        make("deco")(dense(Grid(3, 2, 2)), 2)


def test_tokens_without_their_grid_are_refused() -> None:
    video = dense(Grid(2, 3, 3))
    merged = merge(video, torch.arange(18) // 2)
    for other in (pruned(Grid(2, 3, 3)), soft(Grid(2, 3, 3)), merged):
        with pytest.raises(ShapeError, match="'deco' reads the dense grid"):
            make("deco")(other)


def test_more_cells_than_patches_share_their_mass() -> None:
    out = make("deco", tokens_per_frame=(4, 4))(dense(Grid(1, 2, 2)))
    assert len(out) == 16
    torch.testing.assert_close(out.mass, torch.full((16,), 0.25))


def test_means_stay_exact_under_autocast() -> None:
    video = dense(Grid(2, 7, 7))
    projector = make("deco", tokens_per_frame=(3, 3), depth=1, dim_out=DIM_IN)
    with torch.no_grad():
        projector.layers[0].weight.copy_(torch.eye(DIM_IN))
        projector.layers[0].bias.zero_()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = projector(video)
        exact = projector(video)
    assert half.tokens.dtype == torch.bfloat16
    assert torch.equal(half.tokens, exact.tokens.bfloat16())


@pytest.mark.parametrize("wrong", [0, -4, (0, 3), (3,), [], (2, 2, 2), "many", 2.5, True, None])
def test_wrong_grids_are_refused(wrong: object) -> None:
    with pytest.raises(ConfigError, match="number of cells or a pair") as caught:
        make("deco", tokens_per_frame=wrong)
    assert repr(wrong) in str(caught.value)


def test_grids_survive_yaml() -> None:
    config = make("deco", tokens_per_frame=(2, 3)).config
    data = yaml.safe_load(yaml.safe_dump(config.dump()))
    assert PROJECTORS.parse(data) == config
