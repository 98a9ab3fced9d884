"""Where to cut quadtrees, and what to link in time, so that a given number of groups is left.

One threshold c rules both: a node stays whole if its cosine with each child is at least c, and
a leaf is linked to the most similar one of the picture before if theirs is at least
(4 c c - 1) / 3, which is how alike four children of equal length are to each other if their mean
has a cosine of c with them.  It falls until the number of groups is within reach; the weakest
links, or parts of the last node, are then let go one by one.

Legend: N tokens, M nodes, E links, I inner nodes by falling score.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from vidcomp.functional.components import connected_components
from vidcomp.functional.quadtree import (
    NodeRows,
    Quadtree,
    alike,
    covering_nodes,
    links_in_time,
    node_scores,
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


def cut_to(tree: Quadtree, rows: NodeRows, num_groups: int) -> Tensor:
    """[N] int64 group of each token, in 0..num_groups - 1.

    Ties go to smaller nodes, then to earlier ones.

    Args:
        tree: trees up to one node a picture.
        rows: features of the nodes.
        num_groups: 1 to N.
    """
    score_M = node_scores(tree, rows)
    num_tokens = tree.starts[1]
    inner_I = score_M[num_tokens:].argsort(descending=True, stable=True) + num_tokens

    def state(kept: int, last: int) -> _State:
        """The first ``kept`` nodes stay whole; links reach as far as the node before ``last``."""
        whole = float(score_M[inner_I[last - 1]]) if last else torch.inf
        return _state(tree, rows, inner_I[:kept], (4 * whole * abs(whole) - 1) / 3)

    kept = _bisect(lambda i: _groups(state(i, i)) <= num_groups, len(inner_I))
    if kept is None:
        return _joined(tree, _state(tree, rows, inner_I, -torch.inf), num_groups)
    if kept:
        finer = state(kept - 1, kept)
        if _groups(finer) <= num_groups:
            return _joined(tree, finer, num_groups)
    found = state(kept, kept)
    if found.leaves >= num_groups:
        return _joined(tree, found, num_groups)
    return _split(tree, rows, found, inner_I[:kept], num_groups)


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


def _bisect(holds: Callable[[int], bool], size: int) -> int | None:
    """A number in 0..size that holds while the one before does not, or ``None`` if size does not.

    The first such number, if all that follow it hold as well.
    """
    if holds(0):
        return 0
    if not holds(size):
        return None
    low, high = 0, size
    while high - low > 1:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle
    return high


def _state(tree: Quadtree, rows: NodeRows, kept: Tensor, floor: float) -> _State:
    kept_M = torch.zeros(len(tree.parent), dtype=torch.bool, device=tree.parent.device)
    kept_M[kept] = True
    cover_M = covering_nodes(tree, kept_M)
    leaves = int((cover_M == torch.arange(len(cover_M), device=cover_M.device)).sum())
    if floor == torch.inf:
        return _State(cover_M, leaves, tree.parent.new_zeros(0, 2))
    link_E2 = links_in_time(tree, cover_M)
    similar_E = alike(rows, link_E2[:, 0], link_E2[:, 1])
    order_E = similar_E.argsort(descending=True, stable=True)
    order_E = order_E[similar_E[order_E] >= floor]
    # Ties go to the lower nodes, by which the links are sorted.
    later_E = link_E2.gather(1, tree.frame[link_E2].argmax(dim=1, keepdim=True)).squeeze(1)
    rank_M = torch.full_like(cover_M, len(link_E2))
    rank_E = torch.arange(len(order_E), device=order_E.device)
    rank_M.scatter_reduce_(0, later_E[order_E], rank_E, "amin")
    best_E = order_E[rank_M[later_E[order_E]] == rank_E]
    return _State(cover_M, leaves, link_E2[best_E])


def _groups(state: _State) -> int:
    return state.leaves - len(state.links)


def _joined(tree: Quadtree, state: _State, num_groups: int) -> Tensor:
    """[N] groups when just enough of the links hold."""
    links = state.links[: state.leaves - num_groups]
    leaf_N = state.cover[: tree.starts[1]]
    return _numbered(connected_components(links, len(state.cover))[leaf_N])


def _split(tree: Quadtree, rows: NodeRows, state: _State, kept: Tensor, num_groups: int) -> Tensor:
    """[N] groups when the last kept node lets go of those of its parts that are least like it."""
    node, rest = kept[-1:], kept[:-1]
    finer = _state(tree, rows, rest, torch.inf).cover
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
