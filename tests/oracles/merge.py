"""Merging and resampling by plain loops, straight from the definitions."""

import torch


def merge_slowly(video, groups):
    """Fields of the merged video by group number: tokens, positions, spans, mass, extras."""
    members = {}
    for row, group in enumerate(groups.tolist()):
        if group >= 0:
            members.setdefault(group, []).append(row)
    return [_one(video, members[group]) for group in sorted(members)]


def _one(video, rows):
    mass = [float(video.mass[r]) for r in rows]

    def mean(value):
        total = torch.zeros(value.shape[1:], dtype=torch.float64)
        for r, m in zip(rows, mass, strict=True):
            total += value[r].double() * m
        return total / sum(mass)

    return {
        "tokens": mean(video.tokens),
        "positions": mean(video.positions),
        "start": min(float(video.spans[r, 0]) for r in rows),
        "stop": max(float(video.spans[r, 1]) for r in rows),
        "mass": sum(mass),
        "extras": {name: mean(value) for name, value in video.extras.items()},
    }


def provenance_slowly(video):
    """[N][P] share of each source patch in each token."""
    if video.weights is not None:
        return video.weights.to_dense().double().tolist()
    shares = [[0.0] * video.grid.num_patches for _ in range(len(video))]
    for row in range(len(video)):
        own = [p for p, r in enumerate(video.assign.tolist()) if r == row]
        for p in own:
            shares[row][p] = 1 / len(own)
    return shares
