"""Abstractors of convolutions and deformable attention against slow twins, on any grid."""

from typing import Any, TypeVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.convolutional import (
    slow_c_abstractor,
    slow_connector,
    slow_deformable,
    slow_depthwise,
    slow_inverted,
    slow_layers,
    slow_stage,
)
from oracles.projectors import slow_adaptive_pool, slow_gelu
from projector_cases import DIM_IN, DIM_OUT, dense, provenance
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn.functional import interpolate

from vidcomp.errors import ShapeError
from vidcomp.projectors.base import Projector
from vidcomp.projectors.convs import Depthwise, InvertedResidual, RegStage
from vidcomp.projectors.deformable import DeformableAttention
from vidcomp.registry import PROJECTORS
from vidcomp.types import Grid, TokenBatch

few = settings(deadline=None, max_examples=8)
CLOSE = {"atol": 2e-5, "rtol": 1e-4}
sides = st.integers(1, 5)
frames = st.builds(Grid, st.integers(1, 3), st.integers(1, 4), st.integers(1, 5))

CONNECTORS = {
    "stc": ((2, 2, 2), (1, 1, 1)),
    "stc_v35": ((2, 2, 2), (0, 0, 0)),
    "stp": ((2, 2, 2), (0, 0, 0)),
    "spatial_conv": ((1, 2, 2), (1, 1, 1)),
    "spatial_pool": ((1, 2, 2), (0, 0, 0)),
}
"""Windows and zeros around by default."""


M = TypeVar("M", bound=nn.Module)


