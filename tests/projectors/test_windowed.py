"""TokenPacker and Molmo2's pooling: windows, levels, budgets, provenance, originals."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.windowed import slow_molmo2, slow_tokenpacker, slow_windows
from projector_cases import CASES, dense, make, provenance, pruned
from pydantic import ValidationError
from test_qformers import lively
from torch import Tensor

from vidcomp.errors import BudgetError, ShapeError
from vidcomp.functional.pool import bilinear_weights
from vidcomp.projectors.base import Projector
from vidcomp.projectors.windows import Windows, centre_weights, edge_weights, window_edges
from vidcomp.registry import PROJECTORS
from vidcomp.types import Grid, TokenBatch, VideoTokens

CLOSE = {"atol": 1e-5, "rtol": 1e-4}
WINDOWED = ["tokenpacker", "tokenpacker_frames", "molmo2", "molmo2_grouped"]
few = settings(deadline=None, max_examples=10)
sides = st.integers(1, 6)


def original(projector: Projector) -> dict[str, Tensor]:
    """Weights by the original's names."""
    state = projector.state_dict()
    return {name: state[ours] for ours, name in projector.original_names().items()}


def with_levels(video: VideoTokens, *widths: int) -> VideoTokens:
    """Random extras ``a``, ``b`` ... of these widths."""
    generator = torch.Generator().manual_seed(len(video))
    levels = {
        name: torch.randn(len(video), width, generator=generator)
        for name, width in zip("abc", widths, strict=False)
    }
    return replace(video, extras={**video.extras, **levels})


