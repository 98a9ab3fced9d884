"""Connected components of graphs and the trees that hold them together, without loops over edges.

Labels travel along edges and pointers are halved until nothing changes, so that a graph takes a
number of steps that grows with the logarithm of its size.  Trees are Borůvka's (1926): every
component takes the best edge that leaves it.  Cutting a best spanning forest at its weakest edges
is single linkage (Sibson, SLINK, 1973), one component fewer with every edge.

Legend: N nodes, E edges, F edges of a forest, C components, B parts, R rows of the largest part.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from vidcomp.functional.allocate import top_of_each
from vidcomp.functional.similarity import cosine

__all__ = [
    "Edges",
    "best_joins",
    "components_above",
    "connected_components",
    "similarity_forest",
    "spanning_forest",
]

Edges = tuple[Tensor, Tensor]
"""[E, 2] int64 nodes and [E] weights."""

_BLOCK = 1 << 22
"""Numbers that are worked on at a time."""
_HELD = 1 << 25
"""Similarities of one part that are held (128 MiB); if there are more, they are computed again."""

_Search = Callable[[Tensor], tuple[Tensor, Tensor]]


def connected_components(edge_E2: Tensor, num_nodes: int) -> Tensor:
    """[N] int64 component of each node, in 0..C - 1, numbered by their lowest nodes.

    Args:
        edge_E2: [E, 2] int64 nodes in any order, repeats and loops allowed.
        num_nodes: N.
    """
    lowest_N = _lowest(edge_E2, num_nodes)
    is_root = lowest_N == torch.arange(num_nodes, device=lowest_N.device)
    number_N = is_root.cumsum(0) - 1
    return number_N[lowest_N]


def spanning_forest(edge_E2: Tensor, weight_E: Tensor, num_nodes: int) -> Tensor:
    """[F] int64 edges of the forest of the largest total weight, the heaviest first.

    F is N less the number of components; the first ``k`` of them make N - k components, those
    of single linkage.  Ties go to the lower edge.

    Args:
        edge_E2: [E, 2] int64 nodes.
        weight_E: [E] float or integer.
        num_nodes: N.
    """
    order_E = weight_E.argsort(descending=True, stable=True)
    ranked_E2 = edge_E2[order_E]
    rank_E = torch.arange(len(order_E), device=order_E.device)
    label_N = torch.arange(num_nodes, device=edge_E2.device)
    none, taken = len(order_E), rank_E[:0]
    while True:
        ends_E2 = label_N[ranked_E2[rank_E]]
        leaves_E = ends_E2[:, 0] != ends_E2[:, 1]
        rank_E, ends_E2 = rank_E[leaves_E], ends_E2[leaves_E]
        if not len(rank_E):
            return order_E[taken.sort().values]
        best_N = torch.full_like(label_N, none)
        for end in (0, 1):
            best_N.scatter_reduce_(0, ends_E2[:, end], rank_E, "amin")
        is_best_E = torch.zeros(none, dtype=torch.bool, device=rank_E.device)
        is_best_E[best_N[best_N < none]] = True
        new = is_best_E.nonzero().squeeze(1)
        taken = torch.cat([taken, new])
        label_N = _lowest(label_N[ranked_E2[new]], num_nodes)[label_N]


def best_joins(edges: Edges, num_nodes: int, num_joins: int) -> Tensor:
    """[N] int64 component of each node after the ``num_joins`` heaviest joins, N - joins in all.

    Args:
        edges: nodes and weights.
        num_nodes: N.
        num_joins: at most as many as the edges can make.
    """
    edge_E2, weight_E = edges
    forest = spanning_forest(edge_E2, weight_E, num_nodes)
    return connected_components(edge_E2[forest[:num_joins]], num_nodes)


def components_above(x_ND: Tensor, threshold: float, part_N: Tensor | None = None) -> Tensor:
    """[N] int64 component of each row when all rows (of each part) above a cosine are joined.

    Components are numbered part after part, in the order of their first row with the most
    neighbours.

    Args:
        x_ND: [N, D] any float type.
        threshold: rows are joined if their cosine is more.
        part_N: [N] int64 part of each row, in 0..B - 1, each with rows; ``None``: one part.
    """
    if part_N is None:
        part_N = torch.zeros(len(x_ND), dtype=torch.int64, device=x_ND.device)
    edge_E2, weight_E = similarity_forest(x_ND, part_N)
    component_N = connected_components(edge_E2[weight_E > threshold], len(x_ND))
    ones_C = torch.ones_like(torch.bincount(component_N))
    hub_C = top_of_each(_neighbours(x_ND, part_N, threshold), component_N, ones_C)
    hub_C = hub_C[part_N[hub_C].argsort(stable=True)]
    rank_C = torch.empty_like(ones_C)
    rank_C[component_N[hub_C]] = torch.arange(len(hub_C), device=hub_C.device)
    return rank_C[component_N]


def similarity_forest(x_ND: Tensor, part_N: Tensor | None = None) -> Edges:
    """The best spanning tree of all rows (of each part) by cosine.

    Takes R^2 D a part and a few rounds over R^2 similarities, which are computed anew in each
    round if they are too many to be held.

    Args:
        x_ND: [N, D] any float type.
        part_N: [N] int64 part of each row, in 0..B - 1, each with rows; rows of different parts
            have no edge.  ``None``: one part.

    Returns:
        [N - B, 2] int64 rows and [N - B] float32 cosines; ties go to the lower rows.
    """
    x_ND = x_ND.detach()
    if part_N is None:
        part_N = torch.zeros(len(x_ND), dtype=torch.int64, device=x_ND.device)
    sizes = torch.bincount(part_N)
    rows = torch.split(part_N.argsort(stable=True), sizes.tolist())
    found = [_forest_of(x_ND, batch) for batch in _batches(rows, x_ND.shape[1])]
    if not found:
        return part_N.new_zeros(0, 2), x_ND.new_zeros(0, dtype=torch.float32)
    return torch.cat([e for e, _ in found]), torch.cat([w for _, w in found])


def _lowest(edge_E2: Tensor, num_nodes: int) -> Tensor:
    """[N] int64 the lowest node of each node's component."""
    parent_N = torch.arange(num_nodes, device=edge_E2.device)
    while True:
        ends_E2 = parent_N[edge_E2]
        low_E, high_E = ends_E2.amin(dim=1), ends_E2.amax(dim=1)
        apart_E = low_E != high_E
        if not bool(apart_E.any()):
            return parent_N
        edge_E2 = edge_E2[apart_E]
        # All ends are roots here, and a root only ever hangs onto a lower one: no circles.
        parent_N.scatter_reduce_(0, high_E[apart_E], low_E[apart_E], "amin")
        while not torch.equal(parent_N, above_N := parent_N[parent_N]):
            parent_N = above_N


