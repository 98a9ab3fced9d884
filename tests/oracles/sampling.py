"""Samplers again, slowly: plain loops and fractions, straight from the definitions."""

import colorsys
import heapq
from fractions import Fraction

import torch
from hypothesis import strategies as st

from vidcomp.sample.base import Timeline


def timeline(pts_s, end_s=None, key=None, thumbnails=None, start_s=None):
    """A timeline from plain lists; the last frame lasts 40 ms, the first is a key frame."""
    pts = torch.tensor(pts_s, dtype=torch.float64)
    is_key = torch.zeros(len(pts), dtype=torch.bool)
    is_key[[0] if key is None else key] = True
    return Timeline(
        pts_s=pts,
        end_s=float(pts[-1]) + 0.04 if end_s is None else end_s,
        is_key=is_key,
        thumbnails=thumbnails,
        start_s=start_s,
    )


def constant_rate(num_frames, fps=25, start_s=0.0):
    """A timeline of a constant frame rate."""
    pts = [start_s + i / fps for i in range(num_frames)]
    return timeline(pts, end_s=start_s + num_frames / fps)


@st.composite
def timelines(draw, max_frames=60):
    """Variable rate, times in whole milliseconds, perhaps cut from the middle of a file.

    A range may start while its first frame is on the screen already.
    """
    gaps = draw(st.lists(st.integers(1, 900), min_size=1, max_size=max_frames))
    start = draw(st.sampled_from([0, 1, 7_013, 3_600_000]))
    ticks = [start + sum(gaps[:i]) for i in range(len(gaps))]
    key = draw(st.lists(st.integers(0, len(gaps) - 1), max_size=len(gaps), unique=True))
    seed = draw(st.integers(0, 9))

    def thumbnails():
        random = torch.Generator().manual_seed(seed)
        data = torch.randint(0, 256, (len(gaps), 3, 4, 5), generator=random, dtype=torch.uint8)
        return data // (20 if seed % 2 else 1)

    return timeline(
        [t / 1000 for t in ticks],
        end_s=(start + sum(gaps)) / 1000,
        key=key,
        thumbnails=thumbnails,
        start_s=draw(st.none() | st.integers(start, start + gaps[0] - 1).map(lambda t: t / 1000)),
    )


def slow_uniform(num_frames, count, rounding):
    """``linspace(0, N - 1, K)`` in fractions; Python rounds half to even."""
    if count == 1:
        return [0]
    exact = [Fraction(i * (num_frames - 1), count - 1) for i in range(count)]
    return [int(x) if rounding == "floor" else round(x) for x in exact]


def slow_fps(pts_s, start_s, end_s, fps, offset):
    """Walk the time grid; at each point the last frame that has begun."""
    picked, j = [], 0
    while start_s + (j + offset) / fps < end_s - 1e-6:
        now = start_s + (j + offset) / fps
        shown = max((i for i, t in enumerate(pts_s) if t <= now + 1e-6), default=0)
        if shown not in picked:
            picked.append(shown)
        j += 1
    if not picked:
        middle = start_s + (end_s - start_s) / 2
        picked = [max(i for i, t in enumerate(pts_s) if t <= middle + 1e-6)]
    return picked


def slow_midpoint(num_frames, count):
    """TSN's test frames."""
    return [int((Fraction(i) + Fraction(1, 2)) * Fraction(num_frames, count)) for i in range(count)]


def slow_change(first, second):
    """Mean difference of hue (0..180, round the circle), saturation and value of two pictures."""
    total, num_pixels = 0.0, first.shape[1] * first.shape[2]
    for y in range(first.shape[1]):
        for x in range(first.shape[2]):
            a, b = (
                colorsys.rgb_to_hsv(*(int(c) / 255 for c in picture[:, y, x]))
                for picture in (first, second)
            )
            hue = abs(a[0] - b[0])
            total += 180 * min(hue, 1 - hue) + 255 * (abs(a[1] - b[1]) + abs(a[2] - b[2]))
    return total / (3 * num_pixels)


def slow_shot_starts(change, ratio, min_change, window):
    """Each change against the mean of its neighbours."""
    starts = [0]
    for t in range(1, len(change)):
        near = [
            change[s] for s in range(t - window, t + window + 1) if s != t and 1 <= s < len(change)
        ]
        mean = sum(near) / len(near) if near else 0
        if change[t] >= min_change and change[t] >= ratio * mean:
            starts.append(t)
    return starts


def slow_aks(scores, count, t1, t2, depth):
    """The published selection: at most ``count``."""
    if len(scores) < count:
        return list(range(len(scores)))
    low, high = min(scores), max(scores)
    scores = [(s - low) / (high - low) if high > low else 0.0 for s in scores]
    picked = []

    def visit(rows, level):
        if not rows:
            return
        values = [scores[i] for i in rows]
        mean = sum(values) / len(values)
        deviation = (sum((v - mean) ** 2 for v in values) / len(values)) ** 0.5
        best = heapq.nlargest(count, values)
        if level == depth or (sum(best) / len(best) - mean > t1 and deviation > t2):
            picked.extend(heapq.nlargest(count // 2**level, rows, key=lambda i: scores[i]))
            return
        half = len(rows) // 2
        visit(rows[:half], level + 1)
        visit(rows[half:], level + 1)

    visit(list(range(len(scores))), 0)
    return sorted(picked)
