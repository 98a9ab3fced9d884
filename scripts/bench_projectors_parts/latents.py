"""Originals whose latents read clips.

Legend: T frames, B clips, N rows of a clip, K latents, D features.
"""

from functools import cache
from math import pi

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from bench_projectors_parts.case import Case, Task
from bench_projectors_parts.weights import (
    Weights,
    attention,
    heads_of,
    torch_attention,
    without_heads,
)

__all__ = ["LATENTS"]


def perceiver(task: Task) -> Tensor:
    """OpenFlamingo: all frames in one clip, keys made of the clip and the latents."""
    w, config = task.weights, task.config
    t, h, wide, d = task.maps.shape
    x_TND = task.maps.view(t, h * wide, d) + w["frame_emb.weight"][:t, None]
    x_1ND = x_TND.reshape(1, -1, d)
    latents = w["latents"].repeat(1, 1, 1)
    for number in range(config.depth):
        layer = w.at("layers", number)
        media, asking = layer.norm("norm_clip", x_1ND), layer.norm("norm_latents", latents)
        inner = layer.at("attention")
        key, value = inner.linear("to_kv", torch.cat([media, asking], dim=-2)).chunk(2, dim=-1)
        query = heads_of(inner.linear("to_q", asking), config.heads) * config.dim_head**-0.5
        logits = query @ heads_of(key, config.heads).transpose(-1, -2)
        logits = logits - logits.amax(dim=-1, keepdim=True).detach()
        read = logits.softmax(dim=-1) @ heads_of(value, config.heads)
        latents = inner.linear("to_out", without_heads(read)) + latents
        inner = layer.at("feed_forward")
        hidden = functional.gelu(inner.linear("1", inner.norm("0", latents)))
        latents = inner.linear("3", hidden) + latents
    latents = w.norm("norm", latents)
    return w.linear("output", latents) if "output" in w else latents


def _reading(w: Weights, latents: Tensor, clip: Tensor | None, heads: int) -> Tensor:
    """perceiver-pytorch's normed attention."""
    query = w.norm("norm", latents)
    rows = query if clip is None else w.norm("norm_context", clip)
    inner = w.at("attention")
    key, value = inner.linear("to_kv", rows).chunk(2, dim=-1)
    return inner.linear("to_out", attention(inner.linear("to_q", query), key, value, heads))


def _gated(w: Weights, x: Tensor) -> Tensor:
    """perceiver-pytorch's normed feed-forward."""
    value, gate = w.linear("net.0", w.norm("norm", x)).chunk(2, dim=-1)
    return w.linear("net.2", value * functional.gelu(gate))


def perceiver_io(task: Task) -> Tensor:
    """One reading, layers among the latents, an answer to each query."""
    w, config = task.weights, task.config
    clip = task.maps.flatten(0, 2)[None]
    x = w["latents"][None].repeat(1, 1, 1)
    x = _reading(w.at("cross.0"), x, clip, config.cross_heads) + x
    x = _gated(w.at("cross.1"), x) + x
    for number in range(config.depth):
        x = _reading(w.at("layers", number, "0"), x, None, config.latent_heads) + x
        x = _gated(w.at("layers", number, "1"), x) + x
    queries = w["queries"][None].repeat(1, 1, 1)
    return w.linear("output", _reading(w.at("decoder"), queries, x, config.cross_heads))


def perceiver_iterative(task: Task) -> Tensor:
    """Fourier features of all positions, then readings and layers among the latents in turn."""
    w, config, x_THWD = task.weights, task.config, task.maps
    axes = [torch.linspace(-1.0, 1.0, n, device=x_THWD.device) for n in x_THWD.shape[:3]]
    place_THW31 = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).unsqueeze(-1)
    rate_F = torch.linspace(1.0, config.max_freq / 2, config.freq_bands, device=x_THWD.device)
    angle = place_THW31 * rate_F * pi
    fourier = torch.cat([angle.sin(), angle.cos(), place_THW31], dim=-1).flatten(3)
    clip = torch.cat([x_THWD, fourier.to(x_THWD.dtype)], dim=-1).flatten(0, 2)[None]
    x = w["latents"][None].repeat(1, 1, 1)
    for number in range(config.depth):
        layer = w.at("layers", number)
        x = _reading(layer.at("0"), x, clip, config.cross_heads) + x
        x = _gated(layer.at("1"), x) + x
        for inner in range(config.self_per_cross):
            x = _reading(layer.at("2", inner, "0"), x, None, config.latent_heads) + x
            x = _gated(layer.at("2", inner, "1"), x) + x
    return w.linear("output", x) if "output" in w else x


