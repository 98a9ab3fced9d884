"""Qwen-VL's and MiniCPM-V's resamplers: positions, times, groups of frames of any size."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.resamplers import slow_sincos_resampler, slow_sines, slow_sines_hw
from projector_cases import dense, pruned
from torch import Tensor

from vidcomp.errors import ConfigError
from vidcomp.functional.merge import merge
from vidcomp.projectors.positions import read_table
from vidcomp.projectors.sincos_resampler import SincosResampler, frame_starts
from vidcomp.registry import PROJECTORS
from vidcomp.types import Grid, TokenBatch, VideoTokens

few = settings(deadline=None, max_examples=12)
CLOSE = {"atol": 2e-5, "rtol": 1e-4}
DIM, HEADS = 16, 4


def resampler(name: str, **own: Any) -> SincosResampler:
    sizes = {"dim_in": 12, "dim_out": DIM, "dim_head": DIM // HEADS, "num_latents": 4}
    built = PROJECTORS.make(name, **{**sizes, **own}).build()
    assert isinstance(built, SincosResampler)
    return built


def patches(video: VideoTokens) -> Tensor:
    return torch.stack([slow_sines_hw(h, w, DIM) for _, h, w in video.positions.tolist()])


@few
@given(frames=st.integers(1, 4), seed=st.integers(0, 99), kind=st.sampled_from([dense, pruned]))
def test_the_3d_resampler_equals_its_slow_twin(frames: int, seed: int, kind: Any) -> None:
    projector, video = resampler("minicpmv_3d"), kind(Grid(frames, 2, 3), seed)
    ids = (video.spans[:, 0] / 0.1).round().tolist()
    times = torch.tensor([slow_sines(i, DIM) for i in ids]).double()
    tokens, weights = slow_sincos_resampler(
        video.tokens, patches(video) + times, projector.state_dict(), HEADS
    )
    out = projector(video)
    torch.testing.assert_close(out.tokens.double(), tokens, **CLOSE)
    shares = weights.mean(dim=0).float()
    torch.testing.assert_close(out.positions, shares @ video.positions, **CLOSE)


@pytest.mark.parametrize("grid", [Grid(1, 2, 2), Grid(1, 5, 3), Grid(1, 1, 1)])
def test_qwen_vl_stretches_its_grid_over_any_other(grid: Grid) -> None:
    projector, video = resampler("qwen_vl", latent_grid=(2, 2)), dense(grid)
    keys = read_table(
        projector.pos_embed, (2, 2), video.positions[None, :, 1:], torch.tensor([grid[1:]])
    )
    own = torch.stack([slow_sines_hw(h, w, DIM) for h in range(2) for w in range(2)])
    tokens, _ = slow_sincos_resampler(
        video.tokens, keys[0].double(), projector.state_dict(), HEADS, own
    )
    torch.testing.assert_close(projector(video).tokens.double(), tokens, **CLOSE)


def test_a_merged_token_is_between_its_patches() -> None:
    projector, video = resampler("minicpmv"), dense(Grid(1, 2, 2))
    merged = merge(video, torch.tensor([0, 0, 1, 1]))
    places = torch.stack([slow_sines_hw(0, 0.5, DIM), slow_sines_hw(1, 0.5, DIM)])
    tokens, _ = slow_sincos_resampler(merged.tokens, places, projector.state_dict(), HEADS)
    torch.testing.assert_close(projector(merged).tokens.double(), tokens, **CLOSE)


def test_time_counts_in_the_video_or_in_the_clip() -> None:
    video = dense(Grid(4, 2, 2))
    late = replace(video, spans=video.spans + 30)
    for times, same in (("seconds", False), ("frames", True), ("none", True)):
        projector = resampler("minicpmv_3d", times=times, frames_per_clip=2)
        first, second = projector(video).tokens, projector(late).tokens
        assert torch.allclose(first, second, atol=1e-4) == same


def test_the_order_of_frames_is_seen_only_with_times() -> None:
    video = dense(Grid(3, 2, 2))
    backward = replace(video, tokens=video.tokens.view(3, 4, -1).flip(0).flatten(0, 1))
    for times, blind in (("seconds", False), ("frames", False), ("none", True)):
        projector = resampler("minicpmv_3d", times=times)
        same = torch.allclose(projector(video).tokens, projector(backward).tokens, atol=1e-5)
        assert same == blind


def test_padding_inside_a_group_changes_nothing() -> None:
    # Frames of a clip with different counts of rows, beside a longer clip that pads them.
    video, longer = dense(Grid(3, 3, 3)), dense(Grid(6, 4, 4), 1)
    ragged = video.select(torch.tensor([0, 1, 2, 3, 9, 14, 18, 19, 20, 21, 26]))
    projector = resampler("minicpmv_3d")
    alone = projector(ragged)
    together = projector(TokenBatch.pack([longer, ragged]))[1]
    torch.testing.assert_close(together.tokens, alone.tokens, **CLOSE)
    shuffled = ragged.select(torch.randperm(11, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(projector(shuffled).tokens, alone.tokens, **CLOSE)


def test_a_clip_of_six_frames_becomes_64_tokens() -> None:
    config = PROJECTORS.make("minicpmv_3d", dim_in=12, dim_out=256)
    projector = config.build()
    assert [projector.num_tokens(Grid(t, 3, 3)) for t in (1, 6, 7, 12)] == [64, 64, 128, 128]
    assert len(projector(dense(Grid(7, 3, 3)))) == 128


def test_all_of_qwen_vls_visual_names_load() -> None:
    trained = resampler("qwen_vl", latent_grid=(2, 2), seed=1)
    outside = ("ln_post.weight", "ln_post.bias", "proj")
    visual = {n if n in outside else f"attn_pool.{n}": t for n, t in trained.state_dict().items()}
    visual["conv1.weight"] = torch.zeros(1)
    loaded = resampler("qwen_vl", latent_grid=(2, 2), seed=2).load_reference(visual)
    video = dense(Grid(2, 3, 3))
    assert torch.equal(loaded(video).tokens, trained(video).tokens)


def test_a_checkpoint_without_frames_keeps_its_answers() -> None:
    plain = resampler("minicpmv_3d", seed=1)
    timed = resampler("minicpmv_3d", max_frames=3, seed=2).load_reference(plain.state_dict())
    video = dense(Grid(4, 2, 2))
    assert torch.equal(plain(video).tokens, timed(video).tokens)


@pytest.mark.parametrize("own", [{"dim_head": 5}, {"latent_grid": (2, 3)}])
def test_settings_that_do_not_fit(own: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"must divide|has 6 latents"):
        resampler("minicpmv", **own)


def slow_starts(spans: list[tuple[float, float]]) -> list[float]:
    known = sorted({start for start, _ in spans})
    found = []
    for start, stop in spans:
        inside = [s for s in known if start <= s < stop - 1e-3] or [start]
        found.append(sum(inside) / len(inside))
    return found


@few
@given(data=st.data())
def test_the_start_of_merged_frames_is_their_mean(data: st.DataObject) -> None:
    steps = data.draw(st.lists(st.integers(1, 9), min_size=2, max_size=6))
    edges = [sum(steps[:i]) / 8 for i in range(len(steps) + 1)]
    pair = st.tuples(st.integers(0, len(steps) - 1), st.integers(1, len(steps)))
    rows = data.draw(st.lists(pair.filter(lambda p: p[0] < p[1]), min_size=1, max_size=6))
    spans = [(edges[a], edges[b]) for a, b in rows]
    expected = torch.tensor(slow_starts(spans))
    alone = frame_starts(torch.tensor([spans]), None)[0]
    torch.testing.assert_close(alone, expected)
    padded = torch.tensor([[*spans, (0.0, 0.0)]])
    mask = torch.tensor([[True] * len(spans) + [False]])
    torch.testing.assert_close(frame_starts(padded, mask)[0, :-1], expected)
