"""Records read straight into the rows of a batch: nothing is copied between disk and batch."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from vidcomp.store.format import DTYPES
from vidcomp.store.layout import Layout, view_bytes
from vidcomp.store.record import unpack_rest
from vidcomp.store.types import Location
from vidcomp.types import TokenBatch

__all__ = ["read_batch"]

_PLAIN = ("tokens", "positions", "spans", "mass")


class _Column(NamedTuple):
    """A field of all records, end to end."""

    values: Tensor
    data: memoryview
    row_bytes: int


def read_batch(
    places: Sequence[Location],
    keys: Sequence[str],
    read: Callable[[str, Location, list[memoryview]], None],
) -> TokenBatch | None:
    """The records as one batch; ``None`` if their rows differ in fields, widths or types.

    Args:
        places: where the records lie, at least one; already known to fit into their files.
        keys: their keys.
        read: fills buffers, which together take a whole record, and checks its hash.
    """
    fields = _row_fields(places[0].layout)
    if not set(_PLAIN) <= fields.keys() or any(
        layout is not places[0].layout and _row_fields(layout) != fields
        for layout in (place.layout for place in places)
    ):
        return None
    offsets = torch.tensor([0, *(place.counts.num_tokens for place in places)]).cumsum(0)
    columns = {name: _column(int(offsets[-1]), *field) for name, field in fields.items()}
    rest: list[dict[str, Any]] = []
    first = 0
    for key, place in zip(keys, places, strict=True):
        pieces, tensors = _pieces(place, columns, first)
        read(key, place, pieces)
        rest.append(unpack_rest(tensors, place.layout, place.counts))
        first += place.counts.num_tokens
    return TokenBatch(
        **{name: columns[name].values for name in _PLAIN},
        offsets=offsets,
        grids=tuple(place.counts.grid for place in places),
        assigns=tuple(other["assign"] for other in rest),
        weights=tuple(other["weights"] for other in rest),
        extras={name: columns[field].values for field, name in sorted(places[0].layout.extras)},
        frame_extras=tuple(other["frame_extras"] for other in rest),
        keys=tuple(keys),
    )


def _row_fields(layout: Layout) -> dict[str, tuple[str, tuple[int | str, ...]]]:
    """Type and shape of a row, of each field that has one a token."""
    return {f.name: (f.dtype, f.shape[1:]) for f in layout.fields if f.shape[:1] == ("N",)}


def _column(num_rows: int, dtype: str, inner: tuple[int | str, ...]) -> _Column:
    sizes = [n for n in inner if isinstance(n, int)]
    values = torch.empty((num_rows, *sizes), dtype=DTYPES[dtype])
    data = values.reshape(-1).view(torch.uint8).numpy().data
    return _Column(values, data, len(data) // max(num_rows, 1))


def _pieces(
    place: Location, columns: dict[str, _Column], first: int
) -> tuple[list[memoryview], dict[str, Tensor]]:
    """Buffers for a record whose rows begin at ``first``, and the tensors that are no rows."""
    places = place.layout.places(place.counts)
    pieces, tensors = [], {}
    for tensor in places.tensors:
        column = columns.get(tensor.name)
        if column is not None:
            start = first * column.row_bytes
            piece = column.data[start : start + tensor.stop - tensor.start]
        else:
            piece = np.empty(tensor.stop - tensor.start, np.uint8).data
            tensors[tensor.name] = view_bytes(piece, tensor, 0)
        pieces.append(piece)
    pieces.append(np.empty(place.nbytes - places.nbytes, np.uint8).data)  # meta
    return [piece for piece in pieces if len(piece)], tensors
