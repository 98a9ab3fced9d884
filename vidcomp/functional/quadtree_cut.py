"""Where to cut quadtrees, and what to link in time, so that a given number of groups is left.

One threshold c rules both: a node stays whole if its cosine with each child is at least c, and
a leaf is linked to the most similar one of the picture before if theirs is at least
(4 c c - 1) / 3, which is how alike four children of equal length are to each other if their mean
has a cosine of c with them.  It falls until the number of groups is within reach; the weakest
links, or parts of the last node, are then let go one by one.

Legend: N tokens, M nodes, E links, I inner nodes by falling score.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from vidcomp.functional.components import connected_components
from vidcomp.functional.quadtree import (
    NodeRows,
    Quadtree,
    alike,
    covering_nodes,
    node_scores,
    pairs_in_time,
)

__all__ = ["cut_to", "early_representatives"]


class _State(NamedTuple):
    """Leaves when some inner nodes are kept whole, and links between them."""

    cover: Tensor
    """[M] from ``covering_nodes``."""
    leaves: int
    links: Tensor
    """[E, 2] nodes, the most similar first; none closes a circle, as each leaf has one at most that
    goes back in time."""

    @property
    def groups(self) -> int:
        return self.leaves - len(self.links)


class _Pairs(NamedTuple):
    """Leaves of neighbouring pictures, one of whose boxes has the other."""

    nodes: Tensor
    """[2, E] int64."""
    cosine: Tensor
    """[E] float32."""
    later: Tensor
    """[E] int64 the node that goes back in time."""


def cut_to(tree: Quadtree, rows: NodeRows, num_groups: int) -> Tensor:
    """[N] int64 group of each token, in 0..num_groups - 1.

    Ties go to smaller nodes, then to earlier ones.

    Args:
        tree: trees up to one node a picture.
        rows: features of the nodes.
        num_groups: 1 to N.
    """
    cuts = _Cuts(tree, rows)
    kept = cuts.find(num_groups)
    if kept is None:
        return _joined(tree, cuts.state(len(cuts.inner), reach=None), num_groups)
    if kept:
        finer = cuts.state(kept - 1, reach=kept)
        if finer.groups <= num_groups:
            return _joined(tree, finer, num_groups)
    found = cuts.state(kept, reach=kept)
    if found.leaves >= num_groups:
        return _joined(tree, found, num_groups)
    return _split(tree, rows, found, cuts.inner[:kept], num_groups)


class _Cuts:
    """Trees cut at one threshold after another."""

    def __init__(self, tree: Quadtree, rows: NodeRows) -> None:
        self._tree, self._rows = tree, rows
        num_tokens = tree.starts[1]
        score_I = node_scores(tree, rows)[num_tokens:]
        order_I = score_I.argsort(descending=True, stable=True)
        self.inner = order_I + num_tokens
        """[I] int64 inner nodes by falling score."""
        self._score = score_I[order_I]
        # The last leaf that each node was compared with, in the picture before and in the one
        # after, and their cosines: from cut to cut most pairs stay.
        self._other = torch.full((2, len(tree.parent)), -1, device=tree.parent.device)
        self._cosine = torch.zeros_like(self._other, dtype=torch.float32)

    def find(self, num_groups: int) -> int | None:
        """How many inner nodes stay whole: so many leave ``num_groups`` or fewer, one less more.

        The fewest such, if groups only get fewer; ``None`` if even all of them leave more.
        """
        low, high = 0, len(self.inner)
        if self._tree.starts[1] <= num_groups:
            return low
        if not high or not self._fits(high, num_groups):
            return None
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self._fits(middle, num_groups) else (middle, high)
        return high

    def state(self, kept: int, reach: int | None) -> _State:
        """The first ``kept`` nodes stay whole.

        Args:
            kept: 0 to I.
            reach: leaves are linked if they are as alike as the score of the node before this one
                asks for; 0: none are, ``None``: all are.
        """
        cover_M, leaves = self._cover(kept)
        if reach == 0:
            return _State(cover_M, leaves, cover_M.new_zeros(0, 2))
        pairs = self._pairs(cover_M)
        near = (pairs.cosine >= self._floor(reach)).nonzero().squeeze(1)
        # Ties go to the lower nodes.
        key_E = pairs.nodes[:, near].amin(dim=0) * len(cover_M) + pairs.nodes[:, near].amax(dim=0)
        near = near[key_E.argsort()]
        near = near[pairs.cosine[near].argsort(descending=True, stable=True)]
        rank_M = torch.full_like(cover_M, len(near))
        rank_E = torch.arange(len(near), device=near.device)
        rank_M.scatter_reduce_(0, pairs.later[near], rank_E, "amin")
        best = near[rank_M[pairs.later[near]] == rank_E]
        return _State(cover_M, leaves, pairs.nodes[:, best].T)

    def _fits(self, kept: int, num_groups: int) -> bool:
        """Whether a cut makes so few groups."""
        cover_M, leaves = self._cover(kept)
        if leaves <= num_groups:
            return True
        pairs = self._pairs(cover_M)
        linked_M = torch.zeros_like(cover_M, dtype=torch.bool)
        linked_M[pairs.later[pairs.cosine >= self._floor(kept)]] = True
        return leaves - int(linked_M.sum()) <= num_groups

    def _cover(self, kept: int) -> tuple[Tensor, int]:
        """[M] from ``covering_nodes``, and how many leaves there are."""
        kept_M = torch.zeros_like(self._tree.parent, dtype=torch.bool)
        kept_M[self.inner[:kept]] = True
        cover_M = covering_nodes(self._tree, kept_M)
        node_M = torch.arange(len(cover_M), device=cover_M.device)
        return cover_M, int((cover_M == node_M).sum())

    def _floor(self, reach: int | None) -> float:
        """The least cosine of a link."""
        if reach is None:
            return -torch.inf
        whole = float(self._score[reach - 1])
        return (4 * whole * abs(whole) - 1) / 3

    def _pairs(self, cover_M: Tensor) -> _Pairs:
        before, after = pairs_in_time(self._tree, cover_M)
        cosines = [self._alike(side, *pair) for side, pair in enumerate((before, after))]
        nodes = torch.cat([torch.stack(before), torch.stack(after)], dim=1)
        later = torch.cat([before[0], after[1]])
        return _Pairs(nodes, torch.cat(cosines), later)

    def _alike(self, side: int, leaf_K: Tensor, other_K: Tensor) -> Tensor:
        """[K] cosines of pairs, of which only those are computed that are new."""
        new = (self._other[side, leaf_K] != other_K).nonzero().squeeze(1)
        leaf, other = leaf_K[new], other_K[new]
        self._other[side, leaf] = other
        self._cosine[side, leaf] = alike(self._rows, leaf, other)
        return self._cosine[side, leaf_K]


def early_representatives(link_E2: Tensor, num_nodes: int) -> Tensor:
    """[M] int64 the representative of each node, as published for STTM.

    The lowest number travels along links until following it twice is following it once, which may
    be before it has reached all nodes of a component: linked nodes can stay apart.
    """
    first_M = torch.arange(num_nodes, device=link_E2.device)
    while True:
        low_E = first_M[link_E2].amin(dim=1)
        for end in (0, 1):
            first_M.scatter_reduce_(0, link_E2[:, end], low_E, "amin")
        first_M = first_M[first_M]
        if torch.equal(first_M, first_M[first_M]):
            return first_M


def _joined(tree: Quadtree, state: _State, num_groups: int) -> Tensor:
    """[N] groups when just enough of the links hold."""
    links = state.links[: state.leaves - num_groups]
    leaf_N = state.cover[: tree.starts[1]]
    return _numbered(connected_components(links, len(state.cover))[leaf_N])


def _split(tree: Quadtree, rows: NodeRows, state: _State, kept: Tensor, num_groups: int) -> Tensor:
    """[N] groups when the last kept node lets go of those of its parts that are least like it."""
    node, rest = kept[-1:], kept[:-1]
    kept_M = torch.zeros_like(tree.parent, dtype=torch.bool)
    kept_M[rest] = True
    finer = covering_nodes(tree, kept_M)
    leaf_N = finer[: tree.starts[1]]
    parts = torch.unique(leaf_N[state.cover[: tree.starts[1]] == node])
    similar = alike(rows, parts, node.expand(len(parts)))
    joining = similar.argsort(descending=True, stable=True)
    joining = parts[joining[: len(parts) - (num_groups - state.leaves)]]
    together = torch.stack([joining, joining[:1].expand(len(joining))], dim=1)
    return _numbered(connected_components(together, len(finer))[leaf_N])


def _numbered(group_N: Tensor) -> Tensor:
    number: Tensor = torch.unique(group_N, return_inverse=True)[1]
    return number
