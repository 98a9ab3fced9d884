"""Segments: runs of frames that are alike, found by what is in them.

Every function returns the segment of each frame, 0, 0, 1, 1, 1, 2 ..., ascending without gaps.
``cuts_by_similarity`` is DySeg of FastVID: Dynamic Density Pruning for Fast Video Large Language
Models (Shen et al., 2025), which FlashVID uses as well; ``static_windows`` is HoliTom: Holistic
Token Merging for Fast Video Large Language Models (Shao et al., 2025), by counts of still places
instead of a table of all pairs of frames; ``frame_clusters`` is PruneVid: Visual Token Pruning for
Efficient Video Large Language Models (Huang et al., 2024).

Legend: T frames, N rows (tokens), D features, W frames of the longest window, L rows of the longest
chain, U units (segments, frames or parts of them) that share a budget, K of it.
"""

from itertools import groupby, pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from vidcomp.functional.allocate import shares
from vidcomp.functional.cluster import density_peaks
from vidcomp.functional.reduce import group_sum, real, short_sums, wide
from vidcomp.functional.runs import Chains
from vidcomp.functional.select import stable_topk
from vidcomp.functional.similarity import paired_cosine

__all__ = [
    "cuts_by_similarity",
    "frame_clusters",
    "frame_means",
    "longest_runs",
    "row_in_frame",
    "segments_of",
    "split_long",
    "spread_shares",
    "static_windows",
    "still_frames",
]


class _Run(NamedTuple):
    start: int
    stop: int
    label: int

    @property
    def length(self) -> int:
        return self.stop - self.start


def frame_means(x_ND: Tensor, mass_N: Tensor, frame_N: Tensor) -> Tensor:
    """[T, D] mean of the rows of each frame by mass, float32 (float64 for float64).

    Args:
        x_ND: [N, D] float features.
        mass_N: [N] more than 0.
        frame_N: [N] int64 frame of each row; all of 0..T - 1 have rows.
    """
    num_frames = int(frame_N.max()) + 1
    mass_T = group_sum(mass_N, frame_N, num_frames)
    share_N = wide(mass_N) / mass_T[frame_N]
    dtype = real(x_ND[:0]).dtype
    return short_sums(x_ND.detach(), frame_N, num_frames, share_N, dtype=dtype)


def segments_of(cuts_T: Tensor) -> Tensor:
    """[T] int64 segment of each frame, from [T - 1] bool: entry ``i`` cuts before frame i + 1."""
    return torch.nn.functional.pad(cuts_T.long().cumsum(0), (1, 0))


def cuts_by_similarity(frame_TD: Tensor, threshold: float, at_least: int = 1) -> Tensor:
    """Segments that begin where a frame is unlike the one before.

    Cuts are made where the cosine of neighbouring frames is below ``threshold``, and at the lowest
    cosines (ties to the earlier frame) until there are ``at_least`` segments, or one a frame.

    Args:
        frame_TD: [T, D] float, one row a frame, T at least 1.
        threshold: a cosine; nothing is below -1.
        at_least: segments wanted, at least 1.

    Returns:
        [T] int64 segment of each frame.
    """
    alike_T = paired_cosine(frame_TD.detach()[1:], frame_TD.detach()[:-1])
    cuts_T = alike_T < threshold
    lowest = stable_topk(-alike_T, min(at_least - 1, len(alike_T)))
    return segments_of(cuts_T.index_fill(0, lowest, value=True))


def split_long(segment_T: Tensor, max_frames: int) -> Tensor:
    """Segments of at most ``max_frames`` frames: longer ones become as few equal parts as can be.

    Args:
        segment_T: [T] int64 ascending without gaps.
        max_frames: at least 1.

    Returns:
        [T] int64; parts of one segment differ by a frame at most.
    """
    length_S = torch.bincount(segment_T)
    first_S = length_S.cumsum(0) - length_S
    place_T = torch.arange(len(segment_T), device=segment_T.device) - first_S[segment_T]
    parts_S = (length_S + max_frames - 1) // max_frames
    part_T = place_T * parts_S[segment_T] // length_S[segment_T]
    changes_T = (segment_T.diff() > 0) | (part_T.diff() != 0)
    return segments_of(changes_T)


def spread_shares(weights_U: Tensor, total: int, caps_U: Tensor) -> Tensor:
    """Whole shares by weight for units in the order of time; none is left out if there is enough.

    Every unit gets at least one.  A total below the number of units goes to those that lie in the
    middles of ``total`` equal parts of all weight: evenly over time, not to the first ones.

    Args:
        weights_U: [U] finite, more than 0.
        total: at least 1.
        caps_U: [U] int64 largest shares, at least 1.

    Returns:
        [U] int64 summing to ``min(total, sum(caps))``.
    """
    if total >= len(weights_U):
        return shares(weights_U, total, caps_U, 1)
    end_U = wide(weights_U).cumsum(0)
    middle_K = (torch.arange(total, device=end_U.device) + 0.5) * (end_U[-1] / total)
    unit_K = torch.searchsorted(end_U, middle_K, right=True).clamp(max=len(end_U) - 1)
    return shares(torch.bincount(unit_K, minlength=len(end_U)), total, caps_U)


