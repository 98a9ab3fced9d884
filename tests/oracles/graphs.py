"""Graphs of tokens, LLaVA-Scissor and STTM as published, by plain loops."""

import itertools

import torch
from oracles.match import cosine_slowly


def components_slowly(edges, num_nodes):
    """Component of each node, numbered by their lowest nodes."""
    label = list(range(num_nodes))
    for a, b in edges:
        low, high = sorted((label[a], label[b]))
        label = [low if x == high else x for x in label]
    numbers = {x: i for i, x in enumerate(dict.fromkeys(label))}
    return [numbers[x] for x in label]


def forest_slowly(edges, weights, num_nodes):
    """Kruskal: edges by falling weight, ties to the lower edge, unless they close a circle."""
    label = list(range(num_nodes))
    taken = []
    for e in sorted(range(len(edges)), key=lambda e: (-weights[e], e)):
        a, b = (label[n] for n in edges[e])
        if a != b:
            taken.append(e)
            label = [a if x == b else x for x in label]
    return taken


def scissor_slowly(x, threshold):
    """LLaVA-Scissor's tokens from [T][n] rows: components of frames, of all, and the assignment."""

    def parts(rows):
        pairs = itertools.combinations(range(len(rows)), 2)
        similar = [p for p in pairs if cosine_slowly(rows[p[0]], rows[p[1]]) > threshold]
        label = components_slowly(similar, len(rows))
        degree = [sum(i in pair for pair in similar) for i in range(len(rows))]
        groups = [[i for i, x in enumerate(label) if x == k] for k in range(max(label) + 1)]
        groups.sort(key=lambda g: min(g, key=lambda i: (-degree[i], i)))
        return [sum(rows[i] for i in g) / len(g) for g in groups]

    means = parts([mean for frame in x for mean in parts(frame)])
    rows = [row for frame in x for row in frame]
    sums, counts = list(means), [1] * len(means)
    for row in rows:
        k = max(range(len(means)), key=lambda k: cosine_slowly(row, means[k]))
        sums[k], counts[k] = sums[k] + row, counts[k] + 1
    return torch.stack([s / c for s, c in zip(sums, counts, strict=True)])


def sttm_slowly(x_THWD, spatial, temporal, skip, weighted):
    """STTM's tokens and their patches, by recursion from the top of each picture's tree."""
    leaves = []
    for t, picture in enumerate(x_THWD):
        levels = [{(h, w): (row, (h, w, h + 1, w + 1)) for (h, w, row) in _cells(picture)}]
        sides = [picture.shape[:2]]
        while min(sides[-1]) > 2:
            levels.append(_pooled(levels[-1], sides[-1], weighted))
            sides.append(tuple(-(-n // 2) for n in sides[-1]))
        top = max(0, len(levels) - 1 - skip)
        for cell in levels[top]:
            leaves += _leaves(levels, sides, top, cell, spatial, t)
    leaves.sort(key=lambda leaf: leaf[0][:3])
    links = []
    for (i, (a, x)), (j, (b, y)) in itertools.combinations(enumerate(leaves), 2):
        nested = _within(a, b) or _within(b, a)
        if b[0] - a[0] == 1 and nested and temporal is not None and cosine_slowly(x, y) >= temporal:
            links.append((i, j))
    first = _early(links, len(leaves))
    tokens, patches = [], []
    for k in sorted(set(first)):
        mine = [leaves[i] for i in range(len(leaves)) if first[i] == k]
        sizes = [(b[3] - b[1]) * (b[4] - b[2]) for b, _ in mine]
        shares = sizes if weighted else [1] * len(mine)
        tokens.append(sum(s * r for s, (_, r) in zip(shares, mine, strict=True)) / sum(shares))
        patches.append(sum(sizes))
    return torch.stack(tokens), patches


def _cells(picture):
    return ((h, w, picture[h, w]) for h in range(picture.shape[0]) for w in range(picture.shape[1]))


def _children(cell, side):
    """Cells below one: pairs along each axis, of an odd side the first cell alone."""
    along = []
    for place, n in zip(cell, side, strict=True):
        first = 2 * place - n % 2
        along.append([c for c in (first, first + 1) if 0 <= c < n])
    return list(itertools.product(*along))


def _pooled(level, side, weighted):
    above = {}
    for cell in itertools.product(*(range(-(-n // 2)) for n in side)):
        below = [level[c] for c in _children(cell, side)]
        sizes = [(b[2] - b[0]) * (b[3] - b[1]) if weighted else 1 for _, b in below]
        mean = sum(s * r for s, (r, _) in zip(sizes, below, strict=True)) / sum(sizes)
        boxes = [b for _, b in below]
        above[cell] = (mean, (*boxes[0][:2], *boxes[-1][2:]))
    return above


def _leaves(levels, sides, depth, cell, spatial, t):
    row, box = levels[depth][cell]
    if depth:
        children = _children(cell, sides[depth - 1])
        compared = children + [(0, 0)] * (4 - len(children))
        if all(cosine_slowly(row, levels[depth - 1][c][0]) >= spatial for c in compared):
            return [((t, *box), row)]
        return [leaf for c in children for leaf in _leaves(levels, sides, depth - 1, c, spatial, t)]
    return [((t, *box), row)]


def _within(a, b):
    return b[1] <= a[1] and b[2] <= a[2] and a[3] <= b[3] and a[4] <= b[4]


def _early(links, n):
    first = list(range(n))
    while True:
        lows = [min(first[a], first[b]) for a, b in links]
        for (a, b), low in zip(links, lows, strict=True):
            first[a], first[b] = min(first[a], low), min(first[b], low)
        first = [first[i] for i in first]
        if first == [first[i] for i in first]:
            return first


def longvu_slowly(x_TPD, budget, *, window, frame_threshold, chunk, threshold):
    """Rows that LongVU keeps of a dense video."""
    num_frames, per_frame = x_TPD.shape[:2]
    frames = list(range(num_frames))
    if num_frames >= max(1, budget // per_frame):
        frames = []
        for start in range(0, num_frames, window):
            means = [x_TPD[t].mean(0) for t in range(start, min(start + window, num_frames))]
            for i, mean in enumerate(means):
                likeness = sum(cosine_slowly(mean, other) for other in means) / len(means)
                if i == len(means) // 2 or likeness < frame_threshold:
                    frames.append(start + i)
    if len(frames) * per_frame <= budget:
        return [t * per_frame + p for t in frames for p in range(per_frame)]
    chunks = []
    for start in range(0, len(frames), chunk):
        first, *others = frames[start : start + chunk]
        kept = [first * per_frame + p for p in range(per_frame)]
        for t in others:
            for p in range(per_frame):
                if cosine_slowly(x_TPD[first, p], x_TPD[t, p]) < threshold:
                    kept.append(t * per_frame + p)
        chunks.append(kept)
    excess = sum(map(len, chunks)) - budget
    if excess > 0:
        cut = -(-excess // len(chunks))
        chunks = [kept[:-cut] for kept in chunks]
    return [row for kept in chunks for row in kept][:budget]
