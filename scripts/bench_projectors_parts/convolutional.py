"""Originals of convolutions; maps have their features in front, as PyTorch's own modules want them.

Legend: T frames, C features, H W patches or cells.
"""

import torch
from torch import Tensor
from torch.nn import functional

from bench_projectors_parts.case import Case, Task
from bench_projectors_parts.weights import Weights, attention

__all__ = ["CONVOLUTIONAL"]


def _channel_norm(w: Weights, name: str, x_TCHW: Tensor) -> Tensor:
    """Timm's LayerNormAct2d: features to the back and to the front again."""
    return w.norm(name, x_TCHW.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def _conv(w: Weights, name: str, x_TCHW: Tensor, **how: int) -> Tensor:
    return functional.conv2d(x_TCHW, w[f"{name}.weight"], w.bias(name), **how)


def _gated(w: Weights, x_TCHW: Tensor, activation: str, gate: str) -> Tensor:
    """Squeeze and excitation."""
    mean = x_TCHW.mean((2, 3), keepdim=True)
    opened = getattr(functional, activation)(_conv(w, "fc1", mean))
    return x_TCHW * getattr(functional, gate)(_conv(w, "fc2", opened))


def _bottleneck(w: Weights, x_TCHW: Tensor) -> Tensor:
    out = _conv(w, "conv1.conv", x_TCHW)
    out = functional.silu(_channel_norm(w, "conv1.bn", out))
    out = _conv(w, "conv2.conv", out, padding=1, groups=out.shape[1])
    out = functional.silu(_channel_norm(w, "conv2.bn", out))
    out = _gated(w.at("se"), out, "silu", "sigmoid")
    out = _channel_norm(w, "conv3.bn", _conv(w, "conv3.conv", out))
    if "downsample" in w:
        x_TCHW = _channel_norm(w, "downsample.bn", _conv(w, "downsample.conv", x_TCHW))
    return functional.silu(out + x_TCHW)


def _stage(w: Weights, x_TCHW: Tensor) -> Tensor:
    number = 1
    while f"b{number}." in w:
        x_TCHW = _bottleneck(w.at(f"b{number}"), x_TCHW)
        number += 1
    return x_TCHW


def c_abstractor(task: Task) -> Tensor:
    """Honeybee: positions, stage, pooling, stage, MLP with SiLU."""
    w, (t, h, wide, d) = task.weights, task.maps.shape
    x_TND = task.maps.flatten(1, 2) + w["pos_emb.weight"]
    x = _stage(w.at("s1"), x_TND.view(t, h, wide, d).permute(0, 3, 1, 2))
    x = _stage(w.at("s2"), functional.adaptive_avg_pool2d(x, (12, 12)))
    x = w.linear("readout.0", x.flatten(2).transpose(1, 2))
    return w.linear("readout.2", functional.silu(x))


def d_abstractor(task: Task) -> Tensor:
    """Honeybee: Deformable DETR's decoder; the pooled map is the place of the queries."""
    w, (t, h, wide, _) = task.weights, task.maps.shape
    x_TNC = task.maps.flatten(1, 2)
    if "input_proj" in w:
        x_TNC = w.linear("input_proj", x_TNC)
    x_TNC = x_TNC + w["pos_emb.weight"]
    x_TCHW = x_TNC.transpose(1, 2).reshape(t, -1, h, wide)
    place = functional.adaptive_avg_pool2d(x_TCHW, (12, 12)).flatten(2).transpose(1, 2)
    query = w["queries"].unsqueeze(0).repeat(t, 1, 1)
    for number in range(task.config.depth):
        query = _decoder_layer(w.at("layers", number), query, place, x_TNC, (h, wide), task)
    return w.linear("output_proj", query) if "output_proj" in w else query


def _decoder_layer(
    w: Weights, query: Tensor, place: Tensor, x_TNC: Tensor, size: tuple[int, int], task: Task
) -> Tensor:
    own = w.at("self_attn")
    inputs = own.linear("q_proj", query + place), own.linear("k_proj", query + place)
    read = attention(*inputs, own.linear("v_proj", query), task.config.heads)
    query = w.norm("self_attn_layer_norm", query + own.linear("out_proj", read))
    read = _deformable(w.at("encoder_attn"), query + place, x_TNC, size, task)
    query = w.norm("encoder_attn_layer_norm", query + read)
    out = w.linear("fc2", functional.relu(w.linear("fc1", query)))
    return w.norm("final_layer_norm", query + out)


def _deformable(
    w: Weights, query: Tensor, x_TNC: Tensor, size: tuple[int, int], task: Task
) -> Tensor:
    """The PyTorch version of Deformable DETR's kernel."""
    (t, m, _), heads, points = query.shape, task.config.heads, task.config.points
    value = w.linear("value_proj", x_TNC).view(t, x_TNC.shape[1], heads, -1)
    offset = w.linear("sampling_offsets", query).view(t, m, heads, 1, points, 2)
    share = w.linear("attention_weights", query).view(t, m, heads, points).softmax(-1)
    scale = torch.tensor([[size[1], size[0]]], device=query.device)
    point = task.weights["reference_points"].repeat(t, 1, 1)[:, :, None, None, None]
    grid = 2 * (point + offset / scale[None, None, None, :, None]) - 1
    maps = value.flatten(2).transpose(1, 2).reshape(t * heads, -1, *size)
    where = grid[:, :, :, 0].transpose(1, 2).flatten(0, 1)
    found = functional.grid_sample(
        maps, where.to(maps.dtype), mode="bilinear", padding_mode="zeros", align_corners=False
    )
    share = share.transpose(1, 2).reshape(t * heads, 1, m, points)
    read = (torch.stack([found], dim=-2).flatten(-2) * share).sum(-1)
    return w.linear("output_proj", read.view(t, -1, m).transpose(1, 2).contiguous())


def _inverted(w: Weights, x_TCHW: Tensor, stride: int) -> Tensor:
    out = _conv(w, "0.0", x_TCHW, stride=stride, padding=1, groups=x_TCHW.shape[1])
    out = functional.hardswish(_channel_norm(w, "0.1", out))
    out = _gated(w.at("1"), out, "relu", "hardsigmoid")
    return _channel_norm(w, "2.1", _conv(w, "2.0", out))


def _fronted(x_THWC: Tensor) -> Tensor:
    """[T, C, H, W] moved in memory too, as by a reshape of swapped axes."""
    t, h, w, c = x_THWC.shape
    return x_THWC.flatten(1, 2).permute(0, 2, 1).reshape(t, c, h, w)


def ldp(task: Task) -> Tensor:
    """MobileVLM: MLP, a block that is added, a block of stride 2."""
    w = task.weights
    x_TCHW = _fronted(w.at("layers").mlp(task.maps))
    x_TCHW = x_TCHW + _inverted(w.at("same.block"), x_TCHW, 1)
    return _inverted(w.at("down.block"), x_TCHW, 2).flatten(2).permute(0, 2, 1)


def ldp_v2(task: Task) -> Tensor:
    """MobileVLM V2: MLP, pooling, a depthwise convolution that is added."""
    w = task.weights
    pooled = functional.adaptive_avg_pool2d(_fronted(w.at("layers").mlp(task.maps)), (12, 12))
    x_TNC = pooled.flatten(2).transpose(1, 2)
    x_TCHW = x_TNC.transpose(1, 2).view(pooled.shape)
    out = _conv(w, "peg", x_TCHW, padding=1, groups=x_TCHW.shape[1]) + x_TCHW
    return out.flatten(2).transpose(1, 2)


def connector(task: Task) -> Tensor:
    """VideoLLaMA 2: stage, sampler over three axes, SiLU, stage, MLP."""
    w, config = task.weights, task.config
    x_TCHW = _stage(w.at("s1"), task.maps.permute(0, 3, 1, 2))
    x_1CTHW = x_TCHW.permute(1, 0, 2, 3)[None]
    if "sampler" in w:
        x_1CTHW = functional.conv3d(
            x_1CTHW,
            w["sampler.weight"],
            w["sampler.bias"],
            stride=config.downsample,
            padding=config.padding,
        )
    else:
        x_1CTHW = functional.avg_pool3d(x_1CTHW, config.downsample)
    x_TCHW = functional.silu(x_1CTHW)[0].permute(1, 0, 2, 3)
    x_TCHW = _stage(w.at("s2"), x_TCHW)
    return w.at("readout").mlp(x_TCHW.permute(0, 2, 3, 1).flatten(0, 2))


_SMALL = {"dim_out": 512}

CONVOLUTIONAL = {
    "c_abstractor": Case(
        oracle=c_abstractor, settings={"pos_grid": (24, 24)}, cpu={"dim_hidden": 512}
    ),
    "d_abstractor": Case(
        oracle=d_abstractor,
        settings={"pos_grid": (24, 24)},
        cpu={"dim_hidden": 512, "depth": 3},
    ),
    "ldp": Case(oracle=ldp, dim_out=2048, cpu={"dim_out": 768}),
    "ldp_v2": Case(oracle=ldp_v2, dim_out=2048),
    "stc": Case(oracle=connector, cpu=_SMALL),
    "stc_v35": Case(oracle=connector, cpu=_SMALL),
    "stp": Case(oracle=connector, cpu=_SMALL),
    "spatial_conv": Case(oracle=connector),
    "spatial_pool": Case(oracle=connector),
}
"""Originals by the name of the projector."""
