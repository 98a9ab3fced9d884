"""Diverse salient tokens of frames, and tokens linked to the most similar one of the frame before.

Legend: N rows, n m rows of a frame, D features, T frames, k picks.
"""

from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from vidcomp.functional.diverse import cosine_distances, max_min, max_min_of
from vidcomp.functional.reduce import wide
from vidcomp.functional.rough import nearest
from vidcomp.functional.select import stable_topk
from vidcomp.functional.similarity import paired_cosine

__all__ = ["Selection", "diverse_rows", "event_relevance", "frame_links", "root_rows"]

Selection = Literal["attention", "event", "diversity"]
"""What counts beside the distance of tokens: their importance, that times their relevance for the
frames of the segment (the original's second version), or nothing."""


def event_relevance(x_ND: Tensor, frame_TD: Tensor) -> Tensor:
    """[N] mean dot product of each row with the frames of its segment, which may be negative.

    Divided by the largest absolute one, so that it says the same in every precision.
    """
    mean_D = wide(frame_TD.detach()).mean(dim=0)
    largest = mean_D.abs().amax() if len(mean_D) else mean_D.new_ones(())
    dot_N = torch.mv(wide(x_ND.detach()), mean_D / torch.where(largest > 0, largest, 1))
    top = dot_N.abs().amax()
    return (dot_N / torch.where(top > 0, top, 1)).float()


def diverse_rows(
    x_nD: Tensor, k: int, scale_n: Tensor | None, *, published: bool = False
) -> Tensor:
    """[k] int64 rows of a frame, each far from those before it (max-min), ascending.

    Args:
        x_nD: float features of the rows of one frame.
        k: 0 to n.
        scale_n: importance that distances to a row are multiplied by; by default none.
        published: take negative importances as they are and, where there are any, let a row be
            picked again; else they count as 0.
    """
    if not k:
        return torch.zeros(0, dtype=torch.int64, device=x_nD.device)
    if not published:
        scale_n = None if scale_n is None else scale_n.clamp(min=0)
        return max_min(x_nD, k, scale_N=scale_n).sort().values
    distance_nn = cosine_distances(x_nD, x_nD)
    if scale_n is None:
        return max_min_of(distance_nn, k).sort().values
    again = bool((scale_n < 0).any())
    return max_min_of(distance_nn * scale_n, k, repeats=again).sort().values


def frame_links(
    x_ND: Tensor, frames: list[Tensor], min_cosine: float, most: int | None = None
) -> tuple[Tensor, Tensor]:
    """Rows that are linked to the most similar row of the frame before, ties to the lower row.

    Args:
        x_ND: float features.
        frames: rows of consecutive frames.
        min_cosine: a link is more alike than this.
        most: links that there may be; the most similar ones, ties to the earlier row.

    Returns:
        [L] int64 rows, frame after frame, and [L] int64 the row that each is linked to.
    """
    empty = torch.zeros(0, dtype=torch.int64, device=x_ND.device)
    rows, parents, alike = [empty], [empty], [x_ND.new_zeros(0, dtype=torch.float32)]
    for before, after in pairwise(frames):
        if not len(before) or not len(after):
            continue
        nearest_m = nearest(x_ND, x_ND[before], after)
        cosine_m = paired_cosine(x_ND, x_ND, after, before[nearest_m])
        linked = cosine_m > min_cosine
        rows.append(after[linked])
        parents.append(before[nearest_m[linked]])
        alike.append(cosine_m[linked])
    row, parent = torch.cat(rows), torch.cat(parents)
    if most is not None and len(row) > most:
        strongest = stable_topk(torch.cat(alike), most)
        row, parent = row[strongest], parent[strongest]
    return row, parent


def root_rows(num_rows: int, row_L: Tensor, parent_L: Tensor) -> Tensor:
    """[N] int64 the row that each row's links lead to, itself without a link."""
    root_N = torch.arange(num_rows, device=row_L.device)
    root_N[row_L] = parent_L
    while not torch.equal(above := root_N[root_N], root_N):  # doubles the steps each time
        root_N = above
    return root_N
