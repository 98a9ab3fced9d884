"""VideoTokens to the tensors of a record and back, bit for bit."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any, TypeAlias

import torch
from torch import Tensor

from vidcomp.config import StoreSettings
from vidcomp.errors import StoreCorruptError, StoreError
from vidcomp.store.disk.blocks import block_checks
from vidcomp.store.disk.format import ALIGN, DTYPE_NAMES, MAX_PATCHES, digest, escape
from vidcomp.store.disk.layout import Counts, Field, Layout
from vidcomp.store.disk.planes import decode_planes, encode_planes
from vidcomp.store.disk.precision import decode_int8, encode_int8
from vidcomp.store.disk.types import Row, SourceId
from vidcomp.types import VideoTokens

__all__ = ["Packed", "assemble", "decode_tokens", "pack", "read_meta", "unpack", "unpack_rest"]

_UNSIGNED = (torch.uint8, torch.uint16, torch.uint32, torch.uint64)
_SHAPES: dict[str, tuple[int | str, ...]] = {
    "assign": ("P",),
    "weights.index": (2, "Z"),
    "weights.value": ("Z",),
}
"""Those of fields that are neither of tokens nor of frames."""

_ENCODER = json.JSONEncoder(separators=(",", ":"), allow_nan=False)

Kind: TypeAlias = tuple[str, torch.dtype, tuple[int, ...]]


@dataclass(frozen=True)
class Packed:
    """A record ready to be written."""

    key: str
    """Escaped."""
    layout: Layout
    counts: Counts
    parts: list[memoryview]
    """The record's bytes in order, ``meta`` last."""

    @property
    def nbytes(self) -> int:
        """A multiple of ``ALIGN``."""
        return sum(len(part) for part in self.parts)

    def row(self, rank: tuple[int, str], source: SourceId | None) -> Row:
        """What an index will say of it, but for its place."""
        return Row(
            self.key,
            *rank,
            nbytes=self.nbytes,
            checksum=digest(*self.parts),
            counts=self.counts,
            layout=self.layout,
            source=source,
        )


def pack(
    key: str,
    video: VideoTokens,
    meta: Mapping[str, Any],
    source: SourceId | None,
    settings: StoreSettings,
) -> Packed:
    """The record of ``video`` under the escaped ``key``.

    Args:
        key: escaped.
        video: on any device; float tokens are converted to the type of ``settings``.
        meta: JSON values.
        source: goes into the record's own ``meta`` too.
        settings: which fields are kept, and how.

    Raises:
        StoreError: values that do not fit the type, a type that cannot be stored, meta that is
            no JSON, an extra that is to be kept and missing.
        MissingExtraError: tokens are to be compressed, and there is no zstd.
    """
    if min(video.grid) < 0 or video.grid.num_patches >= MAX_PATCHES:
        raise StoreError(
            f"{key!r} has a grid of {tuple(video.grid)} patches, which cannot be stored: check it"
        )
    tensors = _tensors(key, video, settings)
    compress = settings.codec == "zstd" and tensors["tokens"].numel() > 0
    kinds = tuple((name, t.dtype, t.shape[1:]) for name, t in tensors.items())
    try:
        layout = _layout(kinds, compress, len(video) > 0 and not compress)
    except ValueError as error:
        raise StoreError(
            f"{key!r} has fields or extras that no record can hold ({error}): leave them out"
        ) from error
    except KeyError as error:
        name = next(name for name, dtype, _ in kinds if dtype == error.args[0])
        raise StoreError(
            f"{name} of {key!r} is {error.args[0]}, which a safetensors file cannot hold: convert "
            f"it to one of {', '.join(map(str, DTYPE_NAMES))}"
        ) from error
    fields = {name: _bytes(tensor) for name, tensor in tensors.items() if name != "tokens"}
    tokens = tensors["tokens"]
    fields["tokens"] = memoryview(encode_planes(tokens)) if compress else _bytes(tokens)
    if layout.has_blocks:
        fields["blocks"] = memoryview(block_checks(key, layout, len(video), fields))
    nnz = len(tensors["weights.value"]) if "weights.value" in tensors else 0
    counts = Counts(len(video), video.grid, nnz, len(fields["tokens"]) if compress else 0)
    parts = [fields[field.name] for field in layout.fields]
    about = _meta_bytes(key, video, meta, source)
    size = sum(map(len, parts)) + len(about)
    parts.append(memoryview(about + b" " * (-size % ALIGN)))
    return Packed(key, layout, counts, [part for part in parts if len(part)])


