"""Q-Formers against their slow twin, and checkpoints by all of their names."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.qformers import slow_qformer
from projector_cases import DIM_IN, dense, make, pruned, question
from torch import Tensor
from torch.nn.functional import layer_norm, linear

from vidcomp.errors import ConfigError, ShapeError
from vidcomp.functional.relevance import latent_relevance
from vidcomp.projectors.base import Projector
from vidcomp.projectors.bert import recorded_attention
from vidcomp.projectors.qformer_blocks import relevance_layers
from vidcomp.registry import PROJECTORS
from vidcomp.types import Grid, QueryIds

CLOSE = {"atol": 1e-5, "rtol": 1e-5}
few = settings(deadline=None, max_examples=6)


def lively(projector: Projector, seed: int = 0) -> Projector:
    """With weights so large that everything matters."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in projector.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return projector


@few
@given(
    seed=st.integers(0, 99),
    depth=st.integers(1, 3),
    frequency=st.integers(1, 3),
    words=st.integers(0, 4),
    kind=st.sampled_from([dense, pruned]),
)
def test_tokens_and_sources_equal_the_slow_twin(
    seed: int, depth: int, frequency: int, words: int, kind: Any
) -> None:
    case = "instruct_qformer" if words else "qformer"
    shape = {"dim": 8, "depth": depth, "cross_attention_frequency": frequency, "dim_out": 8}
    projector = lively(make(case, **shape, frames_per_clip=None, num_latents=3), seed)
    video = kind(Grid(2, 2, 2), seed)
    asked = question(case, words, seed) if words else None
    state = projector.state_dict()
    latents, weights = slow_qformer(
        state["query_tokens"][0],
        video.tokens,
        state,
        depth=depth,
        heads=2,
        frequency=frequency,
        ids=asked.ids.tolist() if isinstance(asked, QueryIds) else (),
    )
    out = projector(video, query=asked)
    torch.testing.assert_close(out.tokens.double(), latents, atol=1e-4, rtol=1e-4)
    patch = (video.assign >= 0).nonzero().squeeze(1)
    shares = weights.mean(dim=0).float()
    torch.testing.assert_close(out.weights.to_dense()[:, patch], shares, **CLOSE)


def test_each_frame_is_read_by_itself_with_the_same_question() -> None:
    projector = lively(make("instruct_qformer", frames_per_clip=1))
    video = dense(Grid(3, 2, 2))
    out = projector(video)
    for t in range(3):
        frame = video.select(torch.arange(t * 4, t * 4 + 4))
        torch.testing.assert_close(projector(frame).tokens, out.tokens[t * 2 : t * 2 + 2], **CLOSE)


def test_a_language_projection_follows_where_widths_differ() -> None:
    wide, plain = lively(make("qformer")), make("qformer", dim_out=16)
    state = wide.state_dict()
    plain.load_reference({n: t for n, t in state.items() if not n.startswith("language")})
    video = dense(Grid(1, 2, 3))
    weight, bias = state["language_projection.weight"], state["language_projection.bias"]
    torch.testing.assert_close(wide(video).tokens, linear(plain(video).tokens, weight, bias))


def test_the_input_is_normalised_on_request() -> None:
    normed = lively(make("qformer_clips", max_frames=0))
    plain = make("qformer_clips", max_frames=0, norm_input=False)
    state = normed.state_dict()
    plain.load_reference({n: t for n, t in state.items() if not n.startswith("ln_vision")})
    video = dense(Grid(2, 2, 2))
    weight, bias = state["ln_vision.weight"], state["ln_vision.bias"]
    tokens = layer_norm(video.tokens, (DIM_IN,), weight, bias)
    by_hand = type(video)(
        tokens=tokens,
        positions=video.positions,
        spans=video.spans,
        mass=video.mass,
        grid=video.grid,
        assign=video.assign,
    )
    torch.testing.assert_close(normed(video).tokens, plain(by_hand).tokens, **CLOSE)


def test_frames_of_a_clip_are_told_apart_once_their_table_has_learned() -> None:
    projector = lively(make("qformer_clips", max_frames=0))
    framed = make("qformer_clips", max_frames=3).load_reference(projector.state_dict())
    video = dense(Grid(3, 2, 2))
    backward = video.select(torch.arange(12).view(3, 4).flip(0).flatten())
    backward = type(video)(
        tokens=backward.tokens,
        positions=video.positions,
        spans=video.spans,
        mass=video.mass,
        grid=video.grid,
    )
    torch.testing.assert_close(framed(video).tokens, projector(video).tokens, **CLOSE)
    torch.testing.assert_close(framed(video).tokens, framed(backward).tokens, **CLOSE)
    with torch.no_grad():
        framed.frame_emb.weight.copy_(torch.eye(3, DIM_IN) * 3)
    apart = (framed(video).tokens - framed(backward).tokens).abs().max()
    assert float(apart.detach()) > 1e-2


def lavis(state: dict[str, Tensor], *, words: bool) -> dict[str, Tensor]:
    """The names that LAVIS gives to the same weights, with all that it stores besides."""
    renamed = {}
    for name, tensor in state.items():
        name = name.replace("qformer.", "Qformer.bert.", 1).replace(".layernorm.", ".LayerNorm.")
        name = name.replace("attention.attention.", "attention.self.")
        name = name.replace("language_projection.", "llm_proj.")
        if not words:
            name = name.replace("bert.LayerNorm.", "bert.embeddings.LayerNorm.")
        renamed[name] = tensor
    unread = torch.full((2, 2), torch.nan)
    last = "Qformer.bert.encoder.layer.1."
    return {
        **renamed,
        "Qformer.bert.embeddings.position_ids": torch.arange(5)[None],
        "Qformer.cls.predictions.bias": unread,
        f"{last}intermediate.dense.weight": unread,
        f"{last}output.LayerNorm.bias": unread,
    }


