"""Weights from safetensors files into modules, by the original checkpoints' names."""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from vidcomp.errors import ConfigError, ShapeError

__all__ = ["load_named", "numbered", "read_weights"]


def read_weights(path: str, prefix: str = "") -> tuple[dict[str, Tensor], str]:
    """Tensors of a safetensors file by name, and the sha256 of its bytes.

    Args:
        path: the file.
        prefix: only names that start with it are read, and lose it.

    Raises:
        ConfigError: no such file, not safetensors, or no name with that prefix.
    """
    if not Path(path).is_file():
        raise ConfigError(f"weights {path!r} is no file: pass the path of one safetensors file")
    try:
        with safe_open(path, framework="pt") as file:
            keys = list(file.keys())
            state = {
                k.removeprefix(prefix): file.get_tensor(k) for k in keys if k.startswith(prefix)
            }
    except SafetensorError as error:
        raise ConfigError(
            f"weights {path!r} is not a safetensors file ({error}): convert it with "
            f"safetensors.torch.save_file"
        ) from error
    if not state:
        raise ConfigError(
            f"weights {path!r} has no name that starts with {prefix!r}, only {_list(keys)}: "
            f"correct weights_prefix"
        )
    with Path(path).open("rb") as stream:
        return state, hashlib.file_digest(stream, "sha256").hexdigest()


def load_named(
    module: nn.Module, state: Mapping[str, Tensor], names: Mapping[str, str], *, title: str
) -> None:
    """Copy ``state`` into ``module``; nothing is copied unless all of it fits.

    Args:
        module: keeps the type and device of its parameters.
        state: tensors by the checkpoint's names.
        names: the checkpoint's name of every entry of the module's ``state_dict()``.
        title: what the weights are for, to be named in errors.

    Raises:
        ShapeError: names are missing or left over, or shapes differ; all of them are named.
    """
    own = module.state_dict()
    missing = sorted(set(names.values()) - set(state))
    unexpected = sorted(set(state) - set(names.values()))
    shapes = [
        f"{names[n]} is {list(state[names[n]].shape)} instead of {list(own[n].shape)}"
        for n in own
        if names[n] in state and state[names[n]].shape != own[n].shape
    ]
    problems = [
        f"{word} {_list(found)}"
        for word, found in (("missing", missing), ("unexpected", unexpected), ("wrong", shapes))
        if found
    ]
    if problems:
        raise ShapeError(
            f"{title} wants exactly its {len(own)} weights, but the state dict does not fit "
            f"({'; '.join(problems)}): use the settings that the weights were trained with"
        )
    with torch.no_grad():
        module.load_state_dict({n: state[names[n]] for n in own})


def numbered(
    state: Mapping[str, Tensor], prefix: str = "", *, norm: bool = False
) -> dict[str, Tensor]:
    """Transformers' names of an MLP (``linear_1``, ``linear_2``, ``layer_norm``, maybe below
    ``multi_modal_projector``) as those of an ``nn.Sequential``; other names stay.

    Args:
        state: tensors by name.
        prefix: of the numbers.
        norm: whether a norm comes first, whose number is 0.
    """
    start = r"^(?:model\.)?(?:multi_modal_projector\.)?"

    def renamed(name: str) -> str:
        if norm:
            name = re.sub(start + r"layer_norm\.", f"{prefix}0.", name)
        return re.sub(
            start + r"linear_(\d+)\.", lambda m: f"{prefix}{2 * int(m[1]) - 2 + norm}.", name
        )

    return {renamed(name): tensor for name, tensor in state.items()}


def _list(names: list[str], limit: int = 8) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
