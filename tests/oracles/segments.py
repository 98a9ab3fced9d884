"""Segments of frames and methods that use them, from their descriptions, with plain loops."""

import math
from itertools import pairwise

import torch
from oracles.cluster import density_peaks_slowly, max_min_slowly


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


def _peaks(tokens, num_clusters, neighbours):
    centres, assign = density_peaks_slowly(tokens, num_clusters, neighbours)
    return torch.as_tensor(centres), torch.as_tensor(assign)


def slow_dycoke(frames, drop):
    """Kept (frame, row) in DyCoke's order, frame by frame, from [T][n, D]."""
    num_frames, kept = len(frames), {}

    def thinned(frame, reference):
        n = len(frames[frame])
        alike = [cosine(frames[frame][i], frames[reference][i]) for i in range(n)]
        return sorted(range(n), key=lambda i: (alike[i], i))[: int((1 - drop) * n)]

    for first in range(0, num_frames - 1, 2):
        kept[first] = list(range(len(frames[first])))
        kept[first + 1] = thinned(first + 1, first)
    for first in range(0, num_frames - 4, 4):
        if first + 2 in kept:
            kept[first + 2] = thinned(first + 2, first)
    return [(frame, i) for frame in sorted(kept) for i in kept[frame]]


def slow_prunevid(frames, threshold, clusters, neighbours, retention):
    """PruneVid's tokens in its order, from [T, n, D]."""
    labels = _peaks(frames.mean(dim=1), clusters, neighbours)[1].tolist()
    labels = slow_longest_runs(labels)
    starts = [i for i in range(len(labels)) if i == 0 or labels[i] != labels[i - 1]]
    out = []

    def reduced(tokens):
        if len(tokens) <= 14:
            return list(tokens)
        k = int(len(tokens) * retention)
        assign = _peaks(tokens, k, neighbours)[1]
        return [tokens[assign == c].mean(dim=0) for c in range(k)]

    for start, stop in pairwise([*starts, len(labels)]):
        part, still = frames[start:stop], []
        for n in range(frames.shape[1]):
            pairs = [
                cosine(part[a, n], part[b, n])
                for a in range(len(part))
                for b in range(len(part))
                if a != b
            ]
            still.append(bool(pairs) and sum(pairs) / len(pairs) > threshold)
        still = torch.tensor(still)
        if still.any():
            out += reduced(part[:, still].mean(dim=0))
        for frame in part:
            if not still.all():
                out += reduced(frame[~still])
    return torch.stack(out)


def slow_holitom(frames, attention, threshold, neighbours, ratio, beta):
    """HoliTom's tokens in its order (without contextual ones), from [T, n, D] and [T, n]."""
    num_frames, places, _ = frames.shape
    stays = [
        [cosine(frames[t, n], frames[t - 1, n]) > threshold for n in range(places)]
        for t in range(1, num_frames)
    ]
    windows, removed = slow_windows(stays, num_frames) if stays else ([(0, 0)], 0)
    total = num_frames * places
    rate, out = min(ratio / ((total - removed) / total), 1), []
    for first, last in windows:
        still = torch.tensor(
            [last > first and all(stays[t][n] for t in range(first, last)) for n in range(places)]
        )
        tokens, k = frames[first : last + 1, still].mean(dim=0), round(int(still.sum()) * rate)
        if k:
            centres, assign = _peaks(tokens, k, neighbours)
            for c in sorted(range(k), key=lambda c: int(centres[c])):
                centre = tokens[centres[c]]
                others = [i for i in range(len(tokens)) if assign[i] == c and i != centres[c]]
                mixed = beta * centre + (1 - beta) * tokens[others].mean(dim=0)
                out.append(mixed if others else centre)
        moving = [n for n in range(places) if not still[n]]
        for t in range(first, last + 1):
            best = sorted(moving, key=lambda n: -float(attention[t, n]))
            out += [frames[t, n] for n in sorted(best[: math.ceil(len(moving) * rate)])]
    return torch.stack(out)


def slow_fastvid(frames, attention, cuts, ratio, context, stride, neighbours, beta):
    """FastVID's tokens by (frame, row), from [T, n, D], [T, n] and the first frames of segments."""
    num_frames, n, _ = frames.shape
    kept = int(n * ratio)
    num_context = int(kept * context)
    salient = [
        set(attention[t].argsort(descending=True)[: kept - num_context].tolist())
        for t in range(num_frames)
    ]
    out = {(t, i): frames[t, i] for t in range(num_frames) for i in salient[t]}
    for start, stop in pairwise([0, *cuts, num_frames]):
        anchors = range(stop - 1, start - 1, -stride)
        quota = num_context * (stop - start) // len(anchors)
        for anchor in anchors:
            rest = [i for i in range(n) if i not in salient[anchor]]
            centres = _peaks(frames[anchor, rest], quota, neighbours)[0].tolist()
            centres = sorted(rest[c] for c in centres)
            others = [anchor] if quota == num_context else range(start, stop)
            pool = [frames[t, i] for t in others for i in range(n) if i not in salient[t]]
            members = {c: [] for c in centres}
            for token in pool:
                best = max(centres, key=lambda c: (round(cosine(token, frames[anchor, c]), 6), -c))
                members[best].append(token)
            for c in centres:
                own = max(beta, 1 / (len(members[c]) + 1))
                mean = torch.stack(members[c]).mean(dim=0)
                out[anchor, c] = own * frames[anchor, c] + (1 - own) * mean
    return torch.stack([out[key] for key in sorted(out)])


def slow_flashvid(frames, attention, cuts, ratio, expansion, alpha, link, neighbours):
    """FlashVID's tokens by (frame, row), clusters first, from [T, n, D] and [T, n]."""
    num_frames, n, _ = frames.shape
    total = math.ceil(n * ratio * expansion)
    num_salient = math.ceil(total * alpha)
    chosen = [max_min_slowly(frames[t], num_salient, attention[t]) for t in range(num_frames)]
    out = [((t, i, 1), frames[t, i]) for t in range(num_frames) for i in chosen[t]]

    def clustered(t, rows, tokens, k):
        centres, assign = _peaks(tokens, k, min(neighbours, k))
        return [
            ((t, rows[int(c)], 0), tokens[assign == j].mean(dim=0)) for j, c in enumerate(centres)
        ]

    for start, stop in pairwise([0, *cuts, num_frames]):
        wanted = (total - num_salient) * (stop - start)
        if stop - start == 1:
            out += clustered(start, list(range(n)), frames[start], wanted)
            continue
        free = {t: [i for i in range(n) if i not in chosen[t]] for t in range(start, stop)}
        value = {(t, i): frames[t, i].double() for t in free for i in free[t]}
        counts, linked = dict.fromkeys(value, 1), set()
        for t in range(stop - 1, start, -1):
            for i in free[t]:
                alike = {j: cosine(frames[t, i], frames[t - 1, j]) for j in free[t - 1]}
                best = max(alike, key=alike.get)
                if alike[best] > link:
                    value[t - 1, best] = value[t - 1, best] + value[t, i]
                    counts[t - 1, best] += 1
                    linked.add((t, i))
        roots = {t: [i for i in free[t] if (t, i) not in linked] for t in free}
        num_roots = sum(map(len, roots.values()))
        for t, rows in roots.items():
            if k := min(len(rows), math.ceil(wanted * len(rows) / num_roots)):
                tokens = torch.stack([value[t, i] / counts[t, i] for i in rows])
                out += clustered(t, rows, tokens, k)
    out.sort(key=lambda item: item[0])
    return torch.stack([token.double() for _, token in out])
