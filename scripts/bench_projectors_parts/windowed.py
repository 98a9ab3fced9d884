"""Originals of windows that are read, and of scans.

Legend: T frames, N patches of a frame, M windows, P patches of a window, L tokens of a scan, K
orders in which they are read, D C features.
"""

from functools import cache

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.functional import scaled_dot_product_attention

from bench_projectors_parts.case import Case, Task
from bench_projectors_parts.weights import Weights, heads_of, torch_attention, without_heads
from vidcomp.projectors.sincos import sine_hw
from vidcomp.types import Grid

__all__ = ["WINDOWED"]


def tokenpacker(task: Task) -> Tensor:
    """Interpolated points read the patches of their squares with PyTorch's attention."""
    w, s, (t, h, wide, _) = task.weights, task.config.scale_factor, task.maps.shape
    small = functional.interpolate(
        task.maps.permute(0, 3, 1, 2), size=(h // s, wide // s), mode="bilinear"
    )
    points = w.linear("q_proj", small.permute(0, 2, 3, 1).reshape(t, -1, task.maps.shape[3]))
    points = w.norm("norm_q", points, 1e-6).flatten(0, 1)[None]
    x_TND = task.maps.flatten(1, 2)
    key, value = (w.norm(f"norm_{k}", w.at(f"{k}_proj").mlp(x_TND), 1e-6) for k in "kv")
    windows = [
        x.view(t, h // s, s, wide // s, s, -1)
        .permute(2, 4, 0, 1, 3, 5)
        .reshape(s * s, -1, x.shape[2])
        for x in (key, value)
    ]
    read = torch_attention(w.at("attention"), points, *windows, task.config.heads)
    return w.at("layers").mlp(read.view(t, -1, read.shape[-1]))


def molmo2(task: Task) -> Tensor:
    """transformers: patches by index, their mean asks, fused attention, a gated MLP."""
    w, config, (t, h, wide, d) = task.weights, task.config, task.maps.shape
    rows, columns = config.pooling_size
    number = torch.arange(t * h * wide, device=task.maps.device).view(t, h, wide)
    index_MP = number.view(t, h // rows, rows, wide // columns, columns).transpose(2, 3)
    index_MP = index_MP.reshape(-1, rows * columns)
    valid_MP = index_MP >= 0
    x_MPD = task.maps.reshape(-1, d)[index_MP.clip(min=0)] * valid_MP[..., None]
    count_M = valid_MP.float().sum(-1).clamp(min=1)
    query = x_MPD.sum(-2, keepdim=True) / count_M[:, None, None].to(x_MPD.dtype)
    inner = w.at("attention")
    heads = (config.heads, config.key_heads, config.key_heads)
    made = (inner.linear("q_proj", query), inner.linear("k_proj", x_MPD))
    made = (*made, inner.linear("v_proj", x_MPD))
    parts = (heads_of(x, n) for x, n in zip(made, heads, strict=True))
    read = scaled_dot_product_attention(*parts, attn_mask=valid_MP[:, None, None])
    x = inner.linear("o_proj", without_heads(read))
    inner = w.at("layers")
    gate = functional.silu(inner.linear("gate_proj", x))
    return inner.linear("down_proj", gate * inner.linear("up_proj", x))


@cache
def _table(h: int, w: int, dim: int) -> Tensor:
    return sine_hw(h, w, dim)


def _sines(h: int, w: int, dim: int, like: Tensor) -> Tensor:
    """[N, E] what the encoder gives along."""
    return _table(h, w, dim).to(like)


def edgetam(task: Task) -> Tensor:
    """transformers: one frame at a time, as its views allow no more; places are given."""
    w, config, (h, wide, d) = task.weights, task.config, task.maps.shape[1:]
    rows, columns = config.window_grid
    place, out = _sines(h, wide, config.heads * config.dim_head, task.maps), []
    for frame in task.maps:
        x = w["latents_1d"][None]
        for number in range(config.depth):
            layer = w.at("layers", number)
            x = _edgetam_layer(layer, x, frame.view(1, -1, d), config.heads, place)
        y = w["latents_2d"][:, None]
        windows = frame.view(rows, h // rows, columns, wide // columns, d).permute(0, 2, 1, 3, 4)
        windows = windows.reshape(rows * columns, -1, d)
        for number in range(config.depth):
            y = _edgetam_layer(w.at("layers", number), y, windows, config.heads, None)
        out.append(w.norm("norm", torch.cat([x[0], y[:, 0]])))
    return torch.stack(out)


def _edgetam_layer(w: Weights, x: Tensor, rows: Tensor, heads: int, place: Tensor | None) -> Tensor:
    asking, rows = w.norm("norm_latents", x), w.norm("norm_input", rows)
    x = x + _attention(w.at("cross_attention"), asking, rows, heads, place)
    x = x + _feed(w.at("mlp"), x)
    asking = w.norm("norm_self", x)
    x = x + _attention(w.at("self_attention"), asking, asking, heads, None)
    return x + _feed(w.at("self_mlp"), x)


def _attention(
    w: Weights, asking: Tensor, rows: Tensor, heads: int, place: Tensor | None
) -> Tensor:
    query, key, value = (
        w.linear("q_proj", asking),
        w.linear("k_proj", rows),
        w.linear("v_proj", rows),
    )
    if place is not None:
        key, value = key + place, value + place
    parts = (heads_of(x, heads) for x in (query, key, value))
    return w.linear("o_proj", without_heads(scaled_dot_product_attention(*parts)))


def _feed(w: Weights, x: Tensor) -> Tensor:
    return w.linear("3", functional.gelu(w.linear("1", w.norm("0", x))))


def vl_mamba(task: Task) -> Tensor:
    """VMamba's reference scan in a linear layer, a norm and a linear layer."""
    w = task.weights
    x_THWD = w.linear("in_proj", task.maps)
    x_THWD = x_THWD + _scanned(w.at("vss"), functional.gelu(x_THWD))
    return w.linear("layers.0", w.norm("norm", x_THWD))


def _scanned(w: Weights, x_THWD: Tensor) -> Tensor:
    """VMamba's SS2D: each row by row there and back, twice."""
    t, h, wide, _ = x_THWD.shape
    x, z = w.linear("in_proj", x_THWD).chunk(2, dim=-1)
    x_TCHW = x.permute(0, 3, 1, 2).contiguous()
    bias, c = w.bias("conv2d"), x_TCHW.shape[1]
    x_TCHW = functional.silu(
        functional.conv2d(x_TCHW, w["conv2d.weight"], bias, padding=1, groups=c)
    )
    x_TCL = x_TCHW.flatten(2)
    x_TKCL = torch.stack([x_TCL, x_TCL, x_TCL.flip(-1), x_TCL.flip(-1)], dim=1)
    steps_KCR = w["dt_projs.weight"].view(4, c, -1)
    states = w["A_logs"].shape[1]
    read = torch.einsum("b k d l, k c d -> b k c l", x_TKCL, w["x_proj.weight"].view(4, -1, c))
    step, b, shown = torch.split(read, [steps_KCR.shape[2], states, states], dim=2)
    step = torch.einsum("b k r l, k d r -> b k d l", step, steps_KCR)
    step = functional.softplus(step + w["dt_projs_bias"][..., None])
    y_TKCL = _reference_scan(x_TKCL.float(), step.float(), w, b.float(), shown.float())
    y_TCL = y_TKCL[:, :2].sum(1) + y_TKCL[:, 2:].flip(-1).sum(1)
    y_THWC = y_TCL.transpose(1, 2).reshape(t, h, wide, c).to(x_THWD.dtype)
    return w.linear("out_proj", w.norm("out_norm", y_THWC) * functional.silu(z))


def _reference_scan(u: Tensor, step: Tensor, w: Weights, b: Tensor, shown: Tensor) -> Tensor:
    """[T, K, C, L] one token after the other, all decays and inputs made before (mamba-ssm)."""
    rate_KCN = -w["A_logs"].float().exp().view(4, u.shape[2], -1)
    decay = torch.exp(torch.einsum("b k d l, k d n -> b k d l n", step, rate_KCN))
    written = torch.einsum("b k d l, b k n l, b k d l -> b k d l n", step, b, u)
    state, out = torch.zeros_like(written[..., 0, :]), []
    # Unbound: gradients of slices would each be as large as all decays.
    for kept, new, read in zip(decay.unbind(-2), written.unbind(-2), shown.unbind(-1), strict=True):
        state = kept * state + new
        out.append(torch.einsum("b k d n, b k n -> b k d", state, read))
    return torch.stack(out, dim=-1) + u * w["Ds"].view(4, -1, 1)


WINDOWED = {
    "tokenpacker": Case(oracle=tokenpacker),
    "molmo2": Case(oracle=molmo2, dim_in=1152, cpu={"dim_ff": 4096}),
    "edgetam_perceiver": Case(
        oracle=edgetam, grid=Grid(4, 64, 64), dim_in=64, dim_out=64, cpu={"dim_out": 64}
    ),
    "vl_mamba": Case(oracle=vl_mamba, grid=Grid(1, 48, 48), cpu={"dim_out": 256}),
}
"""Originals by the name of the projector."""
