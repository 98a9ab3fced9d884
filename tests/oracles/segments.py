"""Segments of frames from their definitions, with plain loops over all pairs and windows."""

from itertools import pairwise

import torch


def cosine(a, b):
    a, b = a.double(), b.double()
    if not a.any() or not b.any():
        return float(not a.any() and not b.any())
    return float(a @ b / (a.norm() * b.norm()))


def slow_cuts(frames, threshold, at_least):
    """Frames before which a segment begins, the first excepted."""
    alike = [round(cosine(frames[i], frames[i - 1]), 6) for i in range(1, len(frames))]
    cuts = {i for i, c in enumerate(alike, 1) if c < threshold}
    for i in sorted(range(1, len(frames)), key=lambda i: alike[i - 1]):
        if len(cuts) + 1 < at_least:
            cuts.add(i)
    return sorted(cuts)


def slow_windows(stays, max_frames):
    """(windows as (first, last), value) from [T - 1][N] whether a place stays, by HoliTom's DP."""
    num_frames = len(stays) + 1
    places = len(stays[0]) if stays else 0

    def value(first, last):
        still = sum(all(stays[t][n] for t in range(first, last)) for n in range(places))
        return still * (last - first)

    best, last_window = [0] * (num_frames + 1), [1] * (num_frames + 1)
    for stop in range(1, num_frames + 1):
        best[stop] = -1
        for length in range(1, min(stop, max_frames) + 1):
            total = best[stop - length] + value(stop - length, stop - 1)
            if total > best[stop]:
                best[stop], last_window[stop] = total, length
    windows, stop = [], num_frames
    while stop:
        windows.append((stop - last_window[stop], stop - 1))
        stop -= last_window[stop]
    return windows[::-1], best[num_frames]


def slow_longest_runs(labels):
    """PruneVid's refinement: every frame looks for the kept runs to its left and right."""
    runs = []
    for i, label in enumerate(labels):
        if runs and runs[-1][0] == label:
            runs[-1][2] = i + 1
        else:
            runs.append([label, i, i + 1])
    kept = []
    for label, start, stop in runs:
        longest = max(b - a for other, a, b in runs if other == label)
        if stop - start == longest and longest > 1:
            kept.append((label, start, stop))
    if not kept:
        return list(labels)
    out = []
    for i in range(len(labels)):
        inside = [k for k in kept if k[1] <= i < k[2]]
        left = [k for k in kept if k[2] <= i][-1:]
        right = [k for k in kept if k[1] > i][:1]
        around = inside or left + right  # the left one first, so that it wins a tie
        out.append(max(around, key=lambda k: k[2] - k[1])[0])
    return out


def segment_bounds(segment):
    """(first, last) frame of each segment of [T] ascending numbers."""
    values = torch.as_tensor(segment).tolist()
    assert values[0] == 0
    assert all(b - a in (0, 1) for a, b in pairwise(values))
    return [
        (values.index(s), len(values) - 1 - values[::-1].index(s)) for s in range(values[-1] + 1)
    ]
