"""Bytes on disk of a recipe's records, from the format itself (``docs/cache-format.md``)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from vidcomp.store.disk.columns import COLUMNS
from vidcomp.store.disk.format import ALIGN
from vidcomp.store.disk.layout import Counts, Field, Layout
from vidcomp.store.disk.types import Row, SourceId
from vidcomp.store.part import header_cost
from vidcomp.types import Grid

__all__ = ["EXAMPLES", "Shape", "bytes_per_video"]

_ROOMS = (16 << 10, 256 << 10, 4 << 20)
"""What a writer reserves for a shard's header: the next one after a header that was full first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What decides the size of a record."""

    tokens: int
    dim: int | None
    """``None``: ids of codes."""
    grid: tuple[int, int, int]
    """(t, h, w) before compression."""
    dtype: str = "BF16"
    """Of the tokens on disk, by the names of safetensors."""
    packed: float | None = None
    """Compressed bytes over plain ones, measured; ``None``: not compressed."""
    assign: bool = False
    extras: Mapping[str, int] = field(default_factory=dict)
    """Width of each extra that is kept, bfloat16."""


EXAMPLES: dict[str, Shape] = {
    "clip-576-to-144-deco": Shape(tokens=32 * 144, dim=4096, grid=(32, 24, 24)),
    "dinov2-tome": Shape(tokens=1024, dim=768, grid=(32, 16, 16)),
    "dvae-ids": Shape(tokens=32 * 196, dim=None, grid=(32, 14, 14), dtype="I64", packed=0.207),
    "embedded": Shape(tokens=196, dim=48, grid=(32, 16, 16)),
    "perceiver-64": Shape(tokens=64, dim=896, grid=(32, 14, 14)),
    "pytorchvideo-mvit": Shape(tokens=784, dim=768, grid=(64, 7, 7)),
    "siglip2-196": Shape(tokens=196, dim=768, grid=(32, 16, 16)),
    "video-llm": Shape(
        tokens=30 * 11 * 20,
        dim=2048,
        grid=(30, 11, 20),
        assign=True,
        extras={f"deepstack.{i}": 2048 for i in range(3)},
    ),
    "vjepa2": Shape(tokens=512, dim=1024, grid=(32, 16, 16)),
}
"""What the embedded recipes make of one video.

Widths and grids are those of the models that the recipes name; ``pytorchvideo-mvit`` is given for a
video of 17 s or more, ``video-llm`` for 30 s of 640 x 360.  ``packed`` of the ids is that of evenly
drawn ones, which nothing makes smaller.
"""


def bytes_per_video(
    shape: Shape,
    *,
    meta_nbytes: int,
    key: str = "folder/of/videos/00000000.mp4",
    seal_bytes: int = 256 << 20,
) -> dict[str, float]:
    """Bytes on disk of one record among very many: ``record``, ``header``, ``index``, ``total``.

    A shard is closed when its data or its header is full, so the header's room is shared either by
    as many records as it can name or by as many as fill the data.

    Args:
        shape: of the record.
        meta_nbytes: of its JSON.
        key: a typical one.
        seal_bytes: of data that close a shard.
    """
    layout, counts = _layout(shape), _counts(shape)
    plain = layout.places(counts).nbytes + meta_nbytes
    record = -(-plain // ALIGN) * ALIGN
    source = SourceId(size=10**8, mtime_ns=10**18)
    row = Row(key, 1, "0" * 32, "-", 0, record, 2**63, counts, layout, source)
    fill = -(-seal_bytes // record)
    room = next((room for room in _ROOMS if room // header_cost(row) >= fill), _ROOMS[-1])
    header = room / min(room // header_cost(row), fill)
    widths = [
        np.dtype(column.numpy).itemsize * math.prod(column.inner)
        for column in COLUMNS.values()
        if not column.free and not (column.optional and shape.packed is None)
    ]
    index = sum(widths) + len(key.encode())
    return {"record": record, "header": header, "index": index, "total": record + header + index}


def _counts(shape: Shape) -> Counts:
    width = 1 if shape.dim is None else shape.dim
    size = {"BF16": 2, "F16": 2, "F32": 4, "I8": 1, "I64": 8}[shape.dtype]
    packed = 0
    if shape.packed is not None:
        packed = round(shape.tokens * width * size * shape.packed)
    return Counts(shape.tokens, Grid(*shape.grid), 0, packed)


def _layout(shape: Shape) -> Layout:
    """The fields that a record of that shape has."""
    row = () if shape.dim is None else (shape.dim,)
    dtype = shape.dtype if shape.packed is None else f"Z{shape.dtype}"
    fields = [Field("spans", "F32", ("N", 2)), Field("positions", "F32", ("N", 3))]
    fields += [Field("mass", "F32", ("N",)), Field("tokens", dtype, ("N", *row))]
    if shape.packed is None:
        fields.append(Field("blocks", "U64", ("B",)))
    if shape.dtype == "I8":
        fields.append(Field("tokens.scale", "F32", row))
    if shape.assign:
        kind = "U8" if shape.tokens < 2**8 else "U16" if shape.tokens < 2**16 else "U32"
        fields.append(Field("assign", kind, ("P",)))
    fields += [
        Field(f"extras.{name}", "BF16", ("N", width)) for name, width in shape.extras.items()
    ]
    return Layout.of(fields)
