"""Lossless codec of token matrices: bytes sorted into planes, of which those that shrink do.

The top byte of floats (sign and exponent) says little and shrinks to a third; the rest is noise
that a compressor only slows down.  docs/cache-format.md, section 5, has the bytes.
"""

import importlib
import math
import struct
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vidcomp.errors import MissingExtraError, StoreCorruptError

__all__ = ["decode_planes", "encode_planes"]

_LEVEL = 1
_PROBE = 1 << 14
"""Bytes that tell whether a plane is worth the time."""

_CHUNK = 1 << 15
"""Elements put together at a time, so that they stay in the cache."""

_MAX_RATIO = 1 << 16
"""A zstd block needs 3 bytes and holds 128 KiB at most, so no plane shrinks by more."""

_WINDOW_LOGS = (10, 27)
"""Smallest and largest window that zstd can be held to, as powers of two."""

Plane = npt.NDArray[np.uint8]


def encode_planes(tensor: Tensor) -> bytes:
    """The compressed bytes of a contiguous CPU tensor that has elements.

    Raises:
        MissingExtraError: no zstd.
    """
    size = tensor.dtype.itemsize
    raw = tensor.reshape(-1).view(torch.uint8).numpy().reshape(-1, size)
    planes = [_encode_plane(np.ascontiguousarray(raw[:, k])) for k in reversed(range(size))]
    return b"".join((struct.pack(f"<{size}Q", *map(len, planes)), *planes))


def decode_planes(
    data: memoryview, sizes: Sequence[int], dtype: torch.dtype, out: Tensor | None = None
) -> Tensor:
    """The tensor from what ``encode_planes`` made of it.

    Args:
        data: the compressed bytes.
        sizes: the tensor's shape; it has elements.
        dtype: its type.
        out: contiguous, on the CPU, of that shape and type: filled and returned; by default a new
            one.  Nothing larger is ever made, whatever the bytes say.

    Raises:
        StoreCorruptError: they are not the planes of such a tensor.
        MissingExtraError: no zstd.
    """
    size, count = dtype.itemsize, math.prod(sizes)
    pieces = _cut(data, size, count)
    try:
        if out is None:
            out = torch.empty(*sizes, dtype=dtype)
        planes = [np.frombuffer(_decode_plane(piece, count), np.uint8) for piece in pieces]
    except (MemoryError, RuntimeError) as error:  # torch has only the latter
        raise StoreCorruptError(
            f"compressed tokens of {len(data)} bytes would become {count * size}, more than there "
            f"is memory for: run verify"
        ) from error
    flat = out.reshape(-1).view(torch.uint8).numpy().view(f"<u{size}")
    for start in range(0, count, _CHUNK):
        part = flat[start : start + _CHUNK]
        np.copyto(part, planes[0][start : start + _CHUNK])
        for plane in planes[1:]:
            np.left_shift(part, 8, out=part)
            np.bitwise_or(part, plane[start : start + _CHUNK], out=part)
    return out


def _encode_plane(plane: Plane) -> memoryview:
    """The plane compressed, or as it is if that does not make it smaller."""
    zstd = _zstd()
    first = (len(plane) - min(len(plane), _PROBE)) // 2
    probe = plane[first : first + _PROBE]
    # A few per cent would cost more time to read than they save.
    if len(plane) <= _PROBE or len(zstd.compress(probe, _LEVEL)) < 0.95 * len(probe):
        packed: bytes = zstd.compress(plane, _LEVEL)
        if len(packed) < len(plane):
            return memoryview(packed)
    return plane.data


def _cut(data: memoryview, size: int, count: int) -> Sequence[memoryview]:
    """The planes' bytes."""
    table = 8 * size
    lengths = struct.unpack(f"<{size}Q", data[:table]) if len(data) >= table else (0,)
    if table + sum(lengths) != len(data) or not all(n <= count <= n * _MAX_RATIO for n in lengths):
        raise StoreCorruptError(
            f"compressed tokens of {len(data)} bytes cannot hold {count} elements of {size} bytes "
            f"in planes of {lengths[:8]}: run verify"
        )
    pieces, start = [], table
    for length in lengths:
        pieces.append(data[start : start + length])
        start += length
    return pieces


def _decode_plane(data: memoryview, count: int) -> bytes | memoryview:
    if len(data) == count:
        return data
    zstd = _zstd()
    low, high = _WINDOW_LOGS
    # Without a limit a frame may claim a window, and so memory, far larger than the plane.
    limit = {zstd.DecompressionParameter.window_log_max: min(max(low, count.bit_length()), high)}
    decoder = zstd.ZstdDecompressor(options=limit)
    try:
        plane: bytes = decoder.decompress(data, count)
        rest = b"" if decoder.eof else decoder.decompress(b"", 1)
    except (zstd.ZstdError, EOFError) as error:
        raise StoreCorruptError(
            f"a compressed plane of tokens cannot be read ({error}): run verify"
        ) from error
    if len(plane) != count or rest or not decoder.eof or decoder.unused_data:
        raise StoreCorruptError(
            f"a compressed plane of {len(data)} bytes does not hold exactly {count}: run verify"
        )
    return plane


@lru_cache(maxsize=1)
def _zstd() -> Any:
    """The zstd module: of Python 3.14 and newer, or its backport."""
    for name in ("compression.zstd", "backports.zstd"):
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    raise MissingExtraError(
        "tokens compressed with zstd need Python 3.14 or the package backports.zstd, which is not "
        "installed: run `pip install 'vidcomp[zstd]'`"
    )
