"""How good tokens are, by plain loops straight from the definitions."""

import math

from oracles.match import cosine_slowly
from oracles.merge import provenance_slowly


def quality_slowly(source, kept, min_cosine=0.9):
    """The seven numbers, for a source with one token a patch (some patches may be missing)."""
    grid = source.grid
    patch_of_row = {row: p for p, row in enumerate(source.assign.tolist()) if row >= 0}
    x = source.tokens.double().tolist()
    y = kept.tokens.double().tolist()
    rows, tokens = range(len(x)), range(len(y))
    mean = [sum(column) / len(x) for column in zip(*x, strict=True)]
    spread = [_squared(x[n], mean) for n in rows]
    near = [min(_squared(x[n], y[k]) for k in tokens) for n in rows]
    offset = float(source.positions[0, 0]) - patch_of_row[0] // grid.per_frame
    at = (kept.positions - kept.positions.new_tensor([offset, 0, 0])).double().tolist()
    if kept.assign is None and kept.weights is None:
        cells = [tuple(round(c) for c in place) for place in at]
        shares = [[0.0] * grid.num_patches for _ in tokens]
        for k, (t, h, w) in enumerate(cells):
            shares[k][(t * grid.h + h) * grid.w + w] = 1.0
        parts = None
    else:
        shares = parts = provenance_slowly(kept)
    error = [_rebuilt(n, patch_of_row[n], x, y, parts, kept.mass.tolist(), at, grid) for n in rows]
    covered = [any(cosine_slowly(x[n], y[k]) >= min_cosine for k in tokens) for n in rows]
    judged = [divmod(p, grid.per_frame) for p in patch_of_row.values()]
    frames, places = {t for t, _ in judged}, {s for _, s in judged}
    over_frames = [
        sum(share[t * grid.per_frame + s] for share in shares for s in range(grid.per_frame))
        for t in range(grid.t)
    ]
    over_places = [
        sum(share[t * grid.per_frame + s] for share in shares for t in range(grid.t))
        for s in range(grid.per_frame)
    ]
    return (
        sum(error) / sum(spread),
        sum(near) / sum(spread),
        sum(covered) / len(x),
        sum(map(math.sqrt, near)) / sum(map(math.sqrt, spread)),
        sum(over_frames[t] > 0 for t in frames) / len(frames),
        _evenness(over_frames, len(frames)),
        _evenness(over_places, len(places)),
    )


def _rebuilt(n, patch, x, y, parts, mass, at, grid):
    given = (
        [0.0] * len(y)
        if parts is None
        else [m * p[patch] for m, p in zip(mass, parts, strict=True)]
    )
    if sum(given) > 0:
        mixed = [
            sum(g * token[d] for g, token in zip(given, y, strict=True)) / sum(given)
            for d in range(len(x[n]))
        ]
        return _squared(x[n], mixed)
    t, rest = divmod(patch, grid.per_frame)
    h, w = divmod(rest, grid.w)

    def times(k):
        return (at[k][0] - t) ** 2

    def places(k):
        return (at[k][1] - h) ** 2 + (at[k][2] - w) ** 2

    tokens = range(len(y))
    chosen = (
        min(tokens, key=lambda k: (places(k), times(k), k)),
        min(tokens, key=lambda k: (times(k), places(k), k)),
        min(tokens, key=lambda k: (times(k) + places(k), k)),
    )
    return min(_squared(x[n], y[k]) for k in chosen)


def _squared(a, b):
    return sum((p - q) ** 2 for p, q in zip(a, b, strict=True))


def _evenness(shares, num):
    total = sum(shares)
    if num == 1:
        return 1.0
    return -sum(s / total * math.log(s / total) for s in shares if s > 0) / math.log(num)
