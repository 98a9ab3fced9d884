"""A record as other programs take it: named arrays, and JSON about them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vidcomp.errors import StoreError
from vidcomp.store.disk.format import escape_key, unescape
from vidcomp.store.disk.record import read_meta, unpack
from vidcomp.store.disk.types import Row
from vidcomp.store.exports.names import safe_name

__all__ = ["Exported", "TokenType", "array_of", "expected_dtype", "exported"]

TokenType = Literal["stored", "float32", "float16", "bfloat16"]
"""Type of float tokens in the new files; ``stored`` leaves them as they are."""


@dataclass(frozen=True)
class Exported:
    """One record, ready to be written."""

    name: str
    """Of its file or sample, safe everywhere and no other record's."""
    tensors: Mapping[str, Tensor]
    """``tokens`` [N, D], or [N] for codebook ids, ``positions`` [N, 3], ``spans`` [N, 2] and
    ``mass`` [N] float32; ``assign`` [P] int32, or ``weights.row``, ``weights.patch`` int32 and
    ``weights.value`` float32 [Z]; ``extras.<name>`` and ``frame.<name>`` as stored."""
    about: dict[str, Any]
    """JSON: the true key, grid, type and size of the tokens, source, meta, hash."""


def exported(row: Row, data: memoryview, dtype: TokenType, fingerprint: str) -> Exported:
    """The record in ``data``; its tensors may be views of it.

    Args:
        row: what the index says of the record.
        data: its bytes, checked.
        dtype: of float tokens.
        fingerprint: of the store.

    Raises:
        StoreError: values that float16 cannot hold.
        StoreCorruptError: the bytes are no record.
    """
    assert row.layout is not None  # noqa: S101  # only removals have none
    key = unescape(row.key)
    video = unpack(data, row.layout, row.counts)
    meta = read_meta(data[row.layout.places(row.counts).nbytes :])
    tensors = {
        "tokens": _converted(key, video.tokens, dtype),
        "positions": video.positions,
        "spans": video.spans,
        "mass": video.mass,
    }
    if video.assign is not None:
        tensors["assign"] = video.assign.to(torch.int32)
    if video.weights is not None:
        matrix = video.weights.coalesce()
        rows, patches = matrix.indices().to(torch.int32)
        tensors |= {"weights.row": rows, "weights.patch": patches, "weights.value": matrix.values()}
    tensors |= {f"extras.{name}": extra for name, extra in video.extras.items()}
    tensors |= {f"frame.{name}": extra for name, extra in video.frame_extras.items()}
    about = {
        **_key_of(key),
        "num_tokens": len(video),
        "dtype": str(tensors["tokens"].dtype).removeprefix("torch."),
        "grid": list(video.grid),
        "source": meta.get("source"),
        "meta": meta.get("meta", {}),
        "checksum": f"{row.checksum:016x}",
        "fingerprint": fingerprint,
    }
    return Exported(safe_name(key), tensors, about)


def expected_dtype(row: Row, dtype: TokenType) -> str:
    """The type that the tokens of that row get, e.g. ``float32``."""
    assert row.layout is not None  # noqa: S101  # only removals have none
    is_float = row.layout.torch_dtype.is_floating_point
    return row.layout.dtype if dtype == "stored" or not is_float else dtype


def array_of(tensor: Tensor) -> npt.NDArray[Any]:
    """A tensor for numpy, which knows no bfloat16: its bits become uint16."""
    if tensor.dtype == torch.bfloat16:
        return tensor.contiguous().view(torch.uint16).numpy()
    if tensor.dtype in (torch.float8_e4m3fn, torch.float8_e5m2):
        return tensor.contiguous().view(torch.uint8).numpy()
    return np.ascontiguousarray(tensor.numpy())


def _key_of(key: str) -> dict[str, str]:
    """The key, and what it is on disk if it holds what text files cannot."""
    try:
        key.encode()
    except UnicodeEncodeError:
        return {
            "key": key.encode("utf-8", "backslashreplace").decode(),
            "key_escaped": escape_key(key),
        }
    return {"key": key}


def _converted(key: str, tokens: Tensor, dtype: TokenType) -> Tensor:
    if dtype == "stored" or not tokens.is_floating_point():
        return tokens
    out = tokens.to(getattr(torch, dtype))
    if out.dtype == torch.float16 and bool((out.isinf() & ~tokens.isinf()).any()):
        raise StoreError(
            f"{key!r} has token values that float16 cannot hold: export float32 or bfloat16"
        )
    return out
