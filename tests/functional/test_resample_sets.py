"""New rows of sets are those that the sparse matrix of all shares gives."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vidcomp.errors import ShapeError
from vidcomp.functional import resample_sets as module
from vidcomp.functional.merge import resample
from vidcomp.functional.resample_sets import resample_sets
from vidcomp.functional.set_sources import SetSources
from vidcomp.types import Grid, VideoTokens


def dense(grid, generator, **changes):
    start = torch.rand(grid.t, generator=generator).sort().values
    rows = torch.randn(grid.num_patches, 3, generator=generator)
    extras = {"saliency": torch.rand(grid.num_patches, generator=generator)}
    extras["maps"] = torch.rand(grid.num_patches, 2, 2, generator=generator)
    video = VideoTokens.from_grid(rows, grid, torch.stack([start, start + 1], 1), extras=extras)
    return replace(video, **changes)


def soft(grid, generator):
    video = dense(grid, generator)
    mix = torch.rand(5, len(video), generator=generator)
    return resample(video, (mix / mix.sum(1, keepdim=True)).to_sparse())


def repeated(video, generator):
    """Rows that are one patch each, some the same."""
    patch = torch.randint(len(video), (2 * len(video),), generator=generator)
    once = video.mass / patch.bincount(minlength=len(video)).clamp(min=1)
    index = torch.stack([torch.arange(len(patch)), patch])
    shape = (len(patch), len(video))
    ones = torch.ones(len(patch))
    weights = torch.sparse_coo_tensor(index, ones, shape, check_invariants=False, is_coalesced=True)
    return replace(
        video,
        tokens=video.tokens[patch],
        positions=video.positions[patch],
        spans=video.spans[patch],
        mass=once[patch],
        assign=None,
        weights=weights,
        extras={name: extra[patch] for name, extra in video.extras.items()},
    )


def assert_ascending(weights):
    """What says to be coalesced is."""
    row, column = weights.indices()
    assert ((row * weights.shape[1] + column).diff() > 0).all()


def kinds(grid, generator):
    video = dense(grid, generator)
    keep = torch.rand(len(video), generator=generator) < 0.7
    keep[0] = True
    return {
        "dense": video,
        "pruned": video.select(keep.nonzero().squeeze(1)),
        "soft": soft(grid, generator),
        "repeated": repeated(video, generator),
        "unknown": replace(video, assign=None),
    }


@settings(deadline=None, max_examples=40)
@given(
    st.sampled_from(["dense", "pruned", "soft", "repeated", "unknown"]),
    st.integers(1, 4),
    st.integers(1, 3),
    st.integers(0, 10_000),
)
def test_sets_give_what_the_sparse_matrix_gives(kind, num_sets, num_new, seed):
    generator = torch.Generator().manual_seed(seed)
    video = kinds(Grid(2, 2, 3), generator)[kind]
    owner = torch.randint(num_sets + 1, (len(video),), generator=generator)  # the last reads none
    owner[0] = 0
    sets = [(owner == c).nonzero().squeeze(1) for c in range(num_sets) if (owner == c).any()]
    rows = torch.nn.utils.rnn.pad_sequence(sets, batch_first=True, padding_value=-1)
    shares = torch.rand(len(rows), num_new, rows.shape[1], generator=generator)
    shares = shares * (torch.rand(shares.shape, generator=generator) < 0.8)  # some rows count not
    shares[:, :, 0] += 0.1
    shares = shares * (rows >= 0)[:, None]
    shares = shares / shares.sum(dim=2, keepdim=True)
    tokens = torch.randn(len(rows) * num_new, 4, generator=generator)
    new, k, place = (rows >= 0)[:, None].expand(shares.shape).nonzero().unbind(1)
    index = torch.stack([new * num_new + k, rows[new, place]])
    value = shares[new, k, place]
    matrix = torch.sparse_coo_tensor(
        index, value, (len(tokens), len(video)), check_invariants=False
    )
    wanted = resample(video, matrix, tokens)
    found = resample_sets(video, rows, shares, tokens)
    assert found.tokens is tokens
    assert found.assign is None
    assert torch.equal(found.spans, wanted.spans)
    for name in ("positions", "mass"):
        torch.testing.assert_close(getattr(found, name), getattr(wanted, name))
    for name, extra in wanted.extras.items():
        torch.testing.assert_close(found.extras[name], extra)
    if wanted.weights is None:
        assert found.weights is None
    else:
        assert found.weights.is_coalesced()
        assert_ascending(found.weights)
        torch.testing.assert_close(found.weights.to_dense(), wanted.weights.to_dense())


def test_mass_is_conserved_and_a_row_that_is_not_read_gives_none():
    video = dense(Grid(1, 2, 2), torch.Generator().manual_seed(0))
    rows = torch.tensor([[0, 1], [2, 3]])
    shares = torch.tensor([[[1.0, 0.0]], [[0.25, 0.75]]])
    found = resample_sets(video, rows, shares, torch.zeros(2, 3))
    assert found.mass.tolist() == [1.0, 2.0]


def test_integer_extras_are_refused():
    video = dense(Grid(1, 1, 2), torch.Generator(), extras={"ids": torch.arange(2)})
    with pytest.raises(ShapeError, match="ids"):
        resample_sets(video, torch.tensor([[0, 1]]), torch.full((1, 1, 2), 0.5), torch.zeros(1, 3))


@settings(deadline=None, max_examples=30)
@given(
    st.sampled_from(["dense", "pruned", "soft", "repeated"]), st.booleans(), st.integers(0, 10_000)
)
def test_new_rows_of_two_kinds_are_those_of_all_shares(kind, holes, seed):
    generator = torch.Generator().manual_seed(seed)
    video = kinds(Grid(2, 2, 3), generator)[kind]
    count = len(video) // 2
    rows = torch.arange(2 * count).view(2, count)
    whole = torch.rand(2, 2, count, generator=generator) + 0.01
    width = min(2, count)
    places = torch.stack(
        [torch.randperm(count, generator=generator)[:width].sort().values for _ in range(2 * 3)]
    ).view(2, 3, width)
    few = torch.rand(2, 3, width, generator=generator) + 0.01
    if holes and width == 2:
        places[0, 1, 0], few[0, 1, 0] = -1, 0
    whole, few = (x / x.sum(dim=2, keepdim=True) for x in (whole, few))
    spread = torch.zeros(2, 3, count).scatter_add_(2, places.clamp(min=0), few)
    tokens = torch.randn(10, 4, generator=generator)
    wanted = resample_sets(video, rows, torch.cat([whole, spread], dim=1), tokens)
    found = resample_sets(video, rows, SetSources.of([(whole, None), (few, places)]), tokens)
    for name in ("positions", "mass", "spans"):
        torch.testing.assert_close(getattr(found, name), getattr(wanted, name))
    for name, extra in wanted.extras.items():
        torch.testing.assert_close(found.extras[name], extra)
    assert found.weights.is_coalesced()
    torch.testing.assert_close(found.weights.to_dense(), wanted.weights.to_dense())
    assert_ascending(found.weights)


def test_places_of_large_provenance_are_kept_for_videos_of_the_same_size(monkeypatch):
    monkeypatch.setattr(module, "_KEPT", (1, 1 << 24))
    monkeypatch.setattr(module, "_last", [])
    draw = torch.Generator().manual_seed(0)
    rows = torch.arange(12).view(2, 6)
    own = torch.tensor([[[0, 1]], [[2, 4]]])

    def project(places, num_new=1):
        shares = torch.rand(2, num_new, 6, generator=draw) + 0.1
        parts = [(shares / shares.sum(dim=2, keepdim=True), None)]
        parts += [(torch.full((2, 1, 2), 0.5), places)] * (places is not None)
        tokens = torch.zeros(2 * (num_new + len(parts) - 1), 3)
        found = resample_sets(dense(Grid(2, 2, 3), draw), rows, SetSources.of(parts), tokens)
        torch.testing.assert_close(found.weights.to_dense().sum(dim=1), torch.ones(len(tokens)))
        return found.weights

    def place_of(weights):
        return weights.indices().data_ptr()

    first = project(own)
    assert place_of(project(own)) == place_of(first)
    other = project(own + 1)
    assert place_of(other) != place_of(first)
    assert (other.to_dense()[1] > 0).nonzero().squeeze(1).tolist() == [1, 2]
    assert place_of(project(None)) != place_of(other)
    assert project(None, num_new=3).shape == (6, 12)


def test_a_large_set_is_mixed_piece_by_piece(monkeypatch):
    draw = torch.Generator().manual_seed(0)
    video = dense(Grid(2, 2, 3), draw)
    shares = torch.rand(1, 5, 12, generator=draw)
    inputs = video, torch.arange(12)[None], shares / shares.sum(dim=2, keepdim=True)
    whole = resample_sets(*inputs, torch.zeros(5, 3))
    monkeypatch.setattr(module, "_SUMMED", 5)
    pieces = resample_sets(*inputs, torch.zeros(5, 3))
    torch.testing.assert_close(pieces.positions, whole.positions)
    torch.testing.assert_close(pieces.mass, whole.mass)