def unpack(buffer: memoryview, layout: Layout, counts: Counts) -> VideoTokens:
    """The video in a record's bytes; its tensors are views of ``buffer`` where they can be.

    Raises:
        StoreCorruptError: fields are missing or do not fit together.
        MissingExtraError: the tokens are compressed, and there is no zstd.
    """
    return assemble(layout.tensors(buffer, counts), layout, counts)


def assemble(
    tensors: Mapping[str, Tensor], layout: Layout, counts: Counts, out: Tensor | None = None
) -> VideoTokens:
    """The video of a record's tensors.

    Args:
        tensors: those of ``layout.tensors``.
        layout: of the record.
        counts: of the record.
        out: takes the tokens, as for ``decode_tokens``.

    Raises:
        StoreCorruptError, MissingExtraError: as for the record's bytes.
    """
    tokens = decode_tokens(tensors, layout, counts, out)
    try:
        return VideoTokens(
            tokens=tokens,
            positions=tensors["positions"],
            spans=tensors["spans"],
            mass=tensors["mass"],
            grid=counts.grid,
            extras={name: tensors[field] for field, name in layout.extras},
            **unpack_rest(tensors, layout, counts),
        )
    except (KeyError, ValueError) as error:
        raise StoreCorruptError(
            f"the record's fields {sorted(tensors)} make no tokens ({error}): run verify"
        ) from error


def decode_tokens(
    tensors: Mapping[str, Tensor], layout: Layout, counts: Counts, out: Tensor | None = None
) -> Tensor:
    """The tokens, of whatever form they have on disk.

    Args:
        tensors: those of ``layout.tensors``; what is not of the tokens may be missing.
        layout: of the record.
        counts: of the record.
        out: a tensor of the tokens' shape, filled and returned; by default a new one, or, where
            nothing needs decoding, the one in ``tensors``.

    Raises:
        StoreCorruptError: compressed tokens that are none.
        MissingExtraError: the tokens are compressed, and there is no zstd.
    """
    if layout.is_packed:
        sizes, dtype = layout.tokens.sizes(counts), layout.tokens.torch_dtype
        fits = out is not None and out.dtype == dtype and out.is_contiguous()
        data = tensors["tokens.zstd"].numpy().data
        stored = decode_planes(data, sizes, dtype, out if fits else None)
    else:
        stored = tensors["tokens"]
    if layout.is_int8:
        return decode_int8(stored, tensors["tokens.scale"], out)
    return stored if out is None or out is stored else out.copy_(stored)


def unpack_rest(tensors: Mapping[str, Tensor], layout: Layout, counts: Counts) -> dict[str, Any]:
    """The fields of a video that have no row a token: provenance and frame extras.

    Raises:
        StoreCorruptError: provenance that points outside of the tokens or the grid.
    """
    assign = _assign(tensors, counts.num_tokens)
    try:
        weights = _sparse(tensors, counts.num_tokens, counts.grid.num_patches)
    except (RuntimeError, TypeError) as error:
        raise StoreCorruptError(f"soft provenance is no matrix ({error}): run verify") from error
    return {
        "assign": assign,
        "weights": weights,
        "frame_extras": {name: tensors[field] for field, name in layout.frame_extras},
    }


def read_meta(data: bytes | memoryview) -> dict[str, Any]:
    """The JSON of a ``meta`` tensor: ``key`` (escaped), ``grid``, ``source`` and ``meta``.

    Raises:
        StoreCorruptError: no such JSON.
    """
    try:
        about = json.loads(bytes(data))
        if isinstance(about, dict) and isinstance(about["key"], str):
            return about
    except (ValueError, KeyError, RecursionError):
        pass
    raise StoreCorruptError("the record's meta is not the JSON that was written: run verify")


def _tensors(key: str, video: VideoTokens, settings: StoreSettings) -> dict[str, Tensor]:
    out = {"positions": video.positions, "spans": video.spans, "mass": video.mass}
    out |= _token_fields(key, video.tokens, settings.dtype)
    if settings.assign and video.assign is not None:
        out["assign"] = _smallest(video.assign.to(torch.int64) + 1, len(video))
    if settings.assign and video.weights is not None:
        matrix = video.weights.coalesce()
        out["weights.index"] = _smallest(matrix.indices(), max(matrix.shape))
        out["weights.value"] = matrix.values().float()
    out |= _chosen(key, "extras", settings.extras, video.extras)
    out |= _chosen(key, "frame", settings.frame_extras, video.frame_extras)
    return {name: _on_cpu(tensor) for name, tensor in out.items()}


def _on_cpu(tensor: Tensor) -> Tensor:
    """Contiguous and without a graph; as it is where it is so, as each call here costs."""
    if tensor.requires_grad or tensor.device.type != "cpu" or not tensor.is_contiguous():
        return tensor.detach().cpu().contiguous()
    return tensor


