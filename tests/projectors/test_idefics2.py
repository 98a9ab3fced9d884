"""Idefics2's connector against its slow twin and transformers' own."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.resamplers import slow_idefics2
from projector_cases import dense, pruned

from vidcomp.errors import ConfigError
from vidcomp.projectors.idefics2 import Idefics2
from vidcomp.registry import PROJECTORS
from vidcomp.types import Grid, TokenBatch

few = settings(deadline=None, max_examples=10)
CLOSE = {"atol": 2e-5, "rtol": 1e-4}


def idefics2(**own: Any) -> Idefics2:
    sizes = {"dim_in": 12, "dim_out": 8, "hidden": 10, "num_latents": 3, "depth": 2}
    heads = {"heads": 4, "key_heads": 2, "dim_head": 3}
    built = PROJECTORS.make("idefics2", **{**sizes, **heads, **own}).build()
    assert isinstance(built, Idefics2)
    return built


def reference(projector: Idefics2) -> dict[str, torch.Tensor]:
    names = projector.original_names()
    return {names[n]: t for n, t in projector.state_dict().items()}


@few
@given(frames=st.integers(1, 3), seed=st.integers(0, 99), kind=st.sampled_from([dense, pruned]))
def test_tokens_equal_the_slow_twin(frames: int, seed: int, kind: Any) -> None:
    projector, video = idefics2(frames_per_clip=None), kind(Grid(frames, 2, 3), seed)
    expected = slow_idefics2(video.tokens, reference(projector), depth=2, heads=4, key_heads=2)
    torch.testing.assert_close(projector(video).tokens.double(), expected, **CLOSE)


def test_a_module_of_transformers_gives_the_same() -> None:
    modeling = pytest.importorskip("transformers.models.idefics2.modeling_idefics2")
    config = pytest.importorskip("transformers").Idefics2Config(
        vision_config={"hidden_size": 12},
        text_config={"model_type": "mistral", "hidden_size": 8, "intermediate_size": 10},
        perceiver_config={
            "hidden_size": 8,
            "resampler_n_latents": 3,
            "resampler_depth": 2,
            "resampler_n_heads": 4,
            "resampler_head_dim": 3,
            "num_key_value_heads": 2,
        },
    )
    config.perceiver_config._attn_implementation = "eager"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = modeling.Idefics2Connector(config).eval()
    state = theirs.state_dict()
    generator = torch.Generator().manual_seed(1)
    state = {n: t + torch.randn(t.shape, generator=generator) * 0.1 for n, t in state.items()}
    theirs.load_state_dict(state)
    projector, videos = (
        idefics2().load_reference(state),
        [dense(Grid(1, 2, 3)), pruned(Grid(1, 2, 3))],
    )
    out = projector(TokenBatch.pack(videos))
    for video, found in zip(videos, out, strict=True):
        expected = theirs(video.tokens[None], torch.ones(1, len(video)))
        torch.testing.assert_close(found.tokens, expected[0], **CLOSE)


def test_fresh_latents_differ() -> None:
    latents = idefics2(num_latents=8).latents.detach()
    assert torch.pdist(latents).min() > 0.1


def test_heads_of_keys_must_divide_heads() -> None:
    with pytest.raises(ConfigError, match="multiple of key_heads"):
        idefics2(heads=3)
