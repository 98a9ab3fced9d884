"""What the bytes of a record mean: named tensors whose shapes follow from a few counts.

Symbols of a shape: N tokens, T frames of the grid, P source patches, Z entries of soft provenance,
B entries of the block checks.
"""

import json
import math
import reprlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from vidcomp.errors import StoreCorruptError
from vidcomp.store.disk.format import DTYPES, MAX_DIMS, unescape
from vidcomp.types import Grid

__all__ = ["BLOCK_ROWS", "Counts", "Field", "Layout", "Place", "Places", "view_bytes"]

BLOCK_ROWS = 64
"""Rows under one block check."""

_SYMBOLS = ("N", "T", "P", "Z", "B")
_REMEMBERED = 4096
_BLOCKS, _SCALE, _SPANS = "blocks", "tokens.scale", "spans"
_PACKED = "tokens.zstd"
"""What the compressed bytes of the tokens are called in a file's header."""
_PACKED_TYPES = frozenset(f"Z{name}" for name in DTYPES)
_UNSIGNED = ("U8", "U16", "U32", "U64")
_KNOWN: dict[str, tuple[tuple[str, ...], tuple[int | str, ...]]] = {
    _BLOCKS: (("U64",), ("B",)),
    _SPANS: (("F32",), ("N", 2)),
    "positions": (("F32",), ("N", 3)),
    "mass": (("F32",), ("N",)),
    "assign": (_UNSIGNED, ("P",)),
    "weights.index": (_UNSIGNED, (2, "Z")),
    "weights.value": (("F32",), ("Z",)),
}
"""Types and shape of the fields that have but one."""
_NEEDED = frozenset({"tokens", "positions", _SPANS, "mass"})
_MAX_TEXT = 1 << 20
_MAX_ROW = 1 << 48
"""Elements of a row."""
_BASE_ORDER = (
    _BLOCKS, _SPANS, _SCALE, "weights.index", "weights.value", "assign", "positions", "mass",
    "tokens",
)  # fmt: skip


