"""Selective scans token by token, and 2-D scans patch by patch."""

import torch
from torch.nn.functional import conv2d, gelu, layer_norm, silu, softplus


def slow_scan(u, delta, a, b, c, d=None, *, z=None, bias=None, squeeze=False):
    """[B, L, D] one token after another; u, delta, z [B, L, D], a [D, N], b, c [B, L, G, N]."""
    groups = u.shape[2] // b.shape[2]
    state = u.new_zeros(len(u), u.shape[2], a.shape[1])
    out = []
    for t in range(u.shape[1]):
        step = delta[:, t] if bias is None else delta[:, t] + bias
        step = softplus(step) if squeeze else step
        read = b[:, t].repeat_interleave(groups, dim=1)
        write = c[:, t].repeat_interleave(groups, dim=1)
        state = torch.exp(step[..., None] * a) * state + (step * u[:, t])[..., None] * read
        y = (state * write).sum(dim=-1)
        y = y if d is None else y + d * u[:, t]
        out.append(y if z is None else y * silu(z[:, t]))
    return torch.stack(out, dim=1)


def scan_walks(scan, t, h, w):
    """Places (t, h, w) in each of the four orders of a 2-D scan."""
    rows = [(k, i, j) for k in range(t) for i in range(h) for j in range(w)]
    columns = [(k, i, j) for k in range(t) for j in range(w) for i in range(h)]
    second = columns if scan == "cross" else rows
    return [rows, second, rows[::-1], second[::-1]]


def slow_ss2d(weights, x, *, scan, scope):
    """[T, H, W, D] of one video by VMamba's names of weights, each order walked patch by patch."""
    if scope == "frame" and len(x) > 1:
        frames = [slow_ss2d(weights, frame[None], scan=scan, scope=scope) for frame in x]
        return torch.cat(frames)
    inner, z = (x @ weights["in_proj.weight"].T).chunk(2, dim=-1)
    mixed = conv2d(
        inner.permute(0, 3, 1, 2),
        weights["conv2d.weight"],
        weights["conv2d.bias"],
        padding=1,
        groups=inner.shape[-1],
    )
    inner = silu(mixed.permute(0, 2, 3, 1))
    width, states = inner.shape[-1], weights["A_logs"].shape[1]
    rank = weights["dt_projs.weight"].shape[1]
    total = torch.zeros_like(inner)
    for k, walk in enumerate(scan_walks(scan, *x.shape[:3])):
        own = slice(k * width, (k + 1) * width)
        u = torch.stack([inner[place] for place in walk])
        read = u @ weights["x_proj.weight"].view(4, -1, width)[k].T
        y = slow_scan(
            u[None],
            (read[:, :rank] @ weights["dt_projs.weight"][own].T)[None],
            -weights["A_logs"][own].exp(),
            read[None, :, None, rank : rank + states],
            read[None, :, None, rank + states :],
            weights["Ds"][own],
            bias=weights["dt_projs_bias"][k],
            squeeze=True,
        )[0]
        for place, row in zip(walk, y, strict=True):
            total[place] += row
    normed = layer_norm(total, (width,), weights["out_norm.weight"], weights["out_norm.bias"])
    return (normed * silu(z)) @ weights["out_proj.weight"].T


def slow_vl_mamba(weights, x, *, connector, scan, scope):
    """[T, H, W, E] of one video, as VL-Mamba's paper writes it."""
    vss = {n.removeprefix("vss."): t for n, t in weights.items() if n.startswith("vss.")}

    def layer(name, rows):
        return rows @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(rows):
        return layer_norm(rows, rows.shape[-1:], weights["norm.weight"], weights["norm.bias"])

    if connector == "vss_mlp":
        seen = norm(slow_ss2d(vss, x, scan=scan, scope=scope) + x)
        return layer("layers.2", gelu(layer("layers.0", seen)))
    first = layer("in_proj", x)
    return layer("layers.0", norm(slow_ss2d(vss, gelu(first), scan=scan, scope=scope) + first))
