"""Runs of still patches: scores, thresholds and exact counts."""

import itertools

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from oracles.runs import chains_slowly, joins_slowly

from vidcomp.functional.geometry import patch_cells
from vidcomp.functional.runs import best_joins, chains, joins_above, run_groups
from vidcomp.types import Grid

REFERENCES = ["previous", "first", "mean"]


@st.composite
def sequences(draw):
    """Features, masses and positions; some rows missing, so that chains differ in length."""
    grid = Grid(draw(st.integers(1, 6)), draw(st.integers(1, 2)), draw(st.integers(1, 3)))
    seed = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    keep = torch.rand(grid.num_patches, generator=seed) < draw(st.sampled_from([0.6, 2.0]))
    keep[0] = True
    positions = patch_cells(grid)[keep].float()
    x = torch.randn(len(positions), 3, generator=seed)
    x += draw(st.sampled_from([0.0, 2.0]))
    if draw(st.booleans()):
        x[torch.rand(len(x), generator=seed) < 0.4] = 0
    return x, torch.rand(len(x), generator=seed) + 0.5, positions


def clear(scores, threshold):
    """No score so near to the threshold that rounding decides."""
    return all(abs(s - threshold) > 1e-5 for s in scores.values())


@given(sequences())
@settings(deadline=None)
def test_chains(data):
    _, _, positions = data
    found = chains(positions)
    columns = [[r for r in c if r >= 0] for c in found.rows.T.tolist()]
    assert columns == [rows for _, rows in sorted(chains_slowly(positions.tolist()).items())]
    assert found.order.tolist() == [r for rows in columns for r in rows]
    assert found.starts.nonzero().squeeze(1).tolist() == sorted(rows[0] for rows in columns)


@pytest.mark.parametrize("reference", REFERENCES)
@given(data=sequences(), threshold=st.sampled_from([-1.0, 0.0, 0.5, 0.8, 0.95]))
@settings(deadline=None, max_examples=60)
def test_joins_equal_their_slow_twin(reference, data, threshold):
    x, mass, positions = data
    joined, scores = joins_slowly(
        x.tolist(), mass.tolist(), positions.tolist(), threshold, reference
    )
    assume(clear(scores, threshold))
    got, score = joins_above(x, mass, chains(positions), threshold, reference)
    assert set(got.nonzero().squeeze(1).tolist()) == joined
    for row, value in enumerate(score.tolist()):
        assert value == pytest.approx(scores.get(row, -torch.inf), abs=1e-5)


@pytest.mark.parametrize("reference", REFERENCES)
@given(data=sequences(), amount=st.floats(0, 1))
@settings(deadline=None, max_examples=60)
def test_best_joins_are_exact(reference, data, amount):
    x, mass, positions = data
    found = chains(positions)
    most = len(x) - int(found.starts.sum())
    wanted = round(amount * most)
    joined = best_joins(x, mass, found, wanted, reference)
    assert int(joined.sum()) == wanted
    assert not bool((joined & found.starts).any())
    groups = run_groups(found, joined)
    assert sorted(set(groups.tolist())) == list(range(len(x) - wanted))
    for rows in chains_slowly(positions.tolist()).values():
        for before, row in itertools.pairwise(rows):
            assert (groups[row] == groups[before]) == bool(joined[row])


@given(
    data=sequences(),
    threshold=st.sampled_from([-0.5, 0.3, 0.7, 0.9]),
    reference=st.sampled_from(REFERENCES),
)
@settings(deadline=None, max_examples=60)
def test_as_many_joins_as_a_threshold_makes_are_those_of_the_threshold(data, threshold, reference):
    x, mass, positions = data
    found = chains(positions)
    joined, _ = joins_above(x, mass, found, threshold, reference)
    exact = best_joins(x, mass, found, int(joined.sum()), reference)
    if reference == "previous":
        _, scores = joins_slowly(
            x.tolist(), mass.tolist(), positions.tolist(), threshold, reference
        )
        assume(clear(scores, threshold))
        assert torch.equal(exact, joined)
    else:  # another threshold may make as many, but none of the joins is worse than the worst
        assert int(exact.sum()) == int(joined.sum())


def test_previous_ranks_all_neighbours():
    x = torch.tensor([[1.0, 0], [1, 0.1], [0, 1], [0.2, 1]])
    positions = torch.tensor([[0.0, 0, 0], [1, 0, 0], [2, 0, 0], [3, 0, 0]])
    found = chains(positions)
    for n, expected in enumerate([[], [1], [1, 3], [1, 2, 3]]):
        joined = best_joins(x, torch.ones(4), found, n, "previous")
        assert joined.nonzero().squeeze(1).tolist() == expected


def test_only_a_reference_that_stays_sees_a_slow_drift():
    angle = torch.linspace(0, 3, 60)
    x = torch.stack([angle.cos(), angle.sin()], 1)
    positions = torch.stack([torch.arange(60.0), torch.zeros(60), torch.zeros(60)], 1)
    found = chains(positions)
    runs = {
        reference: 60 - int(joins_above(x, torch.ones(60), found, 0.95, reference)[0].sum())
        for reference in REFERENCES
    }
    assert runs["previous"] == 1
    assert runs["first"] > 4
    assert runs["mean"] > 2


def test_ties_join_the_lower_row():
    positions = patch_cells(Grid(3, 1, 2)).float()
    found = chains(positions)
    joined = best_joins(torch.ones(6, 2), torch.ones(6), found, 3, "previous")
    assert joined.nonzero().squeeze(1).tolist() == [2, 3, 4]
    joined = best_joins(torch.ones(6, 2), torch.ones(6), found, 3, "mean")
    assert joined.nonzero().squeeze(1).tolist() == [2, 3, 4]