class Counts(NamedTuple):
    """The numbers that turn a layout's symbols into sizes."""

    num_tokens: int
    grid: Grid
    nnz: int = 0
    """Entries of soft provenance."""
    packed: int = 0
    """Bytes of the tokens if they are compressed."""

    @property
    def symbols(self) -> dict[str, int]:
        """Value of each symbol."""
        n, grid = self.num_tokens, self.grid
        blocks = 1 + -(-n // BLOCK_ROWS)
        return {"N": n, "T": grid.t, "P": grid.num_patches, "Z": self.nnz, "B": blocks}


class Field(NamedTuple):
    """One tensor of a record."""

    name: str
    dtype: str
    """A key of ``DTYPES``, with a ``Z`` before it if the bytes are compressed."""
    shape: tuple[int | str, ...]
    """Numbers and symbols."""

    @property
    def is_packed(self) -> bool:
        """Whether the bytes are compressed, so that their number is in the counts."""
        return self.dtype.startswith("Z")

    @property
    def torch_dtype(self) -> torch.dtype:
        """Type of the elements."""
        return DTYPES[self.dtype.removeprefix("Z")]

    @property
    def itemsize(self) -> int:
        """Bytes of one element as it lies on disk."""
        return 1 if self.is_packed else self.torch_dtype.itemsize

    @property
    def has_rows(self) -> bool:
        """Whether there is a row a token."""
        return self.shape[:1] == ("N",)

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
        """Fields in the order of the format.

        Larger elements come first, so each is aligned; of one size, those that every partial read
        needs, so that they are one range.
        """

        def rank(field: Field) -> tuple[int, bool, int, str]:
            known = field.name in _BASE_ORDER
            place = _BASE_ORDER.index(field.name) if known else len(_BASE_ORDER)
            return -field.itemsize, field.has_rows and field.name != _SPANS, place, field.name

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
        except (TypeError, ValueError, KeyError, RecursionError) as error:
            raise StoreCorruptError(
                f"a record's layout must list names, types and shapes, got {reprlib.repr(data)} "
                f"({error!s:.200}): run verify"
            ) from error

    def check(self) -> None:
        """Refuse fields that do not go together, or not as the format says.

        Raises:
            ValueError: the first thing that cannot be.
        """
        if len(self.text) > _MAX_TEXT:
            raise ValueError(f"{len(self.text)} characters, at most {_MAX_TEXT}")
        for field in self.fields:
            _check_field(field)
        _check_together(self.fields)

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
            name, dtype, sizes = field.name, field.dtype, field.sizes(counts)
            if field.is_packed:
                name, dtype, sizes = _PACKED, "U8", (counts.packed,)
            stop = start + math.prod(sizes) * field.itemsize
            out.append(Place(name, dtype, sizes, start, stop))
            start = stop
        return Places(tuple(out), start)

    @cached_property
    def _places(self) -> dict[Counts, Places]:
        """Most videos of a store have the same few counts."""
        return {}

    def field(self, name: str) -> Field | None:
        """The field of that name."""
        return next((field for field in self.fields if field.name == name), None)

    @cached_property
    def tokens(self) -> Field:
        """The field of the tokens, as it lies on disk."""
        return next(field for field in self.fields if field.name == "tokens")

    @property
    def dim(self) -> int:
        """Width of the token matrix; 0 for codebook ids."""
        shape = self.tokens.shape
        return int(shape[1]) if len(shape) == 2 else 0

    @property
    def dtype(self) -> str:
        """Type of the tokens when they are read, as torch writes it, e.g. ``bfloat16``."""
        return str(self.torch_dtype).removeprefix("torch.")

    @property
    def torch_dtype(self) -> torch.dtype:
        """Type of the tokens when they are read: int8 codes become bfloat16."""
        return torch.bfloat16 if self.is_int8 else self.tokens.torch_dtype

    @cached_property
    def is_int8(self) -> bool:
        """Whether the tokens are codes with a scale a channel."""
        return self.field(_SCALE) is not None

    @cached_property
    def is_packed(self) -> bool:
        """Whether the tokens are compressed."""
        return self.tokens.is_packed

    @cached_property
    def is_plain(self) -> bool:
        """Whether the bytes of the tokens are the tokens, so that they may be read into place."""
        return not (self.is_int8 or self.is_packed)

    @cached_property
    def has_blocks(self) -> bool:
        """Whether rows can be checked, and so read, without the rest of the record."""
        return self.field(_BLOCKS) is not None

    @cached_property
    def block_fields(self) -> tuple[Field, ...]:
        """Fields under the check of a block of rows, in their order."""
        return tuple(f for f in self.fields if f.has_rows and f.name != _SPANS)

    @cached_property
    def row_fields(self) -> dict[str, tuple[torch.dtype, list[int]]]:
        """Type and shape of a row when it is read, of each field that has one a token."""
        out = {}
        for field in self.fields:
            if field.has_rows:
                dtype = self.torch_dtype if field.name == "tokens" else field.torch_dtype
                out[field.name] = dtype, [n for n in field.shape[1:] if isinstance(n, int)]
        return out

    @cached_property
    def head_fields(self) -> tuple[Field, ...]:
        """Fields under the first block check, in its order: spans, then those without rows."""
        rest = [f for f in self.fields if not f.has_rows and f.name != _BLOCKS]
        return tuple(f for f in self.fields if f.name == _SPANS) + tuple(rest)

    def tensors(self, buffer: memoryview, counts: Counts) -> dict[str, Tensor]:
        """Views of a record's bytes, each a storage of its own (so that one can be saved alone).

        Compressed tokens are there as their bytes, ``tokens.zstd``; block checks are left out.
        """
        places = self.places(counts).tensors
        return {p.name: view_bytes(buffer, p, p.start) for p in places if p.name != _BLOCKS}

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
    if len(text) > _MAX_TEXT:
        raise ValueError(f"{len(text)} characters, at most {_MAX_TEXT}")
    fields = []
    for name, dtype, shape in json.loads(text):
        if not isinstance(name, str) or not isinstance(dtype, str) or not isinstance(shape, list):
            raise TypeError("a field is a name, a type and a shape")
        fields.append(Field(name, dtype, tuple(shape)))
    layout = _shared(tuple(fields))
    layout.check()
    return layout


def _check_field(field: Field) -> None:
    """Refuse a field that no record can have."""
    name, dtype, shape = field
    # Only tokens may be compressed: one length a record is all that an index has.
    if dtype not in DTYPES and (name != "tokens" or dtype not in _PACKED_TYPES):
        raise ValueError(f"{name[:80]!r} of type {dtype[:20]!r}")
    wanted = _KNOWN.get(name)
    if wanted is not None and not (dtype in wanted[0] and shape == wanted[1]):
        raise ValueError(f"{name!r} of type {dtype!r} and shape {shape!r:.80}")
    first = {"extras.": "N", "frame.": "T"}.get(name[: name.find(".") + 1])
    if first is not None and shape[:1] != (first,):
        raise ValueError(f"{name[:80]!r} of shape {shape!r:.80}")
    if "/" in name or len(shape) > MAX_DIMS:
        raise ValueError(f"{name[:80]!r} with {len(shape)} dimensions")
    unescape(name)
    numbers = [n for n in shape if not (isinstance(n, str) and n in _SYMBOLS)]
    if not all(type(n) is int and n >= 0 for n in numbers):
        raise ValueError(f"{name[:80]!r} of shape {shape!r:.80}")
    # Of an empty tensor, too: torch multiplies what is not zero.
    if math.prod(max(1, int(n)) for n in numbers) > _MAX_ROW:
        raise ValueError(f"{name[:80]!r} has rows of shape {shape[1:]!r:.80}")
    if field.has_rows and len(numbers) != len(shape) - 1:
        raise ValueError(f"{name[:80]!r} has rows of unknown size")


def _check_together(fields: Sequence[Field]) -> None:
    """Refuse fields that do not go together."""
    named = {field.name: field for field in fields}
    if len(named) < len(fields) or _PACKED in named or not named.keys() >= _NEEDED:
        raise ValueError(f"a name twice, or one of {sorted(_NEEDED - named.keys())} missing")
    tokens, scale = named["tokens"], named.get(_SCALE)
    width = tokens.shape[1:]
    if not tokens.has_rows or len(width) != (tokens.torch_dtype.is_floating_point or bool(scale)):
        raise ValueError(f"tokens of {tokens.dtype} and shape {tokens.shape!r:.80}")
    if scale is not None and (scale[1:] != ("F32", width) or tokens.dtype not in ("I8", "ZI8")):
        raise ValueError(f"scales {scale[1:]!r:.80} of tokens {tokens[1:]!r:.80}")
    if _BLOCKS in named and tokens.is_packed:
        raise ValueError("block checks of compressed tokens")
    index, value = (f"weights.{part}" in named for part in ("index", "value"))
    if index != value or (index and "assign" in named):
        raise ValueError("half of soft provenance, or both kinds of it")