def _neighbours(x_ND: Tensor, part_N: Tensor, threshold: float) -> Tensor:
    """[N] int64 rows of the same part above a cosine."""
    count_N = torch.zeros_like(part_N)
    for rows in torch.split(part_N.argsort(stable=True), torch.bincount(part_N).tolist()):
        for some in torch.split(rows, max(1, _BLOCK // max(1, len(rows)))):
            count_N[some] = (cosine(x_ND[some], x_ND[rows]) > threshold).sum(dim=1)
    return count_N


def _batches(rows: tuple[Tensor, ...], dim: int) -> list[list[Tensor]]:
    """Runs of parts whose similarities, padded to squares of the largest, are found together."""
    batches: list[list[Tensor]] = []
    largest = 0
    for part in rows:
        largest = max(largest, len(part))
        if not batches or (len(batches[-1]) + 1) * largest * max(largest, dim) > _BLOCK:
            batches.append([])
            largest = len(part)
        batches[-1].append(part)
    return batches


def _forest_of(x_ND: Tensor, parts: list[Tensor]) -> Edges:
    if len(parts) == 1 and len(parts[0]) ** 2 > _HELD:
        rows_N = parts[0]
        edge_E2, weight_E = _boruvka(
            _search_in_blocks(x_ND[rows_N]), torch.arange(len(rows_N), device=rows_N.device)
        )
        return rows_N[edge_E2], weight_E
    row_BR = torch.nn.utils.rnn.pad_sequence(parts, batch_first=True, padding_value=-1)
    sim_BRR = cosine(x_ND[row_BR.clamp(min=0)], x_ND[row_BR.clamp(min=0)])
    there_BR = row_BR >= 0
    sim_BRR.masked_fill_(~(there_BR[:, :, None] & there_BR[:, None, :]), -torch.inf)
    edge_E2, weight_E = _boruvka(
        _search_held(sim_BRR), torch.arange(row_BR.numel(), device=row_BR.device)
    )
    return row_BR.flatten()[edge_E2], weight_E


def _search_held(sim_BRR: Tensor) -> _Search:
    """The best row of another component, from similarities that are there."""
    num_parts, size, _ = sim_BRR.shape
    first_B1 = torch.arange(num_parts, device=sim_BRR.device)[:, None] * size

    def search(label_N: Tensor) -> tuple[Tensor, Tensor]:
        label_BR = label_N.reshape(num_parts, size)
        same_BRR = label_BR[:, :, None] == label_BR[:, None, :]
        value_BR, column_BR = sim_BRR.masked_fill(same_BRR, -torch.inf).max(dim=2)
        return value_BR.flatten(), (column_BR + first_B1).flatten()

    return search


def _search_in_blocks(x_ND: Tensor) -> _Search:
    """The best row of another component, from similarities of some rows at a time."""
    step = max(1, _BLOCK // len(x_ND))

    def search(label_N: Tensor) -> tuple[Tensor, Tensor]:
        found = []
        for start in range(0, len(x_ND), step):
            sim_RN = cosine(x_ND[start : start + step], x_ND)
            same_RN = label_N[start : start + step, None] == label_N
            found.append(sim_RN.masked_fill_(same_RN, -torch.inf).max(dim=1))
        return torch.cat([v for v, _ in found]), torch.cat([i for _, i in found])

    return search


def _boruvka(search: _Search, label_N: Tensor) -> Edges:
    """The forest of a graph of which only the best edge out of a component is ever asked for.

    Args:
        search: the best similarity of each row to a row of another component (-inf: there is
            none), and that row, the lowest of equals.
        label_N: [N] int64 nodes.
    """
    num_nodes = len(label_N)
    edges, weights = [torch.stack([label_N, label_N], dim=1)[:0]], []
    while True:
        value_N, other_N = search(label_N)
        weights.append(value_N[:0])
        row = (value_N > -torch.inf).nonzero().squeeze(1)
        if not len(row):
            break
        row = row[_best_of_each(label_N[row], value_N[row], row, other_N[row], num_nodes)]
        edges.append(torch.stack([row, other_N[row]], dim=1))
        weights.append(value_N[row])
        label_N = _lowest(torch.cat(edges), num_nodes)
    edge_E2, weight_E = torch.cat(edges), torch.cat(weights)
    # An edge is found from both ends; and a cosine may differ in its last bit from that of the
    # swapped pair, which would close a circle.
    forest = spanning_forest(edge_E2, weight_E, num_nodes)
    return edge_E2[forest], weight_E[forest]


def _best_of_each(
    label_E: Tensor, value_E: Tensor, row_E: Tensor, other_E: Tensor, num_nodes: int
) -> Tensor:
    """[C] int64 the entry with the highest value of each component, ties to the lower rows."""
    best_N = value_E.new_full((num_nodes,), -torch.inf)
    best_N.scatter_reduce_(0, label_E, value_E, "amax")
    is_best_E = value_E == best_N[label_E]
    key_E = torch.minimum(row_E, other_E) * num_nodes + torch.maximum(row_E, other_E)
    least_N = torch.full_like(best_N, num_nodes**2, dtype=torch.int64)
    least_N.scatter_reduce_(0, label_E[is_best_E], key_E[is_best_E], "amin")
    return (is_best_E & (key_E == least_N[label_E])).nonzero().squeeze(1)
