"""Published algorithms that cut a video into segments and cluster them, in plain torch.

Transcribed from descriptions, with the steps and the cost of the originals, as in ``published``;
what was a fixed share of the tokens is a share of the budget, so that the counts are near.

Legend: T frames, L of a segment, P tokens of a frame, R those that are not salient, N rows of B
groups, S static places, D features, K budget or clusters.
"""

import math
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.functional import normalize

from vidcomp.types import VideoTokens

__all__ = ["density_peaks", "fastvid", "flashvid", "frames", "group_means", "holitom", "prunevid"]


def fastvid(video: VideoTokens, budget: int, context: float = 0.4, stride: int = 4) -> Tensor:
    """Salient tokens; all others of a segment merge into dense ones of each of its anchors."""
    x_TPD, score_TP = frames(video), saliency(video)
    num_frames, p, d = x_TPD.shape
    keep = budget // num_frames
    merged = int(keep * context)
    salient_TPD, rest_TRD = _apart(x_TPD, score_TP.topk(keep - merged).indices)
    unit_TRD = normalize(rest_TRD, dim=-1)
    out = [salient_TPD.flatten(0, 1)]
    for start, stop in _dynamic_segments(x_TPD.mean(dim=1)):
        anchor_A = torch.arange(stop - 1, start - 1, -stride, device=x_TPD.device)
        quota = min(merged * (stop - start) // len(anchor_A), p - keep + merged)
        if not quota:
            continue
        centre_AK, _ = density_peaks(rest_TRD[anchor_A], quota, 4)
        index_AK1 = centre_AK[..., None].expand(-1, -1, d)
        target_AKD = rest_TRD[anchor_A].gather(1, index_AK1)
        to_target_ADK = unit_TRD[anchor_A].gather(1, index_AK1).mT
        other_MD = rest_TRD[start:stop].flatten(0, 1)
        for target_KD, to_target_DK in zip(target_AKD, to_target_ADK, strict=True):
            group_M = (unit_TRD[start:stop].flatten(0, 1) @ to_target_DK).argmax(dim=1)
            mean_KD, count_K = group_means(other_MD, group_M, quota)
            weight_K1 = (1 / (count_K + 1)).clamp(min=0.6)[:, None]
            out.append(weight_K1 * target_KD + (1 - weight_K1) * mean_KD)
    return torch.cat(out)


def flashvid(video: VideoTokens, budget: int, salient: float = 0.7, link: float = 0.8) -> Tensor:
    """Salient and diverse tokens; all others are linked to the frame before, then clustered."""
    x_TPD, score_TP = frames(video), saliency(video)
    keep = math.ceil(budget / len(x_TPD))
    most = math.ceil(keep * salient)
    chosen_TPD, rest_TRD = _apart(x_TPD, _diverse(x_TPD, score_TP, most))
    unit_TRD = normalize(rest_TRD, dim=-1)
    out = [chosen_TPD.flatten(0, 1)]
    for start, stop in _dynamic_segments(x_TPD.mean(dim=1)):
        unit_LRD, sum_LRD = unit_TRD[start:stop], rest_TRD[start:stop].clone()
        count_LR = torch.ones_like(sum_LRD[..., 0])
        is_root_LR = torch.ones_like(count_LR, dtype=torch.bool)
        best_LR, to_LR = (unit_LRD[1:] @ unit_LRD[:-1].mT).max(dim=-1)
        for i in range(stop - start - 1, 0, -1):
            linked_R = best_LR[i - 1] > link
            to = to_LR[i - 1][linked_R]
            sum_LRD[i - 1].index_add_(0, to, sum_LRD[i][linked_R])
            count_LR[i - 1].index_add_(0, to, torch.ones_like(to, dtype=count_LR.dtype))
            is_root_LR[i] = ~linked_R
        wanted = (keep - most) * (stop - start)
        total = int(is_root_LR.sum())
        for sum_RD, count_R, is_root_R in zip(sum_LRD, count_LR, is_root_LR, strict=True):
            tree_RD = sum_RD[is_root_R] / count_R[is_root_R, None]
            out.append(_clustered(tree_RD, math.ceil(wanted * len(tree_RD) / total)))
    return torch.cat(out)


def holitom(video: VideoTokens, budget: int, threshold: float = 0.95) -> Tensor:
    """Windows whose still places are averaged and clustered; of the others the most attended."""
    x_TPD, score_TP = frames(video), saliency(video)
    num_tokens = len(video)
    like_TP = torch.cosine_similarity(x_TPD[1:], x_TPD[:-1], dim=-1)
    windows, removed = _static_windows(like_TP > threshold)
    rate = min(budget / (num_tokens - removed), 1)
    out = []
    for start, stop in windows:
        still_P = (like_TP[start : stop - 1] > threshold).all(dim=0)
        if stop - start == 1:
            still_P = torch.zeros_like(still_P)
        still_SD = x_TPD[start:stop, still_P].mean(dim=0)
        out.append(_clustered(still_SD, round(len(still_SD) * rate), mixed=0.6))
        moving_LRD, score_LR = x_TPD[start:stop, ~still_P], score_TP[start:stop, ~still_P]
        most = min(score_LR.shape[1], math.ceil(score_LR.shape[1] * rate))
        index_LK = score_LR.topk(most).indices.sort().values[..., None]
        kept_LKD = moving_LRD.gather(1, index_LK.expand(-1, -1, x_TPD.shape[-1]))
        out.append(kept_LKD.flatten(0, 1))
    return torch.cat(out)


def prunevid(video: VideoTokens, budget: int, threshold: float = 0.8) -> Tensor:
    """Segments of clustered frames: still places over time, then clusters in space."""
    x_TPD = frames(video)
    mean_1TD = x_TPD.mean(dim=1)[None]
    _, label_1T = density_peaks(mean_1TD, max(1, int(len(x_TPD) * 0.25)), 7)
    parts = []
    for start, stop in _refined(label_1T[0].tolist()):
        unit_PLD = normalize(x_TPD[start:stop], dim=-1).transpose(0, 1)
        length = stop - start
        like_PLL = unit_PLD @ unit_PLD.mT
        pairs = max(1, length * (length - 1))
        still_P = (like_PLL.sum(dim=(1, 2)) - length) / pairs > threshold
        parts.append(x_TPD[start:stop, still_P].mean(dim=0, keepdim=True))
        parts.append(x_TPD[start:stop, ~still_P])
    rate = budget / sum(part.shape[0] * part.shape[1] for part in parts)
    out = []
    for part_BND in parts:
        num_rows = part_BND.shape[1]
        if num_rows <= 14:
            out.append(part_BND.flatten(0, 1))
            continue
        num_groups = max(1, int(num_rows * rate))
        _, group_BN = density_peaks(part_BND, num_groups, 7)
        first_B1 = torch.arange(len(group_BN), device=group_BN.device)[:, None] * num_groups
        group_N = (group_BN + first_B1).flatten()
        out.append(group_means(part_BND.flatten(0, 1), group_N, num_groups * len(part_BND))[0])
    return torch.cat(out)


def density_peaks(x_BND: Tensor, num_clusters: int, neighbours: int) -> tuple[Tensor, Tensor]:
    """[B, K] centres of each group and [B, N] the cluster of each row (DPC-KNN)."""
    gap_BNN = torch.cdist(x_BND, x_BND) / math.sqrt(x_BND.shape[-1])
    near_BNk = gap_BNN.topk(min(neighbours, gap_BNN.shape[-1]), dim=-1, largest=False).values
    density_BN = (-near_BNk.square().mean(dim=-1)).exp()
    denser_BNN = density_BN[:, None, :] > density_BN[:, :, None]
    far_B11 = gap_BNN.amax(dim=(1, 2), keepdim=True)
    parent_BN = torch.where(denser_BNN, gap_BNN, far_B11).amin(dim=-1)
    centre_BK = (parent_BN * density_BN).topk(num_clusters).indices
    rows_BKN = gap_BNN.gather(1, centre_BK[..., None].expand(-1, -1, gap_BNN.shape[-1]))
    group_BN = rows_BKN.argmin(dim=1)
    place_BK = torch.arange(num_clusters, device=group_BN.device).expand_as(centre_BK)
    return centre_BK, group_BN.scatter(1, centre_BK, place_BK)


def group_means(x_ND: Tensor, group_N: Tensor, num_groups: int) -> tuple[Tensor, Tensor]:
    """[K, D] mean of each group and [K] its rows."""
    count_K = torch.bincount(group_N, minlength=num_groups).to(x_ND.dtype)
    sum_KD = x_ND.new_zeros(num_groups, x_ND.shape[1]).index_add_(0, group_N, x_ND)
    return sum_KD / (count_K[:, None] + 1e-6), count_K


def frames(video: VideoTokens) -> Tensor:
    """[T, P, D] tokens by frame."""
    return video.tokens.view(video.grid.t, video.grid.per_frame, -1)


def saliency(video: VideoTokens) -> Tensor:
    """[T, P] what the encoder looks at."""
    score = video.extras["saliency"] if "saliency" in video.extras else video.tokens.norm(dim=1)
    return score.view(video.grid.t, video.grid.per_frame)


def _apart(x_TPD: Tensor, chosen_TK: Tensor) -> tuple[Tensor, Tensor]:
    """Chosen tokens of each frame in their order, and the rest."""
    num_frames, _, d = x_TPD.shape
    is_chosen_TP = torch.zeros_like(x_TPD[..., 0], dtype=torch.bool)
    is_chosen_TP.scatter_(1, chosen_TK, value=True)
    chosen_TKD = x_TPD[is_chosen_TP].view(num_frames, -1, d)
    return chosen_TKD, x_TPD[~is_chosen_TP].view(num_frames, -1, d)


def _clustered(x_ND: Tensor, num_clusters: int, mixed: float | None = None) -> Tensor:
    """Means of clusters; ``mixed``: of this much of the centre and of the mean of the others."""
    num_clusters = min(num_clusters, len(x_ND))
    if not num_clusters:
        return x_ND[:0]
    centre_1K, group_1N = density_peaks(x_ND[None], num_clusters, min(7, len(x_ND)))
    mean_KD, count_K = group_means(x_ND, group_1N[0], num_clusters)
    if mixed is None:
        return mean_KD
    centre_KD, count_K1 = x_ND[centre_1K[0]], count_K[:, None]
    others_KD = (mean_KD * count_K1 - centre_KD) / (count_K1 - 1).clamp(min=1)
    return torch.where(count_K1 > 1, torch.lerp(others_KD, centre_KD, mixed), centre_KD)


def _dynamic_segments(mean_TD: Tensor, least: int = 8, cut: float = 0.9) -> list[tuple[int, int]]:
    """Cuts where neighbouring frames are unlike, and at the least like of all."""
    like_T = torch.cosine_similarity(mean_TD[1:], mean_TD[:-1], dim=-1)
    cuts = set((like_T < cut).nonzero().flatten().tolist())
    cuts |= set(like_T.topk(min(least - 1, len(like_T)), largest=False).indices.tolist())
    ends = [0, *(i + 1 for i in sorted(cuts)), len(mean_TD)]
    return list(pairwise(ends))


def _diverse(x_TPD: Tensor, score_TP: Tensor, most: int) -> Tensor:
    """Farthest first in all frames at once, distances times attention."""
    unit_TPD = normalize(x_TPD, dim=-1)
    gap_TPP = (1 - unit_TPD @ unit_TPD.mT) * score_TP[:, None, :] * 1e6
    picked_TK = gap_TPP.topk(2, dim=1, largest=False).values[:, 1].argmax(dim=1)[:, None]
    while picked_TK.shape[1] < most:
        rows_TKP = gap_TPP.gather(1, picked_TK[..., None].expand(-1, -1, gap_TPP.shape[2]))
        picked_TK = torch.cat([picked_TK, rows_TKP.amin(dim=1).argmax(dim=1)[:, None]], dim=1)
    return picked_TK


def _static_windows(still_TP: Tensor) -> tuple[list[tuple[int, int]], int]:
    """Windows in which averaging takes the most away, by a table of all of them, and how much."""
    num_frames = len(still_TP) + 1
    saved_TT = torch.zeros(num_frames, num_frames + 1)
    for start in range(num_frames - 1):
        always_LP = still_TP[start:].cumprod(dim=0)
        length_L = torch.arange(1, len(always_LP) + 1)
        saved_TT[start, start + 2 :] = always_LP.sum(dim=1).cpu() * length_L
    saved = saved_TT.tolist()
    best, begin = [0.0] * (num_frames + 1), [0] * (num_frames + 1)
    for stop in range(1, num_frames + 1):
        best[stop] = -1.0
        for start in range(stop - 1, -1, -1):
            if best[start] + saved[start][stop] > best[stop]:
                best[stop], begin[stop] = best[start] + saved[start][stop], start
    windows, stop = [], num_frames
    while stop:
        windows.append((begin[stop], stop))
        stop = begin[stop]
    return windows[::-1], int(best[-1])


def _refined(label_T: list[int]) -> list[tuple[int, int]]:
    """Segments: the longest runs of each label, which take in what lies between."""
    starts = [0, *(t for t in range(1, len(label_T)) if label_T[t] != label_T[t - 1])]
    runs = list(zip(starts, [*starts[1:], len(label_T)], strict=True))
    longest: dict[int, int] = {}
    for start, stop in runs:
        longest[label_T[start]] = max(stop - start, longest.get(label_T[start], 0))
    kept = [(a, b) for a, b in runs if b - a == longest[label_T[a]] > 1] or runs
    ends = [0]
    for (a, b), (c, d) in pairwise(kept):
        ends.append(c if b - a >= d - c else b)
    ends.append(len(label_T))
    return list(pairwise(ends))
