"""Published algorithms that pool, merge or cluster, in plain torch, to be timed against ours.

Transcribed from descriptions, with the steps and the cost of the originals, as in ``published``.
Their answers are not compared; that is what the parity checks do.  Where the original has a fixed
number of tokens or frames, it is scaled to the budget, and thresholds are those that leave about a
tenth of the drifting video that is timed, so that the counts are near.

Legend: T frames, L of a chunk, P tokens of a frame, N rows, M nodes, E pairs, D features, K budget.
"""

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.functional import (
    adaptive_avg_pool2d,
    adaptive_max_pool2d,
    interpolate,
    max_pool2d,
    normalize,
)

from bench_compress_parts.published_segments import (
    density_peaks,
    fastvid,
    flashvid,
    frames,
    group_means,
    holitom,
    prunevid,
    saliency,
)
from bench_compress_parts.published_trees import scissor, sttm
from vidcomp.types import VideoTokens

__all__ = ["PUBLISHED_CLUSTERS"]


def avg_pool(video: VideoTokens, budget: int) -> Tensor:
    """Means over the cells of each frame."""
    return _rows(adaptive_avg_pool2d(_pictures(video), _sides(video, budget / video.grid.t)))


def max_pool(video: VideoTokens, budget: int) -> Tensor:
    """Largest values in the cells of each frame."""
    return _rows(adaptive_max_pool2d(_pictures(video), _sides(video, budget / video.grid.t)))


def bilinear_pool(video: VideoTokens, budget: int) -> Tensor:
    """Each frame interpolated to fewer places."""
    sides = _sides(video, budget / video.grid.t)
    return _rows(interpolate(_pictures(video), sides, mode="bilinear"))


