"""ToMe's matching by plain loops."""

import math


def cosine_slowly(x, y):
    """Cosine of two lists; zero vectors are like zero vectors and unlike all else."""
    nx, ny = math.sqrt(sum(a * a for a in x)), math.sqrt(sum(b * b for b in y))
    if nx == 0 or ny == 0:
        return float(nx == ny)
    return sum(a / nx * (b / ny) for a, b in zip(x, y, strict=True))


def bipartite_slowly(metric, num_merges):
    """Group of each row, numbered as published, for rows without near-ties."""
    n = len(metric)
    sources, targets = list(range(0, n, 2)), list(range(1, n, 2))
    best = {}
    for a in sources:
        scored = [(-cosine_slowly(metric[a], metric[b]), b) for b in targets]
        best[a] = min(scored) if scored else (0.0, -1)
    ranked = sorted(sources, key=lambda a: (best[a][0], a))
    merged, kept = ranked[:num_merges], ranked[num_merges:]
    number = {row: i for i, row in enumerate(kept + targets)}
    return [number[best[i][1]] if i in merged else number[i] for i in range(n)]