@pytest.mark.parametrize("case", ["qformer", "instruct_qformer"])
def test_weights_of_lavis_fit_by_name(case: str) -> None:
    projector, video = lively(make(case)), dense(Grid(1, 2, 2))
    words = case == "instruct_qformer"
    fresh = make(case, seed=9).load_reference(lavis(projector.state_dict(), words=words))
    assert torch.equal(fresh(video).tokens, projector(video).tokens)


def test_what_reads_no_text_takes_the_weights_of_what_does() -> None:
    sizes = {"frames_per_clip": 1, "dim": 16, "num_latents": 2}
    asking, silent = lively(make("instruct_qformer", **sizes)), make("qformer", **sizes)
    state = asking.state_dict()
    silent.load_reference(state)
    for name, tensor in silent.state_dict().items():
        theirs = name.replace("qformer.layernorm", "qformer.embeddings.layernorm")
        assert torch.equal(tensor, state[theirs])


def test_names_that_fit_nowhere_are_refused() -> None:
    projector = make("qformer")
    state = projector.state_dict()
    with pytest.raises(ShapeError, match="unexpected vision_model"):
        projector.load_reference({**state, "vision_model.x": torch.ones(1)})
    with pytest.raises(ShapeError, match="missing query_tokens"):
        projector.load_reference({n: t for n, t in state.items() if n != "query_tokens"})
    twice = {**state, "llm_proj.bias": torch.ones(10)}
    with pytest.raises(ConfigError, match=r"'language_projection\.bias' twice"):
        projector.load_reference(twice)


def test_latents_start_apart_and_dropout_acts_in_training_only() -> None:
    projector = make("qformer", dropout=0.5, num_latents=8)
    start = projector.query_tokens.detach()[0]
    assert torch.cdist(start, start).add(torch.eye(8)).min() > 0.01
    assert 0.01 < float(start.std()) < 0.03
    video = dense(Grid(1, 2, 2))
    calm = projector(video).tokens
    assert torch.equal(calm, projector(video).tokens)
    projector.train()
    assert not torch.equal(projector(video).tokens, projector(video).tokens)


@pytest.mark.parametrize(
    ("name", "wrong", "problem"),
    [
        ("qformer", {"dim": 10, "heads": 4}, "splits dim=10 among its heads, got heads=4"),
        ("qformer", {"max_frames": 4}, "set frames_per_clip"),
        ("qformer_light", {"dim": 10, "heads": 4}, "splits dim=10 among its heads, got heads=4"),
        ("window_qformer", {"heads": 5}, "splits dim_in=12 among its heads, got heads=5"),
        ("window_qformer", {"spatial_offset": 1, "window_side": 3}, "window_side=3"),
    ],
)
def test_settings_that_cannot_be_are_refused(
    name: str, wrong: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ConfigError, match=problem):
        PROJECTORS.make(name, dim_in=12, dim_out=10, **wrong)


@pytest.mark.parametrize("case", ["qformer", "instruct_qformer"])
def test_relevance_comes_from_the_recorded_attention(case: str) -> None:
    projector, video = lively(make(case, frames_per_clip=None)), dense(Grid(1, 2, 3))
    plain = projector(video).tokens
    with recorded_attention(projector) as records:
        out = projector(video).tokens
        out[0, 1].backward()
        layers = relevance_layers(records)
    torch.testing.assert_close(out, plain, **CLOSE)
    found = latent_relevance(layers)
    words = 3 if case == "instruct_qformer" else 0
    assert found.to_patches.shape == (1, 2 + words, 6)
    assert found.among.shape == (1, 2 + words, 2 + words)
    assert float(found.to_patches.detach()[0, 0].max()) > 0
    torch.testing.assert_close(projector(video).tokens, plain)  # nothing is recorded any more
    assert all(len(calls) == 1 for calls in records.values())


def test_relevance_without_a_backward_pass_is_refused() -> None:
    projector = make("qformer")
    with recorded_attention(projector) as records:
        projector(dense(Grid(1, 2, 2)))
        with pytest.raises(ConfigError, match="one recorded call and a backward pass, got 1 calls"):
            relevance_layers(records)


def test_the_light_one_is_attention_and_a_norm() -> None:
    projector = lively(make("qformer_light", depth=1, ff_mult=0, max_frames=0, dim_out=16))
    twin = torch.nn.MultiheadAttention(16, 2, batch_first=True).eval()
    names = projector.original_names()
    state = {names[n]: t for n, t in projector.state_dict().items()}
    prefix = "attn_layers.0."
    twin.load_state_dict({n.removeprefix(prefix): t for n, t in state.items() if prefix in n})
    video = pruned(Grid(3, 2, 2))
    keys = linear(video.tokens, state["proj.weight"], state["proj.bias"])[None]
    read, weights = twin(state["query_tokens"], keys, keys)
    norm = (state["norm_layers.0.weight"], state["norm_layers.0.bias"])
    expected = layer_norm(state["query_tokens"] + read, (16,), *norm)[0]
    out = projector(video)
    torch.testing.assert_close(out.tokens, expected, **CLOSE)
    patch = (video.assign >= 0).nonzero().squeeze(1)
    torch.testing.assert_close(out.weights.to_dense()[:, patch], weights[0], **CLOSE)
