"""ToMe, VideoChat-Flash and AKS against slow twins, recorded as files of other settings."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import parity
import pytest
import torch
from oracles.published import (
    slow_aks,
    slow_proportional_attention,
    slow_tome_kth,
    slow_tome_round,
    slow_videochat,
)
from safetensors.torch import save_file
from torch import Tensor


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def record(
    path: Path,
    method: str,
    parameters: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    **grid: int,
) -> str:
    metadata = {"method": method, "parameters": json.dumps(dict(parameters))}
    metadata["grid"] = json.dumps(grid)
    save_file({n: t.contiguous() for n, t in tensors.items()}, path, metadata=metadata)
    return str(path)


@pytest.mark.parametrize("has_class_token", [False, True])
@pytest.mark.parametrize(("num_tokens", "r_list"), [(12, [6, 2]), (13, [3, 1, 99]), (7, [1])])
@pytest.mark.parametrize(("heads", "kth"), [(1, 2), (2, 5)])
def test_tome_of_any_rounds(
    has_class_token: bool, num_tokens: int, r_list: list[int], heads: int, kth: int, tmp_path: Path
) -> None:
    x, metric = draw(2, num_tokens, 8, seed=num_tokens), draw(2, num_tokens, 5, seed=1)
    weights = {"attn.qkv.weight": draw(24, 8, seed=2), "attn.qkv.bias": draw(24, seed=3)}
    weights |= {"attn.proj.weight": draw(8, 8, seed=4), "attn.proj.bias": draw(8, seed=5)}
    outputs: dict[str, list[Tensor]] = {}
    for rows, compared in zip(x, metric, strict=True):
        kth_rows, kth_mass = slow_tome_kth(rows, kth)
        mass, source = torch.ones(len(rows)), torch.eye(len(rows))
        for i, r in enumerate(r_list):
            rows, mass, members = slow_tome_round(
                rows, mass, compared, r, has_class_token=has_class_token
            )
            source = torch.stack([source[m].amax(dim=0) for m in members])
            compared = rows
            found = {f"step{i}.x": rows, f"step{i}.size": mass[:, None], f"step{i}.source": source}
            for name, value in found.items():
                outputs.setdefault(name, []).append(value)
        out, k_mean = slow_proportional_attention(rows, mass, weights, heads)
        found = {"kth.x": kth_rows, "kth.size": kth_mass[:, None]}
        found |= {"propattn.out": out.float(), "propattn.k_mean": k_mean.float()}
        for name, value in found.items():
            outputs.setdefault(name, []).append(value)
    tensors = {f"output.{n}": torch.stack(t) for n, t in outputs.items()}
    tensors |= {f"input.{n}": t for n, t in {**weights, "x": x, "metric": metric}.items()}
    parameters = {"heads": heads, "r_list": r_list, "class_token": has_class_token, "kth": kth}
    path = record(tmp_path / "tome.safetensors", "tome", parameters, tensors)
    assert parity.main([path]) == 0


@pytest.mark.parametrize(("heads", "target"), [(1, 23), (2, 12), (4, 7), (2, 1)])
def test_videochat_flash_to_any_target(heads: int, target: int, tmp_path: Path) -> None:
    x = draw(2, 24, 8, seed=target)
    tensors = {
        "input.x": x,
        "output.tokens": torch.stack([slow_videochat(part, target, heads) for part in x]),
    }
    parameters = {"heads": heads, "target": target}
    path = tmp_path / "tome.safetensors"
    assert (
        parity.main([record(path, "videochat_flash_tome", parameters, tensors, t=2, h=3, w=4)]) == 0
    )


@pytest.mark.parametrize("num_scores", [40, 97])
@pytest.mark.parametrize(("t1", "t2", "depth"), [(0.8, -100, 5), (0.4, 0.1, 2), (0.2, -1, 0)])
def test_aks_of_any_budgets(
    num_scores: int, t1: float, t2: float, depth: int, tmp_path: Path
) -> None:
    scores = draw(num_scores, seed=num_scores).double()
    tensors = {"input.scores": scores}
    budgets = [3, 16, 33, num_scores, num_scores + 5]
    for n in budgets:
        frames, num_segments = slow_aks(scores.tolist(), n, t1, t2, depth)
        tensors[f"output.n{n}.frames"] = torch.tensor(frames)
        if num_segments:
            tensors[f"output.n{n}.num_segments"] = torch.tensor(num_segments)
    parameters = {"n_list": budgets, "t1": t1, "t2": t2, "all_depth": depth}
    assert parity.main([record(tmp_path / "aks.safetensors", "aks", parameters, tensors)]) == 0