@settings(deadline=None)
@given(size=st.integers(1, 40), length=st.integers(1, 12))
def test_windows_are_those_of_a_padded_side(size: int, length: int) -> None:
    edges = window_edges(size, length)
    assert [[*range(*edge)] for edge in edges] == slow_windows(size, length)
    assert all(stop > start for start, stop in edges)
    if size % length == 0:
        expected = bilinear_weights(size, size // length)
        torch.testing.assert_close(centre_weights(size, edges), expected)
    for row, own in zip(edge_weights(size, edges), slow_windows(size, length), strict=True):
        assert row.nonzero().flatten().tolist() == own
        assert row[own].tolist() == [1 / len(own)] * len(own)


@pytest.mark.parametrize(
    ("size", "length", "edges"),
    [
        (7, 3, [(0, 2), (2, 5), (5, 7)]),
        (4, 3, [(0, 2), (2, 4)]),
        (5, 2, [(0, 2), (2, 4), (4, 5)]),
        (2, 5, [(0, 2)]),
    ],
)
def test_windows_by_hand(size: int, length: int, edges: list[tuple[int, int]]) -> None:
    assert window_edges(size, length) == edges


def test_windows_gather_and_mean_their_own_patches_only() -> None:
    edges = window_edges(4, 3), window_edges(5, 3)
    assert edges == ([(0, 2), (2, 4)], [(0, 3), (3, 5)])
    windows = Windows.of(*edges, 5, torch.device("cpu"))
    x_FPD = torch.arange(40.0).view(2, 20, 1)
    means = windows.means(windows.gather(x_FPD))
    expected = torch.tensor([3.5, 6.0, 13.5, 16.0])
    torch.testing.assert_close(means.view(2, 4), torch.stack([expected, expected + 20]))
    own = windows.own_patches()
    assert sorted(own[own >= 0].tolist()) == list(range(20))
    assert (own >= 0).sum(dim=1).tolist() == [6, 4, 6, 4]


def test_windows_made_where_nothing_can_be_learned_serve_training_too() -> None:
    edges = window_edges(11, 3), window_edges(13, 3)
    with torch.inference_mode():
        first = Windows.of(*edges, 13, torch.device("cpu"))
    x_FPD = torch.ones(1, 143, 2, requires_grad=True)
    again = Windows.of(*edges, 13, torch.device("cpu"))
    assert again is first
    again.gather(x_FPD).sum().backward()
    assert x_FPD.grad is not None
    assert x_FPD.grad.min() == 1


@pytest.mark.parametrize("shape", [(1, 3, 2, 2), (2, 2, 3, 1), (1, 1, 1, 4)])
def test_windows_that_tile_a_frame_gather_what_their_patches_say(
    shape: tuple[int, int, int, int],
) -> None:
    many_h, h, many_w, w = shape
    edges = [[(i * n, i * n + n) for i in range(many)] for many, n in ((many_h, h), (many_w, w))]
    windows = Windows.of(*edges, many_w * w, torch.device("cpu"))
    assert windows.tiles == shape
    x_FPD = torch.randn(2, many_h * h * many_w * w, 3)
    torch.testing.assert_close(windows.gather(x_FPD), x_FPD[:, windows.patches].flatten(0, 1))


@few
@given(t=st.integers(1, 2), h=sides, w=sides, factor=st.integers(1, 4), seed=st.integers(0, 99))
def test_tokenpacker_equals_its_slow_twin(t: int, h: int, w: int, factor: int, seed: int) -> None:
    grid = Grid(t, h, w)
    levels = (("b", 5), ("tokens", 12), ("a", 3))
    projector = lively(make("tokenpacker", scale_factor=factor, levels=levels), seed)
    video = with_levels(dense(grid, seed), 3, 5)
    features = torch.cat([video.extras["b"], video.tokens, video.extras["a"]], dim=1)
    windows = slow_windows(h, factor), slow_windows(w, factor)
    x, multi = video.tokens.view(*grid, -1), features.view(*grid, -1)
    expected = slow_tokenpacker(x, multi, original(projector), 2, *windows)
    torch.testing.assert_close(projector(video).tokens.double(), expected, **CLOSE)


@few
@given(h=sides, w=sides, size=st.tuples(sides, sides), seed=st.integers(0, 99))
def test_molmo2_equals_its_slow_twin(h: int, w: int, size: tuple[int, int], seed: int) -> None:
    grid = Grid(2, h, w)
    projector = make("molmo2_grouped", pooling_size=size, max_frames=0)
    video = dense(grid, seed)
    windows = slow_windows(h, size[0]), slow_windows(w, size[1])
    x = lively(projector, seed), video.tokens.view(*grid, -1)
    expected = slow_molmo2(x[1], original(projector), 4, *windows)
    torch.testing.assert_close(projector(video).tokens.double(), expected, **CLOSE)


@pytest.mark.parametrize("hw", [(9, 9), (7, 5), (4, 11)])
def test_a_module_of_transformers_and_its_windows_give_the_same(hw: tuple[int, int]) -> None:
    modeling = pytest.importorskip("transformers.models.molmo2.modeling_molmo2")
    library = pytest.importorskip("transformers.models.molmo2.configuration_molmo2")
    processing = pytest.importorskip("transformers.models.molmo2.video_processing_molmo2")
    sizes = {"hidden_size": 12, "head_dim": 3, "intermediate_size": 24, "text_hidden_size": 10}
    config = library.Molmo2AdapterConfig(
        num_attention_heads=4, num_key_value_heads=2, vision_feature_layer=[-1, -3], **sizes
    )
    adapter = modeling.Molmo2Adapter(config).eval()
    levels = (("tokens", 12), ("a", 12))
    projector = make("molmo2_grouped", levels=levels, max_frames=0)
    lively(projector.load_reference(adapter.state_dict()))
    adapter.load_state_dict(original(projector))
    video = with_levels(dense(Grid(2, *hw)), 12)
    index, *_ = processing.arange_for_pooling(torch.arange(hw[0] * hw[1]).view(hw), 2, 3)
    both = torch.cat([index, torch.where(index < 0, index, index + hw[0] * hw[1])])
    x = torch.cat([video.tokens, video.extras["a"]], dim=1)[None]
    expected = adapter(x, both).last_hidden_state
    torch.testing.assert_close(projector(video).tokens, expected, **CLOSE)


def test_released_names_of_molmo2_are_read() -> None:
    projector, fresh = lively(make("molmo2")), make("molmo2", seed=1)
    short = {"q_proj": "wq", "k_proj": "wk", "v_proj": "wv", "o_proj": "wo"}
    short |= {"gate_proj": "w1", "down_proj": "w2", "up_proj": "w3"}
    state = {}
    for name, value in original(projector).items():
        module, layer, kind = name.split(".")
        state[f"{module}.{short[layer]}.{kind}"] = value
    video = dense(Grid(1, 4, 4))
    assert torch.equal(fresh.load_reference(state)(video).tokens, projector(video).tokens)


@pytest.mark.parametrize("case", WINDOWED)
def test_a_patch_changes_the_token_of_its_window_alone(case: str) -> None:
    projector, grid = lively(make(case)), Grid(2, 7, 5)
    video = dense(grid)
    before = projector(video)
    share_NP = provenance(before)
    for patch in (0, 17, 34, 35, 69):
        tokens = video.tokens.clone()
        tokens[patch] += 1
        changed = (projector(replace(video, tokens=tokens)).tokens != before.tokens).any(dim=1)
        assert torch.equal(changed, share_NP[:, patch] > 0)
        assert int(changed.sum()) == 1


@pytest.mark.parametrize("case", WINDOWED)
@few
@given(h=sides, w=sides)
def test_tokens_stand_for_whole_windows(case: str, h: int, w: int) -> None:
    projector, grid = make(case), Grid(2, h, w)
    out, (tall, wide) = projector(dense(grid)), projector.config.window  # type: ignore[attr-defined]
    sizes = [len(ys) * len(xs) for ys in slow_windows(h, tall) for xs in slow_windows(w, wide)]
    assert out.mass.tolist() == sizes * 2
    centres = [
        [t, sum(ys) / len(ys), sum(xs) / len(xs)]
        for t in range(2)
        for ys in slow_windows(h, tall)
        for xs in slow_windows(w, wide)
    ]
    torch.testing.assert_close(out.positions, torch.tensor(centres, dtype=torch.float32))


@few
@given(h=sides, w=sides, budget=st.integers(2, 90), seed=st.integers(0, 9))
def test_a_budget_makes_windows_smaller_or_larger(h: int, w: int, budget: int, seed: int) -> None:
    projector, grid = lively(make("molmo2"), seed), Grid(2, h, w)
    cells = projector.cells(grid, budget)  # type: ignore[attr-defined]
    out = projector(dense(grid, seed), budget)
    assert len(out) == projector.num_tokens(grid, budget) == cells.num_patches <= budget
    if budget >= 2 * h * w:
        assert len(out) == 2 * h * w
    share_NP = provenance(out)
    assert torch.equal((share_NP > 0).sum(dim=0), torch.ones(2 * h * w).long())
    for token, share_P in enumerate(share_NP):
        patches = dense(grid, seed).tokens[share_P > 0]
        alone = slow_molmo2(
            patches[None, None], original(projector), 2, [[0]], [[*range(len(patches))]]
        )
        torch.testing.assert_close(out.tokens[token].double(), alone[0], **CLOSE)


def test_a_budget_below_a_token_a_frame_is_refused() -> None:
    with pytest.raises(BudgetError, match="4 frames need at least 4 tokens and the budget is 3"):
        make("tokenpacker").num_tokens(Grid(4, 6, 6), 3)


def test_levels_are_read_up_in_a_ragged_batch_too() -> None:
    levels = (("tokens", 12), ("a", 5))
    projector = make("molmo2", levels=levels)
    some = [with_levels(dense(grid), 5) for grid in (Grid(1, 4, 4), Grid(2, 5, 3), Grid(1, 4, 4))]
    out = projector(TokenBatch.pack(some))
    for video, own in zip(some, out, strict=True):
        torch.testing.assert_close(own.tokens, projector(video).tokens, **CLOSE)
        assert set(own.extras) == {"saliency"}
    assert set(some[0].extras) == {"saliency", "a"}


@pytest.mark.parametrize("name", ["tokenpacker", "molmo2"])
def test_levels_that_do_not_fit_are_named(name: str) -> None:
    projector, video = make(name, levels=(("a", 5),)), dense(Grid(1, 4, 4))
    with pytest.raises(ShapeError, match=r"level 'a' as an extra \[16, 5\] of floats, got none"):
        projector(video)
    with pytest.raises(ShapeError, match=r"got \[16, 3\] torch.float32"):
        projector(with_levels(video, 3))
    with pytest.raises(ShapeError, match=r"got \[16, 5\] torch.int64"):
        projector(replace(video, extras={"a": torch.ones(16, 5, dtype=torch.int64)}))
    with pytest.raises(ShapeError, match="reads the dense grid of an encoder"):
        make(name)(pruned(Grid(2, 4, 4)))


@pytest.mark.parametrize(
    ("name", "wrong", "message"),
    [
        ("tokenpacker", {"levels": (("a", 5), ("a", 5))}, "distinct names"),
        ("molmo2", {"levels": (("a", 0),)}, "at least one feature"),
        ("molmo2", {"levels": (("tokens", 5),)}, "dim_in=12, but its level 'tokens' has 5"),
        ("tokenpacker", {"heads": 3}, "dim_hidden=16 among its heads, got heads=3"),
        ("molmo2", {"heads": 3}, "multiple of key_heads"),
        ("molmo2", {"pooling_size": (0, 2)}, "pooling_size"),
    ],
)
def test_wrong_settings_are_named(name: str, wrong: dict[str, object], message: str) -> None:
    with pytest.raises((ValidationError, ValueError), match=message):
        make(name, **wrong)


@pytest.mark.parametrize("case", ["tokenpacker_frames", "molmo2_grouped"])
def test_frames_are_told_apart_only_after_training(case: str) -> None:
    still = dense(Grid(1, 4, 4))
    video = VideoTokens.from_grid(
        still.tokens.repeat(5, 1), Grid(5, 4, 4), torch.arange(10.0).view(5, 2)
    )
    projector = make(case)
    frames = projector(video).tokens.view(5, -1, 10)
    torch.testing.assert_close(frames, frames[:1].expand_as(frames), **CLOSE)
    state = {n: x for n, x in original(projector).items() if not n.startswith("frame_emb")}
    assert torch.equal(
        make(case, seed=3).load_reference(state)(video).tokens, projector(video).tokens
    )
    frames = lively(projector)(video).tokens.view(5, -1, 10)
    assert torch.cdist(frames[:, 0], frames[:, 0]).add(torch.eye(5)).min() > 1e-3


def test_defaults_are_the_originals_sizes() -> None:
    packer = PROJECTORS.make("tokenpacker", dim_in=1024, dim_out=4096)
    assert packer.dim_levels == 1024
    assert {packer.window, (packer.dim_hidden // packer.heads,)} == {(2, 2), (128,)}
    assert CASES["molmo2"][0] == "molmo2"
    molmo = PROJECTORS.make(
        "molmo2", dim_in=1152, dim_out=3584, levels=(("tokens", 1152), ("a", 1152))
    )
    assert (molmo.window, molmo.dim_levels, molmo.heads * molmo.dim_head) == ((3, 3), 2304, 1152)