def row_in_frame(found: Chains, frame_N: Tensor, wanted_N: Tensor) -> Tensor:
    """[N] int64 the row at the same place in another frame, the lowest of several, -1 for none.

    Args:
        found: chains of the rows; a place is a chain.
        frame_N: [N] int64 frame of each row.
        wanted_N: [N] int64 frame to look in; negative: none.
    """
    place_N = torch.empty_like(frame_N)
    place_N[found.order] = found.starts[found.order].long().cumsum(0) - 1
    width = int(frame_N.max()) + 1
    if _is_grid(found, frame_N):
        there_N = (wanted_N >= 0) & (wanted_N < width)
        return torch.where(there_N, found.rows[wanted_N.clamp(0, width - 1), place_N], -1)
    key_N, row_N = (place_N * width + frame_N).sort(stable=True)
    wanted = torch.where(wanted_N >= 0, place_N * width + wanted_N, -1)
    at_N = torch.searchsorted(key_N, wanted).clamp(max=len(key_N) - 1)
    return torch.where(key_N[at_N] == wanted, row_N[at_N], -1)


def _is_grid(found: Chains, frame_N: Tensor) -> bool:
    """Whether every place has one row in every frame."""
    if found.rows.numel() != len(frame_N):
        return False
    frame_L1 = torch.arange(len(found.rows), device=frame_N.device)[:, None]
    return bool((frame_N[found.rows] == frame_L1).all())


def still_frames(alike_N: Tensor, found: Chains, frame_N: Tensor, min_cosine: float) -> Tensor:
    """For how many frames the place of each row had not changed when the row came.

    Args:
        alike_N: [N] cosine with the row before at the same place, as ``runs.joins_above`` gives it.
        found: chains of the rows, places in the order of time.
        frame_N: [N] int64 frame of each row.
        min_cosine: a place did not change if its rows in neighbouring frames are more alike.

    Returns:
        [N] int64; 0 for a row that is unlike the one before it, or has none in the frame before.
    """
    still_N = torch.zeros_like(frame_N)
    for earlier_C, later_C in pairwise(found.rows):
        present = later_C >= 0
        row, before = later_C[present], earlier_C[present]
        stays = (alike_N[row] > min_cosine) & (frame_N[row] == frame_N[before] + 1)
        still_N[row] = torch.where(stays, still_N[before] + 1, 0)
    return still_N


def static_windows(still_N: Tensor, frame_N: Tensor, max_frames: int) -> Tensor:
    """Windows of frames in which the most can be averaged over time.

    Chosen so that the sum over windows of (places that are still in all of it) * (frames - 1), the
    rows that averaging takes away, is the largest; ties to the shorter last window.  Takes
    T * W steps and numbers, whatever N is.

    Args:
        still_N: [N] int64 from ``still_frames``.
        frame_N: [N] int64 frame of each row, in 0..T - 1.
        max_frames: frames of the longest window, at least 1.

    Returns:
        [T] int64 window of each frame.
    """
    num_frames = int(frame_N.max()) + 1
    width = min(max_frames, num_frames)
    removed_TW = _removed(still_N, frame_N, num_frames, width)
    best = removed_TW.new_zeros(num_frames + 1)
    chosen = []
    for stop in range(1, num_frames + 1):
        longest = min(width, stop)
        # Entry i ends here and is i + 1 frames long; the first of equal ones is the shortest.
        total = best[stop - longest : stop].flip(0) + removed_TW[stop - 1, :longest]
        best[stop] = total.max()
        chosen.append(int((total == best[stop]).nonzero()[0]) + 1)
    cuts = torch.zeros(num_frames, dtype=torch.bool)
    stop = num_frames
    while stop > 0:
        stop -= chosen[stop - 1]
        cuts[stop] = True
    return segments_of(cuts[1:]).to(frame_N.device)


def frame_clusters(frame_TD: Tensor, num_clusters: int, neighbours: int = 7) -> Tensor:
    """Segments from clusters of frames (DPC-KNN), whose longest runs take in all other frames.

    Args:
        frame_TD: [T, D] float, one row a frame.
        num_clusters: 1 to T.
        neighbours: frames that vote on a density, itself included.

    Returns:
        [T] int64 segment of each frame; there may be fewer or more segments than clusters.
    """
    _, label_T = density_peaks(frame_TD, num_clusters, neighbours)
    refined_T = longest_runs(label_T)
    return segments_of(refined_T.diff() != 0)


def longest_runs(label_T: Tensor) -> Tensor:
    """Labels of frames of which only the longest runs of each label are left.

    All runs that tie for the longest of their label stay, labels that are never there twice in a
    row do not.  The frames between take the label of the longer of the two runs around them, ties
    to the earlier one.  If no label is there twice in a row, all labels stay.

    Args:
        label_T: [T] int64.

    Returns:
        [T] int64.
    """
    runs = _runs(label_T.tolist())
    longest: dict[int, int] = {}
    for run in runs:
        longest[run.label] = max(run.length, longest.get(run.label, 0))
    kept = [r for r in runs if r.length == longest[r.label] > 1]
    if not kept:
        return label_T.clone()
    refined = label_T.clone()
    refined[: kept[0].start], refined[kept[-1].stop :] = kept[0].label, kept[-1].label
    for left, right in pairwise(kept):
        longer = right if right.length > left.length else left
        refined[left.stop : right.start] = longer.label
    return refined


def _runs(labels: list[int]) -> list[_Run]:
    runs, start = [], 0
    for label, same in groupby(labels):
        stop = start + sum(1 for _ in same)
        runs.append(_Run(start, stop, label))
        start = stop
    return runs


def _removed(still_N: Tensor, frame_N: Tensor, num_frames: int, width: int) -> Tensor:
    """[T, W] int64 on the CPU: rows that averaging takes away from the window of w + 1 frames that
    ends with frame t.
    """
    bin_N = frame_N * width + still_N.clamp(max=width - 1)
    exactly_TW = torch.bincount(bin_N, minlength=num_frames * width).reshape(num_frames, width)
    at_least_TW = exactly_TW.cpu().flip(1).cumsum(1).flip(1)
    return at_least_TW * torch.arange(width)
