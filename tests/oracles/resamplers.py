"""Resamplers in float64 with plain loops, straight from the definitions.

``state`` holds tensors by the names of the original checkpoints; rows are those of one clip.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

State = Mapping[str, Tensor]


def slow_softmax(scores: Sequence[float]) -> list[float]:
    top = max(scores)
    exps = [math.exp(s - top) for s in scores]
    return [e / sum(exps) for e in exps]


def slow_read(
    query_KD: Tensor,
    key_ND: Tensor,
    value_NE: Tensor,
    heads: int,
    *,
    key_heads: int | None = None,
    scale: float | None = None,
) -> tuple[Tensor, Tensor]:
    """[K, E] what the queries read, head beside head, and [heads, K, N] their attention."""
    key_heads = key_heads or heads
    size, wide = query_KD.shape[1] // heads, value_NE.shape[1] // key_heads
    scale = scale or 1 / math.sqrt(size)
    read = torch.zeros(len(query_KD), heads * wide, dtype=torch.float64)
    weights = torch.zeros(heads, len(query_KD), len(key_ND), dtype=torch.float64)
    for head in range(heads):
        group = head * key_heads // heads
        for i, q in enumerate(query_KD[:, head * size : (head + 1) * size]):
            keys = key_ND[:, group * size : (group + 1) * size]
            weights[head, i] = torch.tensor(slow_softmax([float(q @ k) * scale for k in keys]))
            for j, v in enumerate(value_NE[:, group * wide : (group + 1) * wide]):
                read[i, head * wide : (head + 1) * wide] += weights[head, i, j] * v
    return read, weights


def slow_linear(x: Tensor, state: State, name: str) -> Tensor:
    out = x.double() @ state[f"{name}.weight"].double().T
    return out + state[f"{name}.bias"].double() if f"{name}.bias" in state else out


def slow_layer_norm(x: Tensor, state: State, name: str, eps: float = 1e-5) -> Tensor:
    x = x.double()
    mean = x.mean(dim=-1, keepdim=True)
    variance = (x - mean).square().mean(dim=-1, keepdim=True)
    weight, bias = state[f"{name}.weight"].double(), state[f"{name}.bias"].double()
    return (x - mean) / (variance + eps).sqrt() * weight + bias


def slow_rms_norm(x: Tensor, state: State, name: str, eps: float) -> Tensor:
    x = x.double()
    size = (x.square().mean(dim=-1, keepdim=True) + eps).sqrt()
    return x / size * state[f"{name}.weight"].double()


def slow_gated(x: Tensor, state: State, name: str) -> Tensor:
    gate = slow_linear(x, state, f"{name}.gate_proj")
    up = slow_linear(x, state, f"{name}.up_proj")
    return slow_linear(gate * torch.sigmoid(gate) * up, state, f"{name}.down_proj")


def slow_idefics2(
    x_ND: Tensor, state: State, *, depth: int, heads: int, key_heads: int, eps: float = 1e-6
) -> Tensor:
    context = slow_gated(x_ND, state, "modality_projection")
    latents = state["perceiver_resampler.latents"].double()
    for i in range(depth):
        at = f"perceiver_resampler.layers.{i}."
        query = slow_rms_norm(latents, state, f"{at}input_latents_norm", eps)
        rows = torch.cat([slow_rms_norm(context, state, f"{at}input_context_norm", eps), query])
        q, k, v = (
            slow_linear(x, state, f"{at}self_attn.{n}_proj")
            for x, n in ((query, "q"), (rows, "k"), (rows, "v"))
        )
        read, _ = slow_read(q, k, v, heads, key_heads=key_heads)
        latents = latents + slow_linear(read, state, f"{at}self_attn.o_proj")
        normed = slow_rms_norm(latents, state, f"{at}post_attention_layernorm", eps)
        latents = latents + slow_gated(normed, state, f"{at}mlp")
    return slow_rms_norm(latents, state, "perceiver_resampler.norm", eps)


def slow_mab(
    query_KD: Tensor, row_ND: Tensor, state: State, name: str, heads: int, norm: bool
) -> Tensor:
    q = slow_linear(query_KD, state, f"{name}fc_q")
    k, v = (slow_linear(row_ND, state, f"{name}fc_{n}") for n in "kv")
    read, _ = slow_read(q, k, v, heads, scale=1 / math.sqrt(q.shape[1]))
    out = q + read
    out = slow_layer_norm(out, state, f"{name}ln0") if norm else out
    out = out + slow_linear(out, state, f"{name}fc_o").clamp(min=0)
    return slow_layer_norm(out, state, f"{name}ln1") if norm else out


def slow_sines(place: float, dim: int) -> list[float]:
    """Sines, then cosines, of a place; ``dim`` is even."""
    angles = [place / 10000 ** (i / (dim // 2)) for i in range(dim // 2)]
    return [math.sin(a) for a in angles] + [math.cos(a) for a in angles]


def slow_sines_hw(row: float, column: float, dim: int) -> Tensor:
    """[dim] float64, a multiple of 4: first the column, then the row."""
    return torch.tensor(slow_sines(column, dim // 2) + slow_sines(row, dim // 2)).double()


def slow_packed(
    query_KD: Tensor, key_ND: Tensor, value_ND: Tensor, state: State, name: str, heads: int
) -> tuple[Tensor, Tensor]:
    """``torch.nn.MultiheadAttention`` and its weights."""
    parts = []
    for part, x in enumerate((query_KD, key_ND, value_ND)):
        weight = state[f"{name}.in_proj_weight"].double().chunk(3)[part]
        parts.append(x.double() @ weight.T + state[f"{name}.in_proj_bias"].double().chunk(3)[part])
    read, weights = slow_read(*parts, heads)
    return slow_linear(read, state, f"{name}.out_proj"), weights


def slow_sincos_resampler(
    x_ND: Tensor,
    key_places_ND: Tensor,
    state: State,
    heads: int,
    latent_places_KD: Tensor | float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Tokens and attention; positions are given."""
    value = slow_linear(x_ND, state, "kv_proj") if "kv_proj.weight" in state else x_ND.double()
    value = slow_layer_norm(value, state, "ln_kv", 1e-6)
    query = slow_layer_norm(state["query"], state, "ln_q", 1e-6) + latent_places_KD
    read, weights = slow_packed(query, value + key_places_ND, value, state, "attn", heads)
    return slow_layer_norm(read, state, "ln_post", 1e-6) @ state["proj"].double(), weights
