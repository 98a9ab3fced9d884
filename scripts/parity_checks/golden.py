"""Recorded outputs: what is in a file, read by name with clear errors."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from torch import Tensor

__all__ = ["Check", "Comparison", "Golden", "GoldenError", "read_golden"]


class GoldenError(Exception):
    """A file, or an entry of one, that is not a recorded output."""


class Comparison(NamedTuple):
    """One recorded output and ours; both in one order of rows."""

    name: str
    ours: Tensor
    theirs: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Golden:
    """One file: a method, its settings, and tensors by role."""

    path: str
    method: str
    settings: Mapping[str, Any]
    """The original's own names and values (``config`` or ``parameters``)."""
    grid: Mapping[str, int]
    """``t``, ``h``, ``w`` where the recording says them."""
    inputs: Mapping[str, Tensor]
    weights: Mapping[str, Tensor]
    """State dict by the original's names."""
    outputs: Mapping[str, Tensor]
    """By the full name in the file: ``output``, ``output.step0.x`` ..."""
    training: Mapping[str, Tensor]
    """What a step of training gave: losses, gradients, new weights."""

    def setting(self, name: str) -> Any:
        """A value of ``settings``."""
        return _get(self.settings, name, self.path, "setting")

    def input(self, name: str) -> Tensor:
        """A tensor of ``inputs``, a copy."""
        tensor: Tensor = _get(self.inputs, name, self.path, "input")
        return tensor.clone()

    def output(self, name: str) -> Tensor:
        """A tensor of ``outputs``."""
        tensor: Tensor = _get(self.outputs, name, self.path, "output")
        return tensor

    def trained(self, name: str) -> Tensor:
        """A tensor of ``training``."""
        tensor: Tensor = _get(self.training, name, self.path, "result of training")
        return tensor


Check = Callable[[Golden], Iterator[Comparison]]


def read_golden(path: str) -> Golden:
    """The recording in a safetensors file.

    Raises:
        GoldenError: no such file, not safetensors, or no metadata of a recording.
    """
    if not Path(path).is_file():
        raise GoldenError(f"{path} is no file: pass safetensors files of recorded outputs")
    try:
        with safe_open(path, framework="pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        settings = json.loads(metadata.get("config") or metadata.get("parameters") or "{}")
        grid = json.loads(metadata.get("grid", "{}"))
    except (SafetensorError, OSError, ValueError) as error:
        raise GoldenError(f"{path} cannot be read ({error}): pass safetensors files") from error
    if "method" not in metadata:
        raise GoldenError(f"{path} does not name its method: pass files of recorded outputs")
    return Golden(
        path=path,
        method=metadata["method"],
        settings=settings,
        grid=grid,
        inputs=_below(tensors, "input."),
        weights=_below(tensors, "weight."),
        outputs={n: t for n, t in tensors.items() if n.split(".")[0] == "output"},
        training=_below(tensors, "train."),
    )


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


def _get(values: Mapping[str, Any], name: str, path: str, kind: str) -> Any:
    if name not in values:
        raise GoldenError(f"{path} has no {kind} {name!r}, only {', '.join(values) or 'none'}")
    return values[name]