def perceiver_hf(task: Task) -> Tensor:
    """Transformers' PerceiverModel without preprocessor and decoder."""
    w, config = task.weights, task.config
    clip = task.maps.flatten(0, 2)[None]
    x = w["latents"].expand(1, -1, -1)
    x = _perceiver_layer(w.at("cross"), x, clip, config.cross_heads)
    for number in range(config.depth):
        x = _perceiver_layer(w.at("layers", number), x, None, config.latent_heads)
    return w.linear("output", x) if "output" in w else x


def _perceiver_layer(w: Weights, x: Tensor, clip: Tensor | None, heads: int) -> Tensor:
    query = w.norm("norm", x)
    rows = query if clip is None else w.norm("norm_context", clip)
    inputs = (w.linear("query", query), w.linear("key", rows), w.linear("value", rows))
    x = w.linear("out", attention(*inputs, heads)) + x
    return w.at("feed_forward").mlp(w.norm("feed_norm", x)) + x


def idefics2(task: Task) -> Tensor:
    """Transformers' Idefics2Connector, frame by frame in a batch, with its fused attention."""
    w, config = task.weights, task.config
    clip = _swiglu(w.at("modality_projection"), task.maps.flatten(1, 2))
    x = w["latents"].unsqueeze(0).expand(len(clip), *w["latents"].shape)
    for number in range(config.depth):
        layer = w.at("layers", number)
        asking = _rms(layer, "norm_latents", x, config.eps)
        rows = torch.cat([_rms(layer, "norm_clip", clip, config.eps), asking], dim=-2)
        inner, groups = layer.at("attention"), config.heads // config.key_heads
        query = heads_of(inner.linear("q_proj", asking), config.heads)
        key = heads_of(inner.linear("k_proj", rows), config.key_heads)
        value = heads_of(inner.linear("v_proj", rows), config.key_heads)
        read = functional.scaled_dot_product_attention(
            query, key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
        )
        x = inner.linear("o_proj", without_heads(read)) + x
        x = _swiglu(layer.at("feed_forward.1"), _rms(layer, "feed_forward.0", x, config.eps)) + x
    return _rms(w, "norm", x, config.eps)


def _swiglu(w: Weights, x: Tensor) -> Tensor:
    gate = functional.silu(w.linear("gate_proj", x))
    return w.linear("down_proj", gate * w.linear("up_proj", x))


def _rms(w: Weights, name: str, x: Tensor, eps: float) -> Tensor:
    """Written out, as in transformers' models."""
    wide = x.float()
    wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    return w[f"{name}.weight"] * wide.to(x.dtype)


