"""Convolutional abstractors in float64, cell by cell, straight from the definitions.

Maps are [H, W, D] of one frame; ``state`` holds tensors by the names of the original checkpoints.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from oracles.projectors import slow_adaptive_pool, slow_norm
from oracles.resamplers import slow_linear, slow_softmax
from torch import Tensor

State = Mapping[str, Tensor]
Row = Callable[[Tensor], Tensor]


def sigmoid(x: Tensor) -> Tensor:
    return 1 / (1 + (-x).exp())


def silu(x: Tensor) -> Tensor:
    return x * sigmoid(x)


def hard_sigmoid(x: Tensor) -> Tensor:
    return (x + 3).clamp(0, 6) / 6


def relu(x: Tensor) -> Tensor:
    return x.clamp(min=0)


def each_cell(x_HWD: Tensor, change: Row) -> Tensor:
    return torch.stack([torch.stack([change(x) for x in row]) for row in x_HWD.double()])


def slow_pointwise(x_D: Tensor, state: State, name: str) -> Tensor:
    out = state[f"{name}.weight"].double()[:, :, 0, 0] @ x_D.double()
    return out + state[f"{name}.bias"].double() if f"{name}.bias" in state else out


def slow_depthwise(x_HWD: Tensor, state: State, name: str, stride: int = 1) -> Tensor:
    """3 x 3 with zeros around; every feature by itself."""
    h, w, d = x_HWD.shape
    weight = state[f"{name}.weight"].double()
    bias = state[f"{name}.bias"].double() if f"{name}.bias" in state else torch.zeros(d)
    out = torch.zeros(-(-h // stride), -(-w // stride), d, dtype=torch.float64)
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            out[i, j] = bias
            for y in range(3):
                for x in range(3):
                    row, column = i * stride + y - 1, j * stride + x - 1
                    if 0 <= row < h and 0 <= column < w:
                        out[i, j] += weight[:, 0, y, x] * x_HWD[row, column].double()
    return out


def slow_gates(x_HWD: Tensor, state: State, name: str, inside: Row, outside: Row) -> Tensor:
    mean = x_HWD.double().flatten(0, 1).sum(dim=0) / (x_HWD.shape[0] * x_HWD.shape[1])
    squeezed = inside(slow_pointwise(mean, state, f"{name}.fc1"))
    return x_HWD * outside(slow_pointwise(squeezed, state, f"{name}.fc2"))


def slow_bottleneck(x_HWD: Tensor, state: State, name: str) -> Tensor:
    def conv(part: str) -> Row:
        return lambda x: normed(slow_pointwise(x, state, f"{name}.{part}.conv"), part)

    def normed(x: Tensor, part: str) -> Tensor:
        bn = f"{name}.{part}.bn"
        return slow_norm(x, state[f"{bn}.weight"], state[f"{bn}.bias"])

    out = each_cell(x_HWD, lambda x: silu(conv("conv1")(x)))
    out = slow_depthwise(out, state, f"{name}.conv2.conv")
    out = each_cell(out, lambda x: silu(normed(x, "conv2")))
    out = slow_gates(out, state, f"{name}.se", silu, sigmoid)
    out = each_cell(out, conv("conv3"))
    widens = f"{name}.downsample.conv.weight" in state
    return silu(out + (each_cell(x_HWD, conv("downsample")) if widens else x_HWD.double()))


def slow_stage(x_HWD: Tensor, state: State, name: str, depth: int) -> Tensor:
    for number in range(depth):
        x_HWD = slow_bottleneck(x_HWD, state, f"{name}.b{number + 1}")
    return x_HWD


def slow_inverted(x_HWD: Tensor, state: State, name: str, stride: int) -> Tensor:
    def normed(x: Tensor, part: int) -> Tensor:
        norm = f"{name}.block.{part}.1"
        return slow_norm(x, state[f"{norm}.weight"], state[f"{norm}.bias"])

    out = slow_depthwise(x_HWD, state, f"{name}.block.0.0", stride)
    out = each_cell(out, lambda x: normed(x, 0) * hard_sigmoid(normed(x, 0)))
    out = slow_gates(out, state, f"{name}.block.1", relu, hard_sigmoid)
    out = each_cell(out, lambda x: normed(slow_pointwise(x, state, f"{name}.block.2.0"), 2))
    return x_HWD + out if stride == 1 else out


def slow_layers(x_D: Tensor, state: State, names: Sequence[str], activation: Row) -> Tensor:
    for place, name in enumerate(names):
        x_D = slow_linear(activation(x_D) if place else x_D, state, name)
    return x_D


def slow_c_abstractor(
    x_HWD: Tensor, state: State, *, cells: tuple[int, int], depth: int, mlp_depth: int
) -> Tensor:
    """[J * K, E] of one frame of the size of the table."""
    h, w, _ = x_HWD.shape
    x_HWD = x_HWD.double() + state["pos_emb"].double().view(h, w, -1)
    x_HWD = slow_stage(x_HWD, state, "net.0", depth)
    x_JKD = slow_adaptive_pool(x_HWD[None], *cells)[0]
    rows = slow_stage(x_JKD, state, "net.2", depth).flatten(0, 1)
    names = [f"readout.{2 * i}" for i in range(mlp_depth)]
    return torch.stack([slow_layers(row, state, names, silu) for row in rows])


def slow_connector(
    x_THWD: Tensor,
    state: State,
    *,
    window: tuple[int, int, int],
    padding: tuple[int, int, int],
    depth: int,
    mlp_depth: int,
    gelu: Row,
) -> Tensor:
    """[N, E] of VideoLLaMA 2's connectors; without ``sampler.0.weight`` windows are averaged."""
    maps = torch.stack([slow_stage(x, state, "s1", depth) for x in x_THWD.double()])
    maps = silu(slow_windows(maps, state, window, padding))
    maps = torch.stack([slow_stage(x, state, "s2", depth) for x in maps])
    names = [f"readout.{2 * i}" for i in range(mlp_depth)]
    return torch.stack([slow_layers(x, state, names, gelu) for x in maps.flatten(0, 2)])


