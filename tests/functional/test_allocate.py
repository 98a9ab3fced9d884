"""Whole shares of a budget, and the best rows of each part."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.shares import apportion_slowly

from vidcomp.budget import apportion
from vidcomp.errors import BudgetError
from vidcomp.functional.allocate import rank_in_group, shares, top_of_each

lawful = settings(deadline=None, max_examples=100)


@st.composite
def parts(draw):
    n = draw(st.integers(1, 6))
    counts = st.lists(st.integers(0, 9), min_size=n, max_size=n)
    weights = draw(st.lists(st.sampled_from([0.0, 0.1, 0.5, 1.0, 7.0]), min_size=n, max_size=n))
    floors = draw(st.none() | st.integers(0, 3) | counts)
    return weights, draw(st.integers(0, 60)), draw(counts), floors


@given(drawn=parts())
@lawful
def test_shares_are_exact_within_their_bounds(drawn):
    weights, total, caps, floors = drawn
    got = shares(weights, total, caps, floors).tolist()
    room = min(total, sum(caps))
    low = [0 if floors is None else floors if isinstance(floors, int) else f for f in caps]
    low = floors if isinstance(floors, list) else low
    low = [min(f, c) for f, c in zip(low, caps, strict=True)]
    assert sum(got) == room
    if sum(low) <= room:
        assert all(f <= g <= c for f, g, c in zip(low, got, caps, strict=True))
        if not isinstance(floors, list):
            assert got == apportion_slowly(weights, total, caps, floors or 0)
    else:  # floors give way, and nobody gets more than theirs
        assert all(g <= f for f, g in zip(low, got, strict=True))


def test_floors_give_way_to_the_largest_weights():
    assert shares([0.1, 0.5, 0.2, 0.2], 2, [9] * 4, 1).tolist() == [0, 1, 1, 0]
    assert shares([0.1, 0.5, 0.2, 0.2], 0, [9] * 4, 1).tolist() == [0, 0, 0, 0]
    assert shares([0.0, 0.0], 1, [9, 9], 1).tolist() == [1, 0]


def test_floors_of_each_part():
    assert shares([1.0, 1.0, 1.0], 9, [9, 9, 9], [7, 0, 0]).tolist() == [7, 1, 1]
    assert shares([0.0, 1.0], 4, [9, 9], [3, 0]).tolist() == [3, 1]
    assert apportion([1, 1], total=5, minimum=[4, 0]).tolist() == [4, 1]
    with pytest.raises(BudgetError, match="7 in all out of 6"):
        apportion([1, 1], total=6, minimum=[4, 3])


def test_a_batch_is_its_rows():
    weights = torch.tensor([[0.2, 0.3, 0.5], [0.0, 0.0, 1.0]])
    caps = torch.tensor([[4, 4, 4], [1, 9, 2]])
    got = shares(weights, [7, 5], caps, 1)
    assert got.dtype == torch.int64
    for row, w, total, cap in zip(got, weights, [7, 5], caps, strict=True):
        assert row.tolist() == shares(w, total, cap, 1).tolist()
    same = shares(weights, torch.tensor([7, 5]), caps, torch.ones(2, 3, dtype=torch.int64))
    assert torch.equal(got, same)
    assert shares(torch.zeros(0, 3), [], torch.zeros(0, 3)).shape == (0, 3)


def test_counts_that_do_not_match_are_refused():
    for bad in (([1.0, 2.0], 3, [1]), ([1.0, 2.0], 3, [1, 1], [1]), ([-1.0], 3, [1])):
        with pytest.raises(BudgetError):
            shares(*bad)


@given(
    rows=st.lists(
        st.tuples(st.sampled_from([0.0, 1.0, 2.0, float("inf")]), st.integers(0, 3)), max_size=12
    ),
    data=st.data(),
)
@lawful
def test_the_best_rows_of_each_part(rows, data):
    score = torch.tensor([s for s, _ in rows])
    part = torch.tensor([p for _, p in rows], dtype=torch.int64)
    share = torch.tensor(
        [data.draw(st.integers(0, int((part == p).sum()))) for p in range(4)], dtype=torch.int64
    )
    kept = []
    for p in range(4):
        mine = [i for i, (_, q) in enumerate(rows) if q == p]
        ranked = sorted(mine, key=lambda i: (-rows[i][0], i))
        kept += ranked[: int(share[p])]
        ranks = rank_in_group(score, part, 4)[mine].tolist()
        assert ranks == [ranked.index(i) for i in mine]
    assert top_of_each(score, part, share).tolist() == sorted(kept)
