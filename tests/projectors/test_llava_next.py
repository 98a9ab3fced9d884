"""LLaVA-NeXT's pools, newlines and faster frames, against plain loops."""

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from projector_cases import DIM_IN, dense, grids, make, provenance
from store_builders import write
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate, max_pool2d

from vidcomp.config import StoreSettings
from vidcomp.errors import BudgetError, ConfigError, ShapeError
from vidcomp.functional.geometry import in_raster_order
from vidcomp.projectors.base import Projector
from vidcomp.report.token_map import token_map
from vidcomp.store import open_cache
from vidcomp.types import Frames, Grid, TokenBatch, VideoTokens

few = settings(deadline=None, max_examples=25)
ALONE = {"depth": 0, "dim_out": DIM_IN}
pools = st.sampled_from(["average", "max", "bilinear"])
newlines = st.sampled_from(["grid", "frame", "one_token", "none"])


def pooled(x_DHW: Tensor, pool: str, stride: int) -> Tensor:
    """[J, K, D] of one frame by PyTorch."""
    if pool == "bilinear":
        size = [math.ceil(n / stride) for n in x_DHW.shape[1:]]
        out = interpolate(x_DHW[None], size, mode="bilinear")[0]
    else:
        out = {"average": avg_pool2d, "max": max_pool2d}[pool](x_DHW[None], stride)[0]
    return out.permute(1, 2, 0)


def laid_out(video: VideoTokens, projector: Projector) -> list[Tensor]:
    """The tokens one by one, as the original appends them."""
    config, rows = projector.config, []
    x_THWD = video.tokens.view(*video.grid, -1)
    for t in range(video.grid.t):
        slow = not config.add_faster_video or t % config.faster_token_stride == 0
        cells = pooled(x_THWD[t].permute(2, 0, 1), config.pool, config.stride * (1 if slow else 2))
        for line in cells:
            rows += list(line)
            if config.newline == "grid":
                rows.append(projector.image_newline)
        if config.newline == "frame":
            rows.append(projector.image_newline)
        if config.add_faster_video:
            rows.append(projector.faster_token)
    return [*rows, projector.image_newline] if config.newline == "one_token" else rows


@few
@given(grid=grids, pool=pools, stride=st.integers(1, 3), newline=newlines)
def test_any_frame_is_pooled_and_lined_as_the_originals(
    grid: Grid, pool: str, stride: int, newline: str
) -> None:
    projector = make("llava_next", pool=pool, stride=stride, newline=newline, **ALONE)
    video = dense(grid)
    if pool != "bilinear" and min(grid.h, grid.w) < stride:
        with pytest.raises(ShapeError, match=f"one cell of {stride} x {stride} patches"):
            projector(video)
        return
    expected = torch.stack(laid_out(video, projector))
    out = projector(video)
    torch.testing.assert_close(out.tokens, expected, atol=1e-5, rtol=1e-5)
    assert len(out) == projector.num_tokens(grid)
    real = out.mass > 0
    if pool != "max":
        share = provenance(out)[real]
        torch.testing.assert_close(share @ video.tokens, out.tokens[real], atol=1e-5, rtol=1e-5)


@few
@given(
    grid=st.builds(Grid, st.integers(1, 7), st.integers(4, 9), st.integers(4, 9)),
    pool=pools,
    every=st.integers(1, 4),
)
def test_frames_between_are_pooled_twice_as_much(grid: Grid, pool: str, every: int) -> None:
    projector = make("llava_next_faster", pool=pool, faster_token_stride=every, **ALONE)
    video = dense(grid)
    out = projector(video)
    expected = torch.stack(laid_out(video, projector))
    torch.testing.assert_close(out.tokens, expected, atol=1e-5, rtol=1e-5)
    real = out.mass > 0
    assert len(out) == projector.num_tokens(grid)
    if pool != "max":
        share = provenance(out)[real]
        torch.testing.assert_close(share @ video.tokens, out.tokens[real], atol=1e-5, rtol=1e-5)
    whole = projector(TokenBatch.pack([video, dense(Grid(2, 4, 5)), video]))
    for again in (whole[0], whole[2]):  # the original pools the later ones harder
        torch.testing.assert_close(again.tokens, out.tokens)
        assert torch.equal(again.positions, out.positions)


@few
@given(grid=grids, newline=newlines)
def test_newlines_lie_behind_what_they_end(grid: Grid, newline: str) -> None:
    out = make("llava_next", newline=newline)(dense(grid))
    assert in_raster_order(out) is out
    lines = (out.mass == 0).nonzero().squeeze(1)
    assert not provenance(out)[lines].any()
    assert (out.positions[lines, 2] == grid.w - 0.5).all()
    for line in lines.tolist():
        torch.testing.assert_close(out.positions[line, :2], out.positions[line - 1, :2])
        assert torch.equal(out.spans[line], out.spans[line - 1])
    assert torch.equal(out.extras["saliency"][lines], torch.zeros(len(lines)))


