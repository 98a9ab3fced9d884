"""Clustering and diverse selection by plain loops, straight from the definitions."""

import math

import torch
from torch.nn.functional import normalize


def density_peaks_slowly(x, num_clusters, neighbours):
    """Centres and assignment of [N, D] rows; equal densities and scores go to the lower row."""
    x, n = x.double(), len(x)
    distance = [
        [float((x[i] - x[j]).norm()) / math.sqrt(x.shape[1]) for j in range(n)] for i in range(n)
    ]
    k = min(neighbours, n)
    density = [-sum(d * d for d in sorted(distance[i])[:k]) / k for i in range(n)]
    rank = sorted(range(n), key=lambda i: (-density[i], i))
    separation = [0.0] * n
    for place, i in enumerate(rank):
        denser = rank[:place]
        far = max(max(row) for row in distance)
        separation[i] = min(distance[i][j] for j in denser) if denser else far
    score = [
        density[i] + math.log(separation[i]) if separation[i] > 0 else -math.inf for i in range(n)
    ]
    centres = sorted(range(n), key=lambda i: (-score[i], i))[:num_clusters]
    assign = [
        min(range(num_clusters), key=lambda c: (distance[i][centres[c]], c)) for i in range(n)
    ]
    for place, i in enumerate(centres):
        assign[i] = place
    return centres, assign


def max_min_slowly(x, k, scale=None):
    """Picks in their order: the least distance to the picked rows is looked up anew every time."""
    unit = normalize(x.double(), dim=-1)
    distance = (1 - unit @ unit.T) * (1 if scale is None else scale.double())
    picked = []
    for _ in range(k):
        best, best_value = -1, -math.inf
        for i in range(len(x)):
            if i in picked:
                continue
            others = picked or [j for j in range(len(x)) if j != i]
            value = min((float(distance[j, i]) for j in others), default=0.0)
            if value > best_value:
                best, best_value = i, value
        picked.append(best)
    return picked


def greedy_dpp_slowly(x, relevance, k):
    """Picks in their order: each has the largest determinant of the kernel of all picks with it."""
    unit = normalize(x.double(), dim=-1)
    r = relevance.double()
    kernel = r[:, None] * (unit @ unit.T) * r
    picked = []
    for _ in range(k):
        rest = [i for i in range(len(x)) if i not in picked]
        gains = [float(torch.linalg.det(kernel[[*picked, i]][:, [*picked, i]])) for i in rest]
        picked.append(rest[gains.index(max(gains))])
    return picked


def distinct_first_slowly(x, score, k, max_cosine):
    """Picks in their order, one row visited after the other."""
    unit = normalize(x.double(), dim=-1)
    picked = []
    for i in sorted(range(len(x)), key=lambda i: (-float(score[i]), i)):
        if len(picked) == k:
            break
        if all(float(unit[i] @ unit[j]) < max_cosine for j in picked):
            picked.append(i)
    return picked


def seeds_slowly(unit, weight, k):
    """Rows: a fifth evenly spaced, further fifths by steps of the weighted distance to those."""
    unit, n = unit.double(), len(unit)
    share = math.ceil(k / 5)
    seeds = [(2 * c + 1) * n // (2 * share) for c in range(share)]
    while len(seeds) < k:
        distance = [min(float(1 - unit[i] @ unit[s]) for s in seeds) for i in range(n)]
        far = [float(weight[i]) * d if d > 1e-6 else 0.0 for i, d in enumerate(distance)]
        count, new, total = min(share, k - len(seeds)), set(), 0.0
        for i in range(n):
            total += far[i]
            if any(total - far[i] < (j + 0.5) / count * sum(far) <= total for j in range(count)):
                new.add(i)
        if not new:
            break
        seeds += sorted(new)
    return seeds


def kmeans_slowly(unit, weight, k, rounds):
    """Groups of rows; one without rows takes the row that fits its own group worst."""
    unit, n = unit.double(), len(unit)
    centres = [unit[i] for i in seeds_slowly(unit, weight, k)]
    group = None
    for turn in range(rounds):
        if turn:
            sums = [
                sum(weight[i].double() * unit[i] for i in range(n) if group[i] == c)
                for c in range(k)
            ]
            centres = [s / s.norm() if s.norm() > 0 else s for s in sums]
        product = [[float(torch.dot(unit[i], c)) for c in centres] for i in range(n)]
        group = [
            max(range(len(centres)), key=lambda c: (round(product[i][c], 7), -c)) for i in range(n)
        ]
        fit = [product[i][group[i]] for i in range(n)]
        for c in range(k):
            if c in group:
                continue
            spare = [
                i
                for i in range(n)
                if any(
                    j != i and group[j] == group[i] and (fit[j], -j) > (fit[i], -i)
                    for j in range(n)
                )
            ]
            worst = min(spare, key=lambda i: (fit[i], i))
            group[worst], fit[worst] = c, math.inf
    return group


def rotated_slowly(x, position, theta):
    """One row, pair by pair."""
    row, pairs = x.double().tolist(), len(x) // 2
    out, start = list(row), 0
    for axis in range(3):
        size = (pairs + 2 - axis) // 3
        for j in range(size):
            angle = float(position[axis]) * theta ** (-j / size)
            a, b = row[start + j], row[start + size + j]
            out[start + j] = a * math.cos(angle) - b * math.sin(angle)
            out[start + size + j] = a * math.sin(angle) + b * math.cos(angle)
        start += 2 * size
    return out
