"""Rows that are near or most similar, told by float32 where it is beyond doubt."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vidcomp.functional.rough import most_similar, near_rows, nearest
from vidcomp.functional.similarity import best_match, cosine, directions

lawful = settings(deadline=None, max_examples=60)


@st.composite
def rows(draw):
    """Rows of few values, so that many tie; some zero, some huge or tiny, some all but equal."""
    seed, count, dim = draw(st.integers(0, 999)), draw(st.integers(2, 90)), draw(st.integers(1, 40))
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, dim, generator=generator)
    if draw(st.booleans()):
        x = x.round()
    if draw(st.booleans()):
        x[::3] = x[0].clone()
    if draw(st.booleans()):  # nearer to each other than float32 can tell
        x[1::2] = x[1].clone() + 1e-6 * x[1::2]
    x = x * draw(st.sampled_from([1.0, 1e-30, 1e30]))
    return x.to(draw(st.sampled_from([torch.float32, torch.float64, torch.bfloat16])))


@given(x=rows(), data=st.data())
@lawful
def test_the_most_similar_are_those_of_all_cosines(x, data):
    count = data.draw(st.integers(0, len(x) - 1))
    row = torch.randperm(len(x), generator=torch.Generator().manual_seed(count))[: len(x) // 2]
    alike = cosine(x[row], x)
    alike[torch.arange(len(row)), row] = -torch.inf
    found = most_similar(x, row, count)
    assert found.shape == (len(row), count)
    for similar, mine in zip(alike, found.tolist(), strict=True):
        assert mine == sorted(set(mine))
        # A pair's cosine and a matrix's may differ in the last bit, which must decide alone.
        others = sorted(set(range(len(x))) - set(mine) - {int((similar == -torch.inf).nonzero())})
        if mine and others:
            assert float(similar[mine].min()) >= float(similar[others].max()) - 2.5e-7


@given(x=rows(), count=st.integers(1, 9), seed=st.integers(0, 99))
@lawful
def test_of_equal_rows_the_lower_ones_are_most_similar(x, count, seed):
    twin = torch.cat([x, x, x])
    order = torch.randperm(len(twin), generator=torch.Generator().manual_seed(seed))
    twin = twin[order]
    row = torch.arange(0, len(twin), 2)
    found = most_similar(twin, row, min(count, len(twin) - 1))
    for mine, chosen in zip(row.tolist(), found.tolist(), strict=True):
        for other in chosen:
            for lower in range(other):
                same = torch.equal(twin[lower], twin[other])
                assert not same or lower in chosen or lower == mine


@given(x=rows(), max_gap=st.sampled_from([0.0, 1e-7, 0.2, 1.0, 1.5]))
@lawful
def test_rows_are_near_as_their_cosines_say(x, max_gap):
    gap = 1 - cosine(x, x)
    near = near_rows(x, directions(x), max_gap)
    sure = (gap - max_gap).abs() > 2.5e-7
    assert torch.equal(near[sure], (gap < max_gap)[sure])
    assert torch.equal(near, near.T)


@given(x=rows(), first=st.integers(1, 20))
@lawful
def test_the_nearest_is_the_best_match(x, first):
    y = x[:first]
    value, index = best_match(x, y)
    found = nearest(x, y)
    alike = cosine(x, y).gather(1, found[:, None])[:, 0]
    assert torch.all((found == index) | ((alike - value).abs() <= 2.5e-7))
