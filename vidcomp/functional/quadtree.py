"""Quadtrees over the pictures of a video: cells of 2 x 2 cells, down to single tokens.

As in STTM ("Multi-Granular Spatio-Temporal Token Merging for Training-Free Acceleration of Video
LLMs", Hyun et al., 2025).  Of an odd side the first cell stands alone.  The lowest nodes are the
tokens themselves, so that pictures may have holes, and several tokens may lie in one cell.

Legend: N tokens, M nodes (tokens first, then level by level), L levels, D features, E pairs.
"""

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from vidcomp.functional.reduce import follow, group_sum, real, wide

__all__ = [
    "NodeRows",
    "Quadtree",
    "alike",
    "covering_nodes",
    "leaf_shares",
    "links_in_time",
    "node_rows",
    "node_scores",
    "pairs_in_time",
    "quadtree",
]

_BLOCK = 1 << 22
"""Numbers that are compared at a time."""
_SMALL_BLOCK = 1 << 17
"""The same where they should stay in the processor's cache."""


class Quadtree(NamedTuple):
    """Nodes of the trees of all pictures."""

    parent: Tensor
    """[M] int64 node above each, -1 for those at the top."""
    starts: tuple[int, ...]
    """[L + 1] where each level begins, and M."""
    frame: Tensor
    """[M] int64 picture of each node."""
    box: Tensor
    """[M, 4] int64 (h, w) of the first cell and (h, w) past the last, holes included."""
    before: Tensor
    """[M] int64 the smallest node of the picture before whose box has that of the node, or -1."""
    after: Tensor
    """The same in the picture after."""


class NodeRows(NamedTuple):
    """Features of nodes; those of tokens are not copied."""

    tokens: Tensor
    """[N, D] as they are."""
    means: Tensor
    """[M - N, D] means of the nodes above, float32 (float64 for float64)."""
    scale: Tensor
    """[M, heads] what brings a part of a row to length 1; 0 for parts that are zero."""


class _Level(NamedTuple):
    """Nodes of a level, and the cells in it of all tokens."""

    frame: Tensor
    cell: Tensor
    token_cell: Tensor
    edges: tuple[Tensor, Tensor]
    """Where the cells begin along h and w, and where the last ends."""

    @property
    def side(self) -> tuple[int, int]:
        return len(self.edges[0]) - 1, len(self.edges[1]) - 1

    def key(self, frame_N: Tensor, cell_N2: Tensor) -> Tensor:
        """A number for each picture and cell, in raster order."""
        h, w = self.side
        return (frame_N * h + cell_N2[:, 0]) * w + cell_N2[:, 1]


def quadtree(
    frame_N: Tensor, cell_N2: Tensor, side: tuple[int, int], *, full: bool = True, skip: int = 0
) -> Quadtree:
    """The trees of all pictures.

    Args:
        frame_N: [N] int64 picture of each token, 0..T - 1, each with tokens.
        cell_N2: [N, 2] int64 (h, w) of each token.
        side: cells of a picture.
        full: up to one node a picture; else only until a side has two cells.
        skip: this many levels at the top are left out, all but the tokens at most.
    """
    pyramid = _pyramid(side, full, cell_N2.device)
    pyramid = pyramid[: max(1, len(pyramid) - skip)]
    levels = [_Level(frame_N, cell_N2, cell_N2, pyramid[0])]
    num_cells = len(torch.unique(levels[0].key(frame_N, cell_N2)))
    parents, first = [], 0
    # Tokens that share a cell have that cell above them, and then cells of cells.
    for edges in pyramid if num_cells < len(frame_N) else pyramid[1:]:
        below = levels[-1]
        first += len(below.frame)
        above, parent = _level_above(below, edges)
        levels.append(above)
        parents.append(parent + first)
    sizes = torch.tensor([0] + [len(level.frame) for level in levels])
    parent_M = torch.cat([*parents, torch.full_like(levels[-1].frame, -1)])
    starts = tuple(sizes.cumsum(0).tolist())
    return Quadtree(
        parent=parent_M,
        starts=starts,
        frame=torch.cat([level.frame for level in levels]),
        box=torch.cat([_boxes(level) for level in levels]),
        before=_in_next(levels, starts, parent_M, -1),
        after=_in_next(levels, starts, parent_M, 1),
    )


def covering_nodes(tree: Quadtree, kept_M: Tensor) -> Tensor:
    """[M] int64 the highest kept node at or above each node; -1, or for a token itself, if none.

    The nodes that cover themselves are the leaves of the tree that is cut there.
    """
    node_M = torch.arange(len(kept_M), device=kept_M.device)
    cover_M = torch.where(kept_M, node_M, -1)
    for low, high in reversed(list(zip(tree.starts, tree.starts[1:-1], strict=False))):
        above = cover_M[tree.parent[low:high]]
        cover_M[low:high] = torch.where(above >= 0, above, cover_M[low:high])
    num_tokens = tree.starts[1]
    cover_M[:num_tokens] = torch.where(cover_M < 0, node_M, cover_M)[:num_tokens]
    return cover_M


