"""Q-Formers, LLaMA-VID, gated cross-attention and relevance in float64 with plain loops.

``state`` holds tensors by the names of the original checkpoints (transformers' for Q-Formers).
"""

import math
from collections.abc import Sequence

import torch
from oracles.projectors import State, slow_gelu, slow_norm
from torch import Tensor


def slow_softmax(logits: Sequence[float]) -> list[float]:
    top = max(logits)
    powers = [math.exp(x - top) for x in logits]
    return [p / sum(powers) for p in powers]


def slow_linear(row: Tensor, state: State, name: str) -> Tensor:
    return state[f"{name}.weight"].double() @ row + state[f"{name}.bias"].double()


def slow_bert_attention(
    query: list[Tensor], key: list[Tensor], state: State, name: str, heads: int
) -> tuple[list[Tensor], Tensor]:
    """What each row reads, and [heads, rows, keys] weights."""
    q, k, v = (
        [slow_linear(row, state, f"{name}.{part}") for row in rows]
        for part, rows in (("query", query), ("key", key), ("value", key))
    )
    width = len(q[0]) // heads
    weights = torch.zeros(heads, len(q), len(k), dtype=torch.float64)
    out = [torch.zeros_like(row) for row in q]
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        for i, row in enumerate(q):
            logits = [float(row[part] @ other[part]) / math.sqrt(width) for other in k]
            for j, share in enumerate(slow_softmax(logits)):
                weights[head, i, j] = share
                out[i][part] += share * v[j][part]
    return out, weights


def slow_qformer(
    latents_KD: Tensor,
    keys_ND: Tensor,
    state: State,
    *,
    depth: int,
    heads: int,
    frequency: int,
    ids: Sequence[int] = (),
) -> tuple[Tensor, Tensor]:
    """[K, D] latents after the last layer and [heads, K, N] weights of the last cross-attention."""
    words = [
        state["qformer.embeddings.word_embeddings.weight"][word].double()
        + state["qformer.embeddings.position_embeddings.weight"][place].double()
        for place, word in enumerate(ids)
    ]
    norm = "qformer.embeddings.layernorm" if ids else "qformer.layernorm"
    count = len(latents_KD)
    rows = [
        slow_norm(row.double(), state[f"{norm}.weight"], state[f"{norm}.bias"], 1e-12)
        for row in [*latents_KD, *words]
    ]
    weights = torch.zeros(0)
    for number in range(depth):
        layer = f"qformer.encoder.layer.{number}"
        read, _ = slow_bert_attention(rows, rows, state, f"{layer}.attention.attention", heads)
        rows = slow_added(rows, read, state, f"{layer}.attention.output")
        if number % frequency == 0:
            read, weights = slow_bert_attention(
                rows[:count],
                [key.double() for key in keys_ND],
                state,
                f"{layer}.crossattention.attention",
                heads,
            )
            rows[:count] = slow_added(rows[:count], read, state, f"{layer}.crossattention.output")
        latents, words = rows[:count], rows[count:]
        rows = slow_feed_forward(latents, state, layer, "_query")
        if words and number < depth - 1:
            rows += slow_feed_forward(words, state, layer, "")
    return torch.stack(rows[:count]), weights


def slow_feed_forward(rows: list[Tensor], state: State, layer: str, kind: str) -> list[Tensor]:
    hidden = [slow_gelu(slow_linear(r, state, f"{layer}.intermediate{kind}.dense")) for r in rows]
    return slow_added(rows, hidden, state, f"{layer}.output{kind}")


def slow_added(before: list[Tensor], x: list[Tensor], state: State, name: str) -> list[Tensor]:
    weight, bias = state[f"{name}.LayerNorm.weight"], state[f"{name}.LayerNorm.bias"]
    return [
        slow_norm(b + slow_linear(row, state, f"{name}.dense"), weight, bias, 1e-12)
        for b, row in zip(before, x, strict=True)
    ]


