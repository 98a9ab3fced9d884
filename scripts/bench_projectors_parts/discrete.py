"""Originals that make codes of rows, as vector-quantize-pytorch has them.

Legend: N rows, C features of a code, K codes.
"""

from math import prod

import torch
from torch import Tensor
from torch.nn.functional import normalize

from bench_projectors_parts.case import Case, Task

__all__ = ["DISCRETE"]


def vq(task: Task) -> Tensor:
    """All distances, the nearest code, and for gradients the rotation trick."""
    w = task.weights
    z_NC = w.linear("project_in", task.maps.flatten(0, 2)).float()
    embed_KC = w["embed"].float()
    square_N1 = z_NC.detach().square().sum(-1, keepdim=True)
    between_NK = square_N1 + embed_KC.square().sum(-1) - 2 * z_NC.detach() @ embed_KC.T
    code_NC = embed_KC[(-between_NK.clamp(min=0).sqrt()).argmax(-1)]
    if torch.is_grad_enabled():
        code_NC = _rotated(z_NC, code_NC)
    return w.linear("project_out", code_NC.to(task.maps.dtype))


def _rotated(z_NC: Tensor, code_NC: Tensor) -> Tensor:
    """Rows turned and stretched onto their codes by products of small matrices."""
    length, wanted = z_NC.norm(dim=-1, keepdim=True), code_NC.norm(dim=-1, keepdim=True)
    start, stop = z_NC / length.clamp(min=1e-6), code_NC / wanted.clamp(min=1e-6)
    middle = normalize(start + stop, dim=-1, eps=1e-6).detach()
    row = z_NC[:, None]
    turned = row - 2 * (row @ middle[:, :, None] @ middle[:, None])
    turned = turned + 2 * (row @ start[:, :, None].detach() @ stop[:, None].detach())
    return turned[:, 0] * (wanted / length.clamp(min=1e-6)).detach()


def fsq(task: Task) -> Tensor:
    """Bounded, rounded, and the ids too, which come with every call."""
    w, levels = task.weights, task.config.levels
    z_NC = w.linear("project_in", task.maps.flatten(0, 2)).float()
    levels_C = torch.tensor(levels, device=z_NC.device)
    half_C, offset_C = (levels_C - 1) * (1 + 1e-3) / 2, torch.where(levels_C % 2 == 0, 0.5, 0.0)
    bounded = (z_NC + (offset_C / half_C).atanh()).tanh() * half_C - offset_C
    rounded = bounded + (bounded.round() - bounded).detach()
    code_NC = rounded / (levels_C // 2)
    basis = torch.tensor([prod(levels[:i]) for i in range(len(levels))], device=z_NC.device)
    ((code_NC * (levels_C // 2) + levels_C // 2) * basis).sum(-1).to(torch.int32)
    return w.linear("project_out", code_NC.to(task.maps.dtype))


def lfq(task: Task) -> Tensor:
    """Signs, and the ids too."""
    w = task.weights
    z_NC = w.linear("project_in", task.maps.flatten(0, 2)).float()
    one = torch.ones_like(z_NC)
    code_NC = torch.where(z_NC > 0, one, -one)
    mask = 2 ** torch.arange(z_NC.shape[-1] - 1, -1, -1, device=z_NC.device)
    ((code_NC > 0).int() * mask.int()).sum(-1)
    passed = z_NC + (code_NC - z_NC).detach() if torch.is_grad_enabled() else code_NC
    return w.linear("project_out", passed.to(task.maps.dtype))


DISCRETE = {
    "vq": Case(oracle=vq, settings={"codebook_size": 8192, "codebook_dim": 32}),
    "fsq": Case(oracle=fsq),
    "lfq": Case(oracle=lfq, settings={"bits": 13}),
}
"""Originals by the name of the projector."""