def leaf_shares(tree: Quadtree, cover_M: Tensor) -> Tensor:
    """[N] float64 the share of each token in its leaf, where children of a node count alike."""
    children_M = torch.bincount(tree.parent[tree.parent >= 0], minlength=len(tree.parent))
    share_M = wide(torch.ones_like(cover_M, dtype=torch.float32))
    for low, high in reversed(list(zip(tree.starts, tree.starts[1:-1], strict=False))):
        parent = tree.parent[low:high]
        share_M[low:high] = torch.where(
            cover_M[parent] >= 0, share_M[parent] / children_M[parent], 1
        )
    return share_M[: tree.starts[1]]


def pairs_in_time(tree: Quadtree, cover_M: Tensor) -> tuple[tuple[Tensor, Tensor], ...]:
    """Pairs of leaves of neighbouring pictures, the box of the first of which lies in the other's.

    Each pair once.

    Returns:
        Pairs with the picture before, and with the one after: [K] int64 different leaves, and [K]
        the leaf that has each.
    """
    leaf_K = (cover_M == torch.arange(len(cover_M), device=cover_M.device)).nonzero().squeeze(1)
    pairs = []
    for next_M in (tree.before, tree.after):
        other_K = follow(next_M[leaf_K], cover_M)  # -1 if there are only smaller ones
        found = other_K >= 0
        if next_M is tree.after:  # of two of one size either lies in the other
            found &= follow(other_K, tree.before) != leaf_K
        pairs.append((leaf_K[found], other_K[found]))
    return tuple(pairs)