def llava_video_slowfast(video: VideoTokens, budget: int, stride: int = 10) -> Tensor:
    """Every tenth frame pooled, the others pooled again."""
    num_slow = -(-video.grid.t // stride)
    sides = _sides(video, budget / (num_slow + (video.grid.t - num_slow) / 4))
    slow_TDhw = interpolate(_pictures(video), sides, mode="bilinear")
    coarse = (max(1, sides[0] // 2), max(1, sides[1] // 2))
    fast_TDhw = interpolate(slow_TDhw, coarse, mode="bilinear")
    slow = slow_TDhw.permute(0, 2, 3, 1).flatten(1, 2)
    fast = fast_TDhw.permute(0, 2, 3, 1).flatten(1, 2)
    return torch.cat([(fast if t % stride else slow)[t] for t in range(len(slow))])


def slowfast(video: VideoTokens, budget: int, num_slow: int = 10) -> Tensor:
    """A few frames pooled along columns, and all of them pooled to little."""
    x_TDhw = _pictures(video)
    _, _, h, w = x_TDhw.shape
    fast = max(1, min(h, w) // 6)
    fast_TDhw = adaptive_avg_pool2d(x_TDhw, (fast, fast))
    slow = torch.linspace(0, len(x_TDhw) - 1, num_slow).long()
    rows = max(1, round((budget - len(x_TDhw) * fast**2) / num_slow / w))
    slow_TDhw = max_pool2d(x_TDhw[slow], (-(-h // rows), 1))
    return torch.cat([_rows(slow_TDhw), _rows(fast_TDhw)])


def longvu(video: VideoTokens, budget: int, threshold: float = 0.95) -> Tensor:
    """Frames unlike their window; tokens unlike the first of their chunk; the ends are cut."""
    return _cut_chunks(_distinct_frames(frames(video), budget), budget, threshold)


def longvu_query(video: VideoTokens, budget: int, threshold: float = 0.95) -> Tensor:
    """As ``longvu``, but frames that do not answer the question are pooled to 4 / 9."""
    x_TPD = _distinct_frames(frames(video), budget)
    h, w = video.grid[1:]
    x_TDhw = x_TPD.view(-1, h, w, x_TPD.shape[2]).permute(0, 3, 1, 2).contiguous()
    sides = (max(1, round(h * 2 / 3)), max(1, round(w * 2 / 3)))
    coarse_TpD = interpolate(x_TDhw, sides, mode="bilinear").permute(0, 2, 3, 1).flatten(1, 2)
    asked_D = video.tokens.mean(dim=0)
    score_T = torch.softmax(x_TPD @ asked_D / math.sqrt(len(asked_D)), dim=1).mean(dim=1)
    spare = budget - coarse_TpD.shape[0] * coarse_TpD.shape[1]
    most = max(0, spare // (x_TPD.shape[1] - coarse_TpD.shape[1]))
    full = set(score_T.topk(min(most, len(score_T))).indices.tolist())
    if not full:
        return _cut_chunks(coarse_TpD, budget, threshold)
    return torch.cat([(x_TPD if t in full else coarse_TpD)[t] for t in range(len(x_TPD))])[:budget]


def moviechat(video: VideoTokens, budget: int, short: int = 18) -> Tensor:
    """Each short memory of frames merges, two most similar neighbours at a time, to its share."""
    x_TPD = frames(video)
    out: list[Tensor] = []
    for part in torch.split(x_TPD, short):
        memory = list(part)
        while len(memory) > max(1, round(len(part) * budget / len(video))):
            alike = [float((one @ two.T).mean()) for one, two in pairwise(memory)]
            i = alike.index(max(alike))
            memory[i : i + 2] = [(memory[i] + memory[i + 1]) / 2]
        out += memory
    return torch.cat(out)


def prumerge(video: VideoTokens, budget: int, nearest: int = 32) -> Tensor:
    """The most attended of each frame, each with the tokens like it, and one of all others."""
    out = []
    kept = max(1, budget // video.grid.t - 1)
    for x_PD, score_P in zip(frames(video), saliency(video), strict=True):
        share_P = torch.softmax(score_P, dim=0)
        index_K = share_P.topk(kept).indices
        unit_PD = normalize(x_PD, dim=-1)
        like_KP = unit_PD[index_K] @ unit_PD.T
        for row_P, i in zip(like_KP, index_K.tolist(), strict=True):
            row_P[i] = -math.inf
            near = row_P.topk(nearest).indices
            out.append(x_PD[i] + share_P[near] @ x_PD[near])
        rest = torch.ones_like(share_P, dtype=torch.bool)
        rest[index_K] = False
        out.append(share_P[rest] @ x_PD[rest])
    return torch.stack(out)


def unicomp(
    video: VideoTokens, budget: int, frame_gap: float = 0.005, token_gap: float = 0.2
) -> Tensor:
    """Runs of like frames are averaged; in each, tokens that no more unique one is near to."""
    x_TPD = frames(video)
    unit_TD = normalize(x_TPD.mean(dim=1), dim=-1)
    longest = int(len(video) / budget)
    starts = [0]
    for t in range(1, len(x_TPD)):
        if 1 - float(unit_TD[t] @ unit_TD[starts[-1]]) > frame_gap or t - starts[-1] > longest:
            starts.append(t)
    ends = [*starts[1:], len(x_TPD)]
    fused_TPD = torch.stack([x_TPD[a:b].mean(dim=0) for a, b in zip(starts, ends, strict=True)])
    centre_TD = normalize(fused_TPD.mean(dim=1), dim=-1)
    unlike_T = (1 - (centre_TD @ centre_TD.T).mean(dim=1)) * math.sqrt(len(centre_TD))
    cap = min(x_TPD.shape[1], max(1, 2 * (budget // len(starts))))
    quota_T = (unlike_T.softmax(dim=0) * budget).floor().long().clamp(max=cap)
    out = []
    for x_PD, quota in zip(fused_TPD, quota_T.tolist(), strict=True):
        unit_PD = normalize(x_PD, dim=-1)
        like_PP = unit_PD @ unit_PD.T
        near_PP = 1 - like_PP < token_gap
        gone_P = torch.zeros_like(near_PP[0])
        kept: list[int] = []
        for i in like_PP.mean(dim=1).argsort().tolist():
            if not gone_P[i]:
                kept.append(i)
                gone_P |= near_PP[i]
        index_K = torch.tensor(sorted(kept[:quota]), dtype=torch.int64, device=x_PD.device)
        near_KP = near_PP[index_K].to(x_PD.dtype)
        mean_KD = near_KP @ x_PD / near_KP.sum(dim=1, keepdim=True).clamp(min=1)
        out.append((x_PD[index_K] + mean_KD) / 2)
    return torch.cat(out)


def chat_univi(video: VideoTokens, budget: int) -> Tensor:
    """Frames in events; frames, then events, clustered at three levels."""
    x_TPD = frames(video)
    num_events = math.ceil(len(x_TPD) / 16)
    event_T = density_peaks(x_TPD.mean(dim=1)[None], num_events, 5)[1][0]
    scale = budget / (112 * num_events)
    out = []
    level_TKD = x_TPD
    for size, neighbours in ((64, 5), (32, 3), (16, 3)):
        level_TKD = _level(level_TKD, min(level_TKD.shape[1], round(size * scale)), neighbours)
        for event in range(num_events):
            event_1MD = level_TKD[event_T == event].flatten(0, 1)[None]
            out.append(_level(event_1MD, level_TKD.shape[1], neighbours)[0])
    return torch.cat(out)


def ustc(video: VideoTokens, budget: int, similarity: float = 0.7, context: float = 0.3) -> Tensor:
    """Attended tokens unlike those taken before, then clusters of all others."""
    x_ND, unit_ND = video.tokens, normalize(video.tokens, dim=-1)
    most = budget - round(budget * context)
    pool_KD = torch.empty_like(unit_ND[:most])
    taken: list[int] = []
    for i in saliency(video).flatten().argsort(descending=True).tolist():
        if len(taken) == most:
            break
        if not taken or float((pool_KD[: len(taken)] @ unit_ND[i]).max()) < similarity:
            pool_KD[len(taken)] = unit_ND[i]
            taken.append(i)
    rest_N = torch.ones_like(x_ND[:, 0], dtype=torch.bool)
    rest_N[taken] = False
    clusters = budget - len(taken)
    _, group_1N = density_peaks(x_ND[rest_N][None], clusters, 5)
    mean_KD, _ = group_means(x_ND[rest_N], group_1N[0], clusters)
    return torch.cat([x_ND[sorted(taken)], mean_KD])


PUBLISHED_CLUSTERS: dict[str, Callable[[VideoTokens, int], Tensor]] = {
    algorithm.__name__: algorithm
    for algorithm in (
        avg_pool,
        bilinear_pool,
        chat_univi,
        fastvid,
        flashvid,
        holitom,
        llava_video_slowfast,
        longvu,
        longvu_query,
        max_pool,
        moviechat,
        prumerge,
        prunevid,
        scissor,
        slowfast,
        sttm,
        unicomp,
        ustc,
    )
}
"""By the name of the compressor."""


def _pictures(video: VideoTokens) -> Tensor:
    """[T, D, h, w], as convolutions and pools want it."""
    x_THWD = video.tokens.view(*video.grid, -1)
    return x_THWD.permute(0, 3, 1, 2).contiguous()


def _rows(x_TDHW: Tensor) -> Tensor:
    return x_TDHW.permute(0, 2, 3, 1).flatten(0, 2)


def _sides(video: VideoTokens, share: float) -> tuple[int, int]:
    """Height and width of the grid of a frame with at most ``share`` tokens."""
    _, h, w = video.grid
    tall = max(1, min(h, int((share * h / w) ** 0.5)))
    return tall, max(1, min(w, int(share // tall)))


def _distinct_frames(x_TPD: Tensor, budget: int, window: int = 16, like: float = 0.95) -> Tensor:
    """Frames that are unlike the mean of their window, and the middle one."""
    if len(x_TPD) < budget // x_TPD.shape[1]:
        return x_TPD
    stays = []
    for part_LD in torch.split(normalize(x_TPD.flatten(1), dim=-1), window):
        like_L = (part_LD @ part_LD.T).mean(dim=1)
        like_L[len(part_LD) // 2] = 0
        stays.append(like_L < like)
    return x_TPD[torch.cat(stays)]


def _cut_chunks(x_TPD: Tensor, budget: int, threshold: float, chunk: int = 8) -> Tensor:
    """Of each chunk the first frame and what is unlike it; as much as is too much off the ends."""
    if x_TPD.shape[0] * x_TPD.shape[1] <= budget:
        return x_TPD.flatten(0, 1)
    parts = []
    for part_LPD in torch.split(x_TPD, chunk):
        like_LP = torch.cosine_similarity(part_LPD[1:], part_LPD[:1], dim=-1)
        parts.append(torch.cat([part_LPD[0], part_LPD[1:][like_LP < threshold]]))
    cut = max(0, -(-(sum(map(len, parts)) - budget) // len(parts)))
    return torch.cat([part[: max(0, len(part) - cut)] for part in parts])[:budget]


def _level(x_BND: Tensor, num_clusters: int, neighbours: int) -> Tensor:
    """[B, K, D] means of the clusters of each group."""
    _, group_BN = density_peaks(x_BND, num_clusters, neighbours)
    first_B1 = torch.arange(len(x_BND), device=x_BND.device)[:, None] * num_clusters
    mean_KD, _ = group_means(
        x_BND.flatten(0, 1), (group_BN + first_B1).flatten(), num_clusters * len(x_BND)
    )
    return mean_KD.view(len(x_BND), num_clusters, -1)
