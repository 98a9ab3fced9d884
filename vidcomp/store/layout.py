"""What the bytes of a record mean: named tensors whose shapes follow from a few counts.

Symbols of a shape: N tokens, T frames of the grid, P source patches, Z entries of soft provenance.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from vidcomp.errors import StoreCorruptError
from vidcomp.store.format import DTYPES
from vidcomp.types import Grid

__all__ = ["Counts", "Field", "Layout"]

_SYMBOLS = ("N", "T", "P", "Z")
_BASE_ORDER = ("tokens", "positions", "spans", "mass", "assign", "weights.index", "weights.value")


class Counts(NamedTuple):
    """The numbers that turn a layout's symbols into sizes."""

    num_tokens: int
    grid: Grid
    nnz: int = 0
    """Entries of soft provenance."""

    @property
    def symbols(self) -> dict[str, int]:
        """Value of each symbol."""
        grid = self.grid
        return {"N": self.num_tokens, "T": grid.t, "P": grid.num_patches, "Z": self.nnz}


class Field(NamedTuple):
    """One tensor of a record."""

    name: str
    dtype: str
    """A key of ``DTYPES``."""
    shape: tuple[int | str, ...]
    """Numbers and symbols."""

    @property
    def itemsize(self) -> int:
        """Bytes of one element."""
        return DTYPES[self.dtype].itemsize

    def sizes(self, counts: Counts) -> tuple[int, ...]:
        """The shape in numbers."""
        symbols = counts.symbols
        return tuple(symbols[n] if isinstance(n, str) else n for n in self.shape)

    def num_bytes(self, counts: Counts) -> int:
        """Bytes of the tensor."""
        return math.prod(self.sizes(counts)) * self.itemsize


@dataclass(frozen=True)
class Layout:
    """The tensors of a record in the order of their bytes; ``meta`` follows them."""

    fields: tuple[Field, ...]

    @classmethod
    def of(cls, fields: Sequence[Field]) -> "Layout":
        """Fields in the order of the format: larger elements first, so each is aligned."""

        def rank(field: Field) -> tuple[int, int, str]:
            known = field.name in _BASE_ORDER
            place = _BASE_ORDER.index(field.name) if known else len(_BASE_ORDER)
            return -field.itemsize, place, field.name

        return cls(tuple(sorted(fields, key=rank)))

    @cached_property
    def text(self) -> str:
        """Canonical JSON."""
        return json.dumps(self.fields, separators=(",", ":"))

    @classmethod
    def parse(cls, data: object) -> "Layout":
        """A layout from JSON values.

        Raises:
            StoreCorruptError: not a layout.
        """
        try:
            return _parse(json.dumps(data, separators=(",", ":")))
        except (TypeError, ValueError, KeyError) as error:
            raise StoreCorruptError(
                f"a record's layout must list names, types and shapes, got {str(data)[:80]} "
                f"({error}): run verify"
            ) from error

    def num_bytes(self, counts: Counts) -> int:
        """Bytes before ``meta``."""
        return sum(field.num_bytes(counts) for field in self.fields)

    def offsets(self, counts: Counts) -> list[tuple[Field, int, int]]:
        """Each field with its first and end byte in the record."""
        out, start = [], 0
        for field in self.fields:
            stop = start + field.num_bytes(counts)
            out.append((field, start, stop))
            start = stop
        return out

    def field(self, name: str) -> Field | None:
        """The field of that name."""
        return next((field for field in self.fields if field.name == name), None)

    @property
    def dim(self) -> int:
        """Width of the token matrix; 0 for codebook ids."""
        tokens = self.field("tokens")
        return int(tokens.shape[1]) if tokens is not None and len(tokens.shape) == 2 else 0

    @property
    def dtype(self) -> str:
        """Type of the tokens as torch writes it, e.g. ``bfloat16``."""
        tokens = self.field("tokens")
        return "" if tokens is None else str(DTYPES[tokens.dtype]).removeprefix("torch.")

    def tensors(self, buffer: memoryview, counts: Counts) -> dict[str, Tensor]:
        """Views of a record's bytes, each a storage of its own (so that one can be saved alone)."""
        out = {}
        for field, start, stop in self.offsets(counts):
            dtype, sizes = DTYPES[field.dtype], field.sizes(counts)
            if stop == start:  # frombuffer refuses no bytes
                out[field.name] = torch.empty(sizes, dtype=dtype)
                continue
            count = (stop - start) // dtype.itemsize
            flat = torch.frombuffer(buffer, dtype=dtype, count=count, offset=start)
            out[field.name] = flat if len(sizes) == 1 else flat.view(sizes)
        return out


@lru_cache(maxsize=1024)
def _parse(text: str) -> Layout:
    fields = []
    for name, dtype, shape in json.loads(text):
        if not isinstance(name, str) or dtype not in DTYPES or not isinstance(shape, list):
            raise ValueError(f"{name!r} of type {dtype!r}")
        for n in shape:
            if not (n in _SYMBOLS if isinstance(n, str) else type(n) is int and n >= 0):
                raise ValueError(f"{n!r} in the shape of {name!r}")
        fields.append(Field(name, dtype, tuple(shape)))
    layout = Layout(tuple(fields))
    if layout.field("tokens") is None or len({f.name for f in fields}) < len(fields):
        raise ValueError("tokens missing, or a name twice")
    return layout