def slow_windows(
    x_THWD: Tensor, state: State, window: tuple[int, int, int], padding: tuple[int, int, int]
) -> Tensor:
    """[I, J, K, D] of windows side by side."""
    t, h, w, d = x_THWD.shape
    counts = [
        (n + 2 * pad - size) // size + 1
        for n, size, pad in zip((t, h, w), window, padding, strict=True)
    ]
    weight = state.get("sampler.0.weight")
    out = torch.zeros(*counts, d, dtype=torch.float64)
    for i, j, k in torch.cartesian_prod(*(torch.arange(n) for n in counts)).view(-1, 3).tolist():
        if weight is not None:
            out[i, j, k] = state["sampler.0.bias"].double()
        for a, b, c in torch.cartesian_prod(*map(torch.arange, window)).view(-1, 3).tolist():
            place = [
                number * size + offset - pad
                for number, size, offset, pad in zip(
                    (i, j, k), window, (a, b, c), padding, strict=True
                )
            ]
            if all(0 <= p < n for p, n in zip(place, (t, h, w), strict=True)):
                x = x_THWD[tuple(place)].double()
                share = (
                    x / math.prod(window) if weight is None else weight[:, :, a, b, c].double() @ x
                )
                out[i, j, k] += share
    return out


def slow_bilinear(map_YXE: Tensor, x: float, y: float) -> Tensor:
    """[E] at (x, y) in cells, 0 being the centre of the first; zeros outside."""
    height, width, size = map_YXE.shape
    out = torch.zeros(size, dtype=torch.float64)
    for row in (math.floor(y), math.floor(y) + 1):
        for column in (math.floor(x), math.floor(x) + 1):
            if 0 <= row < height and 0 <= column < width:
                share = (1 - abs(y - row)) * (1 - abs(x - column))
                out += share * map_YXE[row, column].double()
    return out


def slow_deformable(
    query_MD: Tensor, map_YXD: Tensor, points_M2: Tensor, state: State, *, heads: int, points: int
) -> Tensor:
    """[M, D] of Deformable DETR's attention with one map."""
    height, width, dim = map_YXD.shape
    values = each_cell(map_YXD, lambda x: slow_linear(x, state, "value_proj"))
    values = values.view(height, width, heads, dim // heads)
    out = []
    for query, point in zip(query_MD.double(), points_M2.tolist(), strict=True):
        offset = slow_linear(query, state, "sampling_offsets").view(heads, points, 2).tolist()
        logits = slow_linear(query, state, "attention_weights").view(heads, points).tolist()
        read = []
        for head in range(heads):
            total = torch.zeros(dim // heads, dtype=torch.float64)
            for (dx, dy), share in zip(offset[head], slow_softmax(logits[head]), strict=True):
                x, y = point[0] * width + dx - 0.5, point[1] * height + dy - 0.5
                total += share * slow_bilinear(values[:, :, head], x, y)
            read.append(total)
        out.append(slow_linear(torch.cat(read), state, "output_proj"))
    return torch.stack(out)