@cache
def _sines(length: int, dim: int, device: torch.device) -> Tensor:
    """[length, dim] sines, then cosines; what originals keep in a buffer."""
    rate = 1 / 10000 ** (torch.arange(dim // 2, dtype=torch.float32) / (dim / 2))
    angle = torch.arange(length, dtype=torch.float32)[:, None] * rate
    return torch.cat([angle.sin(), angle.cos()], dim=1).to(device)


@cache
def _plane(size: int, dim: int, device: torch.device) -> Tensor:
    """[size, size, dim] of columns, then of rows; a buffer too."""
    axis = _sines(size, dim // 2, device)
    column, row = axis[None].expand(size, -1, -1), axis[:, None].expand(-1, size, -1)
    return torch.cat([column, row], dim=-1)


def _resampled(w: Weights, task: Task, rows_NBD: Tensor, place: Tensor, query: Tensor) -> Tensor:
    """[B, K, D] of one attention, normed and mapped."""
    heads = rows_NBD.shape[-1] // task.config.dim_head
    queries = query[:, None].repeat(1, rows_NBD.shape[1], 1)
    read = torch_attention(w.at("attn"), queries, rows_NBD + place, rows_NBD, heads)
    return w.norm("ln_post", read.permute(1, 0, 2), 1e-6) @ w["proj"]


def _stretched(table_GD: Tensor, size: tuple[int, int]) -> Tensor:
    """[N, D] of a square table by bicubic interpolation."""
    side = round(len(table_GD) ** 0.5)
    picture = table_GD.float().view(1, side, side, -1).permute(0, 3, 1, 2)
    wide = functional.interpolate(picture, size=size, mode="bicubic", align_corners=False)
    return wide.permute(0, 2, 3, 1).flatten(0, 2).to(table_GD.dtype)


def qwen_vl(task: Task) -> Tensor:
    """Positions of the latents' grid on latents and, stretched, on keys."""
    w, x_TND = task.weights, task.maps.flatten(1, 2)
    place = _stretched(w["pos_embed"], tuple(task.maps.shape[1:3]))
    x_TND = w.linear("kv_proj", x_TND) if "kv_proj" in w else x_TND
    rows_NTD = w.norm("ln_kv", x_TND, 1e-6).permute(1, 0, 2)
    query = w.norm("ln_q", w["query"], 1e-6) + w["pos_embed"]
    return _resampled(w, task, rows_NTD, place[:, None], query)


def minicpmv(task: Task) -> Tensor:
    """Positions frame by frame from a buffer of 70 x 70, then all frames in a batch."""
    w, (t, h, wide, _) = task.weights, task.maps.shape
    x_TND = task.maps.flatten(1, 2)
    x_TND = w.linear("kv_proj", x_TND) if "kv_proj" in w else x_TND
    rows_NTD = w.norm("ln_kv", x_TND, 1e-6).permute(1, 0, 2)
    plane = _plane(70, rows_NTD.shape[-1], rows_NTD.device)
    places = [plane[:h, :wide].reshape(h * wide, -1).to(x_TND.dtype) for _ in range(t)]
    place_NTD = pad_sequence(places, batch_first=True).permute(1, 0, 2)
    return _resampled(w, task, rows_NTD, place_NTD, w.norm("ln_q", w["query"], 1e-6))


def minicpmv_3d(task: Task) -> Tensor:
    """As before; frames have their times too, and groups of frames are read one after another."""
    w, (t, h, wide, _) = task.weights, task.maps.shape
    x_TND = task.maps.flatten(1, 2)
    x_TND = w.linear("kv_proj", x_TND) if "kv_proj" in w else x_TND
    rows_TND = w.norm("ln_kv", x_TND, 1e-6)
    plane = _plane(70, rows_TND.shape[-1], rows_TND.device)[:h, :wide].reshape(h * wide, -1)
    times = _sines(1000, rows_TND.shape[-1], rows_TND.device)
    query, size, out = w.norm("ln_q", w["query"], 1e-6), task.config.frames_per_clip, []
    for first in range(0, t, size):
        group = rows_TND[first : first + size]
        # A frame a second, and tenths of seconds are told apart.
        clock = times[torch.arange(first, first + len(group), device=group.device) * 10]
        place = (plane + clock[:, None]).to(group.dtype)
        flat = group.flatten(0, 1)[:, None], place.flatten(0, 1)[:, None]
        out.append(_resampled(w, task, *flat, query))
    return torch.cat(out)


def mqt(task: Task) -> Tensor:
    """Keys are positions alone, repeated for every frame."""
    w, x_TND = task.weights, task.maps.flatten(1, 2)
    place = _stretched(w["pos_embed"], tuple(task.maps.shape[1:3]))
    value = w.norm("ln_v", x_TND, 1e-6).permute(1, 0, 2)
    key = w.norm("ln_k", place, 1e-6)[:, None].repeat(1, len(x_TND), 1)
    query = w.norm("ln_q", w["query"] + w["pos_embed"], 1e-6)
    queries = query[:, None].repeat(1, len(x_TND), 1)
    read = torch_attention(w.at("attn"), queries, key, value, task.config.heads)
    return read.permute(1, 0, 2) @ w["proj"]


def honeybee_resampler(task: Task) -> Tensor:
    """mPLUG-Owl's abstractor: normed latents are what is added to."""
    w, config = task.weights, task.config
    clip = w.linear("visual_input_fc", task.maps.flatten(1, 2))
    x = w["latents"].expand(len(clip), -1, -1)
    for number in range(config.depth):
        layer = w.at("layers", number)
        x = layer.norm("norm_latents", x)
        rows = torch.cat([x, layer.norm("norm_clip", clip)], dim=1)
        inner = layer.at("attention")
        query, key, value = (
            inner.linear(f"{n}_proj", y) for n, y in zip("qkv", (x, rows, rows), strict=True)
        )
        x = x + inner.linear("o_proj", attention(query, key, value, config.heads))
        layer = layer.at("feed_forward")
        normed = layer.norm("norm2", x)
        hidden = functional.silu(layer.linear("w1", normed)) * layer.linear("w3", normed)
        x = x + layer.linear("w2", layer.norm("ffn_ln", hidden, config.ff_eps))
    return w.linear("visual_output_fc", x)


def set_transformer(task: Task) -> Tensor:
    """Induced blocks, seeds, blocks among the seeds, a matrix."""
    w, config = task.weights, task.config
    x = task.maps.flatten(1, 2)
    for number in range(config.encoder_depth):
        block = w.at("enc", number)
        points = block["I"].repeat(len(x), 1, 1)
        inner = _mab(block.at("mab0"), points, x, config.heads)
        x = _mab(block.at("mab1"), x, inner, config.heads)
    x = _mab(w.at("dec.0.mab"), w["dec.0.S"].repeat(len(x), 1, 1), x, config.heads)
    for number in range(config.decoder_depth):
        x = _mab(w.at("dec", number + 1, "mab"), x, x, config.heads)
    return w.linear(f"dec.{config.decoder_depth + 1}", x)


def _mab(w: Weights, asking: Tensor, rows: Tensor, heads: int) -> Tensor:
    """Heads are stacked on the sets, and the projected query is added."""
    query, key, value = w.linear("fc_q", asking), w.linear("fc_k", rows), w.linear("fc_v", rows)
    size = query.shape[-1] // heads
    queries, keys, values = (torch.cat(x.split(size, 2), 0) for x in (query, key, value))
    shares = torch.softmax(queries.bmm(keys.transpose(1, 2)) / query.shape[-1] ** 0.5, 2)
    out = torch.cat((queries + shares.bmm(values)).split(len(query), 0), 2)
    return out + functional.relu(w.linear("fc_o", out))


LATENTS = {
    "perceiver": Case(oracle=perceiver, cpu={"depth": 3}),
    "perceiver_io": Case(oracle=perceiver_io, cpu={"depth": 3}),
    "perceiver_iterative": Case(oracle=perceiver_iterative, cpu={"depth": 4}),
    "perceiver_hf": Case(oracle=perceiver_hf, cpu={"depth": 4, "dim_out": 1280}),
    "idefics2": Case(oracle=idefics2, cpu={"dim_out": 768, "hidden": 1024}),
    "qwen_vl": Case(oracle=qwen_vl, cpu={"dim_out": 768}),
    "minicpmv": Case(oracle=minicpmv, cpu={"dim_out": 768}),
    "minicpmv_3d": Case(oracle=minicpmv_3d, cpu={"dim_out": 768}),
    "mqt": Case(oracle=mqt),
    "honeybee_resampler": Case(oracle=honeybee_resampler, cpu={"dim_hidden": 512, "depth": 3}),
    "set_transformer": Case(oracle=set_transformer),
}
"""Originals by the name of the projector."""