def slow_llama_vid_context(patches_ND: Tensor, text_QE: Tensor, state: State) -> Tensor:
    """[D] the mean over the text's rows of what each reads from the patches themselves."""
    keys = [slow_linear(p.double(), state, "vlm_att_key_projector") for p in patches_ND]
    total = torch.zeros(patches_ND.shape[1], dtype=torch.float64)
    for text in text_QE:
        asked = slow_linear(text.double(), state, "vlm_att_projector")
        logits = [float(asked @ key) / math.sqrt(len(asked)) for key in keys]
        for share, patch in zip(slow_softmax(logits), patches_ND, strict=True):
            total += share * patch.double() / len(text_QE)
    return total


def slow_llama_vid_cells(h: int, w: int, cells: int) -> list[list[int]]:
    """Patches of every content token of ``grid:cells``, in raster order."""
    tall, wide = h // cells, w // cells
    return [
        [(top + y) * w + left + x for y in range(tall) for x in range(wide)]
        for top in range(0, h - tall + 1, tall)
        for left in range(0, w - wide + 1, wide)
    ]


def slow_gated_cross_attention(
    text_TD: Tensor,
    media: Sequence[Tensor],
    seen: Sequence[int],
    state: State,
    *,
    heads: int,
    immediate: bool,
    mean_before: bool = False,
) -> Tensor:
    """[T, D] of one text; ``media`` are [N, V] each."""
    inner = state["attn.to_q.weight"].shape[0]
    rows = []
    for row, count in zip(text_TD.double(), seen, strict=True):
        numbers = [count - 1] * (count > 0) if immediate else range(count)
        keys = [key.double() for number in numbers for key in media[number]]
        if not keys and mean_before:
            keys, asked = [key.double() for some in media for key in some], torch.zeros(inner)
        else:
            normed = slow_norm(row, state["attn.norm.weight"], state["attn.norm.bias"])
            asked = state["attn.to_q.weight"].double() @ normed
        read = slow_read(asked.double(), keys, state["attn.to_kv.weight"].double(), heads)
        row = row + float(state["attn_gate"].tanh()) * state["attn.to_out.weight"].double() @ read
        hidden = slow_norm(row, state["ff.0.weight"], state["ff.0.bias"])
        hidden = slow_gelu(state["ff.1.weight"].double() @ hidden)
        row = row + float(state["ff_gate"].tanh()) * state["ff.3.weight"].double() @ hidden
        rows.append(row)
    return torch.stack(rows)


def slow_read(asked: Tensor, keys: list[Tensor], to_kv: Tensor, heads: int) -> Tensor:
    """Zeros if there are no keys."""
    inner = len(asked)
    width, out = inner // heads, torch.zeros(inner, dtype=torch.float64)
    pairs = [to_kv @ key for key in keys]
    for head in range(heads if pairs else 0):
        part = slice(head * width, (head + 1) * width)
        logits = [float(asked[part] @ kv[:inner][part]) / math.sqrt(width) for kv in pairs]
        for share, kv in zip(slow_softmax(logits), pairs, strict=True):
            out[part] += share * kv[inner:][part]
    return out


def slow_normalized(relevance: Tensor) -> Tensor:
    """Row by row: the identity, and the rest of the row over its sum if there is a rest."""
    out = torch.eye(len(relevance), dtype=torch.float64)
    for i, row in enumerate(relevance.double()):
        rest = [float(x) - (1.0 if i == j else 0.0) for j, x in enumerate(row)]
        if sum(rest) > 0:
            out[i] += torch.tensor(rest, dtype=torch.float64) / sum(rest)
    return out


def slow_latent_relevance(
    layers: Sequence[tuple[Tensor | None, Tensor | None]], num_latents: int, num_patches: int
) -> tuple[Tensor, Tensor]:
    """R_qq and R_qp by the rules, entry by entry."""
    among = torch.eye(num_latents, dtype=torch.float64)
    across = torch.zeros(num_latents, num_patches, dtype=torch.float64)
    for own, other in layers:
        if own is not None:
            old, old_across = among.clone(), across.clone()
            for i in range(num_latents):
                for k in range(num_latents):
                    among[i] += float(own[i, k]) * old[k]
                    across[i] += float(own[i, k]) * old_across[k]
        if other is not None:
            normalized = slow_normalized(among)
            for i in range(num_latents):
                for k in range(num_latents):
                    across[i] += normalized[k, i] * other[k].double()
    return among, across
