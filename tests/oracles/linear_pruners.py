"""Droppers and scorers of linear cost, by plain loops from their descriptions."""

import math

import torch
from oracles.match import cosine_slowly
from oracles.shares import apportion_slowly


def pixel_change_slowly(frames, cell, *, threshold, tubelet, scale, reference):
    """[S, h, w] float64 mean absolute differences and bool: kept."""
    unit = 255 if frames.dtype == torch.uint8 else 1
    x = frames.double() / unit
    x = x * torch.tensor(scale or [1.0] * frames.shape[1], dtype=torch.float64)[:, None, None]
    steps = -(-len(x) // tubelet)
    h, w = x.shape[2] // cell[0], x.shape[3] // cell[1]
    change = torch.full((steps, h, w), torch.inf, dtype=torch.float64)
    for i in range(h):
        for j in range(w):
            part = x[:, :, i * cell[0] : (i + 1) * cell[0], j * cell[1] : (j + 1) * cell[1]]
            last = part[0]
            for s in range(1, steps):
                final = part[min(s * tubelet + tubelet - 1, len(x) - 1)]
                change[s, i, j] = (final - last).abs().mean()
                if reference == "previous" or change[s, i, j] > threshold:
                    last = part[s * tubelet]
    return change, change > threshold


def places_slowly(positions):
    """Rows at each nearest place of the picture, in the order of time."""
    found = {}
    for row, (t, h, w) in enumerate(positions.tolist()):
        found.setdefault((math.floor(h + 0.5), math.floor(w + 0.5)), []).append((t, row))
    return [[row for _, row in sorted(rows)] for rows in found.values()]


def changes_slowly(x, positions, max_cosine, reference):
    """{row: change} of all rows (infinite for the first of a place), and the rows kept."""
    change, kept = {}, set()
    for rows in places_slowly(positions):
        change[rows[0]] = math.inf
        kept.add(rows[0])
        last = rows[0]
        for row in rows[1:]:
            change[row] = 1 - cosine_slowly(x[row].tolist(), x[last].tolist())
            if 1 - change[row] <= max_cosine:
                kept.add(row)
            if reference == "previous" or row in kept:
                last = row
    return change, kept


def strongest_slowly(change, k):
    """Rows with the largest of {row: change}; new places evenly, and half at most, if too many."""
    new = sorted(row for row, value in change.items() if value == math.inf)
    others = sorted((r for r in change if r not in set(new)), key=lambda r: (-change[r], r))
    if len(new) <= k:
        return sorted(new + others[: k - len(new)])
    others = others[: k // 2]
    count = k - len(others)
    return sorted([new[(2 * i + 1) * len(new) // (2 * count)] for i in range(count)] + others)


def vidcom2_slowly(x_TnD, budget, temperature):
    """(score [T, n] of similarity, share of each frame) from the description, frames alike long."""
    num_frames, n, dim = x_TnD.shape
    flat = x_TnD.double().flatten(0, 1)
    order = sorted(range(dim), key=lambda d: float(flat[:, d].var(unbiased=False)))
    chosen = sorted(order[: max(1, dim // 2)])
    unit = x_TnD.double()[..., chosen]
    unit = unit / unit.norm(dim=-1, keepdim=True)

    def similarity(row, centre):
        square = float(((row - centre) ** 2).sum())
        return sum(math.exp(-square / (2 * 2.0**e)) for e in range(-3, 2))

    video_mean = unit.flatten(0, 1).mean(0)
    score, frame_score = torch.zeros(num_frames, n, dtype=torch.float64), []
    for t in range(num_frames):
        to_video = [similarity(unit[t, i], video_mean) for i in range(n)]
        for i in range(n):
            score[t, i] = to_video[i] + similarity(unit[t, i], unit[t].mean(0))
        frame_score.append(-sum(to_video) / n)
    top = max(frame_score)
    soft = [math.exp((s - top) / temperature) for s in frame_score]
    rates = [1 + s / sum(soft) - 1 / num_frames for s in soft]
    return score, apportion_slowly(rates, budget, [n] * num_frames, 1)


def v_cast_slowly(x_TnD, budget, temperature):
    """(score [T, n], share of each frame) from the description, frames alike long."""
    num_frames, n, _ = x_TnD.shape
    x = x_TnD.double()
    mean = x.mean(1)
    unit = mean / mean.norm(dim=1, keepdim=True)
    turn = [1.0] * num_frames
    for t in range(1, num_frames - 1):
        step, following = unit[t] - unit[t - 1], unit[t + 1] - unit[t]
        turn[t] = 1 - cosine_slowly(step.tolist(), following.tolist())
    weights = [math.exp(c / temperature) for c in turn]
    score = torch.zeros(num_frames, n, dtype=torch.float64)
    for t in range(num_frames):
        length = x[t].norm(dim=1)
        for i in range(n):
            score[t, i] = 1 - cosine_slowly(x[t, i].tolist(), mean[t].tolist())
            score[t, i] += (length[i] - length.min()) / (length.max() - length.min())
    return score, apportion_slowly(weights, budget, [n] * num_frames, 1)


def unique_slowly(x, shares, groups, max_gap, fill):
    """{kept row: rows near to it} of each group, as UniComp visits them."""
    found = {}
    for group, share in enumerate(shares):
        rows = [r for r, g in enumerate(groups) if g == group]
        alike = {(a, b): cosine_slowly(x[a].tolist(), x[b].tolist()) for a in rows for b in rows}
        mean = {a: round(sum(alike[a, b] for b in rows) / len(rows), 6) for a in rows}
        near = {a: [b for b in rows if a == b or 1 - alike[a, b] < max_gap] for a in rows}
        kept, passed = [], []
        for row in sorted(rows, key=lambda r: (mean[r], r)):
            (passed if any(row in near[k] for k in kept) else kept).append(row)
        chosen = (kept + passed if fill else kept)[:share]
        found |= {row: near[row] for row in chosen}
    return found
