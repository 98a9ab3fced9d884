"""Training-free methods as they were published, with plain loops; for the parity script."""

import math

import torch
from torch import Tensor


def slow_tome_round(
    x_ND: Tensor, mass_N: Tensor, metric_ND: Tensor, num_merges: int, *, has_class_token: bool
) -> tuple[Tensor, Tensor, list[list[int]]]:
    """Rows, masses, and the rows that went into each, in ToMe's order."""
    n = len(x_ND)
    num_merges = min(num_merges, (n - has_class_token) // 2)
    unit = [row.double() / row.double().norm() for row in metric_ND]
    best: dict[int, tuple[float, int]] = {}
    for a in range(0, n, 2):
        scores = [(float(unit[a] @ unit[b]), -b) for b in range(1, n, 2)]
        score, minus_b = max(scores)
        best[a] = (-math.inf if has_class_token and a == 0 else score, -minus_b)
    ranked = sorted(best, key=lambda a: -best[a][0])
    merged, kept = ranked[:num_merges], ranked[num_merges:]
    if has_class_token:
        kept = sorted(kept)
    members = [[a] for a in kept]
    members += [[b, *(a for a in merged if best[a][1] == b)] for b in range(1, n, 2)]
    return (*_means(x_ND, mass_N, members), members)


def slow_tome_kth(x_ND: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Rows and masses when every k-th row takes in the rows that are most similar to it."""
    n = len(x_ND) // k * k
    unit = [row.double() / row.double().norm() for row in x_ND]
    targets = list(range(k - 1, n, k))
    members = {b: [b] for b in targets}
    for a in range(n):
        if a not in members:
            members[max(targets, key=lambda b: float(unit[a] @ unit[b]))].append(a)
    return _means(x_ND, torch.ones(len(x_ND)), list(members.values()))


def slow_proportional_attention(
    x_ND: Tensor, mass_N: Tensor, weights: dict[str, Tensor], heads: int
) -> tuple[Tensor, Tensor]:
    """The output of ToMe's attention block and its keys averaged over heads."""
    x = x_ND.double()
    qkv = x @ weights["attn.qkv.weight"].double().T + weights["attn.qkv.bias"].double()
    dim = qkv.shape[1] // 3
    size = dim // heads
    out, keys = [], []
    for head in range(heads):
        q, k, v = (qkv[:, i * dim + head * size : i * dim + (head + 1) * size] for i in range(3))
        logits = q @ k.T / math.sqrt(size) + mass_N.double().log()
        out.append(logits.softmax(dim=1) @ v)
        keys.append(k)
    joined = torch.cat(out, dim=1) @ weights["attn.proj.weight"].double().T
    return joined + weights["attn.proj.bias"].double(), torch.stack(keys).mean(dim=0)


def slow_videochat(x_ND: Tensor, target: int, heads: int) -> Tensor:
    """Halve until the target is within reach, then take away the rest."""
    mass_N = torch.ones(len(x_ND))
    while len(x_ND) > target:
        metric = x_ND.unflatten(1, (heads, -1)).mean(dim=1)
        num_merges = min(len(x_ND) // 2, len(x_ND) - target)
        x_ND, mass_N, _ = slow_tome_round(x_ND, mass_N, metric, num_merges, has_class_token=False)
    return x_ND


def slow_aks(
    scores: list[float], count: int, t1: float, t2: float, depth: int
) -> tuple[list[int], int]:
    """Frames and the number of runs that they come from; all frames if they are fewer."""
    if len(scores) < count:
        return list(range(len(scores))), 0
    low, high = min(scores), max(scores)
    scores = [(s - low) / (high - low) for s in scores]
    runs: list[tuple[list[int], int]] = []

    def split(run: list[int], level: int) -> None:
        values = [scores[i] for i in run]
        mean = sum(values) / len(values)
        top = sorted(values, reverse=True)[:count]
        deviation = math.sqrt(sum((v - mean) ** 2 for v in values) / len(values))
        if level == depth or (sum(top) / len(top) - mean > t1 and deviation > t2):
            runs.append((run, level))
            return
        half = len(run) // 2
        split(run[:half], level + 1)
        split(run[half:], level + 1)

    split(list(range(len(scores))), 0)
    chosen = []
    for run, level in runs:
        best = sorted(run, key=lambda i: (-scores[i], i))
        chosen += best[: int(count / 2**level)]
    return sorted(chosen), len(runs)


def _means(x_ND: Tensor, mass_N: Tensor, members: list[list[int]]) -> tuple[Tensor, Tensor]:
    rows, masses = [], []
    for group in members:
        mass = sum(float(mass_N[i]) for i in group)
        rows.append(sum(x_ND[i].double() * float(mass_N[i]) for i in group) / mass)
        masses.append(mass)
    return torch.stack(rows).to(x_ND.dtype), torch.tensor(masses)
