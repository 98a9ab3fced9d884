"""Originals that pool, shuffle or map patches one by one.

Legend: T frames, H W patches, S patches along an edge of a square, D features.
"""

import torch
from torch import Tensor
from torch.nn import functional

from bench_projectors_parts.case import Case, Task
from vidcomp.types import Grid

__all__ = ["POOLED"]


def linear(task: Task) -> Tensor:
    """LLaVA, frame by frame in a batch."""
    return task.weights.linear("layers", task.maps.flatten(1, 2))


def mlp(task: Task) -> Tensor:
    """LLaVA-1.5."""
    return task.weights.at("layers").mlp(task.maps.flatten(1, 2))


def deco(task: Task) -> Tensor:
    """Features to the front, adaptive pooling, features to the back, MLP."""
    x_TDHW = task.maps.permute(0, 3, 1, 2)
    pooled = functional.adaptive_avg_pool2d(x_TDHW, (12, 12))
    return task.weights.at("layers").mlp(pooled.flatten(2).transpose(1, 2))


def avg_pool1d(task: Task) -> Tensor:
    """Along the flattened rows."""
    x_1DN = task.maps.flatten(0, 2).T[None]
    pooled = functional.adaptive_avg_pool1d(x_1DN, task.config.out_tokens)
    return task.weights.at("layers").mlp(pooled.transpose(1, 2))


def pllava(task: Task) -> Tensor:
    """MLP, then pooling over three axes, features in front."""
    x_THWE = task.weights.at("layers").mlp(task.maps)
    pooled = functional.adaptive_avg_pool3d(x_THWE.permute(3, 0, 1, 2)[None], (16, 12, 12))
    return pooled.permute(0, 2, 3, 4, 1)


def perception_lm(task: Task) -> Tensor:
    """MLP, then adaptive pooling of square frames."""
    x_TNE = task.weights.at("layers").mlp(task.maps.flatten(1, 2))
    t, n, e = x_TNE.shape
    side = int(n**0.5)
    x_TEHW = x_TNE.permute(0, 2, 1).reshape(t, e, side, side)
    pooled = functional.adaptive_avg_pool2d(x_TEHW, (side // 2, side // 2))
    return pooled.flatten(2).transpose(1, 2)


def videollama3(task: Task) -> Tensor:
    """Interpolation with features in front, then an MLP."""
    _, h, w, _ = task.maps.shape
    small = functional.interpolate(
        task.maps.permute(0, 3, 1, 2), size=(h // 2, w // 2), mode="bilinear"
    )
    return task.weights.at("layers").mlp(small.permute(0, 2, 3, 1).flatten(0, 2))


def llava_next(task: Task) -> Tensor:
    """MLP, interpolation, and a newline behind each row of cells."""
    w, (t, h, _, _) = task.weights, task.maps.shape
    x_TNE = w.at("layers").mlp(task.maps.flatten(1, 2))
    x_TEHW = x_TNE.view(t, h, -1, x_TNE.shape[-1]).permute(0, 3, 1, 2).contiguous()
    size = [-(-side // 2) for side in x_TEHW.shape[2:]]
    small = functional.interpolate(x_TEHW, size=size, mode="bilinear").permute(0, 2, 3, 1)
    x_ELK = small.permute(3, 0, 1, 2).contiguous().flatten(1, 2)
    newline = w["image_newline"][:, None, None].expand(*x_ELK.shape[:-1], 1)
    return torch.cat([x_ELK, newline], dim=-1).flatten(1, 2).transpose(0, 1)


def _shuffled(x_TND: Tensor, s: int) -> Tensor:
    """[T, N / S^2, D * S^2] by two reshapes and a swap of axes in between (Idefics3)."""
    t, n, d = x_TND.shape
    side = int(n**0.5)
    x = x_TND.view(t, side, side // s, d * s).permute(0, 2, 1, 3)
    x = x.reshape(t, side // s, side // s, d * s * s).permute(0, 2, 1, 3)
    return x.reshape(t, n // s**2, d * s * s)


def pixel_shuffle(task: Task) -> Tensor:
    """Shuffle and a matrix."""
    shuffled = _shuffled(task.maps.flatten(1, 2), task.config.scale_factor)
    return task.weights.linear("proj", shuffled)


def internvl(task: Task) -> Tensor:
    """Shuffle, norm and MLP."""
    w = task.weights.at("layers")
    x = w.norm("0", _shuffled(task.maps.flatten(1, 2), task.config.scale_factor))
    return w.linear("3", functional.gelu(w.linear("1", x)))


def qwen_merger(task: Task) -> Tensor:
    """Rows are brought into the order of windows, as the processor does, then normed and merged."""
    w, (t, h, wide, d) = task.weights.at("merger"), task.maps.shape
    windows = task.maps.view(t, h // 2, 2, wide // 2, 2, d).permute(0, 1, 3, 2, 4, 5)
    x_MD = w.norm("ln_q", windows.reshape(-1, d), 1e-6).view(-1, 4 * d)
    return w.at("mlp").mlp(x_MD)


POOLED = {
    "linear": Case(oracle=linear),
    "mlp": Case(oracle=mlp),
    "deco": Case(oracle=deco),
    "avg_pool1d": Case(oracle=avg_pool1d, settings={"out_tokens": 1152}),
    "pllava": Case(oracle=pllava, grid=Grid(16, 24, 24), cpu={"dim_out": 768}),
    "perception_lm": Case(oracle=perception_lm),
    "videollama3": Case(oracle=videollama3),
    "llava_next": Case(oracle=llava_next),
    "pixel_shuffle": Case(oracle=pixel_shuffle),
    "internvl": Case(oracle=internvl),
    "qwen_merger": Case(oracle=qwen_merger),
}
"""Originals by the name of the projector."""
