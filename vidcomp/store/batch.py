"""Records read straight into the rows of a batch: nothing is copied between disk and batch."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from vidcomp.errors import ShapeError
from vidcomp.store.disk.layout import Place, view_bytes
from vidcomp.store.disk.record import decode_tokens, unpack_rest
from vidcomp.store.disk.types import Location
from vidcomp.store.fetch import Fetcher
from vidcomp.store.memory import Memory
from vidcomp.types import PaddedTokens, TokenBatch

__all__ = ["check_out", "read_batch", "split_record"]

_PLAIN = ("tokens", "positions", "spans", "mass")
_NO_TENSORS: dict[str, Tensor] = {}
_NOTHING: dict[str, Any] = {"assign": None, "weights": None, "frame_extras": {}}


class _Column(NamedTuple):
    """A field of all records of a batch."""

    values: Tensor
    """[R, ...]."""
    data: memoryview
    row_bytes: int


class _Run(NamedTuple):
    """Bytes of a record that go to one place."""

    data: memoryview | None
    """Of the column; ``None``: they are no rows of the batch."""
    row_bytes: int
    nbytes: int
    tensors: tuple[Place, ...] = ()
    """Those in bytes that are no rows and needed."""


def read_batch(
    fetcher: Fetcher,
    keys: Sequence[str],
    places: Sequence[Location],
    memory: Memory,
    *,
    padded: bool = False,
    out: Tensor | None = None,
    threads: int = 1,
) -> TokenBatch | PaddedTokens | None:
    """The records as one batch; ``None`` if their rows differ in fields, widths or types.

    Args:
        fetcher: reads and checks them.
        keys: their keys.
        places: where the records lie, at least one; already known to fit into their files.
        memory: where the batch comes from.
        padded: side by side with zeros behind the shorter ones, not end to end.
        out: [rows or more, ...] takes the tokens.
        threads: that read, from a store on this machine.

    Raises:
        ShapeError: ``out`` cannot take them.
        StoreCorruptError, StoreError: a record is damaged, or cannot be read.
    """
    fields = _shared_fields(places)
    if fields is None:
        return None
    if padded:
        fields = {name: fields[name] for name in _PLAIN}
    lengths = [place.counts.num_tokens for place in places]
    length = max(lengths)
    offsets = np.cumsum([0, *lengths])
    num_rows = len(places) * length if padded else int(offsets[-1])
    columns = _columns(fields, num_rows, memory, out)
    if padded:
        firsts = [b * length for b in range(len(places))]
        _read_rows(fetcher, keys, places, columns, firsts, threads)
        return _as_padded(columns, lengths, length, keys)
    rest = _read_rows(fetcher, keys, places, columns, offsets.tolist(), threads)
    return TokenBatch(
        **{name: columns[name].values for name in _PLAIN},
        offsets=torch.from_numpy(offsets),
        grids=tuple(place.counts.grid for place in places),
        assigns=tuple(other["assign"] for other in rest),
        weights=tuple(other["weights"] for other in rest),
        extras={name: columns[field].values for field, name in sorted(places[0].layout.extras)},
        frame_extras=tuple(other["frame_extras"] for other in rest),
        keys=tuple(keys),
    )


def _shared_fields(places: Sequence[Location]) -> dict[str, tuple[torch.dtype, list[int]]] | None:
    """Type and shape of a row, of each field that has one a token, if all records agree."""
    fields = places[0].layout.row_fields
    layouts = {id(place.layout): place.layout for place in places}
    if not set(_PLAIN) <= fields.keys() or any(la.row_fields != fields for la in layouts.values()):
        return None
    return fields


def _columns(
    fields: dict[str, tuple[torch.dtype, list[int]]],
    num_rows: int,
    memory: Memory,
    out: Tensor | None,
) -> dict[str, _Column]:
    """Room for ``num_rows`` rows of each field."""
    row_bytes = {name: math.prod(inner) * dtype.itemsize for name, (dtype, inner) in fields.items()}
    wanted = [name for name in fields if out is None or name != "tokens"]
    sizes = [num_rows * row_bytes[name] for name in wanted]
    taken = dict(zip(wanted, memory.take(sizes), strict=True))
    if out is not None:
        rows = check_out(out, num_rows, *fields["tokens"])
        taken["tokens"] = rows.reshape(-1).view(torch.uint8)
    columns = {}
    for name, (dtype, inner) in fields.items():
        values = taken[name].view(dtype).view(num_rows, *inner)
        columns[name] = _Column(values, taken[name].numpy().data, row_bytes[name])
    return columns


def check_out(out: Tensor, num_rows: int, dtype: torch.dtype, inner: list[int]) -> Tensor:
    """The first rows of the caller's tensor.

    Raises:
        ShapeError: it has another type or width, too few rows, or no memory to read into.
    """
    if out.dtype != dtype or list(out.shape[1:]) != inner or len(out) < num_rows:
        raise ShapeError(
            f"these tokens need room for {[num_rows, *inner]} {dtype}, got {list(out.shape)} "
            f"{out.dtype}: pass a larger tensor of that type"
        )
    if out.device.type != "cpu" or not out.is_contiguous():
        raise ShapeError(
            f"tokens are read into contiguous memory of the CPU, got a tensor on {out.device} with "
            f"strides {out.stride()}: pass a contiguous one"
        )
    return out[:num_rows]


def split_record(place: Location, slot: Tensor) -> tuple[dict[str, Tensor], list[memoryview]]:
    """Tensors of one record, and the buffers to read it into; the tokens go into ``slot``."""
    places, layout = place.layout.places(place.counts), place.layout
    cuts = [0, 0, 0, place.nbytes]
    for tensor in places.tensors if layout.is_plain else ():
        if tensor.name == "tokens":
            cuts[1:3] = tensor.start, tensor.stop
    before, after = (np.empty(b - a, np.uint8).data for a, b in ((0, cuts[1]), cuts[2:]))
    tensors: dict[str, Tensor] = {}
    for tensor in places.tensors:
        if tensor.name == "blocks":
            continue
        if tensor.stop <= cuts[1]:
            tensors[tensor.name] = view_bytes(before, tensor, tensor.start)
        elif tensor.start >= cuts[2]:
            tensors[tensor.name] = view_bytes(after, tensor, tensor.start - cuts[2])
    if layout.is_plain:
        tensors["tokens"] = slot
    rows = slot.reshape(-1).view(torch.uint8).numpy().data if cuts[2] > cuts[1] else after[:0]
    return tensors, [piece for piece in (before, rows, after) if len(piece)]


def _read_rows(
    fetcher: Fetcher,
    keys: Sequence[str],
    places: Sequence[Location],
    columns: dict[str, _Column],
    firsts: Sequence[int],
    threads: int,
) -> list[dict[str, Any]]:
    """Fill the columns from the records; returns what each record has beside rows.

    ``pieces`` runs once a record, so it makes nothing that it could have made once a form.
    """
    forms: dict[tuple[int, int, int], list[_Run]] = {}
    kept = [_NO_TENSORS] * len(places)

    def pieces(i: int) -> list[memoryview]:
        place, first = places[i], firsts[i]
        form = id(place.layout), id(place.counts), place.nbytes  # meta may be longer
        runs = forms.get(form) or forms.setdefault(form, _runs(place, columns))
        views = []
        for data, row_bytes, nbytes, inside in runs:
            if data is not None:
                start = first * row_bytes
                views.append(data[start : start + nbytes])
                continue
            buffer = np.empty(nbytes, np.uint8).data if inside else memoryview(bytearray(nbytes))
            views.append(buffer)
            if inside:
                at = inside[0].start
                found = {t.name: view_bytes(buffer, t, t.start - at) for t in inside}
                kept[i] = {**kept[i], **found}
        return views

    fetcher.fill_many(keys, places, pieces, threads=threads)
    rest = []
    for place, first, tensors in zip(places, firsts, kept, strict=False):
        if tensors and not place.layout.is_plain:
            slot = columns["tokens"].values[first : first + place.counts.num_tokens]
            decode_tokens(tensors, place.layout, place.counts, slot)
        rest.append(unpack_rest(tensors, place.layout, place.counts) if tensors else _NOTHING)
    return rest


def _runs(place: Location, columns: dict[str, _Column]) -> list[_Run]:
    """The record's bytes in order, cut where they go to different places."""
    places, layout = place.layout.places(place.counts), place.layout
    runs: list[_Run] = []
    for tensor in places.tensors:
        nbytes = tensor.stop - tensor.start
        is_coded = tensor.name.startswith("tokens") and not layout.is_plain
        if tensor.name in columns and not is_coded:
            column = columns[tensor.name]
            runs.append(_Run(column.data, column.row_bytes, nbytes))
        elif tensor.name == "blocks" or (tensor.name in layout.row_fields and not is_coded):
            runs.append(_Run(None, 0, nbytes))  # nobody asked for it
        else:
            runs.append(_Run(None, 0, nbytes, (tensor,)))
    runs.append(_Run(None, 0, place.nbytes - places.nbytes))  # meta
    return [run for run in runs if run.nbytes or run.tensors]


def _as_padded(
    columns: dict[str, _Column], lengths: list[int], length: int, keys: Sequence[str]
) -> PaddedTokens:
    """Zeros behind the shorter videos, and the mask."""
    for column in columns.values():
        data, row_bytes = np.frombuffer(column.data, np.uint8), column.row_bytes
        for b, n in enumerate(lengths):
            if n < length:
                data[(b * length + n) * row_bytes : (b + 1) * length * row_bytes] = 0
    shape = (len(lengths), length)
    views = {
        name: column.values.view(*shape, *column.values.shape[1:])
        for name, column in columns.items()
    }
    return PaddedTokens(
        views["tokens"],
        torch.from_numpy(np.arange(length) < np.array(lengths)[:, None]),
        views["positions"],
        views["spans"],
        views["mass"],
        tuple(keys),
    )
