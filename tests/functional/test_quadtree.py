"""Quadtrees: who is above whom, what is covered, and cuts of every size."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vidcomp.functional.quadtree import (
    alike,
    covering_nodes,
    leaf_shares,
    links_in_time,
    node_rows,
    node_scores,
    quadtree,
)
from vidcomp.functional.quadtree_cut import cut_to, early_representatives
from vidcomp.functional.similarity import cosine

lawful = settings(deadline=None, max_examples=40)


@st.composite
def pictures(draw):
    """Frames and cells of tokens (dense, with holes, or several to a cell), and their features."""
    t, h, w = (draw(st.integers(1, 4)), draw(st.integers(1, 6)), draw(st.integers(1, 6)))
    cells = torch.cartesian_prod(*(torch.arange(n) for n in (t, h, w))).reshape(-1, 3)
    seed = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    shape = draw(st.sampled_from(["dense", "dense", "holes", "shared"]))
    if shape != "dense":
        count = draw(st.integers(1, len(cells)))
        pick = torch.randint(0, len(cells), (count,), generator=seed)
        cells = cells[pick.sort().values if shape == "shared" else pick.unique()]
    frame = cells[:, 0].unique(return_inverse=True)[1]
    x = torch.randn(len(cells), 4, generator=seed)
    if draw(st.booleans()):
        x = x[:1].expand(len(cells), 4)
    return frame, cells[:, 1:], (h, w), x


@given(pictures(), st.booleans(), st.integers(0, 2))
@lawful
def test_boxes_of_children_lie_side_by_side_in_their_parents(drawn, full, skip):
    frame, cell, side, _ = drawn
    tree = quadtree(frame, cell, side, full=full, skip=skip)
    inner = (tree.parent >= 0).nonzero().squeeze(1)
    above = tree.parent[inner]
    assert torch.equal(tree.frame[inner], tree.frame[above])
    assert bool((tree.box[inner, :2] >= tree.box[above, :2]).all())
    assert bool((tree.box[inner, 2:] <= tree.box[above, 2:]).all())
    assert torch.equal(tree.box[: len(frame), :2], cell)
    for low, high in itertools.pairwise(tree.starts[1:]):
        boxes = [tuple(b) for b in torch.cat([tree.frame[:, None], tree.box], 1)[low:high].tolist()]
        assert len(set(boxes)) == len(boxes)
        for a, b in itertools.combinations(boxes, 2):
            apart = a[0] != b[0] or a[3] <= b[1] or b[3] <= a[1] or a[4] <= b[2] or b[4] <= a[2]
            assert apart
    if full and not skip and len(tree.starts) > 2:
        assert len(tree.frame) - tree.starts[-2] == int(frame.max()) + 1


def test_the_first_cell_of_an_odd_side_stands_alone():
    cell = torch.cartesian_prod(torch.arange(5), torch.arange(3))
    tree = quadtree(torch.zeros(15, dtype=torch.int64), cell, (5, 3), full=False)
    boxes = tree.box[tree.starts[1] : tree.starts[2]].tolist()
    edges_h, edges_w = [(0, 1), (1, 3), (3, 5)], [(0, 1), (1, 3)]
    assert boxes == [[a, c, b, d] for (a, b) in edges_h for (c, d) in edges_w]
    assert len(tree.starts) == 3  # a side has two cells


@given(pictures(), st.integers(0, 99))
@lawful
def test_nodes_are_means_of_their_tokens(drawn, seed):
    frame, cell, side, x = drawn
    mass = 1 + torch.rand(len(x), generator=torch.Generator().manual_seed(seed))
    tree = quadtree(frame, cell, side)
    rows = node_rows(tree, x, mass)
    every = torch.zeros(len(tree.parent), dtype=torch.bool)
    for node in range(len(x), len(tree.parent)):
        cover = covering_nodes(tree, every.index_fill(0, torch.tensor([node]), value=True))
        mine = (cover[: len(x)] == node).nonzero().squeeze(1)
        mean = (x[mine] * mass[mine, None]).sum(0) / mass[mine].sum()
        torch.testing.assert_close(rows.means[node - len(x)], mean, atol=1e-5, rtol=1e-4)
        equal = node_rows(tree, x, mass, equal=True).means[node - len(x)]
        shares = leaf_shares(tree, cover)[mine]
        assert float(shares.sum()) == pytest.approx(1)
        plain = (x[mine] * shares[:, None].float()).sum(0)
        torch.testing.assert_close(equal, plain, atol=1e-5, rtol=1e-4)


@given(pictures(), st.floats(-1, 1))
@lawful
def test_leaves_cover_every_token_once_and_links_are_nested(drawn, threshold):
    frame, cell, side, x = drawn
    tree = quadtree(frame, cell, side)
    rows = node_rows(tree, x, torch.ones(len(x)))
    cover = covering_nodes(tree, node_scores(tree, rows) >= threshold)
    leaves = (cover == torch.arange(len(cover))).nonzero().squeeze(1)
    assert set(cover[: len(x)].tolist()) == set(leaves.tolist())
    links = {tuple(pair) for pair in links_in_time(tree, cover).tolist()}
    nested = set()
    for a, b in itertools.combinations(leaves.tolist(), 2):
        if abs(int(tree.frame[a] - tree.frame[b])) == 1 and (
            _within(tree.box[a], tree.box[b]) or _within(tree.box[b], tree.box[a])
        ):
            nested.add((a, b))
    assert links <= nested
    shared = len(torch.unique(torch.cat([frame[:, None], cell], 1), dim=0)) < len(x)
    if not shared:  # of tokens that share a cell only the first is linked
        assert links == nested


def _within(a, b):
    return bool((b[:2] <= a[:2]).all() and (a[2:] <= b[2:]).all())


@given(pictures(), st.data())
@lawful
def test_cuts_of_every_size(drawn, data):
    frame, cell, side, x = drawn
    tree = quadtree(frame, cell, side)
    rows = node_rows(tree, x, torch.ones(len(x)))
    wanted = data.draw(st.integers(1, len(x)))
    group = cut_to(tree, rows, wanted)
    assert sorted(set(group.tolist())) == list(range(wanted))


def test_flat_areas_and_still_tokens_go_first():
    """A flat quarter and a still place merge, what is fine and moves is left alone."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(3, 4, 4, 16, generator=draw)
    x[:, :2, :2] = torch.randn(16, generator=draw)  # flat and still
    x[:, 3, 3] = x[0, 3, 3]  # still
    cells = torch.cartesian_prod(torch.arange(3), torch.arange(4), torch.arange(4))
    tree = quadtree(cells[:, 0], cells[:, 1:], (4, 4))
    rows = node_rows(tree, x.reshape(48, 16), torch.ones(48))
    group = cut_to(tree, rows, 48 - 11 - 2).reshape(3, 4, 4)
    assert len(group[:, :2, :2].unique()) == 1
    assert len(group[:, 3, 3].unique()) == 1
    assert len(group.unique()) == 35


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_cosines_are_means_over_heads(heads):
    x = torch.randn(5, 8, generator=torch.Generator().manual_seed(0)) * 1e30
    x[3] = 0
    x[4, :4] = 0
    cell = torch.stack([torch.zeros(5, dtype=torch.int64), torch.arange(5)], dim=1)
    tree = quadtree(torch.zeros(5, dtype=torch.int64), cell, (1, 5))
    rows = node_rows(tree, x, torch.ones(5), heads=heads)
    a, b = torch.cartesian_prod(torch.arange(5), torch.arange(5)).unbind(1)
    parts = [cosine(p, p) for p in x.split(8 // heads, dim=1)]
    expected = torch.stack(parts).mean(0).flatten()
    torch.testing.assert_close(alike(rows, a, b), expected, atol=1e-6, rtol=1e-5)


def test_published_representatives_may_stay_apart():
    """The walk stops once following twice is following once, with links left unused."""
    links = torch.tensor([[0, 3], [1, 3], [1, 4], [2, 4]])
    assert early_representatives(links, 5).tolist() == [0, 1, 2, 0, 1]
    chain = torch.tensor([[0, 1], [1, 2]])
    assert early_representatives(chain, 4).tolist() == [0, 0, 0, 3]
