"""Which rows stay."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vidcomp.functional.select import evenly_spaced, random_rows, stable_topk


@given(st.lists(st.sampled_from([-1.0, 0.0, 0.5, 2.0]), max_size=12), st.data())
def test_topk_prefers_the_lower_index(scores, data):
    k = data.draw(st.integers(0, len(scores)))
    best = sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:k]
    assert stable_topk(torch.tensor(scores), k).tolist() == sorted(best)


@given(st.integers(1, 200), st.data())
def test_evenly_spaced_rows_are_the_middles_of_equal_parts(n, data):
    k = data.draw(st.integers(1, n))
    index = evenly_spaced(n, k).tolist()
    assert len(set(index)) == k
    assert index == sorted(index)
    assert all(0 <= i < n for i in index)
    gaps = {b - a for a, b in itertools.pairwise(index)}
    assert len(gaps) <= 2
    assert max(gaps, default=0) - min(gaps, default=0) <= 1
    assert abs(index[0] - (n - 1 - index[-1])) <= 1  # as much left out before as after


def test_evenly_spaced_by_hand():
    assert evenly_spaced(9, 1).tolist() == [4]
    assert evenly_spaced(9, 3).tolist() == [1, 4, 7]
    assert evenly_spaced(4, 4).tolist() == [0, 1, 2, 3]


@given(st.integers(1, 100), st.integers(0, 2**63 - 1), st.data())
def test_random_rows_depend_on_the_seed_only(n, seed, data):
    k = data.draw(st.integers(1, n))
    state = torch.random.get_rng_state()
    rows = random_rows(n, k, seed)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert rows.tolist() == sorted(set(rows.tolist()))
    assert len(rows) == k
    assert set(rows.tolist()) <= set(random_rows(n, n, seed).tolist()) == set(range(n))
    assert set(random_rows(n, max(1, k - 1), seed).tolist()) <= set(rows.tolist())


def test_every_row_has_its_chance():
    hits = torch.zeros(10)
    for seed in range(400):
        hits[random_rows(10, 3, seed)] += 1
    assert float(hits.min()) == pytest.approx(120, rel=0.3)
    assert float(hits.max()) == pytest.approx(120, rel=0.3)
