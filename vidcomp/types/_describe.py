"""A repr with shapes instead of numbers."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from torch import Tensor

__all__ = ["describe"]


def describe(value: Any) -> str:
    """A repr with shapes instead of numbers."""
    parts = []
    for f in fields(value):
        item = getattr(value, f.name)
        if isinstance(item, Tensor):
            item = f"{list(item.shape)} {str(item.dtype).removeprefix('torch.')}"
        elif isinstance(item, Mapping):
            item = {k: list(v.shape) for k, v in item.items()}
        if item is not None and item not in ({}, ()):
            parts.append(f"{f.name}={item}")
    return f"{type(value).__name__}({', '.join(parts)})"
