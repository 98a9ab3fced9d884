"""Adaptive pooling in space and time: boxes of patches whose sizes follow the content.

A video is divided by splitting it in two, again and again, each time along any axis; a token is the
mean of a box.  ``partition`` finds the division with the smallest sum of squared distances between
patches and their tokens: among all such divisions it is the best for its own number of tokens at
every corner of the convex hull, and what is left of a budget is spent on further splits.  The idea
to pool and to leave abstraction to the language model is that of "DeCo: Decoupling Token
Compression from Semantic Abstraction in Multimodal Large Language Models" (Yao et al., 2024).

Patches without a token weigh nothing, and a box without tokens is no token.  Several tokens of one
patch are one until all patches are single; then the one farthest from their mean goes first.

Legend: N tokens, D features, T H W the grid, B grids side by side, S segments, K boxes.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from vidcomp.functional.partition_boxes import paint
from vidcomp.functional.partition_build import Cells, Patches, Rules, build_forest
from vidcomp.functional.partition_planner import Planner
from vidcomp.functional.partition_prices import find_prices
from vidcomp.functional.partition_spend import spend
from vidcomp.functional.reduce import wide
from vidcomp.functional.select import stable_topk
from vidcomp.types import Grid

__all__ = ["Patches", "Rules", "least_tokens", "partition"]

_RULES = Rules()

_BLOCK = 1 << 22
"""Numbers that are held at a time (32 MiB)."""


def partition(
    videos: Sequence[Patches], budgets: Sequence[int], rules: Rules = _RULES
) -> list[Tensor]:
    """The best boxes of each video, exactly as many as its budget.

    Args:
        videos: with one (h, w), type and D; each is divided as if it were alone.
        budgets: of each video, 1 to N.
        rules: for all of them.

    Returns:
        [N] int64 box of each token, 0 to budget - 1, for each video.
    """
    videos = [_joined_scenes(video, k) for video, k in zip(videos, budgets, strict=True)]
    cells = [Cells.of(video) for video in videos]
    forest = build_forest(videos, cells, rules)
    best = find_prices(Planner(forest), forest.spread(), budgets, rules.time_price)
    chosen, _ = forest.choose(torch.tensor([[plan.price] for plan in best], dtype=torch.float64))
    groups = []
    for video, found, box_K, k in zip(videos, cells, chosen, budgets, strict=True):
        box_K = spend(forest, box_K, k - len(box_K)).boxes
        group_N = paint(forest.bounds_of(box_K), video.grid)[video.cell]
        groups.append(_split_cells(video, found, group_N, k - len(box_K)))
    return groups


def least_tokens(video: Patches, rules: Rules) -> int:
    """The least budget: more than one a scene if frames must be covered by several tokens."""
    places = video._replace(tokens=video.tokens[:, :0])
    forest = build_forest([places], [Cells.of(places)], rules)
    return forest.plans(torch.ones(1, 1, dtype=torch.float64))[0][0].tokens


def _joined_scenes(video: Patches, budget: int) -> Patches:
    """With fewer tokens than scenes, scenes are what is divided, along time."""
    starts = torch.tensor(video.starts, device=video.cell.device)
    scene_N = torch.bucketize(video.cell // video.grid.per_frame, starts, right=True) - 1
    if budget >= len(torch.unique(scene_N)):
        return video
    return video._replace(cell=scene_N, grid=Grid(len(starts), 1, 1), starts=(0,))


def _split_cells(video: Patches, cells: Cells, group_N: Tensor, left: int) -> Tensor:
    """Tokens of one patch go their own way, the farthest from their mean first.

    The one nearest to the mean stays, ties to the lower row.
    """
    if left <= 0:
        return group_N
    row_N = cells.row[video.cell]
    shared_K = (torch.bincount(row_N)[row_N] > 1).nonzero().squeeze(1)
    step = max(1, _BLOCK // max(1, video.tokens.shape[1]))
    far = [
        (wide(video.tokens[some]) - wide(cells.tokens[row_N[some]])).square().sum(dim=1)
        for some in torch.split(shared_K, step)
    ]
    far_K = torch.cat(far) * video.weight[shared_K]
    order_K = far_K.argsort(stable=True)
    order_K = order_K[row_N[shared_K[order_K]].argsort(stable=True)]
    cell_K = row_N[shared_K[order_K]]
    stays_K = torch.ones_like(cell_K, dtype=torch.bool)
    stays_K[1:] = cell_K[1:] != cell_K[:-1]
    leaving = order_K[~stays_K].sort().values
    chosen = shared_K[leaving[stable_topk(far_K[leaving], left)]]
    first = int(group_N.max()) + 1
    return group_N.index_copy(0, chosen, torch.arange(first, first + left, device=chosen.device))
