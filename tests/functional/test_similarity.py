"""Cosines: what they are, how zero vectors count, and that blocks and shapes decide no tie."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.match import cosine_slowly

from vidcomp.functional import similarity
from vidcomp.functional.similarity import best_match, cosine, paired_cosine, unit

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


@st.composite
def matrices(draw, min_rows=0):
    """Two matrices of one width, with zero rows and duplicates."""
    n, m, dim = draw(st.integers(min_rows, 8)), draw(st.integers(1, 8)), draw(st.integers(1, 5))
    seed = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    pool = torch.randn(4, dim, generator=seed).to(draw(st.sampled_from(DTYPES)))
    pool[0] = 0
    pick = [torch.randint(0, 4, (k,), generator=seed) for k in (n, m)]
    return pool[pick[0]], pool[pick[1]]


@given(matrices())
@settings(deadline=None)
def test_cosine_equals_its_slow_twin(pair):
    x, y = pair
    expected = [[cosine_slowly(a, b) for b in y.tolist()] for a in x.tolist()]
    got = cosine(x, y)
    assert got.dtype == torch.float32
    assert torch.allclose(
        got.double(), torch.tensor(expected).reshape(got.shape).double(), atol=1e-6
    )


@given(matrices(), st.sampled_from([1, 3, 1 << 22]))
@settings(deadline=None)
def test_best_match_is_the_first_of_the_best(pair, block):
    x, y = pair
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(similarity, "_BLOCK", block)
        value, index = best_match(x, y)
    whole = cosine(x, y)
    for i in range(len(x)):
        # Equal rows of y have equal cosines to the last bit, so the lowest of them is found.
        twins = [j for j in range(len(y)) if torch.equal(y[j], y[index[i]])]
        assert index[i] == twins[0]
        assert value[i] == pytest.approx(float(whole[i].max()), abs=1e-6)


@given(matrices(min_rows=1))
@settings(deadline=None)
def test_paired_cosine_is_the_diagonal(pair):
    x, y = pair
    n = min(len(x), len(y))
    assert torch.allclose(paired_cosine(x[:n], y[:n]), cosine(x[:n], y[:n]).diagonal())


def test_zero_vectors_are_like_each_other_only():
    x = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
    assert cosine(x, x).tolist() == [[1.0, 0.0], [0.0, 1.0]]
    assert unit(x).tolist() == [[0.0, 0.0], [1.0, 0.0]]


@pytest.mark.parametrize("scale", [1e-300, 1e-160, 1.0, 1e160, 1e300])
def test_lengths_whose_squares_overflow(scale):
    x = torch.tensor([[3.0, 4.0]], dtype=torch.float64) * scale
    assert torch.allclose(unit(x), torch.tensor([[0.6, 0.8]], dtype=torch.float64))


def test_duplicates_tie_exactly_whatever_the_shape():
    """In float32, kernels add up the last rows of a matrix in another order than the others."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(301, 300, generator=draw)
    y = torch.randn(1, 300, generator=draw).expand(37, 300)
    for n in (1, 2, 3, 17, 301):
        value, index = best_match(x[:n], y)
        assert index.tolist() == [0] * n
        assert torch.equal(value, best_match(x, y[:1])[0][:n])


def test_blocks_bound_memory(monkeypatch):
    sizes = []
    real = torch.mm

    def spy(a, b, *, out):
        sizes.append(out.numel())
        return real(a, b, out=out)

    monkeypatch.setattr(torch, "mm", spy)
    monkeypatch.setattr(similarity, "_BLOCK", 1000)
    best_match(torch.randn(500, 3), torch.randn(90, 3))
    assert len(sizes) > 1
    assert max(sizes) <= 1000


@given(seed=st.integers(0, 999), dim=st.integers(2, 64))
@settings(deadline=None)
def test_equal_rows_have_equal_cosines_also_where_they_are_zero(seed, dim):
    draw = torch.Generator().manual_seed(seed)
    kinds = torch.randn(3, dim, generator=draw).round()
    kind = torch.randint(0, 3, (41,), generator=draw)
    other = torch.randn(7, dim, generator=draw).round()
    found = cosine(kinds[kind], other)
    for number in kind.unique():
        alike = found[kind == number]
        assert torch.equal(alike, alike[:1].expand_as(alike))
