"""Projectors against slow twins, recorded as files of random settings, through the script."""

import json
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import parity
import pytest
import torch
from oracles.projectors import slow_adaptive_pool, slow_lucidrains, slow_mlp, slow_openflamingo
from safetensors.torch import save_file
from torch import Tensor


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 0.7


def record(
    path: Path, method: str, config: Mapping[str, Any], weights: Mapping[str, Tensor], **io: Tensor
) -> str:
    """A file as the recordings are."""
    tensors = {f"weight.{n}": t for n, t in weights.items()}
    tensors |= {"input.x": io["x"], "output": io["output"].float()}
    save_file(
        {n: t.contiguous() for n, t in tensors.items()},
        path,
        metadata={"method": method, "config": json.dumps(dict(config))},
    )
    return str(path)


def sequential(dims: list[int], prefix: str = "") -> dict[str, Tensor]:
    """Weights of linear layers at 0, 2, 4 ..."""
    state = {}
    for i, (dim_in, dim_out) in enumerate(pairwise(dims)):
        state[f"{prefix}{2 * i}.weight"] = draw(dim_out, dim_in, seed=i)
        state[f"{prefix}{2 * i}.bias"] = draw(dim_out, seed=50 + i)
    return state


def resampler(dim: int, num_latents: int, depth: int, inner: int, hidden: int) -> dict[str, Tensor]:
    """Weights of a Flamingo resampler without time embeddings."""
    state = {"latents": draw(num_latents, dim, seed=1)}
    norms = ["norm"]
    for i in range(depth):
        norms += [f"layers.{i}.0.norm_media", f"layers.{i}.0.norm_latents", f"layers.{i}.1.0"]
        state[f"layers.{i}.0.to_q.weight"] = draw(inner, dim, seed=10 * i)
        state[f"layers.{i}.0.to_kv.weight"] = draw(2 * inner, dim, seed=10 * i + 1)
        state[f"layers.{i}.0.to_out.weight"] = draw(dim, inner, seed=10 * i + 2)
        state[f"layers.{i}.1.1.weight"] = draw(hidden, dim, seed=10 * i + 3)
        state[f"layers.{i}.1.3.weight"] = draw(dim, hidden, seed=10 * i + 4)
    for i, norm in enumerate(norms):
        state |= {f"{norm}.weight": 1 + draw(dim, seed=70 + i), f"{norm}.bias": draw(dim, seed=i)}
    return state


def llava(kind: str, depth: int, num_tokens: int, tmp_path: Path) -> str:
    state = sequential([5, *[7] * depth])
    x = draw(2, num_tokens, 5, seed=9)
    output = torch.stack([slow_mlp(part, state) for part in x])
    if kind == "linear":
        state = {n.removeprefix("0."): t for n, t in state.items()}
    config = {"mm_projector_type": kind, "mm_hidden_size": 5, "hidden_size": 7}
    method = "llava_linear" if kind == "linear" else "llava_mlp2x_gelu"
    return record(tmp_path / "llava.safetensors", method, config, state, x=x, output=output)


@pytest.mark.parametrize(
    ("kind", "depth"), [("linear", 1)] + [(f"mlp{n}x_gelu", n) for n in (1, 2, 3, 5)]
)
def test_llava_of_any_depth(kind: str, depth: int, tmp_path: Path) -> None:
    assert parity.main([llava(kind, depth, 11, tmp_path)]) == 0


@pytest.mark.parametrize("side", [3, 7, 8])
@pytest.mark.parametrize("query_num", [1, 4, 10, 25, 81])
@pytest.mark.parametrize("layer_num", [1, 3])
def test_deco_of_any_grid(side: int, query_num: int, layer_num: int, tmp_path: Path) -> None:
    target = int(query_num**0.5)
    state = sequential([5, *[6] * layer_num], "mlp_projector.")
    x = draw(2, side * side, 5, seed=side)
    pooled = slow_adaptive_pool(x.view(2, side, side, 5), target, target).flatten(1, 2)
    path = record(
        tmp_path / "deco.safetensors",
        "deco_avgpool",
        {"layer_num": layer_num, "query_num": query_num, "mm_hidden_size": 5, "llm_hidden_size": 6},
        state,
        x=x,
        output=torch.stack([slow_mlp(part, state, "mlp_projector.") for part in pooled]),
    )
    assert parity.main([path]) == 0


@pytest.mark.parametrize("media", [1, 3])
@pytest.mark.parametrize("max_num_media", [None, 4])
@pytest.mark.parametrize("max_num_frames", [None, 2, 5])
@pytest.mark.parametrize(("heads", "dim_head", "depth"), [(1, 4, 1), (3, 2, 2)])
def test_openflamingo_of_any_size(
    media: int,
    max_num_media: int | None,
    max_num_frames: int | None,
    heads: int,
    dim_head: int,
    depth: int,
    tmp_path: Path,
) -> None:
    config = {"dim": 5, "depth": depth, "dim_head": dim_head, "heads": heads, "num_latents": 3}
    config |= {"max_num_media": max_num_media, "max_num_frames": max_num_frames, "ff_mult": 2}
    state = resampler(5, 3, depth, heads * dim_head, 10)
    if max_num_media:
        state["media_time_embs"] = draw(max_num_media, 1, 5, seed=90)
    if max_num_frames:
        state["frame_embs"] = draw(max_num_frames, 5, seed=91)
    x = draw(2, media, 2, 4, 5, seed=92)
    output = torch.stack([slow_openflamingo(part, state, heads, depth) for part in x])
    path = tmp_path / "flamingo.safetensors"
    method = "flamingo_perceiver_resampler"
    assert parity.main([record(path, method, config, state, x=x, output=output)]) == 0


@pytest.mark.parametrize(("media", "embeds"), [(1, 1), (3, 3), (2, 4)])
@pytest.mark.parametrize("ff_mult", [1, 3])
def test_flamingo_pytorch_of_any_size(
    media: int, embeds: int, ff_mult: int, tmp_path: Path
) -> None:
    config = {"dim": 6, "depth": 2, "dim_head": 2, "heads": 2, "num_latents": 4}
    config |= {"num_media_embeds": embeds, "ff_mult": ff_mult}
    state = resampler(6, 4, 2, 4, 6 * ff_mult) | {"media_pos_emb": draw(embeds, 1, 6, seed=90)}
    x = draw(2, media, 5, 6, seed=92)
    output = torch.stack([slow_lucidrains(part, state, 2, 2) for part in x])
    path = tmp_path / "flamingo.safetensors"
    method = "flamingo_perceiver_resampler_lucidrains"
    assert parity.main([record(path, method, config, state, x=x, output=output)]) == 0
