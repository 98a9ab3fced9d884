"""Relevance against plain loops, where the original divides 0 by 0, and through whole chains."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.qformers import slow_latent_relevance, slow_normalized
from torch import Tensor

from vidcomp.errors import ShapeError
from vidcomp.functional.merge import merge
from vidcomp.functional.relevance import (
    Relevance,
    cross_attention_rule,
    decoder_relevance,
    head_relevance,
    latent_relevance,
    normalized_relevance,
    pooled_relevance,
    relevance_maps,
    text_to_patch,
    text_to_query,
)
from vidcomp.types import Grid, VideoTokens

few = settings(deadline=None, max_examples=25)
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def test_heads_count_where_attention_raises_the_target() -> None:
    attention = torch.tensor([[[0.5, 0.5]], [[0.2, 0.8]]])
    gradient = torch.tensor([[[2.0, -2.0]], [[-1.0, 1.0]]])
    torch.testing.assert_close(head_relevance(attention, gradient), torch.tensor([[0.5, 0.4]]))
    half = head_relevance(attention.bfloat16(), gradient.bfloat16())
    assert half.dtype == torch.float32
    with pytest.raises(ShapeError, match="one shape"):
        head_relevance(attention, gradient[:1])


@few
@given(seed=st.integers(0, 999), size=st.integers(1, 5))
def test_rows_are_brought_to_one_besides_the_identity(seed: int, size: int) -> None:
    relevance = torch.eye(size) + random(size, size, seed=seed) * (random(size, 1, seed=1) > 0.4)
    out = normalized_relevance(relevance)
    torch.testing.assert_close(out.double(), slow_normalized(relevance), **CLOSE)


def test_the_identity_stays_the_identity() -> None:
    assert torch.equal(normalized_relevance(torch.eye(4)), torch.eye(4))


@few
@given(
    seed=st.integers(0, 999),
    kinds=st.lists(st.sampled_from(["self", "cross", "both"]), min_size=1, max_size=4),
)
def test_latents_equal_the_slow_twin(seed: int, kinds: list[str]) -> None:
    kinds = [*kinds, "both"]
    layers = [
        (
            None if kind == "cross" else random(3, 3, seed=seed + i),
            None if kind == "self" else random(3, 5, seed=seed + i + 50),
        )
        for i, kind in enumerate(kinds)
    ]
    among, across = slow_latent_relevance(layers, 3, 5)
    out = latent_relevance(layers)
    torch.testing.assert_close(out.among.double(), among, **CLOSE)
    torch.testing.assert_close(out.to_patches.double(), across, **CLOSE)
    batched = latent_relevance(
        [tuple(None if x is None else torch.stack([x, x * 2]) for x in layer) for layer in layers]
    )
    torch.testing.assert_close(batched.to_patches[0], out.to_patches, **CLOSE)
    doubled = [tuple(None if x is None else x * 2 for x in layer) for layer in layers]
    torch.testing.assert_close(batched.to_patches[1], latent_relevance(doubled).to_patches, **CLOSE)


def test_both_increments_of_a_cross_attention_come_from_before_it() -> None:
    among, across = torch.eye(2) + random(2, 2), random(2, 3, seed=1)
    patches, back = torch.eye(3) + random(3, 3, seed=2), random(3, 2, seed=3)
    layer = random(2, 3, seed=4)
    out = cross_attention_rule(Relevance(among, across), layer, patches, back)
    grown = slow_normalized(among).T @ (layer.double() @ slow_normalized(patches))
    torch.testing.assert_close(out.to_patches.double(), across + grown, **CLOSE)
    torch.testing.assert_close(out.among, among + layer @ back, **CLOSE)
    plain = cross_attention_rule(Relevance(among, across), layer, patches, normalize=False)
    torch.testing.assert_close(plain.to_patches, across + layer, **CLOSE)
    assert torch.equal(plain.among, among)


def test_a_causal_model_owes_nothing_to_what_comes_later() -> None:
    layers = [random(5, 5, seed=i).tril() for i in range(3)]
    out = decoder_relevance(layers)
    expected = torch.eye(5)
    for layer in layers:
        expected = (torch.eye(5) + layer) @ expected
    torch.testing.assert_close(out, expected, **CLOSE)
    assert torch.equal(out, out.tril())


def test_text_reaches_patches_through_the_visual_tokens() -> None:
    decoder = decoder_relevance([random(6, 6).tril()])
    visual, text = torch.tensor([1, 2]), torch.tensor([5, 3])
    rows = text_to_query(decoder, text, visual)
    assert rows.tolist() == [[decoder[t, v] for v in visual] for t in text]
    video = VideoTokens.from_grid(torch.ones(4, 2), Grid(1, 2, 2), torch.tensor([[0.0, 1.0]]))
    small = merge(video, torch.tensor([0, 0, 1, 1]))
    pooled = pooled_relevance(small)
    assert pooled.tolist() == [[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]]
    assert torch.equal(pooled_relevance(video), torch.eye(4))
    maps = relevance_maps(text_to_patch(rows, pooled), video.grid, normalize=False)
    assert maps.shape == (2, 1, 2, 2)
    torch.testing.assert_close(maps[:, 0, 0, 0], rows[:, 0] / 2)
    torch.testing.assert_close(maps[:, 0, 1, 1], rows[:, 1] / 2)


def test_maps_run_from_0_to_1_and_a_constant_one_is_0() -> None:
    maps = relevance_maps(torch.tensor([[1.0, 3, 2, 5], [2, 2, 2, 2]]), Grid(2, 1, 2))
    assert maps[0].flatten().tolist() == [0, 0.5, 0.25, 1]
    assert not maps[1].any()
    with pytest.raises(ShapeError, match="need 6 patches a row, got 4"):
        relevance_maps(torch.ones(1, 4), Grid(1, 2, 3))


def test_what_does_not_fit_is_named() -> None:
    with pytest.raises(ShapeError, match="needs a layer that reads them, got none"):
        latent_relevance([(torch.eye(2), None)])
    with pytest.raises(ShapeError, match=r"layer 1 must be \[..., 2, 3\]"):
        latent_relevance([(None, torch.ones(2, 3)), (None, torch.ones(2, 4))])
    with pytest.raises(ShapeError, match="needs its layers, got none"):
        decoder_relevance([])
    bare = VideoTokens(
        tokens=torch.ones(1, 1),
        positions=torch.zeros(1, 3),
        spans=torch.zeros(1, 2),
        mass=torch.ones(1),
        grid=Grid(1, 1, 1),
    )
    with pytest.raises(ShapeError, match="needs the tokens' provenance"):
        pooled_relevance(bare)
