"""Components and spanning forests against plain loops."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.graphs import components_slowly, forest_slowly

from vidcomp.functional import components
from vidcomp.functional.components import (
    best_joins,
    connected_components,
    similarity_forest,
    spanning_forest,
)
from vidcomp.functional.similarity import cosine

lawful = settings(deadline=None, max_examples=60)


@st.composite
def graphs(draw):
    n = draw(st.integers(1, 20))
    node = st.integers(0, n - 1)
    edges = draw(st.lists(st.tuples(node, node), max_size=40))
    weights = draw(st.lists(st.integers(0, 5), min_size=len(edges), max_size=len(edges)))
    return n, edges, weights


def as_tensor(edges):
    return torch.tensor(edges, dtype=torch.int64).reshape(-1, 2)


@given(graphs())
@lawful
def test_components_are_those_of_a_loop(graph):
    n, edges, _ = graph
    assert connected_components(as_tensor(edges), n).tolist() == components_slowly(edges, n)


@given(graphs())
@lawful
def test_forests_are_those_of_kruskal(graph):
    n, edges, weights = graph
    forest = spanning_forest(as_tensor(edges), torch.tensor(weights, dtype=torch.float32), n)
    assert forest.tolist() == forest_slowly(edges, weights, n)


@given(graphs())
@lawful
def test_every_join_takes_one_component_away(graph):
    n, edges, weights = graph
    found = as_tensor(edges), torch.tensor(weights, dtype=torch.float32)
    most = len(forest_slowly(edges, weights, n))
    for joins in range(most + 1):
        assert int(best_joins(found, n, joins).max()) + 1 == n - joins


def test_long_chains_end():
    n = 5000
    rows = torch.arange(n)
    for order in (
        rows,
        rows.flip(0),
        torch.randperm(n, generator=torch.Generator().manual_seed(0)),
    ):
        edges = torch.stack([order[:-1], order[1:]], dim=1)
        assert int(connected_components(edges, n).max()) == 0
        assert len(spanning_forest(edges, torch.arange(n - 1), n)) == n - 1
    assert connected_components(rows[:0].reshape(0, 2), n).tolist() == rows.tolist()


def clusters(n, dim, seed, kinds):
    draw = torch.Generator().manual_seed(seed)
    centres = torch.randn(kinds, dim, generator=draw)
    which = torch.randint(0, kinds, (n,), generator=draw)
    return centres[which] + 0.1 * torch.randn(n, dim, generator=draw)


@pytest.mark.parametrize("held", [True, False])
@given(n=st.integers(1, 24), kinds=st.integers(1, 4), seed=st.integers(0, 99), copies=st.booleans())
@settings(deadline=None, max_examples=25)
def test_similarity_forests_are_those_of_all_pairs(held, n, kinds, seed, copies):
    x = clusters(n, 5, seed, kinds)
    if copies:
        x = x[torch.arange(n) % max(1, n // 3)]
    with pytest.MonkeyPatch.context() as patch:
        if not held:
            patch.setattr(components, "_HELD", 1)
            patch.setattr(components, "_BLOCK", 40)
        edges, weights = similarity_forest(x)
    sim = cosine(x, x)
    pairs = [(a, b) for a in range(n) for b in range(a + 1, n)]
    slow = forest_slowly(pairs, [float(sim[p]) for p in pairs], n)
    assert len(edges) == n - 1
    assert int(connected_components(edges, n).max()) == 0
    assert sorted(weights.tolist()) == pytest.approx(sorted(float(sim[pairs[e]]) for e in slow))
    if not copies:
        assert {tuple(sorted(e)) for e in edges.tolist()} == {pairs[e] for e in slow}


@pytest.mark.parametrize("block", [components._BLOCK, 300])
def test_parts_have_forests_of_their_own(block, monkeypatch):
    monkeypatch.setattr(components, "_BLOCK", block)
    x = clusters(60, 6, 1, 3)
    part = torch.randint(0, 7, (60,), generator=torch.Generator().manual_seed(2))
    edges, weights = similarity_forest(x, part)
    assert len(edges) == 60 - 7
    assert torch.equal(part[edges[:, 0]], part[edges[:, 1]])
    for p in range(7):
        rows = (part == p).nonzero().squeeze(1)
        alone, cosines = similarity_forest(x[rows])
        mine = part[edges[:, 0]] == p
        assert {frozenset(e) for e in edges[mine].tolist()} == {
            frozenset(e) for e in rows[alone].tolist()
        }
        assert torch.equal(weights[mine].sort().values, cosines.sort().values)


def test_nothing_has_no_edges():
    edges, weights = similarity_forest(torch.zeros(0, 3))
    assert edges.shape == (0, 2)
    assert weights.shape == (0,)
