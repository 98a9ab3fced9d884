"""Attention with packed weights, and the layer with options, against torch's own modules."""

import pytest
import torch
from torch import Tensor, nn

from vidcomp.projectors.attention import MultiheadAttention, attend, attention_shares
from vidcomp.projectors.resampler import ResamplerLayer

CLOSE = {"atol": 1e-5, "rtol": 1e-4}
DIM, HEADS = 8, 2


def rows(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def mask() -> Tensor:
    return torch.tensor([[True] * 5, [True, False, True, True, False]])


@pytest.mark.parametrize("masked", [False, True])
def test_packed_attention_is_torchs(masked: bool) -> None:
    ours, theirs = (
        MultiheadAttention(DIM, heads=HEADS),
        nn.MultiheadAttention(DIM, HEADS, batch_first=True),
    )
    ours.load_state_dict(theirs.state_dict())
    query, key, value = rows(2, 3, DIM), rows(2, 5, DIM, seed=1), rows(2, 5, DIM, seed=2)
    keep = mask() if masked else None
    expected, weights = theirs(query, key, value, key_padding_mask=None if keep is None else ~keep)
    torch.testing.assert_close(ours(query, key, value, keep), expected, **CLOSE)
    out, shares = ours.read(query, key, value, keep)
    torch.testing.assert_close(out, expected, **CLOSE)
    torch.testing.assert_close(shares, weights, **CLOSE)


def test_heads_that_share_keys_are_heads_with_repeated_keys() -> None:
    query, key, value = rows(2, 3, 12), rows(2, 5, 6, seed=1), rows(2, 5, 4, seed=2)
    wide_key = key.unflatten(2, (2, 3)).repeat_interleave(2, dim=2).flatten(2)
    wide_value = value.unflatten(2, (2, 2)).repeat_interleave(2, dim=2).flatten(2)
    ours = attend(query, key, value, mask(), heads=4, key_heads=2, scale=0.3)
    torch.testing.assert_close(
        ours, attend(query, wide_key, wide_value, mask(), heads=4, scale=0.3), **CLOSE
    )
    shares = attention_shares(query, key, mask(), heads=4, key_heads=2, scale=0.3)
    expected = attention_shares(query, wide_key, mask(), heads=4, scale=0.3)
    torch.testing.assert_close(shares, expected, **CLOSE)
    assert not shares[~mask()[:, None].expand_as(shares)].any()


@pytest.mark.parametrize("order", ["pre", "post"])
def test_a_full_layer_is_torchs_decoder_layer(order: str) -> None:
    theirs = nn.TransformerDecoderLayer(
        DIM,
        HEADS,
        2 * DIM,
        dropout=0.0,
        activation="gelu",
        batch_first=True,
        norm_first=order == "pre",
    )
    ours = ResamplerLayer(DIM, heads=HEADS, order=order, self_attention=True, ff_mult=2)
    names = {
        "self_attention": "self_attn",
        "self_norm": "norm1",
        "attention": "multihead_attn",
        "norm": "norm2",
        "feed_forward.0": "linear1",
        "feed_forward.2": "linear2",
        "feed_norm": "norm3",
    }
    state = {}
    for name in ours.state_dict():
        ((head, original),) = [(a, b) for a, b in names.items() if name.startswith(f"{a}.")]
        state[name] = theirs.state_dict()[original + name.removeprefix(head)]
    ours.load_state_dict(state)
    latents, key = rows(2, 3, DIM), rows(2, 5, DIM, seed=1)
    expected = theirs(latents, key, memory_key_padding_mask=~mask())
    torch.testing.assert_close(ours(latents, key, key, mask()), expected, **CLOSE)


@pytest.mark.parametrize("order", ["pre", "post"])
def test_a_bare_layer_reads_and_norms(order: str) -> None:
    layer = ResamplerLayer(DIM, heads=HEADS, order=order)
    latents, key, value = rows(2, 3, DIM), rows(2, 5, DIM, seed=1), rows(2, 5, DIM, seed=2)
    query = layer.norm(latents) if order == "pre" else latents
    expected = latents + layer.attention(query, key, value)
    expected = expected if order == "pre" else layer.norm(expected)
    torch.testing.assert_close(layer(latents, key, value), expected)
    out, sources = layer.read(latents, key, value)
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(sources, layer.attention.read(query, key, value)[1])


def test_shares_of_the_first_keys_are_parts_of_what_is_read_of_them() -> None:
    query, key = rows(2, 3, DIM), rows(2, 5, DIM, seed=1)
    full = attention_shares(query, key, mask(), heads=HEADS)
    some = attention_shares(query, key, mask(), heads=HEADS, num_sources=3)
    torch.testing.assert_close(some, full[..., :3] / full[..., :3].sum(-1, True), **CLOSE)