def lively(module: M, seed: int = 0) -> M:
    """All parameters moved, so that none is 0 or 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    return module


def make(name: str, **own: Any) -> Projector:
    sizes = {"dim_in": DIM_IN, "dim_out": DIM_OUT}
    projector: Projector = PROJECTORS.make(name, **{**sizes, **own}).build()
    return lively(projector)


def reference(projector: Projector) -> dict[str, Tensor]:
    names = projector.original_names()
    return {names[n]: t.detach() for n, t in projector.state_dict().items()}


def maps(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.fixture(params=["eager", "compiled"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways in which depthwise convolutions are computed."""
    if request.param == "compiled":
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("bias", [False, True])
def test_depthwise_equals_its_slow_twin(stride: int, bias: bool) -> None:
    conv = lively(Depthwise(3, stride=stride, bias=bias))
    state = {f"c.{n}": t for n, t in conv.state_dict().items()}
    for h, w in [(1, 1), (1, 4), (2, 3), (3, 2), (4, 1), (4, 4), (5, 6)]:
        x = maps(2, 1, h, w, 3)
        expected = [slow_depthwise(x[i, 0], state, "c", stride) for i in range(2)]
        found = conv(x)
        assert found.shape == (2, 1, -(-h // stride), -(-w // stride), 3)
        torch.testing.assert_close(found[:, 0].double(), torch.stack(expected), **CLOSE)


@few
@given(h=sides, w=sides, depth=st.integers(0, 2), wide=st.booleans())
def test_a_stage_equals_its_slow_twin(h: int, w: int, depth: int, wide: bool) -> None:
    stage, x = lively(RegStage(depth, 8, 12 if wide else 8)), maps(2, h, w, 8)
    state = {f"s.{n}": t for n, t in stage.state_dict().items()}
    expected = torch.stack([slow_stage(one, state, "s", depth) for one in x.double()])
    torch.testing.assert_close(stage(x).double(), expected, **CLOSE)


@few
@given(h=sides, w=sides, stride=st.integers(1, 2))
def test_an_inverted_residual_equals_its_slow_twin(h: int, w: int, stride: int) -> None:
    block, x = lively(InvertedResidual(9, stride=stride)), maps(2, h, w, 9)
    state = {f"b.{n}": t for n, t in block.state_dict().items()}
    expected = torch.stack([slow_inverted(one, state, "b", stride) for one in x.double()])
    torch.testing.assert_close(block(x).double(), expected, **CLOSE)


@few
@given(grid=frames, cells=st.tuples(sides, sides), depth=st.integers(0, 1))
def test_c_abstractor_equals_its_slow_twin(grid: Grid, cells: tuple[int, int], depth: int) -> None:
    own = {"dim_hidden": 8, "mlp_depth": 3, "pos_grid": grid[1:], "depth": depth}
    projector, video = make("c_abstractor", tokens_per_frame=cells, **own), dense(grid)
    state = reference(projector)
    expected = [
        slow_c_abstractor(x, state, cells=cells, depth=depth, mlp_depth=3)
        for x in video.tokens.view(*grid, -1)
    ]
    torch.testing.assert_close(projector(video).tokens.double(), torch.cat(expected), **CLOSE)


@few
@given(grid=frames)
def test_ldp_equals_its_slow_twin(grid: Grid) -> None:
    projector, video = make("ldp"), dense(grid)
    state, names = reference(projector), ["model.mlp.1", "model.mlp.3"]
    expected = []
    for x_HWD in video.tokens.view(*grid, -1):
        x = torch.stack([slow_layers(row, state, names, slow_gelu) for row in x_HWD.flatten(0, 1)])
        x = slow_inverted(x.view(grid.h, grid.w, -1), state, "model.mb_block.1", 1)
        expected.append(slow_inverted(x, state, "model.mb_block.2", 2).flatten(0, 1))
    torch.testing.assert_close(projector(video).tokens.double(), torch.cat(expected), **CLOSE)


@few
@given(grid=frames, cells=st.tuples(sides, sides))
def test_ldp_v2_equals_its_slow_twin(grid: Grid, cells: tuple[int, int]) -> None:
    projector, video = make("ldp_v2", tokens_per_frame=cells), dense(grid)
    state, names = reference(projector), ["mlp.mlp.0", "mlp.mlp.2"]
    rows = torch.stack([slow_layers(row, state, names, slow_gelu) for row in video.tokens])
    pooled = slow_adaptive_pool(rows.view(*grid, -1), *cells)
    expected = torch.cat(
        [(x + slow_depthwise(x, state, "peg.peg.0")).flatten(0, 1) for x in pooled]
    )
    torch.testing.assert_close(projector(video).tokens.double(), expected, **CLOSE)


@pytest.mark.parametrize("name", CONNECTORS)
@few
@given(
    grid=st.builds(Grid, st.integers(1, 4), sides, sides),
    window=st.none() | st.tuples(*[st.integers(1, 3)] * 3),
    depth=st.integers(0, 1),
)
def test_connectors_equal_their_slow_twin(
    name: str, grid: Grid, window: tuple[int, int, int] | None, depth: int
) -> None:
    default, padding = CONNECTORS[name]
    own = {} if window is None else {"downsample": window}
    projector, video = make(name, depth=depth, mlp_depth=1, **own), dense(grid)
    window = window or default
    sizes = zip(grid, window, padding, strict=True)
    counts = [(n + 2 * pad) // step for n, step, pad in sizes]
    if min(counts) < 1:
        for call in (projector.num_tokens, lambda _: projector(video)):
            with pytest.raises(ShapeError, match=r"needs a grid of at least .*sample more frames"):
                call(grid)
        return
    expected = slow_connector(
        video.tokens.view(*grid, -1),
        reference(projector),
        window=window,
        padding=padding,
        depth=depth,
        mlp_depth=1,
        gelu=slow_gelu,
    )
    assert projector.num_tokens(grid) == len(expected) == torch.tensor(counts).prod()
    torch.testing.assert_close(projector(video).tokens.double(), expected, **CLOSE)


@pytest.mark.parametrize("name", ["stc_v35", "stp", "spatial_pool"])
def test_windows_left_over_are_read_by_no_token(name: str) -> None:
    grid = Grid(3, 5, 3)
    video, projector = dense(grid), make(name, depth=0)
    left = provenance(projector(video)).sum(dim=0).view(*grid) == 0
    changed = video.tokens.view(*grid, -1).clone()
    changed[left] += 100
    other = dense(grid)
    other.tokens.copy_(changed.flatten(0, 2))
    assert left.any()
    torch.testing.assert_close(projector(video).tokens, projector(other).tokens)


def test_without_frames_of_zeros_the_other_tokens_are_the_same() -> None:
    video = dense(Grid(3, 4, 5))
    padded, plain = (make("spatial_conv", pad_frames=value) for value in (True, False))
    with_zeros, without = padded(video), plain(video)
    per_frame = len(without) // 3
    assert len(with_zeros) == 5 * per_frame
    torch.testing.assert_close(with_zeros.tokens[per_frame:-per_frame], without.tokens)
    torch.testing.assert_close(with_zeros.tokens[:per_frame], with_zeros.tokens[-per_frame:])


@pytest.mark.parametrize("name", ["c_abstractor", "d_abstractor", "ldp", "ldp_v2", "spatial_pool"])
def test_frames_of_a_projector_of_frames_do_not_see_each_other(name: str) -> None:
    video = dense(Grid(3, 4, 3))
    sizes = {"c_abstractor": {"dim_hidden": 8}, "d_abstractor": {"dim_hidden": 16, "dim_ff": 16}}
    projector = make(name, **sizes.get(name, {}))
    whole = projector(video).tokens.view(3, -1, DIM_OUT)
    alone = [dense(Grid(1, 4, 3)) for _ in range(3)]
    for i, one in enumerate(alone):
        one.tokens.copy_(video.tokens.view(3, -1, DIM_IN)[i])
    found = projector(TokenBatch.pack(alone))
    torch.testing.assert_close(torch.stack([v.tokens for v in found]), whole, **CLOSE)


@pytest.mark.parametrize(
    "name", ["c_abstractor", "d_abstractor", "honeybee_resampler", "ldp", "ldp_v2", "stc"]
)
def test_embeddings_of_frames_start_as_nothing_and_tell_frames_apart(name: str) -> None:
    sizes = {
        "c_abstractor": {"dim_hidden": 8},
        "d_abstractor": {"dim_hidden": 16, "dim_ff": 16},
        "honeybee_resampler": {"dim_hidden": 16, "dim_ff": 16, "frames_per_clip": None},
    }
    own = sizes.get(name, {})
    plain = make(name, **own)
    timed = make(name, max_frames=3, **own).load_reference(reference(plain))
    video = dense(Grid(2, 3, 4))
    video.tokens[12:] = video.tokens[:12]
    before = timed(video).tokens
    torch.testing.assert_close(before, plain(video).tokens)
    weight = next(p for n, p in timed.named_parameters() if p.shape[0] == 3 and "fra" in n)
    with torch.no_grad():
        weight.copy_(maps(*weight.shape))
    assert float((timed(video).tokens - before).detach().abs().max()) > 1e-2


@few
@given(
    size=st.tuples(sides, sides),
    points=st.integers(1, 3),
    places=st.lists(st.tuples(st.floats(-0.5, 1.5), st.floats(-0.5, 1.5)), min_size=1, max_size=4),
    reach=st.sampled_from([0.3, 3.0]),
)
def test_deformable_attention_equals_its_slow_twin_outside_the_map_too(
    size: tuple[int, int], points: int, places: list[tuple[float, float]], reach: float
) -> None:
    attention = lively(DeformableAttention(8, heads=2, points=points))
    with torch.no_grad():
        attention.sampling_offsets.weight.mul_(reach)
    query, picture, point = maps(1, len(places), 8), maps(1, *size, 8), torch.tensor([places])
    found = attention(query, picture, point)
    state = attention.state_dict()
    expected = slow_deformable(query[0], picture[0], point[0], state, heads=2, points=points)
    torch.testing.assert_close(found[0].double(), expected, atol=1e-4, rtol=1e-3)


def test_far_outside_of_the_map_nothing_but_the_bias_is_read() -> None:
    attention = lively(DeformableAttention(8, heads=2, points=2))
    point = torch.tensor([[[9.0, 9.0], [-9.0, 0.5]]])
    found = attention(maps(1, 2, 8) * 1e-3, maps(1, 3, 4, 8), point)
    torch.testing.assert_close(found[0], attention.output_proj.bias.expand(2, -1))


@pytest.mark.parametrize("pooled", ["query", "tgt", "none"])
def test_d_abstractor_takes_any_frames_and_batches(pooled: str) -> None:
    own = {"dim_hidden": 16, "depth": 1, "heads": 2, "dim_ff": 16, "tokens_per_frame": (2, 3)}
    projector = make("d_abstractor", pooled=pooled, num_eos_tokens=1, **own)
    some = [dense(Grid(2, 3, 7)), dense(Grid(1, 1, 1)), dense(Grid(2, 3, 7), 1)]
    found = projector(TokenBatch.pack(some))
    assert [len(v) for v in found] == [14, 7, 14]
    for video, out in zip(some, found, strict=True):
        torch.testing.assert_close(projector(video).tokens, out.tokens, **CLOSE)
        assert out.mass[6::7].tolist() == [0.0] * video.grid.t
    assert float((found[0].tokens - found[2].tokens).detach().abs().max()) > 1e-2


def test_last_tokens_stand_behind_the_latents_of_each_clip_that_has_rows() -> None:
    own = {"num_latents": 3, "dim_hidden": 16, "dim_ff": 16, "depth": 1, "frames_per_clip": 2}
    projector = make("honeybee_resampler", num_eos_tokens=2, pos_grid=(2, 2), **own)
    video = dense(Grid(5, 2, 3))
    some = [video, video.select(torch.arange(13)), dense(Grid(1, 3, 1))]  # 3, 2 and 1 clips
    found = projector(TokenBatch.pack(some))
    assert found.lengths.tolist() == [15, 10, 5]
    assert projector.num_tokens(video.grid) == 15
    for one, out in zip(some, found, strict=True):
        torch.testing.assert_close(projector(one).tokens, out.tokens, **CLOSE)
        last = out.mass.view(-1, 5)[:, 3:]
        assert not last.any()
        ends = out.tokens.view(-1, 5, DIM_OUT)[:, 3:]
        torch.testing.assert_close(ends, projector.eos_tokens.expand_as(ends))
        torch.testing.assert_close(out.mass.sum(), one.mass.sum())


@pytest.mark.parametrize("grid_hw", [(4, 4), (3, 6), (7, 2), (1, 1)])
def test_a_table_of_positions_is_stretched_as_pictures_are(grid_hw: tuple[int, int]) -> None:
    projector = make(
        "c_abstractor", pos_grid=(4, 4), depth=0, mlp_depth=1, tokens_per_frame=grid_hw
    )
    blind = make("c_abstractor", pos_grid=None, depth=0, mlp_depth=1, tokens_per_frame=grid_hw)
    state = reference(projector)
    blind.load_reference({n: t for n, t in state.items() if n != "pos_emb"})
    picture = state["pos_emb"].view(1, 4, 4, -1).permute(0, 3, 1, 2)
    table = interpolate(picture, grid_hw, mode="bicubic", align_corners=False)[0].flatten(1).T
    video = dense(Grid(1, *grid_hw))
    found = projector(video).tokens
    video.tokens.add_(table)
    torch.testing.assert_close(found, blind(video).tokens, **CLOSE)


def test_an_old_table_loses_the_row_of_a_class_token() -> None:
    projector = make("c_abstractor", dim_hidden=8, depth=1)
    state = reference(projector)
    old = {**state, "pos_emb": torch.cat([torch.ones(1, 1, DIM_IN), state["pos_emb"]], dim=1)}
    other = make("c_abstractor", dim_hidden=8, depth=1, seed=1).load_reference(old)
    torch.testing.assert_close(other.state_dict(), projector.state_dict())


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("stc", {"downsample": (2, 0, 2)}),
        ("c_abstractor", {"pos_grid": (0, 4)}),
        ("d_abstractor", {"tokens_per_frame": (0, 4)}),
        ("d_abstractor", {"heads": 3}),
        ("honeybee_resampler", {"heads": 3}),
        ("honeybee_resampler", {"pos_grid": (4, -1)}),
        ("ldp_v2", {"tokens_per_frame": 0}),
    ],
)
def test_settings_that_cannot_be_met_are_refused(name: str, own: dict[str, Any]) -> None:
    with pytest.raises((ValidationError, ValueError), match=r"greater than|multiple|at least 1"):
        make(name, **own)
