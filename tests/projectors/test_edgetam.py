"""EdgeTAM's perceiver: both kinds of latents, positions, any frame, transformers' own module."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.windowed import slow_edgetam
from projector_cases import dense, make, provenance, pruned
from test_qformers import lively
from test_windowed import CLOSE, original

from vidcomp.errors import ShapeError
from vidcomp.projectors.edgetam import EdgeTamPerceiver
from vidcomp.registry import PROJECTORS
from vidcomp.types import Grid, TokenBatch, VideoTokens

SETTINGS = {"num_latents": 2, "dim_out": 12, "max_frames": 0}
few = settings(deadline=None, max_examples=8)
sides = st.integers(1, 5)


@few
@given(
    h=sides,
    w=sides,
    windows=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    depth=st.integers(1, 2),
    seed=st.integers(0, 99),
)
def test_tokens_equal_the_slow_twin_frame_by_frame(
    h: int, w: int, windows: tuple[int, int], depth: int, seed: int
) -> None:
    projector = make("edgetam_perceiver", window_grid=windows, depth=depth, **SETTINGS)
    video = dense(Grid(2, h, w), seed)
    frames = video.tokens.view(2, h, w, -1)
    state = original(lively(projector, seed))
    expected = [slow_edgetam(frame, state, 2, depth, windows, 8) for frame in frames]
    out = projector(video)
    assert len(out) == projector.num_tokens(video.grid) == 2 * (2 + windows[0] * windows[1])
    torch.testing.assert_close(out.tokens.double(), torch.cat(expected), **CLOSE)


def test_a_module_of_transformers_gives_the_same() -> None:
    modeling = pytest.importorskip("transformers.models.edgetam_video.modeling_edgetam_video")
    sizes = {
        "hidden_size": 12,
        "mlp_intermediate_size": 24,
        "num_attention_heads": 1,
        "attention_head_dim": 12,
        "attention_dropout": 0.0,
        "hidden_dropout": 0.0,
        "num_latents": 2,
        "num_latents_2d": 4,
        "num_layers": 2,
    }
    named = {f"perceiver_resampler_{name}": value for name, value in sizes.items()}
    config = SimpleNamespace(_attn_implementation="eager", **named)
    theirs = modeling.EdgeTamVideoPerceiverResampler(config).eval()
    projector = make("edgetam_perceiver", window_grid=(2, 2), heads=1, dim_head=12, **SETTINGS)
    lively(projector.load_reference(theirs.state_dict()))
    theirs.load_state_dict(original(projector))
    video = dense(Grid(2, 6, 6))
    maps = video.tokens.view(2, 6, 6, 12).permute(0, 3, 1, 2)
    place = theirs.positional_encoding(maps.shape, maps.device, maps.dtype)
    alone = [theirs(x[None], p[None]) for x, p in zip(maps, place, strict=True)]
    out = projector(video).tokens.view(2, 6, 12)
    torch.testing.assert_close(out, torch.cat([x for x, _ in alone]), **CLOSE)
    assert isinstance(projector, EdgeTamPerceiver)
    places = projector.places(video.grid).view(2, 6, 12)
    torch.testing.assert_close(places, torch.cat([p for _, p in alone]), **CLOSE)


def test_sources_are_what_a_token_reads() -> None:
    projector, grid = lively(make("edgetam_perceiver_wide")), Grid(2, 7, 5)
    video = dense(grid)
    before = projector(video)
    share_NP = provenance(before)
    rows, columns = [(0, 3), (2, 5), (4, 7)], [(0, 3), (2, 5)]
    windows = torch.zeros(6, 7, 5)
    for number in range(6):
        (top, bottom), (left, right) = rows[number // 2], columns[number % 2]
        windows[number, top:bottom, left:right] = 1
    frame = torch.cat([torch.ones(2, 35), windows.flatten(1)])
    assert torch.equal(share_NP > 0, torch.block_diag(frame, frame) > 0)
    for patch in (0, 17, 34, 35, 69):
        tokens = video.tokens.clone()
        tokens[patch] += 1
        changed = (projector(replace(video, tokens=tokens)).tokens != before.tokens).any(dim=1)
        assert torch.equal(changed, share_NP[:, patch] > 0)


def test_positions_tell_global_latents_where_a_patch_is() -> None:
    video = dense(Grid(1, 3, 4))
    turned = replace(video, tokens=video.tokens.flip(0))
    blind = lively(make("edgetam_perceiver_wide", window_grid=None))
    torch.testing.assert_close(blind(video).tokens, blind(turned).tokens, **CLOSE)
    seeing = lively(make("edgetam_perceiver_wide", window_grid=None, positions="sine"))
    assert (seeing(video).tokens - seeing(turned).tokens).abs().max() > 1e-2


def test_positions_may_come_as_an_extra() -> None:
    fixed, given_ = make("edgetam_perceiver"), make("edgetam_perceiver", positions="where")
    lively(given_.load_reference(lively(fixed).state_dict()))
    fixed.load_reference(given_.state_dict())
    assert isinstance(fixed, EdgeTamPerceiver)
    some = [dense(grid, i) for i, grid in enumerate([Grid(2, 3, 4), Grid(1, 2, 2), Grid(1, 3, 4)])]
    placed = []
    for video in some:
        _, h, w = video.grid
        whole = make("edgetam_perceiver", num_latents=0, window_grid=(h, w), dim_hidden=8)
        assert isinstance(whole, EdgeTamPerceiver)
        placed.append(replace(video, extras={"where": whole.places(video.grid)}))
    out = given_(TokenBatch.pack(placed))
    for video, own in zip(some, out, strict=True):
        torch.testing.assert_close(own.tokens, fixed(video).tokens, **CLOSE)
    with pytest.raises(ShapeError, match=r"extra 'where' \[24, 8\] of floats, got none"):
        given_(some[0])


@pytest.mark.parametrize("own", [{"num_latents": 0}, {"window_grid": None}])
def test_one_kind_of_latents_alone_is_that_part_of_both(own: dict[str, object]) -> None:
    both, video = lively(make("edgetam_perceiver", max_frames=0)), dense(Grid(2, 3, 3))
    alone = make("edgetam_perceiver", max_frames=0, **own)
    state = both.state_dict()
    alone.load_reference({name: state[name] for name in alone.state_dict()})
    tokens = both(video).tokens.view(2, 8, -1)
    part = tokens[:, 2:] if "num_latents" in own else tokens[:, :2]
    out = alone(video)
    assert len(out) == alone.num_tokens(video.grid) == part.shape[1] * 2
    torch.testing.assert_close(out.tokens, part.flatten(0, 1), **CLOSE)


@pytest.mark.parametrize("windows", [None, (1, 1), (2, 3), (3, 4)])
@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("positions", ["sine", "where"])
def test_memory_that_is_used_again_changes_nothing(
    windows: tuple[int, int] | None, heads: int, positions: str
) -> None:
    changes = {"window_grid": windows, "heads": heads, "positions": positions, "max_frames": 0}
    projector = lively(make("edgetam_perceiver", **changes))
    assert isinstance(projector, EdgeTamPerceiver)
    config = projector.config
    where = torch.randn(36, config.heads * config.dim_head)
    video = replace(dense(Grid(3, 3, 4)), extras={"where": where.clone()})
    learning = projector(video)
    with torch.inference_mode():
        first, again = projector(video), projector(video)
    torch.testing.assert_close(first.tokens, learning.tokens, **CLOSE)
    torch.testing.assert_close(provenance(first), provenance(learning), **CLOSE)
    assert torch.equal(again.tokens, first.tokens)
    assert torch.equal(video.extras["where"], where)


def test_frames_are_told_apart_only_after_training() -> None:
    still = dense(Grid(1, 4, 4)).tokens.repeat(3, 1)
    video = VideoTokens.from_grid(still, Grid(3, 4, 4), torch.arange(6.0).view(3, 2))
    projector = make("edgetam_perceiver")
    frames = projector(video).tokens.view(3, 8, -1)
    torch.testing.assert_close(frames, frames[:1].expand_as(frames), **CLOSE)
    frames = lively(projector)(video).tokens.view(3, 8, -1)
    assert torch.cdist(frames[:, 0], frames[:, 0]).add(torch.eye(3)).min() > 1e-3


def test_what_it_cannot_read_is_named() -> None:
    with pytest.raises(ShapeError, match="reads the dense grid of an encoder"):
        make("edgetam_perceiver")(pruned(Grid(2, 4, 4)))
    with pytest.raises(ValueError, match="has no latents"):
        make("edgetam_perceiver", num_latents=0, window_grid=None)


def test_defaults_are_the_originals_sizes() -> None:
    config = PROJECTORS.make("edgetam_perceiver", dim_in=64, dim_out=64)
    assert config.tokens_per_frame == 512
    assert config.build().num_parameters == sum(
        [512 * 64, 2 * 64, 2 * (8 * 64 * 64 + 2 * 2 * 64 * 256 + 5 * 2 * 64)]
    )
