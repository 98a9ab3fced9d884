"""Published algorithms as their authors describe them, in plain torch, to be timed against ours.

Transcribed from descriptions, with the steps and the cost of the originals: whole matrices of
similarities, loops over picks and frames, no provenance.  Their answers are not compared; that is
what the parity checks do.

Legend: T frames, P tokens of a frame, N = T * P, D features, K budget.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import normalize, one_hot

from vidcomp.types import VideoTokens

__all__ = ["PUBLISHED"]


def evs(video: VideoTokens, budget: int) -> Tensor:
    """The largest of one minus the cosine to the frame before, the first frame for sure."""
    x_TPD = _frames(video)
    change_TP = 1 - torch.cosine_similarity(x_TPD[1:], x_TPD[:-1], dim=-1)
    first_1P = torch.full_like(change_TP[:1], 255.0)
    order = torch.cat([first_1P, change_TP]).flatten().argsort(descending=True, stable=True)
    return x_TPD.flatten(0, 1)[order[:budget].sort().values]


def dtd(video: VideoTokens, budget: int) -> Tensor:
    """As many of the least similar to the frame before in every frame."""
    x_TPD = _frames(video)
    like_TP = torch.cosine_similarity(x_TPD[1:], x_TPD[:-1], dim=-1)
    keep = max(1, (budget - x_TPD.shape[1]) // max(1, len(like_TP)))
    kept = [
        x[like.topk(keep, largest=False).indices]
        for x, like in zip(x_TPD[1:], like_TP, strict=True)
    ]
    return torch.cat([x_TPD[0], *kept])


def dycoke(video: VideoTokens, budget: int) -> Tensor:
    """Odd frames against even ones, then every fourth against the second before it."""
    x_TPD = _frames(video)
    t, p = x_TPD.shape[:2]
    keep = max(1, (budget - (t + 3) // 4 * p) // max(1, t - (t + 3) // 4))
    kept = []
    for i, x_PD in enumerate(x_TPD):
        if i % 4 == 0:
            kept.append(x_PD)
            continue
        like_P = torch.cosine_similarity(x_PD, x_TPD[i - (1 if i % 2 else 2)], dim=-1)
        kept.append(x_PD[like_P.argsort()[:keep]])
    return torch.cat(kept)


def vidcom2(video: VideoTokens, budget: int) -> Tensor:
    """Gaussian likeness to the middle of the video and of the frame; the least like stay."""
    x_TPD = _frames(video)
    half = x_TPD.flatten(0, 1).var(dim=0).argsort()[: x_TPD.shape[-1] // 2]
    unit_TPD = normalize(x_TPD[..., half], dim=-1)

    def likeness(centre: Tensor) -> Tensor:
        gap = (unit_TPD - centre).square().sum(dim=-1)
        return torch.stack([torch.exp(-gap / (2 * 2.0**a)) for a in range(-3, 2)]).sum(dim=0)

    to_video_TP = likeness(unit_TPD.mean(dim=(0, 1)))
    score_TP = to_video_TP + likeness(unit_TPD.mean(dim=1, keepdim=True))
    rate = budget / score_TP.numel()
    odd_T = torch.softmax(-to_video_TP.mean(dim=1) / 0.01, dim=0)
    share_T = (rate * (1 + odd_T - odd_T.mean())).clamp(max=1)
    kept = []
    for x_PD, score_P, share in zip(x_TPD, score_TP, share_T, strict=True):
        count = max(1, int(float(share) * len(score_P)))
        kept.append(x_PD[score_P.argsort()[:count].sort().values])
    return torch.cat(kept)


def v_cast(video: VideoTokens, budget: int) -> Tensor:
    """Frames by how sharply their means turn, tokens by how they stand out of their frame."""
    x_TPD = _frames(video)
    unit_TPD = normalize(x_TPD, dim=-1)
    mean_TD = normalize(unit_TPD.mean(dim=1), dim=-1)
    step_TD = normalize(mean_TD[1:] - mean_TD[:-1], dim=-1)
    turn_T = torch.ones(len(mean_TD), device=mean_TD.device)
    turn_T[1:-1] = 1 - (step_TD[1:] * step_TD[:-1]).sum(dim=-1)
    share_T = torch.softmax(turn_T / 0.7, dim=0) * (budget - len(turn_T))
    norm_TP = x_TPD.norm(dim=-1)
    low, high = norm_TP.amin(dim=1, keepdim=True), norm_TP.amax(dim=1, keepdim=True)
    apart_TP = 1 - (unit_TPD * mean_TD[:, None]).sum(dim=-1)
    score_TP = apart_TP + (norm_TP - low) / (high - low + 1e-6)
    kept = []
    for x_PD, score_P, share in zip(x_TPD, score_TP, share_T, strict=True):
        count = min(len(score_P), 1 + int(share))
        kept.append(x_PD[score_P.topk(count).indices.sort().values])
    return torch.cat(kept)


def tome(video: VideoTokens, budget: int) -> Tensor:
    """Even places look for the most similar odd place; at most half go in a round."""
    x_ND, mass_N = video.tokens, video.mass
    while len(x_ND) > budget:
        unit_ND = normalize(x_ND, dim=-1)
        best_A, to_A = (unit_ND[::2] @ unit_ND[1::2].T).max(dim=1)
        order = best_A.argsort(descending=True)
        merges = min(len(x_ND) // 2, len(x_ND) - budget)
        gone, stay = order[:merges], order[merges:]
        sum_BD = x_ND[1::2] * mass_N[1::2, None]
        source_AD = x_ND[::2] * mass_N[::2, None]
        sum_BD = sum_BD.index_add(0, to_A[gone], source_AD[gone])
        mass_B = mass_N[1::2].index_add(0, to_A[gone], mass_N[::2][gone])
        x_ND = torch.cat([x_ND[::2][stay], sum_BD / mass_B[:, None]])
        mass_N = torch.cat([mass_N[::2][stay], mass_B])
    return x_ND


def dpc_knn(video: VideoTokens, budget: int, neighbours: int = 5) -> Tensor:
    """Density peaks over all pairs of tokens."""
    x_ND = video.tokens
    gap_NN = torch.cdist(x_ND, x_ND) / math.sqrt(x_ND.shape[1])
    near_NK = gap_NN.topk(neighbours, dim=-1, largest=False).values
    density_N = (-near_NK.square().mean(dim=-1)).exp()
    denser_NN = density_N[None] > density_N[:, None]
    far = gap_NN.max()
    parent_N = torch.where(denser_NN, gap_NN, far).amin(dim=-1)
    centre_K = (parent_N * density_N).topk(budget).indices
    group_N = gap_NN[centre_K].argmin(dim=0)
    group_N[centre_K] = torch.arange(budget, device=group_N.device)
    mass_K = torch.zeros(budget, device=x_ND.device).index_add(
        0, group_N, torch.ones_like(parent_N)
    )
    share_N = 1 / (mass_K[group_N] + 1e-6)
    return torch.zeros_like(x_ND[:budget]).index_add(0, group_N, x_ND * share_N[:, None])


def divprune(video: VideoTokens, budget: int) -> Tensor:
    """Farthest first over all pairs; each step looks at all that was picked."""
    x_ND = video.tokens
    unit_ND = normalize(x_ND, dim=-1)
    gap_NN = 1 - unit_ND @ unit_ND.T
    picked = [int(gap_NN.topk(2, dim=0, largest=False).values[1].argmax())]
    while len(picked) < budget:
        picked.append(int(gap_NN[torch.tensor(picked)].amin(dim=0).argmax()))
    return x_ND[torch.tensor(sorted(picked))]


def cdpruner(video: VideoTokens, budget: int) -> Tensor:
    """Greedy picks of the largest determinant; relevance to the mean token."""
    x_ND = video.tokens
    unit_ND = normalize(x_ND, dim=-1)
    apart_N = -(unit_ND @ normalize(x_ND.mean(dim=0), dim=0))
    score_N = (apart_N - apart_N.min() + 1e-6) / (apart_N.max() - apart_N.min())
    kernel_NN = score_N[:, None] * (unit_ND @ unit_ND.T) * score_N
    left_N = kernel_NN.diagonal().clone()
    rows_KN = torch.zeros(budget, len(x_ND), device=x_ND.device)
    picked = []
    for k in range(budget):
        pick = int(left_N.argmax())
        picked.append(pick)
        known_N = rows_KN[:k, pick] @ rows_KN[:k]
        rows_KN[k] = (kernel_NN[pick] - known_N) / left_N[pick].clamp(min=1e-6).sqrt()
        left_N = left_N - rows_KN[k].square()
        left_N[pick] = -math.inf
    return x_ND[torch.tensor(sorted(set(picked)))]


def visionzip(video: VideoTokens, budget: int) -> Tensor:
    """Of each frame the most attended, and every few of the rest with those that are like them."""
    x_TPD, score_TP = _frames(video), _saliency(video)
    keys_TPD = (
        video.extras["keys"].flatten(1).view(*x_TPD.shape[:2], -1)
        if ("keys" in video.extras)
        else x_TPD
    )
    most = max(1, budget // len(x_TPD))
    few = max(1, most // 6)
    out = []
    for x_PD, key_PD, score_P in zip(x_TPD, keys_TPD, score_TP, strict=True):
        kept = score_P.topk(max(1, most - few)).indices.sort().values
        rest = torch.ones_like(score_P, dtype=torch.bool)
        rest[kept] = False
        x_RD, unit_RD = x_PD[rest], normalize(key_PD[rest], dim=-1)
        place = torch.arange(0, len(x_RD), max(1, len(x_RD) // few), device=x_RD.device)[:few]
        to_R = (unit_RD @ unit_RD[place].T).argmax(dim=1)
        onto_RF = one_hot(to_R, len(place)).to(x_RD)
        mean_FD = onto_RF.T @ x_RD / onto_RF.sum(dim=0).clamp(min=1)[:, None]
        out.append(torch.cat([x_PD[kept], x_RD[place] + mean_FD]))
    return torch.cat(out)


def simple_cluster(video: VideoTokens, budget: int, rounds: int = 10) -> Tensor:
    """Spherical k-means of all tokens; the metric without its turn by position."""
    x_ND = video.tokens
    unit_ND = normalize(x_ND, dim=-1)
    centre_KD = unit_ND[torch.linspace(0, len(x_ND) - 1, budget).long()]
    group_N = torch.zeros(len(x_ND), dtype=torch.int64, device=x_ND.device)
    for _ in range(rounds):
        group_N = (unit_ND @ centre_KD.T).argmax(dim=1)
        centre_KD = normalize(torch.zeros_like(centre_KD).index_add(0, group_N, unit_ND), dim=-1)
    mass_K = torch.bincount(group_N, minlength=budget).clamp(min=1)
    return torch.zeros_like(centre_KD).index_add(0, group_N, x_ND) / mass_K[:, None]


def memory_bank(video: VideoTokens, budget: int) -> Tensor:
    """Frame by frame into a bank; when it is full, the two most similar at each place merge."""
    x_TPD = _frames(video)
    length = max(1, budget // x_TPD.shape[1])
    bank_LPD, mass_LP = x_TPD[:length], torch.ones_like(x_TPD[:length, :, 0])
    for x_PD in x_TPD[length:]:
        bank_LPD = torch.cat([bank_LPD, x_PD[None]])
        mass_LP = torch.cat([mass_LP, torch.ones_like(mass_LP[:1])])
        like_LP = torch.cosine_similarity(bank_LPD[1:], bank_LPD[:-1], dim=-1)
        at_P = like_LP.argmax(dim=0)[None]
        total_1P = mass_LP.gather(0, at_P) + mass_LP.gather(0, at_P + 1)
        index_1PD = at_P[..., None].expand(-1, -1, bank_LPD.shape[-1])
        weighted_LPD = bank_LPD * mass_LP[..., None]
        merged = weighted_LPD.gather(0, index_1PD) + weighted_LPD.gather(0, index_1PD + 1)
        bank_LPD = bank_LPD.scatter(0, index_1PD, merged / total_1P[..., None])
        mass_LP = mass_LP.scatter(0, at_P, total_1P)
        # The places after the merged pair move up by one.
        row_LP = torch.arange(length, device=at_P.device)[:, None].expand(-1, at_P.shape[1])
        row_LP = row_LP + (row_LP > at_P)
        mass_LP = mass_LP.gather(0, row_LP)
        bank_LPD = bank_LPD.gather(0, row_LP[..., None].expand(-1, -1, bank_LPD.shape[-1]))
    return bank_LPD.flatten(0, 1)


PUBLISHED: dict[str, Callable[[VideoTokens, int], Tensor]] = {
    algorithm.__name__: algorithm
    for algorithm in (
        cdpruner,
        divprune,
        dpc_knn,
        dtd,
        dycoke,
        evs,
        memory_bank,
        simple_cluster,
        tome,
        v_cast,
        vidcom2,
        visionzip,
    )
}
"""By the name of the compressor."""


def _frames(video: VideoTokens) -> Tensor:
    return video.tokens.view(video.grid.t, video.grid.per_frame, -1)


def _saliency(video: VideoTokens) -> Tensor:
    score = video.extras["saliency"] if "saliency" in video.extras else video.tokens.norm(dim=1)
    return score.view(video.grid.t, video.grid.per_frame)