def _chosen(
    key: str, prefix: str, names: tuple[str, ...], values: Mapping[str, Tensor]
) -> Iterator[tuple[str, Tensor]]:
    """Fields of the extras that are kept; a pattern may match none."""
    patterns = [name for name in names if "*" in name]
    matched = [v for v in values if any(fnmatchcase(v, pattern) for pattern in patterns)]
    plain = [name for name in names if name not in patterns]
    for name in dict.fromkeys([*plain, *matched]):
        if name not in values:
            raise StoreError(
                f"{key!r} is to be stored with {prefix} {name!r}, but its tokens have only "
                f"{sorted(values)}: change the store settings or compute it"
            )
        yield f"{prefix}.{escape(name).replace('/', '%2F')}", values[name]


def _token_fields(key: str, tokens: Tensor, dtype: str) -> dict[str, Tensor]:
    """Float tokens in the type of the store; ids as they are."""
    if not tokens.is_floating_point():
        return {"tokens": tokens}
    if dtype == "int8":
        codes, scale = encode_int8(tokens, key)
        return {"tokens": codes, "tokens.scale": scale}
    wanted = getattr(torch, dtype)
    out = tokens if tokens.dtype == wanted else tokens.to(wanted)
    if out.dtype == torch.float16 and bool((out.isinf() & ~tokens.isinf()).any()):
        peak = float(tokens[tokens.isfinite()].abs().max())
        raise StoreError(
            f"{key!r} has token values up to {peak:.6g}, more than float16 holds (65504): store "
            f"bfloat16 or float32"
        )
    return {"tokens": out}


def _smallest(values: Tensor, largest: int) -> Tensor:
    """``values`` in the smallest unsigned type that holds ``largest``."""
    fitting = next(d for d in _UNSIGNED if largest <= torch.iinfo(d).max)
    return values.to(fitting)


@lru_cache(maxsize=1024)
def _layout(kinds: tuple[Kind, ...], compress: bool, has_blocks: bool) -> Layout:
    """The layout of tensors; KeyError: the type of one that cannot be stored; ValueError: fields
    that no reader would take.
    """
    fields = [Field("blocks", "U64", ("B",))] if has_blocks else []
    shapes = {**_SHAPES, "tokens.scale": next(row for name, _, row in kinds if name == "tokens")}
    for name, dtype, row in kinds:
        kind = DTYPE_NAMES[dtype]
        shape = shapes.get(name, ("T" if name.startswith("frame.") else "N", *row))
        fields.append(Field(name, f"Z{kind}" if compress and name == "tokens" else kind, shape))
    layout = Layout.of(fields)
    layout.check()
    return layout


def _bytes(tensor: Tensor) -> memoryview:
    if not tensor.numel() or not tensor.dim():
        return tensor.reshape(-1).view(torch.uint8).numpy().data
    # Through uint8, as numpy knows no bfloat16.
    known = tensor if tensor.dtype == torch.float32 else tensor.view(torch.uint8)
    return known.numpy().data.cast("B")


def _meta_bytes(
    key: str, video: VideoTokens, meta: Mapping[str, Any], source: SourceId | None
) -> bytes:
    about = {
        "key": key,
        "grid": video.grid,
        "source": None if source is None else _source_json(source),
        "meta": dict(meta),
    }
    try:
        return _ENCODER.encode(about).encode()
    except (TypeError, ValueError) as error:
        raise StoreError(
            f"the meta of {key!r} must be plain JSON values ({error}): convert or drop the value"
        ) from error


def _source_json(source: SourceId) -> dict[str, Any]:
    return {"size": source.size, "mtime_ns": source.mtime_ns, "content": source.content}


def _assign(tensors: Mapping[str, Tensor], num_tokens: int) -> Tensor | None:
    if "assign" not in tensors:
        return None
    assign = tensors["assign"].to(torch.int64) - 1
    if len(assign):
        low, high = torch.aminmax(assign)
        if int(low) < -1 or int(high) >= num_tokens:
            raise StoreCorruptError(
                f"a record of {num_tokens} tokens has patches of token {int(high)}: run verify"
            )
    return assign


def _sparse(tensors: Mapping[str, Tensor], rows: int, columns: int) -> Tensor | None:
    if "weights.value" not in tensors:
        return None
    return torch.sparse_coo_tensor(
        tensors["weights.index"].to(torch.int64),
        tensors["weights.value"],
        (rows, columns),
        is_coalesced=True,
        check_invariants=True,  # indices out of bounds would be read as memory
    )
