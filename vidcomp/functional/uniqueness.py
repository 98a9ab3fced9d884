"""Frames and tokens that are unlike the others, greedily, as UniComp finds them.

UniComp: Rethinking Video Compression Through Informational Uniqueness (Yuan et al., 2025).
Everything is in matrices of one frame's tokens; all groups of frames take their steps together.

Legend: T frames, G groups of rows, B of them, N rows, n rows of the largest group, D features, K
kept rows, E pairs of a kept row and a neighbour.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from vidcomp.functional.rough import near_rows
from vidcomp.functional.similarity import directions

__all__ = ["Unique", "frame_groups", "mean_cosines", "unique_rows"]

_BLOCK = 1 << 23
"""Similarities that are held at a time, as long as a group has fewer."""


class Unique(NamedTuple):
    """Rows that ``unique_rows`` keeps, and what is near to them."""

    rows: Tensor
    """[K] int64 kept rows, ascending."""
    kept: Tensor
    """[E] int64 place in ``rows`` of each pair, ascending."""
    near: Tensor
    """[E] int64 row near to it, of the same group; each kept row is near to itself."""


def frame_groups(frame_TD: Tensor, max_gap: float, max_frames: int) -> Tensor:
    """[T] int64 group of each frame: a run of frames near to its first.

    Args:
        frame_TD: [T, D] float features of the frames.
        max_gap: one minus the cosine up to which a frame joins the group before it.
        max_frames: frames of the largest group.
    """
    unit_TD = directions(frame_TD)
    group_T = torch.empty(len(frame_TD), dtype=torch.int64, device=frame_TD.device)
    start = group = 0
    while start < len(frame_TD):
        stop = min(len(frame_TD), start + max_frames)
        gap = 1 - (unit_TD[start + 1 : stop] * unit_TD[start]).sum(dim=1).float()
        far = (gap > max_gap).nonzero()
        stop = start + 1 + int(far[0]) if len(far) else stop
        group_T[start:stop] = group
        start, group = stop, group + 1
    return group_T


def mean_cosines(x_ND: Tensor) -> Tensor:
    """[N] float32 mean of the cosines of each row with all rows, itself included.

    The mean direction stands in for the rows, so that no matrix of pairs is made.
    """
    unit_ND = directions(x_ND)
    return (unit_ND * unit_ND.mean(dim=0)).sum(dim=1).float()


def unique_rows(
    x_ND: Tensor, group_N: Tensor, share_G: Tensor, max_gap: float, *, fill: bool
) -> Unique:
    """The most unique rows of each group that are not near to a more unique one.

    The rows of a group are visited by rising mean cosine to the group (ties to the lower row); a
    row near to a kept one is passed over.

    Args:
        x_ND: [N, D] float features.
        group_N: [N] int64 group of each row; all of 0..G - 1 have rows.
        share_G: [G] int64 rows to keep of each group, at most what it has.
        max_gap: rows whose cosine is above one minus this are near.
        fill: if too few are left, keep rows that were passed over, the first visited first.
    """
    size_G = torch.bincount(group_N)
    order_N, width = group_N.argsort(stable=True), int(size_G.max())
    first_G = size_G.cumsum(0) - size_G
    step = max(1, _BLOCK // width**2)
    rows, near = [], []
    for start in range(0, len(size_G), step):
        share_B, size_B1 = share_G[start : start + step], size_G[start : start + step, None]
        slot_n = torch.arange(int(size_B1.max()), device=x_ND.device)
        valid_Bn = slot_n < size_B1
        row_Bn = order_N[(first_G[start : start + step, None] + slot_n).where(valid_Bn, 0)]
        found = [_compared(x_ND, r[v], max_gap) for r, v in zip(row_Bn, valid_Bn, strict=True)]
        mean_Bn = pad_sequence([m for m, _ in found], batch_first=True, padding_value=torch.inf)
        near_Bnn = torch.zeros(*valid_Bn.shape, len(slot_n), dtype=torch.bool, device=x_ND.device)
        for into_nn, (_, near_nn) in zip(near_Bnn, found, strict=True):
            into_nn[: len(near_nn), : len(near_nn)] = near_nn
        taken_Bn = _visit(mean_Bn, near_Bnn, share_B, fill)
        near_Bnn.diagonal(dim1=1, dim2=2).copy_(valid_Bn)
        pairs = (near_Bnn & taken_Bn[:, :, None]).nonzero()
        rows.append(row_Bn[pairs[:, 0], pairs[:, 1]])
        near.append(row_Bn[pairs[:, 0], pairs[:, 2]])
    kept_E, near_E = torch.cat(rows), torch.cat(near)
    # Groups need not be runs of rows: pairs follow the rows that are kept.
    order_E = kept_E.argsort(stable=True)
    kept_E, near_E = kept_E[order_E], near_E[order_E]
    is_kept_N = torch.zeros_like(group_N, dtype=torch.bool).index_fill(0, kept_E, value=True)
    place_N = is_kept_N.cumsum(0) - 1
    return Unique(is_kept_N.nonzero().squeeze(1), place_N[kept_E], near_E)


def _compared(x_ND: Tensor, rows: Tensor, max_gap: float) -> tuple[Tensor, Tensor]:
    """[n] mean cosine of each row of one group, and [n, n] bool: near to each other, not itself."""
    x_nD = x_ND.detach().index_select(0, rows)
    unit_nD = directions(x_nD)
    mean_n = torch.mv(unit_nD, unit_nD.mean(dim=0)).float()
    near_nn = near_rows(x_nD, unit_nD, max_gap)
    near_nn.fill_diagonal_(fill_value=False)
    return mean_n, near_nn


def _visit(mean_Bn: Tensor, near_Bnn: Tensor, share_B: Tensor, fill: bool) -> Tensor:
    """[B, n] bool: kept; rows that are no rows have an infinite mean."""
    num_rows = mean_Bn.shape[1]
    invalid_Bn = mean_Bn == torch.inf
    visited_Bn = mean_Bn.argsort(dim=1, stable=True)
    # Rows that nobody is near to change nothing, whenever they are visited.
    alone_Bn = ~near_Bnn.any(dim=2).gather(1, visited_Bn)
    first_Bn = visited_Bn.gather(1, alone_Bn.byte().argsort(dim=1, stable=True))
    passed_Bn = torch.zeros_like(invalid_Bn)
    group_B = torch.arange(len(mean_Bn), device=mean_Bn.device)
    for row_B in first_Bn.T[: int((~alone_Bn).sum(dim=1).max())]:
        shown_B1 = ~passed_Bn[group_B, row_B, None]
        passed_Bn |= near_Bnn[group_B, row_B] & shown_B1
    # Rows that are no rows come last, before them those passed over, each as visited.
    turn_Bn = visited_Bn.argsort(dim=1) + (passed_Bn.long() + 2 * invalid_Bn) * num_rows
    place_Bn = turn_Bn.argsort(dim=1).argsort(dim=1)
    taken_Bn = (place_Bn < share_B[:, None]) & ~invalid_Bn
    return taken_Bn if fill else taken_Bn & ~passed_Bn
