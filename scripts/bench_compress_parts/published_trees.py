"""Published algorithms on graphs of tokens, in plain torch and Python, to be timed against ours.

Transcribed from descriptions, with the steps and the cost of the originals, as in ``published``;
thresholds are those that leave about a tenth of the drifting video that is timed.

Legend: T frames, P tokens of a frame, N rows, M nodes of a frame, K components, E pairs, D
features.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, normalize, pad

from bench_compress_parts.published_segments import frames, group_means
from vidcomp.types import VideoTokens

__all__ = ["scissor", "sttm"]


def scissor(video: VideoTokens, budget: int, threshold: float = 0.95) -> Tensor:  # noqa: ARG001  # the threshold decides
    """Components of frames, then of their means; each token goes to the most similar one."""
    means = [_component_means(x_PD, threshold) for x_PD in frames(video)]
    mean_KD = _component_means(torch.cat(means), threshold)
    x_ND = video.tokens
    nearest_N = (normalize(x_ND, dim=-1) @ normalize(mean_KD, dim=-1).T).argmax(dim=1)
    count_K1 = torch.bincount(nearest_N, minlength=len(mean_KD))[:, None]
    return mean_KD.index_add(0, nearest_N, x_ND) / (count_K1 + 1)


def sttm(
    video: VideoTokens,
    budget: int,  # noqa: ARG001  # thresholds decide
    spatial: float = 0.85,
    temporal: float = 0.96,
) -> Tensor:
    """Quadtrees from coarse to fine; then nested boxes of neighbouring frames that are alike."""
    x_THWD = video.tokens.view(*video.grid, -1)
    levels = [x_THWD.permute(0, 3, 1, 2).contiguous()]
    while min(levels[-1].shape[2:]) > 2:
        levels.append(_halved(levels[-1]))
    levels = levels[: max(1, len(levels) - 1)]
    node_ND, box_N5 = _leaves(levels, spatial)
    order_N = (box_N5 * box_N5.new_tensor([1 << 30, 1 << 15, 1, 0, 0])).sum(dim=1).argsort()
    node_ND, box_N5 = node_ND[order_N], box_N5[order_N]
    one_E, two_E = _nested(box_N5, video.grid.t)
    alike_E = torch.cosine_similarity(node_ND[one_E], node_ND[two_E], dim=-1) >= temporal
    one_E, two_E = one_E[alike_E], two_E[alike_E]
    first_N = torch.arange(len(node_ND), device=node_ND.device)
    first_N.scatter_reduce_(0, two_E, first_N[one_E], "amin")
    while not torch.equal(first_N, further_N := first_N[first_N]):
        first_N = further_N
    group_N = torch.unique(first_N, return_inverse=True)[1]
    return group_means(node_ND, group_N, int(group_N.max()) + 1)[0]


def _component_means(x_ND: Tensor, threshold: float, epsilon: float = 0.05) -> Tensor:
    """[K, D] means of the components that sampled nodes and their neighbours make."""
    unit_ND = normalize(x_ND, dim=-1)
    is_near_NN = unit_ND @ unit_ND.T > threshold
    num_nodes = len(x_ND)
    num_samples = min(num_nodes, math.ceil(math.log(max(2, num_nodes)) / epsilon**2))
    sample = torch.randperm(num_nodes, generator=torch.Generator().manual_seed(0))[:num_samples]
    parent = list(range(num_nodes))

    def find(node: int) -> int:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for i in sample.tolist():
        for j in is_near_NN[i].nonzero().flatten().tolist():
            one, two = find(i), find(j)
            if one != two:
                parent[two] = one
    root_N = torch.tensor([find(i) for i in range(num_nodes)], device=x_ND.device)
    group_N = torch.unique(root_N, return_inverse=True)[1]
    return group_means(x_ND, group_N, int(group_N.max()) + 1)[0]


def _halved(x_TDhw: Tensor) -> Tensor:
    """Means of 2 x 2 cells; the first row or column of an odd side alone."""
    top, left = x_TDhw.shape[2] % 2, x_TDhw.shape[3] % 2
    return avg_pool2d(pad(x_TDhw, (left, 0, top, 0), mode="replicate"), 2)


def _spread(value_T_hw: Tensor, shape: torch.Size) -> Tensor:
    """What each cell has, for each of the cells that it was made of."""
    h, w = shape[-2:]
    spread = value_T_hw.repeat_interleave(2, dim=-2).repeat_interleave(2, dim=-1)
    return spread[..., spread.shape[-2] - h :, spread.shape[-1] - w :]


def _leaves(levels: list[Tensor], threshold: float) -> tuple[Tensor, Tensor]:
    """[N, D] nodes and [N, 5] their boxes: whole if they are like all of their parts."""
    _, _, height, width = levels[0].shape
    edges = [(torch.arange(height + 1), torch.arange(width + 1))]
    for x_TDhw in levels[:-1]:
        top, left = (side % 2 for side in x_TDhw.shape[2:])
        rows, columns = edges[-1]
        rows = torch.cat([rows[:1], rows[2 - top :: 2]])
        edges.append((rows, torch.cat([columns[:1], columns[2 - left :: 2]])))
    open_Thw = torch.ones_like(levels[-1][:, 0], dtype=torch.bool)
    nodes, boxes = [], []
    for level in range(len(levels) - 1, -1, -1):
        x_TDhw = levels[level]
        kept_Thw = open_Thw
        if level:
            child_TDhw = levels[level - 1]
            like_Thw = torch.cosine_similarity(_spread(x_TDhw, child_TDhw.shape), child_TDhw, dim=1)
            top, left = like_Thw.shape[1] % 2, like_Thw.shape[2] % 2
            like_Thw = pad(like_Thw, (left, 0, top, 0), value=1.0)
            least_Thw = -torch.nn.functional.max_pool2d(-like_Thw, 2)
            kept_Thw = open_Thw & (least_Thw >= threshold)
            open_Thw = _spread(open_Thw & ~kept_Thw, child_TDhw.shape)
        t, h, w = kept_Thw.nonzero().unbind(dim=1)
        nodes.append(x_TDhw[t, :, h, w])
        rows, columns = (e.to(t.device) for e in edges[level])
        boxes.append(torch.stack([t, rows[h], columns[w], rows[h + 1], columns[w + 1]], dim=1))
    return torch.cat(nodes), torch.cat(boxes)


def _nested(box_N5: Tensor, num_frames: int) -> tuple[Tensor, Tensor]:
    """Pairs of nodes of neighbouring frames of which one lies in the other, of all pairs."""
    count_T = torch.bincount(box_N5[:, 0], minlength=num_frames).tolist()
    number_N = torch.arange(len(box_N5), device=box_N5.device)
    node_TM = torch.nn.utils.rnn.pad_sequence(
        list(torch.split(number_N, count_T)), batch_first=True, padding_value=-1
    )
    box_TM4 = box_N5[node_TM.clamp(min=0), 1:]
    one, two = box_TM4[:-1, :, None], box_TM4[1:, None]
    within_TMM = ((one[..., :2] <= two[..., :2]) & (one[..., 2:] >= two[..., 2:])).all(dim=-1)
    within_TMM |= ((one[..., :2] >= two[..., :2]) & (one[..., 2:] <= two[..., 2:])).all(dim=-1)
    within_TMM &= (node_TM[:-1] >= 0)[:, :, None] & (node_TM[1:] >= 0)[:, None]
    t, i, j = within_TMM.nonzero().unbind(dim=1)
    return node_TM[t, i], node_TM[t + 1, j]
