"""Projectors in float64 with plain loops, straight from the definitions.

``state`` holds tensors by the names of the original checkpoints.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

State = Mapping[str, Tensor]


def slow_gelu(x: Tensor) -> Tensor:
    """x * P(normal variable < x), value by value."""
    values = [v * 0.5 * (1 + math.erf(v / math.sqrt(2))) for v in x.double().flatten().tolist()]
    return torch.tensor(values, dtype=torch.float64).view(x.shape)


def slow_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    """LayerNorm of one row [D]."""
    mean = sum(x.tolist()) / len(x)
    variance = sum((v - mean) ** 2 for v in x.tolist()) / len(x)
    return (x - mean) / math.sqrt(variance + eps) * weight.double() + bias.double()


def slow_mlp(x_ND: Tensor, state: State, prefix: str = "") -> Tensor:
    """LLaVA's Sequential: linear layers at 0, 2, 4 ... with GELU between."""
    indices = sorted({int(n.removeprefix(prefix).split(".")[0]) for n in state})
    rows = []
    for row in x_ND.double():
        for place, i in enumerate(indices):
            row = slow_gelu(row) if place else row
            row = state[f"{prefix}{i}.weight"].double() @ row + state[f"{prefix}{i}.bias"].double()
        rows.append(row)
    return torch.stack(rows)


def slow_bins(size: int, bins: int) -> list[range]:
    """Cells of every adaptive bin along one axis; bins may overlap."""
    return [
        range(math.floor(i * size / bins), math.ceil((i + 1) * size / bins)) for i in range(bins)
    ]


def slow_adaptive_pool(x_THWD: Tensor, height: int, width: int) -> Tensor:
    """[T, height, width, D] means over adaptive bins."""
    t, h, w, d = x_THWD.shape
    out = torch.zeros(t, height, width, d, dtype=torch.float64)
    for frame in range(t):
        for i, ys in enumerate(slow_bins(h, height)):
            for j, xs in enumerate(slow_bins(w, width)):
                cells = [x_THWD[frame, y, x].double() for y in ys for x in xs]
                out[frame, i, j] = sum(cells) / len(cells)
    return out


def slow_attention(query_KD: Tensor, key_ND: Tensor, state: State, heads: int) -> Tensor:
    """[heads, K, N] softmax weights of Flamingo's attention."""
    q, k = query_KD @ state["to_q.weight"].double().T, key_ND @ state["to_kv.weight"].double().T
    inner = q.shape[1]
    size = inner // heads
    out = torch.zeros(heads, len(q), len(k), dtype=torch.float64)
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        for i in range(len(q)):
            scores = [
                float(q[i, part] @ k[j, :inner][part]) / math.sqrt(size) for j in range(len(k))
            ]
            top = max(scores)
            exps = [math.exp(s - top) for s in scores]
            out[head, i] = torch.tensor([e / sum(exps) for e in exps], dtype=torch.float64)
    return out


def slow_resampler_medium(
    x_ND: Tensor, state: State, heads: int, depth: int
) -> tuple[Tensor, Tensor]:
    """Latents [K, D] after all layers, and the last layer's weights [heads, K, N + K].

    ``x_ND`` has its time embeddings already.
    """
    latents = state["latents"].double()
    weights = torch.empty(0)
    for layer in range(depth):
        attn = _below(state, f"layers.{layer}.0.")
        media = _norm_rows(x_ND.double(), attn, "norm_media")
        query = _norm_rows(latents, attn, "norm_latents")
        keys = torch.cat([media, query])
        weights = slow_attention(query, keys, attn, heads)
        values = (keys @ attn["to_kv.weight"].double().T).chunk(2, dim=1)[1]
        size = values.shape[1] // heads
        read = torch.cat(
            [weights[h] @ values[:, h * size : (h + 1) * size] for h in range(heads)], dim=1
        )
        latents = latents + read @ attn["to_out.weight"].double().T
        ff = _below(state, f"layers.{layer}.1.")
        hidden = slow_gelu(_norm_rows(latents, ff, "0") @ ff["1.weight"].double().T)
        latents = latents + hidden @ ff["3.weight"].double().T
    return _norm_rows(latents, state, "norm"), weights


def slow_openflamingo(x_TFVD: Tensor, state: State, heads: int, depth: int) -> Tensor:
    """[T, K, D]: the frames of each of T media are fused."""
    out = []
    for medium in range(x_TFVD.shape[0]):
        rows = []
        for frame in range(x_TFVD.shape[1]):
            for x in x_TFVD[medium, frame].double():
                if "frame_embs" in state:
                    x = x + state["frame_embs"][frame].double()
                if "media_time_embs" in state:
                    x = x + state["media_time_embs"][medium, 0].double()
                rows.append(x)
        out.append(slow_resampler_medium(torch.stack(rows), state, heads, depth)[0])
    return torch.stack(out)


def slow_lucidrains(x_MND: Tensor, state: State, heads: int, depth: int) -> Tensor:
    """[M, K, D]: every medium by itself, after its own embedding."""
    out = []
    for medium, x_ND in enumerate(x_MND.double()):
        embedded = x_ND + state["media_pos_emb"][medium, 0].double()
        out.append(slow_resampler_medium(embedded, state, heads, depth)[0])
    return torch.stack(out)


def _below(state: State, prefix: str) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)}


def _norm_rows(x_ND: Tensor, state: State, name: str) -> Tensor:
    weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
    return torch.stack([slow_norm(row, weight, bias) for row in x_ND.double()])
