"""Mamba's layer, VMamba's 2-D scan and block, and VL-Mamba's connector against slow twins."""

import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.state_space import slow_ss2d, slow_vl_mamba
from projector_cases import DIM_IN, DIM_OUT, dense
from torch import Tensor, nn
from torch.nn.functional import gelu, layer_norm, linear, softplus

from vidcomp.errors import ConfigError, ShapeError
from vidcomp.projectors.state_space import MambaMixer, Ss2d, VssBlock, vmamba_names
from vidcomp.registry import PROJECTORS
from vidcomp.types import Grid, VideoTokens

CLOSE = {"atol": 2e-5, "rtol": 1e-4}
EXACT = {"atol": 1e-9, "rtol": 1e-9}
few = settings(deadline=None, max_examples=15)
scans = st.sampled_from(["cross", "bidirectional"])
scopes = st.sampled_from(["frame", "video"])
sizes = st.builds(Grid, st.integers(1, 3), st.integers(1, 4), st.integers(1, 4))


def stirred(module: nn.Module, seed: int) -> nn.Module:
    """Every weight moved by its own amount, so that none is at its special first value."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p += 0.3 * torch.randn(p.shape, generator=generator).to(p)
    return module.eval()


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@few
@given(scan=scans, scope=scopes, grid=sizes, seed=st.integers(0, 99))
def test_scans_walk_the_patches_of_any_grid(scan: Any, scope: Any, grid: Grid, seed: int) -> None:
    module = stirred(Ss2d(6, scan=scan, scope=scope, states=3).double(), seed)
    x = random(2, *grid, 6, seed=seed, dtype=torch.float64)
    weights = dict(module.named_parameters())
    expected = torch.stack([slow_ss2d(weights, one, scan=scan, scope=scope) for one in x])
    torch.testing.assert_close(module(x), expected, **EXACT)


@pytest.mark.parametrize(("states", "expand", "rank"), [(1, 1, 1), (5, 3, 4), (2, 2, None)])
def test_sizes_of_a_scan_are_those_asked_for(states: int, expand: int, rank: int | None) -> None:
    module = stirred(Ss2d(8, states=states, expand=expand, rank=rank).double(), 1)
    assert module.dt_projs.weight.shape == (4 * 8 * expand, rank or math.ceil(8 / 16))
    x = random(1, 2, 3, 2, 8, dtype=torch.float64)
    expected = slow_ss2d(dict(module.named_parameters()), x[0], scan="cross", scope="frame")
    torch.testing.assert_close(module(x)[0], expected, **EXACT)


def test_both_namings_of_vmamba_are_read() -> None:
    module = stirred(Ss2d(6, states=3), 3)
    new = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    old = dict(new)
    old["x_proj_weight"] = old.pop("x_proj.weight").view(4, -1, 12)
    old["dt_projs_weight"] = old.pop("dt_projs.weight").view(4, 12, -1)
    x = random(1, 2, 3, 4, 6)
    for state in (new, old):
        fresh = Ss2d(6, states=3).load_reference(state)
        assert torch.equal(fresh(x), module(x))
    inside = vmamba_names({f"layers.0.op.{name}": tensor for name, tensor in old.items()})
    assert set(inside) == {f"layers.0.op.{name}" for name in new}
    with pytest.raises(ShapeError, match=r"a 2-D selective scan.*missing Ds"):
        Ss2d(6, states=3).load_reference({n: t for n, t in new.items() if n != "Ds"})


@few
@given(
    length=st.integers(1, 40),
    bias=st.booleans(),
    conv_bias=st.booleans(),
    kernel=st.integers(2, 5),
    seed=st.integers(0, 99),
)
def test_mambas_layer_is_that_of_transformers(
    length: int, bias: bool, conv_bias: bool, kernel: int, seed: int
) -> None:
    mamba = pytest.importorskip("transformers.models.mamba.modeling_mamba")
    config = mamba.MambaConfig(
        hidden_size=20,
        state_size=3,
        conv_kernel=kernel,
        time_step_rank=2,
        use_bias=bias,
        use_conv_bias=conv_bias,
    )
    theirs = stirred(mamba.MambaMixer(config, layer_idx=0), seed)
    ours = MambaMixer(
        20, states=3, kernel=kernel, rank=2, bias=bias, conv_bias=conv_bias
    ).load_reference(theirs.state_dict())
    x = random(2, length, 20, seed=seed)
    torch.testing.assert_close(ours(x), theirs(x), **CLOSE)


def test_shorter_sequences_may_be_filled_up_at_the_end() -> None:
    layer = stirred(MambaMixer(12, states=4), 0)
    x = random(1, 30, 12)
    filled = torch.cat([x, random(1, 20, 12, seed=5) * 9], dim=1)
    torch.testing.assert_close(layer(filled)[:, :30], layer(x), **CLOSE)


@pytest.mark.parametrize("mlp_ratio", [0.0, 1.5, 4.0])
def test_a_block_adds_a_scan_and_an_mlp_each_of_a_norm(mlp_ratio: float) -> None:
    block = stirred(VssBlock(8, mlp_ratio=mlp_ratio, scope="video", states=2).double(), 2)
    w = dict(block.named_parameters())
    x = random(1, 2, 2, 3, 8, dtype=torch.float64)
    own = {n.removeprefix("op."): t for n, t in w.items() if n.startswith("op.")}
    normed = layer_norm(x[0], (8,), w["norm.weight"], w["norm.bias"])
    expected = x[0] + slow_ss2d(own, normed, scan="cross", scope="video")
    if mlp_ratio:
        assert w["mlp.fc1.weight"].shape == (int(8 * mlp_ratio), 8)
        normed = layer_norm(expected, (8,), w["norm2.weight"], w["norm2.bias"])
        inner = gelu(linear(normed, w["mlp.fc1.weight"], w["mlp.fc1.bias"]))
        expected = expected + linear(inner, w["mlp.fc2.weight"], w["mlp.fc2.bias"])
    torch.testing.assert_close(block(x)[0], expected, **EXACT)
    again = VssBlock(8, mlp_ratio=mlp_ratio, scope="video", states=2).double()
    assert torch.equal(again.load_reference(block.state_dict())(x), block(x))


@pytest.mark.parametrize("make", [lambda: Ss2d(32), lambda: MambaMixer(32)])
def test_fresh_steps_and_rates_are_those_of_mamba(make: Any) -> None:
    named = dict(make().named_parameters())
    bias = named["dt_projs_bias"] if "dt_projs_bias" in named else named["dt_proj.bias"]
    steps = softplus(bias.detach().double()).flatten()
    assert 1e-3 * 0.99 < float(steps.min()) < 2e-3
    assert 0.05 < float(steps.max()) < 0.1 * 1.01
    rates = named["A_logs"] if "A_logs" in named else named["A_log"]
    torch.testing.assert_close(rates.detach().exp(), torch.arange(1.0, 17).expand_as(rates))
    skip = named["Ds"] if "Ds" in named else named["D"]
    assert torch.equal(skip.detach(), torch.ones_like(skip))


def projector(**settings: Any) -> Any:
    made = PROJECTORS.make("vl_mamba", dim_in=DIM_IN, dim_out=DIM_OUT, states=3, **settings)
    return stirred(made.build(), 4)


def maps(video: VideoTokens) -> Tensor:
    return video.tokens.view(*video.grid, -1)


@few
@given(
    connector=st.sampled_from(["vss_l2", "vss_mlp"]),
    scan=scans,
    scope=scopes,
    grid=sizes,
    hidden=st.sampled_from([None, 7]),
)
def test_both_connectors_are_those_of_the_paper(
    connector: str, scan: str, scope: str, grid: Grid, hidden: int | None
) -> None:
    kind = {"connector": connector, "scan": scan, "scope": scope}
    module = projector(**kind, dim_hidden=hidden)
    video = dense(grid, seed=7)
    expected = slow_vl_mamba(dict(module.named_parameters()), maps(video), **kind)
    torch.testing.assert_close(maps(module(video)), expected, **CLOSE)


def changed_frames(module: Any, frame: int) -> list[int]:
    """Frames whose tokens change with those of one."""
    video = dense(Grid(4, 3, 3))
    other = maps(video).clone()
    other[frame] += 1
    before, after = (maps(module(v)) for v in (video, video.to(dtype=torch.float32)))
    assert torch.equal(before, after)
    moved = VideoTokens.from_grid(other.flatten(0, 2), video.grid, video.spans[::9])
    differ = (maps(module(moved)) - before).abs().flatten(1).amax(dim=1)
    return [place for place, value in enumerate(differ.tolist()) if value > 1e-6]


@pytest.mark.parametrize("scan", ["cross", "bidirectional"])
def test_frames_see_each_other_only_where_scans_go_through_all(scan: str) -> None:
    assert changed_frames(projector(scan=scan), 2) == [2]
    assert changed_frames(projector(scan=scan, scope="video"), 2) == [0, 1, 2, 3]


def test_embeddings_of_frames_are_an_option_that_checkpoints_need_not_know() -> None:
    plain, placed = projector(), projector(max_frames=3)
    state: Mapping[str, Tensor] = plain.state_dict()
    video = dense(Grid(5, 2, 3))
    assert torch.equal(placed.load_reference(state)(video).tokens, plain(video).tokens)
    with torch.no_grad():
        placed.frame_emb.weight[2] += 1
    moved = (placed(video).tokens - plain(video).tokens).abs().view(5, -1).amax(dim=1)
    assert (moved > 1e-5).tolist() == [False, False, False, True, True]


def test_scans_of_vmambas_first_release_are_read_inside_the_connector() -> None:
    module = projector()
    state = dict(module.state_dict())
    inner = 2 * DIM_OUT
    state["vss.x_proj_weight"] = state.pop("vss.x_proj.weight").view(4, -1, inner)
    state["vss.dt_projs_weight"] = state.pop("vss.dt_projs.weight").view(4, inner, -1)
    video = dense(Grid(1, 3, 2))
    again = projector().load_reference(state)
    assert torch.equal(again(video).tokens, module(video).tokens)


def test_operations_are_known_and_grow_with_the_tokens() -> None:
    module = projector(rank=2)
    small, large = (module.flops(dense(Grid(t, 4, 4))) for t in (1, 3))
    assert 3 * small == large
    inner, rank, states = 2 * DIM_OUT, 2, 3
    a_token = DIM_IN * DIM_OUT + DIM_OUT * DIM_OUT  # the first and the last layer
    a_token += DIM_OUT * 2 * inner + inner * DIM_OUT + 9 * inner  # into and out of scans, and 3 x 3
    a_token += inner * 4 * (rank + 2 * states) + 4 * inner * (rank + states)  # steps and outputs
    assert small == 2 * 16 * a_token


def test_unknown_orders_are_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="bidirectional"):
        projector(scan="spiral")
