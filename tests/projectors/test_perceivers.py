"""Perceiver, Perceiver IO and transformers' encoder: positions, tied layers, checkpoints."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from projector_cases import dense, pruned
from torch import Tensor

from vidcomp.errors import ConfigError, ShapeError
from vidcomp.projectors.base import Projector
from vidcomp.registry import PROJECTORS
from vidcomp.types import Grid, TokenBatch, VideoTokens

CLOSE = {"atol": 2e-5, "rtol": 1e-4}
SMALL = {"dim_latent": 8, "cross_dim_head": 4, "latent_heads": 2, "latent_dim_head": 4}
OWN: dict[str, dict[str, Any]] = {
    "perceiver_io": {**SMALL, "num_outputs": 3, "dim_query": 6, "num_latents": 4, "depth": 3},
    "perceiver_iterative": {**SMALL, "num_latents": 3, "depth": 3},
    "perceiver_hf": {
        "num_latents": 3,
        "dim_latent": 8,
        "depth": 1,
        "cross_heads": 2,
        "latent_heads": 2,
    },
}
of_lucidrains = pytest.mark.parametrize("name", ["perceiver_io", "perceiver_iterative"])


def perceiver(name: str, **own: Any) -> Projector:
    projector: Projector = PROJECTORS.make(
        name, **{"dim_in": 12, "dim_out": 10, **OWN[name], **own}
    ).build()
    return projector


def reference(projector: Projector) -> dict[str, Tensor]:
    names = projector.original_names()
    return {names[n]: t for n, t in projector.state_dict().items()}


def backward(video: VideoTokens) -> VideoTokens:
    return replace(video, tokens=video.tokens.flip(0))


PLACES = [
    ("perceiver_io", {"freq_bands": 0}, False),
    ("perceiver_io", {"freq_bands": 2}, True),
    ("perceiver_iterative", {"freq_bands": 2}, True),
    ("perceiver_hf", {"freq_bands": 0}, False),
    ("perceiver_hf", {"freq_bands": 2, "cross_heads": 1}, True),
]


@pytest.mark.parametrize(("name", "own", "seen"), PLACES)
def test_places_are_seen_only_with_their_features(
    name: str, own: dict[str, Any], seen: bool
) -> None:
    projector, video = perceiver(name, **own), dense(Grid(2, 2, 3))
    with torch.no_grad():
        for parameter in projector.parameters():
            parameter.mul_(3)
    same = torch.allclose(projector(video).tokens, projector(backward(video)).tokens, atol=1e-4)
    assert same != seen


@of_lucidrains
def test_tied_layers_are_one_and_load_from_repeats(name: str) -> None:
    tied, free = perceiver(name, tie_layers=True), perceiver(name)
    first = 0 if name == "perceiver_io" else 1
    assert len(tied.layers) == first + 1
    repeated = dict(reference(tied))
    for key, tensor in reference(tied).items():
        if key.startswith(f"layers.{first}."):
            repeated |= {key.replace(f".{first}.", f".{i}.", 1): tensor for i in range(first, 3)}
    video = pruned(Grid(2, 3, 3))
    expected = free.load_reference(repeated)(video).tokens
    for state in (repeated, reference(tied)):
        again = perceiver(name, tie_layers=True, seed=9).load_reference(state)
        torch.testing.assert_close(again(video).tokens, expected, **CLOSE)
    torch.testing.assert_close(tied(video).tokens, expected, **CLOSE)


@of_lucidrains
def test_layers_that_are_not_tied_are_not_dropped(name: str) -> None:
    state = reference(perceiver(name))
    with pytest.raises(ShapeError, match="unexpected"):
        perceiver(name, tie_layers=True).load_reference(state)


def test_output_queries_may_be_missing_and_a_classifier_is_left_out() -> None:
    trained = perceiver("perceiver_io", seed=1)
    state = reference(trained)
    queries = state.pop("queries")
    loaded = perceiver("perceiver_io", seed=2)
    own = loaded.queries.detach().clone()
    loaded.load_reference(state)
    assert torch.equal(loaded.queries, own)
    assert not torch.equal(own, queries)
    iterative = perceiver("perceiver_iterative", seed=1)
    state = {**reference(iterative), "to_logits.1.weight": torch.zeros(2)}
    video = dense(Grid(1, 2, 2))
    loaded = perceiver("perceiver_iterative", seed=2).load_reference(state)
    assert torch.equal(loaded(video).tokens, iterative(video).tokens)


def test_a_merged_token_has_the_features_of_the_place_between() -> None:
    projector = perceiver("perceiver_iterative", freq_bands=3)
    # On a grid of three columns the middle one is where two outer ones would be merged.
    three, two = dense(Grid(1, 1, 3)), dense(Grid(1, 1, 2))
    middle = three.select(torch.tensor([1]))
    positions = torch.tensor([[0.0, 0.0, 0.5]])
    merged = replace(two.select(torch.tensor([0])), tokens=middle.tokens, positions=positions)
    torch.testing.assert_close(projector(merged).tokens, projector(middle).tokens, **CLOSE)


HF = [
    {},
    {"num_blocks": 2, "depth": 2},
    {"cross_shape": "q"},
    {"qk_channels": 4, "v_channels": 8},
    {"query_residual": False, "cross_widening": 2, "latent_widening": 3},
]


@pytest.mark.parametrize("own", HF)
def test_a_model_of_transformers_gives_the_same(own: dict[str, Any]) -> None:
    library = pytest.importorskip("transformers")
    projector = perceiver("perceiver_hf", dim_out=8, **own)
    config = projector.config
    theirs = library.PerceiverModel(
        library.PerceiverConfig(
            num_latents=3,
            d_latents=8,
            d_model=12,
            num_blocks=config.num_blocks,
            num_self_attends_per_block=config.depth,
            num_cross_attention_heads=2,
            num_self_attention_heads=2,
            cross_attention_shape_for_attention=config.cross_shape,
            qk_channels=config.qk_channels,
            v_channels=config.v_channels,
            use_query_residual=config.query_residual,
            cross_attention_widening_factor=config.cross_widening,
            self_attention_widening_factor=config.latent_widening,
        )
    ).eval()
    generator = torch.Generator().manual_seed(1)
    state = {
        n: torch.randn(t.shape, generator=generator) * 0.3 for n, t in theirs.state_dict().items()
    }
    theirs.load_state_dict(state)
    projector.load_reference(state)
    videos = [dense(Grid(2, 2, 3)), pruned(Grid(1, 4, 3))]
    for video, out in zip(videos, projector(TokenBatch.pack(videos)), strict=True):
        expected = theirs(video.tokens[None]).last_hidden_state[0]
        torch.testing.assert_close(out.tokens, expected, **CLOSE)


@pytest.mark.parametrize("own", [{"latent_heads": 3}, {"cross_heads": 5}, {"v_channels": 4}])
def test_settings_that_do_not_fit(own: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"must divide|set v_channels=8"):
        perceiver("perceiver_hf", **own)


def test_provenance_is_the_decoders_attention_through_the_latents() -> None:
    projector, video = perceiver("perceiver_io", depth=0, num_latents=1), dense(Grid(1, 2, 3))
    out = projector(video)  # a single latent: all outputs look where it does
    shares = out.weights.to_dense()
    torch.testing.assert_close(shares, shares[:1].expand(3, -1))
    assert shares.std(dim=1).min() > 1e-4
