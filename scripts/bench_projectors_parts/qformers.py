"""Originals of the Q-Former family, and LLaMA-VID.

Legend: T frames, N rows of a frame, K latents, Q rows of a question, D features.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.functional import scaled_dot_product_attention

from bench_projectors_parts.case import Case, Task
from bench_projectors_parts.weights import (
    Weights,
    attention,
    heads_of,
    torch_attention,
    without_heads,
)
from vidcomp.types import QueryFeatures, QueryIds

__all__ = ["QFORMERS"]

_EPS = 1e-12

Attend = Callable[[Tensor, Tensor, Tensor, int], Tensor]


def _fused(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    return without_heads(
        scaled_dot_product_attention(*(heads_of(x, heads) for x in (query, key, value)))
    )


def _block(w: Weights, asking: Tensor, rows: Tensor, heads: int, attend: Attend) -> Tensor:
    inner = w.at("attention")
    inputs = inner.linear("query", asking), inner.linear("key", rows), inner.linear("value", rows)
    read = w.linear("output.dense", attend(*inputs, heads))
    return w.norm("output.LayerNorm", read + asking, _EPS)


def _feed(w: Weights, kind: str, x: Tensor) -> Tensor:
    hidden = functional.gelu(w.linear(f"intermediate{kind}.dense", x))
    out = w.linear(f"output{kind}.dense", hidden)
    return w.norm(f"output{kind}.LayerNorm", out + x, _EPS)


def _bert(
    w: Weights, task: Task, x: Tensor, keys: Tensor, num_latents: int, attend: Attend = attention
) -> Tensor:
    """The layers; what follows the latents is text."""
    config = task.config
    for number in range(config.depth):
        layer = w.at("encoder.layer", number)
        x = _block(layer.at("attention"), x, x, config.heads, attend)
        latents, text = x[:, :num_latents], x[:, num_latents:]
        if number % config.cross_attention_frequency == 0:
            latents = _block(layer.at("crossattention"), latents, keys, config.heads, attend)
        x = _feed(layer, "_query", latents)
        if text.shape[1] and "intermediate." in layer:
            x = torch.cat([x, _feed(layer, "", text)], dim=1)
    return x[:, :num_latents]


def qformer(task: Task) -> Tensor:
    """BLIP-2 as LAVIS has it: attention is not fused; a matrix to the language model's width."""
    w, keys = task.weights, task.maps.flatten(1, 2)
    x = w["query_tokens"].expand(len(keys), -1, -1)
    x = w.norm("qformer.layernorm", x, _EPS)
    x = _bert(w.at("qformer"), task, x, keys, x.shape[1])
    return w.linear("language_projection", x)


def _asked(task: Task, num_frames: int) -> Tensor:
    """[T, K + Q, D] latents and the question, once a frame."""
    assert isinstance(task.query, QueryIds)
    w, ids = task.weights, task.query.ids.expand(num_frames, -1)
    inner = w.at("qformer.embeddings")
    words = functional.embedding(ids, inner["word_embeddings.weight"])
    words = words + inner["position_embeddings.weight"][: ids.shape[1]]
    latents = w["query_tokens"].expand(num_frames, -1, -1)
    return inner.norm("layernorm", torch.cat([latents, words], dim=1), _EPS)


def instruct_qformer(task: Task) -> Tensor:
    """InstructBLIP for videos: the question is repeated for every frame."""
    w, keys = task.weights, task.maps.flatten(1, 2)
    x = _asked(task, len(keys))
    x = _bert(w.at("qformer"), task, x, keys, task.config.num_latents)
    return w.linear("language_projection", x)


def meq_former(task: Task) -> Tensor:
    """Rows of all encoders in one width below each other, then transformers' Q-Former."""
    w, maps = task.weights, [task.maps, *task.others.values()]
    parts = [w.linear(f"projs.{k}", x.flatten(1, 2)) for k, x in enumerate(maps)]
    keys = torch.cat(parts, dim=1)
    x = _bert(w.at("qformer"), task, _asked(task, len(keys)), keys, task.config.num_latents, _fused)
    return w.linear("language_projection", x)


def qformer_light(task: Task) -> Tensor:
    """The tutorial's: PyTorch's attention, added and normed."""
    w, config = task.weights, task.config
    rows_N1D = w.linear("proj", task.maps.flatten(0, 2)[None]).permute(1, 0, 2)
    x_K1D = w["query_tokens"].permute(1, 0, 2)
    for number in range(config.depth):
        layer = w.at("layers", number)
        read = torch_attention(layer.at("attention"), x_K1D, rows_N1D, rows_N1D, config.heads)
        x_K1D = layer.norm("norm", x_K1D + read)
    return w.linear("output", x_K1D) if "output" in w else x_K1D


def _windows(x_TND: Tensor, side: int, size: int) -> Tensor:
    """[T * windows, size * size, D] of square frames."""
    t, _, d = x_TND.shape
    x = x_TND.view(t, side // size, size, side // size, size, d).transpose(2, 3)
    return x.flatten(0, 2).flatten(1, 2)


def window_qformer(task: Task) -> Tensor:
    """Granite in transformers: windows, their pooled starts, the Q-Former, and back."""
    w, config = task.weights, task.config
    t, side, _, d = task.maps.shape
    x_TND = w.norm("norm", task.maps.flatten(1, 2), 1e-6)
    q, size = config.query_side, config.window_side
    small = side // size * q
    x_TDHW = x_TND.view(t, side, side, d).permute(0, 3, 1, 2)
    pooled = functional.interpolate(x_TDHW, size=(small, small), mode="area")
    starts = _windows(pooled.permute(0, 2, 3, 1).flatten(1, 2), small, q)
    keys = _windows(x_TND, side, size) + w["image_positions"]
    inner, query = w.at("qformer"), w["query"] + starts
    x = inner.norm("layernorm", query, _EPS)
    x = _bert(inner, task, x, keys, q * q, _fused)
    x = x.view(t, side // size, side // size, q, q, d).transpose(2, 3).contiguous()
    return w.linear("out_linear", x.view(t, small * small, d))


def llama_vid(task: Task) -> Tensor:
    """Both tokens of every frame, from the text's rows of every frame."""
    assert isinstance(task.query, QueryFeatures)
    w, x_TND = task.weights, task.maps.flatten(1, 2)
    text_TQC = task.query.embedding.expand(len(x_TND), -1, -1)
    query, key = w.linear("vlm_att_projector", text_TQC), w.linear("vlm_att_key_projector", x_TND)
    shares = (query @ key.transpose(-1, -2) / key.shape[-1] ** 0.5).softmax(-1)
    context = w.linear("vlm_att_val_projector", (shares @ x_TND).mean(1))[:, None]
    content = w.at("mm_projector").mlp(x_TND.mean(1, keepdim=True))
    return torch.cat([context, content], dim=1)


QFORMERS = {
    "qformer": Case(oracle=qformer, cpu={"depth": 4}),
    "instruct_qformer": Case(oracle=instruct_qformer, cpu={"depth": 4}),
    "meq_former": Case(
        oracle=meq_former,
        settings={"encoders": (("video", 1024), ("other", 768)), "frames_per_clip": 1},
        others={"other": (16, 768)},
        cpu={"depth": 2},
    ),
    "qformer_light": Case(oracle=qformer_light),
    "window_qformer": Case(oracle=window_qformer, settings={"heads": 16}),
    "llama_vid": Case(oracle=llama_vid),
}
"""Originals by the name of the projector."""