@few
@given(
    grid=grids,
    newline=newlines,
    pool=pools,
    faster=st.booleans(),
    budget=st.integers(1, 150),
)
def test_the_largest_grid_with_newlines_within_the_budget(
    grid: Grid, newline: str, pool: str, faster: bool, budget: int
) -> None:
    if faster:
        newline = "grid"
    projector = make(
        "llava_next",
        newline=newline,
        pool=pool,
        add_faster_video=faster,
        faster_token_stride=2,
    )
    least = projector._count(Grid(grid.t, 1, 1))
    if budget < least:
        with pytest.raises(BudgetError, match=f"at least {least} tokens with newlines"):
            projector(dense(grid), budget)
        return
    out = projector(dense(grid), budget)
    cells = projector.cells(grid, budget)
    assert len(out) == projector.num_tokens(grid, budget) <= budget
    more = Grid(grid.t, min(grid.h, cells.h + 1), min(grid.w, cells.w + 1))
    assert more == cells or projector._count(more) > budget


def test_a_budget_that_the_stride_fills_gives_what_the_stride_gives() -> None:
    video = dense(Grid(2, 5, 5))
    projector = make("llava_next", pool="average")
    fixed = projector(video)
    assert torch.equal(projector(video, len(fixed)).tokens, fixed.tokens)
    assert float(fixed.mass.sum()) == 32  # the fifth row and column are left out


def test_counts_of_the_published_models() -> None:
    grid = Grid(32, 27, 27)
    assert make("llava_next", newline="one_token").num_tokens(grid) == 32 * 196 + 1
    assert make("llava_next").num_tokens(grid) == 32 * 14 * 15
    assert make("llava_next", newline="frame").num_tokens(grid) == 32 * 197
    assert make("llava_next", pool="average", newline="none").num_tokens(grid) == 32 * 169
    faster = make("llava_next_faster", faster_token_stride=10).num_tokens(grid)
    assert faster == 4 * (14 * 15 + 1) + 28 * (7 * 8 + 1)


def test_fresh_newlines_are_small_and_differ() -> None:
    projector = make("llava_next_faster", dim_out=512)
    for row in (projector.image_newline, projector.faster_token):
        assert float(row.detach().norm()) == pytest.approx(1, abs=0.2)
    assert not torch.equal(projector.image_newline, projector.faster_token)


@pytest.mark.parametrize(
    ("layers", "start"),
    [
        (("mm_projector.0.", "mm_projector.2."), "model."),
        (("mm_projector.0.", "mm_projector.2."), ""),
        (("multi_modal_projector.linear_1.", "multi_modal_projector.linear_2."), "model."),
        (("multi_modal_projector.linear_1.", "multi_modal_projector.linear_2."), ""),
    ],
)
def test_weights_of_llava_and_of_transformers(layers: tuple[str, str], start: str) -> None:
    source, target = make("llava_next_faster", seed=3), make("llava_next_faster")
    own = dict(zip(("layers.0.", "layers.2."), layers, strict=True))
    state = {}
    for name, tensor in source.state_dict().items():
        place = name[:9]
        state[start + (own[place] + name[9:] if place in own else name)] = tensor
    target.load_reference(state)
    assert all(torch.equal(t, target.state_dict()[n]) for n, t in source.state_dict().items())


def test_faster_frames_have_newlines_behind_rows() -> None:
    with pytest.raises(ConfigError, match="has newline='grid', got 'frame'"):
        make("llava_next", add_faster_video=True, newline="frame")


def test_a_cache_a_batch_and_a_picture_take_what_comes_out(tmp_path: Path) -> None:
    out = make("llava_next_faster")(dense(Grid(4, 5, 6)))
    out = VideoTokens(
        **{n: getattr(out, n) for n in ("positions", "spans", "mass", "grid", "weights")},
        tokens=out.tokens.detach(),
    )
    write(tmp_path, {"a": out}, settings=StoreSettings(assign=True, dtype="float32"))
    back = open_cache(str(tmp_path))["a"]
    assert torch.equal(back.tokens, out.tokens)
    assert torch.equal(back.mass, out.mass)
    torch.testing.assert_close(provenance(back), provenance(out))
    assert TokenBatch.pack([out, back]).padded().mask.all()
    times = torch.arange(4, dtype=torch.float64)
    data = torch.full((4, 3, 50, 60), 90, dtype=torch.uint8)
    frames = Frames(data=data, pts_s=times, duration_s=torch.ones_like(times))
    assert token_map(frames, back).size[0] > 0
