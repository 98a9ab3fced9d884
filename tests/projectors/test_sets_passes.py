"""Short and long sets are read apart where that pays, and attention is made once: same answers."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from projector_cases import dense

from vidcomp.projectors import attention, sets
from vidcomp.projectors.attention import attend, attend_with_shares, attention_shares
from vidcomp.projectors.sets import RowSets
from vidcomp.registry import PROJECTORS
from vidcomp.types import Grid


def projector(frames_per_clip):
    return PROJECTORS.make(
        "minicpmv_3d",
        dim_in=12,
        dim_out=8,
        dim_head=4,
        num_latents=3,
        frames_per_clip=frames_per_clip,
    ).build()


def test_a_short_clip_is_read_apart(monkeypatch):
    project = projector(3)
    video = dense(Grid(4, 20, 20))
    lengths = []
    read = type(project).read

    def watched(self, clips):
        lengths.append(clips.rows.shape[1])
        return read(self, clips)

    monkeypatch.setattr(type(project), "read", watched)
    apart = project(video)
    assert lengths == [400, 1200]
    monkeypatch.setattr(sets, "_LEAST_SAVED", 10_000)
    together = project(video)
    assert lengths[2:] == [1200]
    torch.testing.assert_close(apart.tokens, together.tokens)
    torch.testing.assert_close(apart.mass, together.mass)
    torch.testing.assert_close(apart.weights.to_dense(), together.weights.to_dense())


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=8))
def test_passes_hold_every_set_once_and_fill_up_less(sizes):
    whole = RowSets.of([torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))])
    before = sets._LEAST_SAVED
    try:
        sets._LEAST_SAVED = 1
        passes = whole.passes()
    finally:
        sets._LEAST_SAVED = before
    assert sorted(torch.cat([index for index, _ in passes]).tolist()) == list(range(len(sizes)))
    for index, part in passes:
        for place, number in enumerate(index.tolist()):
            rows = part.rows[place]
            assert torch.equal(rows[rows >= 0], whole.rows[number][: sizes[number]])
        longest = max(sizes[number] for number in index.tolist())
        assert part.rows.shape == (len(index), longest)
        assert (part.mask is None) == all(sizes[n] == longest for n in index.tolist())
    if len(passes) == 2:
        filled = sum(part.rows.numel() for _, part in passes)
        assert whole.rows.numel() - filled >= max(1, whole.rows.numel() // 8)


@pytest.mark.parametrize("num_sources", [None, 4])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("sets_of_queries", [1, 3])
@pytest.mark.parametrize("strength", [1.0, 300.0])
def test_attention_made_once_is_what_both_halves_give(
    num_sources, masked, sets_of_queries, strength
):
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(sets_of_queries, 5, 8, generator=generator) * strength
    key, value = (torch.randn(3, 7, 4, generator=generator) for _ in range(2))
    mask = torch.rand(3, 7, generator=generator) < 0.7
    mask[:, 0] = True
    kinds = {"heads": 4, "key_heads": 2, "scale": 0.4}
    inputs = query, key, value, mask if masked else None
    read, shares = attend_with_shares(*inputs, **kinds, num_sources=num_sources)
    wanted = attention_shares(query, key, inputs[3], **kinds, num_sources=num_sources)
    torch.testing.assert_close(read, attend(*inputs, **kinds), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(shares, wanted, rtol=1e-4, atol=1e-6)
    assert not shares.requires_grad


def test_one_attention_reads_the_values_of_all_sets():
    generator = torch.Generator().manual_seed(0)
    query, key = (torch.randn(1, n, 8, generator=generator) for n in (5, 7))
    value = torch.randn(3, 7, 12, generator=generator)
    read, shares = attend_with_shares(query, key, value, heads=2)
    torch.testing.assert_close(read, attend(query, key, value, heads=2))
    assert shares.shape == (1, 5, 7)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("piece", [1, 30, 100, 10_000])
def test_attention_in_pieces_is_that_of_one_go(monkeypatch, masked, piece):
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(1, 5, 8, generator=generator)
    key, value = (torch.randn(3, 7, 4, generator=generator) for _ in range(2))
    mask = torch.rand(3, 7, generator=generator) < 0.7
    mask[:, 0] = True
    inputs, kinds = (query, key, value, mask if masked else None), {"heads": 4, "key_heads": 2}
    whole, wanted = attend_with_shares(*inputs, **kinds)
    monkeypatch.setattr(attention, "_PIECE", piece)
    monkeypatch.setattr(attention, "_LEAST_QUERIES", 1)
    room = torch.full((3, 6, 7), -1.0)
    with torch.no_grad():
        read, shares = attend_with_shares(*inputs, **kinds, out=room[:, :5])
    torch.testing.assert_close(read, whole)
    torch.testing.assert_close(shares, wanted)
    assert torch.equal(room[:, :5], shares)
    assert (room[:, 5:] == -1).all()


def test_one_attention_for_all_sets_has_one_set_of_shares():
    query, key, value = torch.randn(1, 2, 4), torch.randn(1, 3, 4), torch.randn(5, 3, 4)
    wanted = attend_with_shares(query, key, value, heads=2)
    with torch.no_grad():
        found = attend_with_shares(query, key, value, heads=2)
    assert found[1].shape == (1, 2, 3)
    torch.testing.assert_close(found, wanted)
