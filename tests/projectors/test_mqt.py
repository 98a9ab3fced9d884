"""MQT: any number of latents, keys of places alone."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.resamplers import slow_layer_norm, slow_packed, slow_sines_hw
from projector_cases import dense, pruned

from vidcomp.errors import BudgetError, ConfigError
from vidcomp.projectors.mqt import MQT
from vidcomp.projectors.positions import read_table
from vidcomp.registry import PROJECTORS
from vidcomp.types import Grid, TokenBatch

few = settings(deadline=None, max_examples=15)
CLOSE = {"atol": 2e-5, "rtol": 1e-4}


def mqt(**own: Any) -> MQT:
    sizes = {"dim_in": 12, "dim_out": 10, "num_latents": 6, "latent_grid": (2, 3), "heads": 3}
    built = PROJECTORS.make("mqt", **{**sizes, **own}).build()
    assert isinstance(built, MQT)
    return built


@few
@given(
    h=st.integers(1, 4),
    w=st.integers(1, 4),
    wanted=st.integers(1, 6),
    kind=st.sampled_from([dense, pruned]),
)
def test_tokens_equal_the_slow_twin(h: int, w: int, wanted: int, kind: Any) -> None:
    projector, video = mqt(), kind(Grid(1, h, w))
    state = projector.state_dict()
    places = read_table(
        state["pos_embed"], (2, 3), video.positions[None, :, 1:], torch.tensor([[h, w]])
    )
    own = torch.stack([slow_sines_hw(r, c, 12) for r in range(2) for c in range(3)])
    query = slow_layer_norm((state["query"].double() + own)[:wanted], state, "ln_q", 1e-6)
    keys = slow_layer_norm(places[0], state, "ln_k", 1e-6)
    values = slow_layer_norm(video.tokens, state, "ln_v", 1e-6)
    read, weights = slow_packed(query, keys, values, state, "attn", 3)
    out = projector(video, wanted)
    torch.testing.assert_close(out.tokens.double(), read @ state["proj"].double(), **CLOSE)
    shares = weights.mean(dim=0).float()
    torch.testing.assert_close(out.positions, shares @ video.positions, **CLOSE)


@few
@given(frames=st.integers(1, 5), budget=st.integers(1, 40), length=st.sampled_from([1, 2, None]))
def test_a_clip_has_its_share_of_the_budget(frames: int, budget: int, length: int | None) -> None:
    projector, grid = mqt(frames_per_clip=length), Grid(frames, 2, 2)
    clips = 1 if length is None else -(-frames // length)
    if budget < clips:
        for call in (projector.num_tokens, lambda g, b: projector(dense(g), b)):
            with pytest.raises(BudgetError, match=f"each of {clips} clips"):
                call(grid, budget)
        return
    out, full = projector(dense(grid), budget), projector(dense(grid))
    each = min(6, budget // clips)
    assert len(out) == projector.num_tokens(grid, budget) == each * clips
    prefix = full.tokens.view(clips, 6, -1)[:, :each].flatten(0, 1)
    torch.testing.assert_close(out.tokens, prefix, **CLOSE)


def test_videos_of_a_batch_have_budgets_of_their_own() -> None:
    projector = mqt()
    videos = [dense(Grid(2, 2, 3), 1), dense(Grid(1, 4, 4), 2), pruned(Grid(3, 3, 3), 3)]
    out = projector(TokenBatch.pack(videos), [2, 5, 11])
    assert [len(video) for video in out] == [2, 5, 9]
    for video, budget, found in zip(videos, (2, 5, 11), out, strict=True):
        torch.testing.assert_close(found.tokens, projector(video, budget).tokens, **CLOSE)


def test_attention_does_not_depend_on_content() -> None:
    projector = mqt()
    first, second = projector(dense(Grid(1, 3, 3), 1)), projector(dense(Grid(1, 3, 3), 2))
    assert torch.equal(first.positions, second.positions)
    assert not torch.allclose(first.tokens, second.tokens)


def test_embeddings_of_frames_start_without_effect_and_then_tell_them_apart() -> None:
    plain = mqt(frames_per_clip=None, seed=1)
    timed = mqt(frames_per_clip=None, max_frames=3, seed=2).load_reference(plain.state_dict())
    video = dense(Grid(3, 2, 2))
    assert torch.equal(plain(video).tokens, timed(video).tokens)
    with torch.no_grad():
        timed.frame_emb.weight.normal_(generator=torch.Generator().manual_seed(0))
    moved = timed(video)
    assert not torch.allclose(plain(video).positions, moved.positions, atol=1e-3)


@pytest.mark.parametrize("own", [{"heads": 5}, {"num_latents": 5}])
def test_settings_that_do_not_fit(own: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"must divide|has 6 latents"):
        mqt(**own)