def links_in_time(tree: Quadtree, cover_M: Tensor) -> Tensor:
    """[E, 2] int64 pairs of leaves of neighbouring pictures, one of whose boxes has the other.

    Each pair once, the lower node first.
    """
    keys = [
        torch.minimum(one, two) * len(cover_M) + torch.maximum(one, two)
        for one, two in pairs_in_time(tree, cover_M)
    ]
    key_E = torch.cat(keys).sort().values
    return torch.stack([key_E // len(cover_M), key_E % len(cover_M)], dim=1)


def node_rows(
    tree: Quadtree, x_ND: Tensor, mass_N: Tensor, *, heads: int = 1, equal: bool = False
) -> NodeRows:
    """Features of all nodes: means of their children.

    Args:
        tree: the tree.
        x_ND: [N, D] float features of the tokens.
        mass_N: [N] weights.
        heads: cosines are means over this many equal parts of the features.
        equal: all children of a node count alike, whatever they stand for.
    """
    x_ND = x_ND.detach()
    num_tokens = len(x_ND)
    mean_KD = real(x_ND[:0]).new_empty(len(tree.parent) - num_tokens, x_ND.shape[1])
    below, mass = x_ND, mass_N
    for low, high, end in zip(tree.starts, tree.starts[1:], tree.starts[2:], strict=False):
        parent = tree.parent[low:high] - high
        weight = torch.ones_like(mass) if equal else mass
        share = wide(weight) / group_sum(weight, parent, end - high)[parent]
        means = mean_KD[high - num_tokens : end - num_tokens]
        below = means.copy_(group_sum(below, parent, end - high, share, dtype=mean_KD.dtype))
        mass = group_sum(mass, parent, end - high)
    scale = [_scales(rows, heads) for rows in (x_ND, mean_KD)]
    return NodeRows(x_ND, mean_KD, torch.cat(scale))


def node_scores(tree: Quadtree, rows: NodeRows, *, corner: bool = False) -> Tensor:
    """[M] least cosine of each node with its children; inf for tokens and nodes of one child.

    Args:
        tree: the tree.
        rows: features.
        corner: as published: a node with fewer than four children is also compared with the first
            cell of the picture on the level of its children, and one of one child has a score.
    """
    num_tokens, first_top = tree.starts[1], tree.starts[-2]
    child = torch.arange(first_top, device=tree.parent.device)
    parent = tree.parent[:first_top]
    children_M = torch.bincount(parent, minlength=len(tree.parent))
    if corner:
        few = (children_M[num_tokens:] < 4).nonzero().squeeze(1) + num_tokens
        child, parent = torch.cat([child, _first_cells(tree, few)]), torch.cat([parent, few])
    score_M = torch.full((len(tree.parent),), torch.inf, device=parent.device)
    score_M.scatter_reduce_(0, parent, alike(rows, child, parent), "amin")
    return score_M if corner else score_M.masked_fill(children_M == 1, torch.inf)


def alike(rows: NodeRows, a_E: Tensor, b_E: Tensor) -> Tensor:
    """[E] float32 cosines of pairs of nodes, means over heads; zeros are like zeros only."""
    found = [real(rows.scale[:0, 0])]
    step = _rows_at_a_time(rows.tokens)
    for a, b in zip(torch.split(a_E, step), torch.split(b_E, step), strict=True):
        dot_EH = _units(rows, a).mul_(_units(rows, b)).sum(dim=-1)
        zero_EH = (rows.scale[a] == 0) & (rows.scale[b] == 0)
        found.append(torch.where(zero_EH, 1, dot_EH).mean(dim=-1))
    return torch.cat(found).float()


def _pyramid(
    side: tuple[int, int], full: bool, device: torch.device
) -> list[tuple[Tensor, Tensor]]:
    """Edges of the cells along h and w, level by level from the tokens'."""
    levels = [(torch.arange(side[0] + 1, device=device), torch.arange(side[1] + 1, device=device))]
    while max(side) > 1 if full else min(side) > 2:
        h, w = levels[-1]
        levels.append((_coarser(h), _coarser(w)))
        side = len(levels[-1][0]) - 1, len(levels[-1][1]) - 1
    return levels


def _coarser(edges: Tensor) -> Tensor:
    """Edges of pairs of cells; of an odd number the first stays alone."""
    odd = (len(edges) - 1) % 2
    return torch.cat([edges[:odd], edges[odd::2]])


def _level_above(below: _Level, edges: tuple[Tensor, Tensor]) -> tuple[_Level, Tensor]:
    """The level with these cells, and for each node of the one below the number of its parent."""

    def up(cell: Tensor) -> Tensor:
        if below.edges[0] is edges[0]:
            return cell
        odd = torch.tensor([n % 2 for n in below.side], device=cell.device)
        return (cell + odd) // 2

    empty = _Level(below.frame, below.cell, up(below.token_cell), edges)
    key, parent = torch.unique(empty.key(below.frame, up(below.cell)), return_inverse=True)
    h, w = empty.side
    cell = torch.stack([key // w % h, key % w], dim=1)
    return empty._replace(frame=key // (h * w), cell=cell), parent


def _boxes(level: _Level) -> Tensor:
    h, w = level.cell.unbind(dim=1)
    (edge_h, edge_w) = level.edges
    return torch.stack([edge_h[h], edge_w[w], edge_h[h + 1], edge_w[w + 1]], dim=1)


def _in_next(levels: list[_Level], starts: tuple[int, ...], parent_M: Tensor, step: int) -> Tensor:
    """[M] the smallest node of the next (or last) picture whose box has that of the node, or -1."""
    next_M = torch.full_like(parent_M, -1)
    for level, (low, high) in reversed(list(zip(levels, pairwise(starts), strict=True))):
        key, row = level.key(level.frame, level.cell).sort(stable=True)  # the first of equals
        wanted = level.key(level.frame + step, level.cell)
        place = torch.searchsorted(key, wanted).clamp(max=len(key) - 1)
        above = follow(parent_M[low:high], next_M)
        next_M[low:high] = torch.where(key[place] == wanted, row[place] + low, above)
    return next_M


def _first_cells(tree: Quadtree, node: Tensor) -> Tensor:
    """The first cell of the picture of each node, on the level below it; for dense pictures."""
    starts = torch.tensor(tree.starts, device=node.device)
    level = torch.bucketize(node, starts, right=True) - 2  # of the children
    per_frame = (starts[1:] - starts[:-1]) // (tree.frame.max() + 1)
    return starts[level] + tree.frame[node] * per_frame[level]


def _scales(x_ND: Tensor, heads: int) -> Tensor:
    """[N, heads] what brings each part of a row to length 1, 0 for zeros."""
    found = [real(x_ND[:0, :1]).expand(0, heads)]
    for part in torch.split(x_ND, _rows_at_a_time(x_ND)):
        wide_NHd = wide(part).reshape(len(part), heads, x_ND.shape[1] // heads)
        largest_NH = wide_NHd.abs().amax(dim=-1)
        safe_NH = torch.where(largest_NH > 0, largest_NH, 1)
        length_NH = (wide_NHd / safe_NH[..., None]).norm(dim=-1) * safe_NH
        found.append(real(torch.where(largest_NH > 0, 1 / length_NH, 0)).to(found[0].dtype))
    return torch.cat(found)


def _units(rows: NodeRows, node_E: Tensor) -> Tensor:
    """[E, heads, D / heads] parts of length 1."""
    num_tokens, heads = len(rows.tokens), rows.scale.shape[1]
    above = (node_E >= num_tokens).nonzero().squeeze(1)
    x_ED = rows.tokens[node_E.clamp(max=num_tokens - 1)].to(rows.means.dtype)
    if len(above):
        x_ED[above] = rows.means[node_E[above] - num_tokens]
    unit_EHd = x_ED.reshape(len(x_ED), heads, x_ED.shape[1] // heads)
    return unit_EHd.mul_(rows.scale[node_E][..., None])


def _rows_at_a_time(x_ND: Tensor) -> int:
    return max(1, (_BLOCK if x_ND.is_cuda else _SMALL_BLOCK) // max(1, x_ND.shape[1]))
