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
from vidcomp.store.format import DTYPES, unescape
from vidcomp.types import Grid

__all__ = ["Counts", "Field", "Layout", "Place", "Places", "view_bytes"]

_SYMBOLS = ("N", "T", "P", "Z")
_REMEMBERED = 4096
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


class Place(NamedTuple):
    """One tensor of one record in numbers."""

    name: str
    dtype: str
    sizes: tuple[int, ...]
    start: int
    """First byte in the record."""
    stop: int


class Places(NamedTuple):
    """All tensors of one record."""

    tensors: tuple[Place, ...]
    nbytes: int
    """Bytes before ``meta``."""


@dataclass(frozen=True)
class Layout:
    """The tensors of a record in the order of their bytes; ``meta`` follows them."""

    fields: tuple[Field, ...]

    def __hash__(self) -> int:
        return hash(self.text)

    @classmethod
    def of(cls, fields: Sequence[Field]) -> "Layout":
        """Fields in the order of the format: larger elements first, so each is aligned."""

        def rank(field: Field) -> tuple[int, int, str]:
            known = field.name in _BASE_ORDER
            place = _BASE_ORDER.index(field.name) if known else len(_BASE_ORDER)
            return -field.itemsize, place, field.name

        return _shared(tuple(sorted(fields, key=rank)))

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

    def places(self, counts: Counts) -> Places:
        """Where the tensors of a record of these counts lie."""
        known = self._places.get(counts)
        if known is None:
            if len(self._places) >= _REMEMBERED:
                self._places.clear()
            known = self._places[counts] = self._place_all(counts)
        return known

    def _place_all(self, counts: Counts) -> Places:
        out, start = [], 0
        for field in self.fields:
            sizes = field.sizes(counts)
            stop = start + math.prod(sizes) * field.itemsize
            out.append(Place(field.name, field.dtype, sizes, start, stop))
            start = stop
        return Places(tuple(out), start)

    @cached_property
    def _places(self) -> dict[Counts, Places]:
        """Most videos of a store have the same few counts."""
        return {}

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
        places = self.places(counts).tensors
        return {place.name: view_bytes(buffer, place, place.start) for place in places}

    @cached_property
    def extras(self) -> list[tuple[str, str]]:
        """Fields of row extras and the extras' names."""
        return self._named("extras.")

    @cached_property
    def frame_extras(self) -> list[tuple[str, str]]:
        """Fields of frame extras and the extras' names."""
        return self._named("frame.")

    def _named(self, prefix: str) -> list[tuple[str, str]]:
        names = [field.name for field in self.fields if field.name.startswith(prefix)]
        return [(name, unescape(name.removeprefix(prefix))) for name in names]


def view_bytes(buffer: memoryview, place: Place, start: int) -> Tensor:
    """The bytes of ``buffer`` from ``start`` on as that tensor, not copied."""
    dtype = DTYPES[place.dtype]
    if place.stop == place.start:  # frombuffer refuses no bytes
        return torch.empty(place.sizes, dtype=dtype)
    count = (place.stop - place.start) // dtype.itemsize
    flat = torch.frombuffer(buffer, dtype=dtype, count=count, offset=start)
    return flat if len(place.sizes) == 1 else flat.view(place.sizes)


@lru_cache(maxsize=1024)
def _shared(fields: tuple[Field, ...]) -> Layout:
    """One object for equal layouts, so that what it remembers is shared."""
    return Layout(fields)


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
    layout = _shared(tuple(fields))
    if layout.field("tokens") is None or len({f.name for f in fields}) < len(fields):
        raise ValueError("tokens missing, or a name twice")
    return layout
