"""VisionZip and LLaVA-PruMerge as published, on one picture, by plain loops."""

import math

import torch
from oracles.match import cosine_slowly


def visionzip_slowly(x, saliency, keys, num_dominant, num_merged):
    """Rows that stay in raster order, then sums of anchors and the means of what joins them."""
    n = len(x)
    best = sorted(range(n), key=lambda i: (-saliency[i], i))[:num_dominant]
    rest = [i for i in range(n) if i not in best]
    step = max(1, len(rest) // num_merged)
    anchors = rest[::step][:num_merged]
    joined = {a: [] for a in anchors}
    for i in rest:
        if i not in joined:
            joined[max(anchors, key=lambda a: cosine_slowly(keys[i], keys[a]))].append(x[i])
    out = [x[i] for i in sorted(best)]
    for a in anchors:
        out.append(x[a] + (sum(joined[a]) / len(joined[a]) if joined[a] else 0))
    return torch.stack(out)


def prumerge_slowly(x, saliency, keys, neighbors, plus):
    """Rows by falling attention (and a grid), each with its neighbours; then the rest in one."""
    n = len(x)
    ordered = sorted(saliency)

    def quantile(q):
        place = q * (n - 1)
        low, high = ordered[math.floor(place)], ordered[math.ceil(place)]
        return low + (high - low) * (place - math.floor(place))

    limit = quantile(0.75) + 1.5 * (quantile(0.75) - quantile(0.25))
    ratio = sum(s > limit for s in saliency) / n
    kept = sorted(range(n), key=lambda i: (-saliency[i], i))[: int(n * ratio)]
    if plus:
        kept += [i for i in range(0, n - 1, int(int(1 / ratio) / 3)) if i not in kept]
    out = []
    for i in kept:
        others = [j for j in range(n) if j != i]
        near = sorted(others, key=lambda j: (-cosine_slowly(keys[i], keys[j]), j))[:neighbors]
        out.append(x[i] + sum((x[j] * saliency[j] for j in near), torch.zeros_like(x[i])))
    out.append(sum(x[i] * saliency[i] for i in range(n) if i not in kept))
    return torch.stack(out)
