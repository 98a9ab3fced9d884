"""VideoTokens to the tensors of a record and back, bit for bit."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vidcomp.config import StoreSettings
from vidcomp.errors import StoreCorruptError, StoreError
from vidcomp.store.format import ALIGN, DTYPE_NAMES, digest, escape
from vidcomp.store.layout import Counts, Field, Layout
from vidcomp.store.types import Row, SourceId
from vidcomp.types import VideoTokens

__all__ = ["Packed", "pack", "read_meta", "unpack", "unpack_rest"]

_UNSIGNED = (torch.uint8, torch.uint16, torch.uint32, torch.uint64)


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
        settings: which fields are kept.

    Raises:
        StoreError: values that do not fit the type, a type that cannot be stored, meta that is
            no JSON, an extra that is to be kept and missing.
    """
    tensors = _tensors(key, video, settings)
    counts = Counts(len(video), video.grid, _nnz(tensors))
    layout = Layout.of([_field(key, name, tensor) for name, tensor in tensors.items()])
    parts = [_bytes(tensors[field.name]) for field in layout.fields]
    about = _meta_bytes(key, video, meta, source)
    size = sum(len(part) for part in parts) + len(about)
    parts.append(memoryview(about + b" " * (-size % ALIGN)))
    return Packed(key, layout, counts, [part for part in parts if len(part)])


def unpack(buffer: memoryview, layout: Layout, counts: Counts) -> VideoTokens:
    """The video in a record's bytes; its tensors are views of ``buffer``.

    Raises:
        StoreCorruptError: fields are missing or do not fit together.
    """
    tensors = layout.tensors(buffer, counts)
    try:
        return VideoTokens(
            tokens=tensors["tokens"],
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


def unpack_rest(tensors: Mapping[str, Tensor], layout: Layout, counts: Counts) -> dict[str, Any]:
    """The fields of a video that have no row a token: provenance and frame extras.

    Raises:
        StoreCorruptError: soft provenance that points outside of its matrix.
    """
    assign = tensors.get("assign")
    try:
        weights = _sparse(tensors, counts.num_tokens, counts.grid.num_patches)
    except RuntimeError as error:
        raise StoreCorruptError(f"soft provenance is no matrix ({error}): run verify") from error
    return {
        "assign": None if assign is None else assign.to(torch.int64) - 1,
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
    out = {
        "tokens": _convert(key, video.tokens.detach(), settings.dtype),
        "positions": video.positions,
        "spans": video.spans,
        "mass": video.mass,
    }
    if settings.assign and video.assign is not None:
        out["assign"] = _smallest(video.assign.to(torch.int64) + 1, len(video))
    if settings.assign and video.weights is not None:
        matrix = video.weights.coalesce()
        out["weights.index"] = _smallest(matrix.indices(), max(matrix.shape))
        out["weights.value"] = matrix.values().float()
    chosen = (
        ("extras", settings.extras, video.extras),
        (
            "frame",
            settings.frame_extras,
            video.frame_extras,
        ),
    )
    for prefix, names, values in chosen:
        for name in names:
            if name not in values:
                raise StoreError(
                    f"{key!r} is to be stored with {prefix} {name!r}, but its tokens have only "
                    f"{sorted(values)}: change the store settings or compute it"
                )
            out[f"{prefix}.{escape(name).replace('/', '%2F')}"] = values[name]
    return {name: tensor.detach().cpu().contiguous() for name, tensor in out.items()}


def _convert(key: str, tokens: Tensor, dtype: str) -> Tensor:
    """Float tokens in the type of the store; ids as they are."""
    if not tokens.is_floating_point():
        return tokens
    out = tokens.to(getattr(torch, dtype))
    if out.dtype == torch.float16 and bool((out.isinf() & ~tokens.isinf()).any()):
        peak = float(tokens[tokens.isfinite()].abs().max())
        raise StoreError(
            f"{key!r} has token values up to {peak:.6g}, more than float16 holds (65504): store "
            f"bfloat16 or float32"
        )
    return out


def _smallest(values: Tensor, largest: int) -> Tensor:
    """``values`` in the smallest unsigned type that holds ``largest``."""
    fitting = next(d for d in _UNSIGNED if largest <= torch.iinfo(d).max)
    return values.to(fitting)


def _nnz(tensors: Mapping[str, Tensor]) -> int:
    return len(tensors["weights.value"]) if "weights.value" in tensors else 0


def _field(key: str, name: str, tensor: Tensor) -> Field:
    if tensor.dtype not in DTYPE_NAMES:
        raise StoreError(
            f"{name} of {key!r} is {tensor.dtype}, which a safetensors file cannot hold: convert "
            f"it to one of {', '.join(map(str, DTYPE_NAMES))}"
        )
    rest: tuple[int | str, ...] = tuple(tensor.shape[1:])
    if name == "weights.index":
        shape: tuple[int | str, ...] = (2, "Z")
    elif name == "weights.value":
        shape = ("Z",)
    elif name == "assign":
        shape = ("P",)
    else:
        shape = ("T" if name.startswith("frame.") else "N", *rest)
    return Field(name, DTYPE_NAMES[tensor.dtype], shape)


def _bytes(tensor: Tensor) -> memoryview:
    # Through uint8, as numpy knows no bfloat16.
    return tensor.reshape(-1).view(torch.uint8).numpy().data


def _meta_bytes(
    key: str, video: VideoTokens, meta: Mapping[str, Any], source: SourceId | None
) -> bytes:
    try:
        return json.dumps(
            {
                "key": key,
                "grid": list(video.grid),
                "source": None if source is None else _source_json(source),
                "meta": dict(meta),
            },
            separators=(",", ":"),
            allow_nan=False,
        ).encode()
    except (TypeError, ValueError) as error:
        raise StoreError(
            f"the meta of {key!r} must be plain JSON values ({error}): convert or drop the value"
        ) from error


def _source_json(source: SourceId) -> dict[str, Any]:
    return {"size": source.size, "mtime_ns": source.mtime_ns, "content": source.content}


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
