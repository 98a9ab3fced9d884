"""Where a token enters a placeholder sequence: a source patch of its own, different for each.

Legend: N tokens, P source patches.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vidcomp.errors import ShapeError
from vidcomp.functional.assignment import assign_rows
from vidcomp.functional.geometry import patch_cells
from vidcomp.functional.reduce import group_sum, wide
from vidcomp.types import Grid, VideoTokens

__all__ = ["anchors"]

_STEPS = 1 << 20
"""Squared distances are compared in this many steps a unit, so that rounding decides no tie."""


def anchors(video: VideoTokens) -> Tensor:
    """The source patch that stands in for each token.

    With hard provenance, of the token's own patches the one nearest to their centre (squared
    distance in grid cells), ties to the lower patch.  With soft provenance, where tokens share
    patches, the assignment of different patches that leaves the fewest tokens on a patch that is
    not theirs and then has the least sum of squared distances.

    Returns:
        [N] int64 patches, all different.

    Raises:
        ShapeError: no provenance, a token without patches (structural rows have none), or more
            tokens than patches.
    """
    if num := int((video.mass == 0).sum()):
        raise ShapeError(
            f"each token needs a source patch, got {num} structural rows, which have none: "
            f"take the anchors of those with mass, and place the others by what they follow"
        )
    if len(video) > video.grid.num_patches:
        raise ShapeError(
            f"{len(video)} tokens cannot have different patches of {video.grid.num_patches}: "
            f"reduce first"
        )
    if video.assign is not None:
        return _nearest_own(video.assign, video.grid, len(video))
    if video.weights is not None:
        return _nearest_shared(video.weights, video.grid)
    raise ShapeError(
        "anchors need the tokens' provenance, got tokens without assign and weights: keep it (in "
        "a cache: store.assign=true)"
    )


def _nearest_own(assign_P: Tensor, grid: Grid, num_tokens: int) -> Tensor:
    count_N = torch.bincount(assign_P[assign_P >= 0], minlength=num_tokens)
    if bool((count_N == 0).any()):
        raise ShapeError(
            f"each token needs a source patch, got {int((count_N == 0).sum())} without: keep the "
            f"provenance that belongs to these tokens"
        )
    cells_P3 = patch_cells(grid, assign_P.device)
    centre_N3 = group_sum(cells_P3, assign_P, num_tokens) / count_N[:, None]
    distance_P = (wide(cells_P3) - centre_N3[assign_P]).square().sum(dim=1)
    order_P = (distance_P * _STEPS).round().argsort(stable=True)
    order_P = order_P[assign_P[order_P].argsort(stable=True)]
    first_N = count_N.cumsum(0) - count_N + int((assign_P < 0).sum())
    return order_P[first_N]


def _nearest_shared(weights_NP: Tensor, grid: Grid) -> Tensor:
    matrix = weights_NP.detach().cpu().coalesce()
    (row_Q, patch_Q), value_Q = matrix.indices(), matrix.values().double()
    cells_P3 = patch_cells(grid).double()
    centre_N3 = group_sum(cells_P3, row_Q, len(matrix), value_Q, patch_Q)
    columns: Tensor = patch_Q.unique()
    if len(columns) < len(matrix):  # fewer patches than tokens: borrow from the others
        columns = torch.arange(grid.num_patches)
    cells, centre = cells_P3[columns].numpy(), centre_N3.numpy()
    place = torch.zeros(grid.num_patches, dtype=torch.int64)
    place[columns] = torch.arange(len(columns))
    start = torch.searchsorted(row_Q, torch.arange(len(matrix) + 1)).numpy()
    own = place[patch_Q].numpy()
    # One step to a foreign patch costs more than all the distances together.
    foreign = float(len(matrix) * sum(n * n for n in grid) + 1)

    def cost(row: int) -> NDArray[np.float64]:
        distance: NDArray[np.float64] = ((cells - centre[row]) ** 2).sum(axis=1)
        distance = np.round(distance * _STEPS) / _STEPS + foreign
        distance[own[start[row] : start[row + 1]]] -= foreign
        return distance

    found = assign_rows(cost, len(matrix), len(columns))
    anchor_N: Tensor = columns[torch.from_numpy(found)]
    return anchor_N.to(weights_NP.device)
