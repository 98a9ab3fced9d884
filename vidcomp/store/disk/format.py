"""Constants and small codecs of the on-disk format; ``docs/cache-format.md`` explains them.

Nothing here opens a file.
"""

import re
from typing import TypeAlias

import torch
import xxhash

from vidcomp.config import StoreSettings
from vidcomp.errors import StoreCorruptError, StoreError

__all__ = [
    "ALIGN",
    "DTYPES",
    "DTYPE_NAMES",
    "FEATURES",
    "FORMAT_VERSION",
    "MAX_DIMS",
    "MAX_GENERATION",
    "MAX_HEADER_BYTES",
    "MAX_KEY_BYTES",
    "MAX_PATCHES",
    "Bytes",
    "check_stamp",
    "digest",
    "escape",
    "escape_key",
    "features_of",
    "hexdigest",
    "is_commit",
    "stamp",
    "unescape",
]

FORMAT_VERSION = 1
"""Of everything in a store; readers accept every version up to this one."""

FEATURES: frozenset[str] = frozenset({"int8", "zstd"})
"""Additions that this code can read; a store that lists others is refused."""

ALIGN = 64
"""Bytes; every record starts at a multiple of it, in the data and in the file."""

MAX_HEADER_BYTES = 100_000_000
"""The largest JSON header that safetensors accepts."""

MAX_DIMS = 32
"""Of a tensor; a writer refuses more, as a reader does."""

MAX_KEY_BYTES = 65_536
"""Of an escaped key."""

MAX_GENERATION = 1 << 62
"""Generations are smaller, so that there is always a next one."""

MAX_PATCHES = 1 << 62
"""Grids have fewer, so that numbers of patches fit an index."""

DTYPES: dict[str, torch.dtype] = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "U16": torch.uint16,
    "I16": torch.int16,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "U32": torch.uint32,
    "I32": torch.int32,
    "F32": torch.float32,
    "U64": torch.uint64,
    "I64": torch.int64,
    "F64": torch.float64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
"""Element types by their safetensors name."""

DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}

_UNSAFE = re.compile("[%\x00-\x1f\x7f\ud800-\udfff]")
_ESCAPED = re.compile(b"%([0-9A-F]{2})")
_COMMIT = re.compile(r"[0-9a-f]{32}-[0-9]{6,12}")
_ZEROS = b"0" * 16

Bytes: TypeAlias = bytes | bytearray | memoryview


def features_of(settings: StoreSettings) -> tuple[str, ...]:
    """The additions that records written with ``settings`` may use, sorted."""
    used = {"int8": settings.dtype == "int8", "zstd": settings.codec == "zstd"}
    return tuple(sorted(name for name, is_used in used.items() if is_used))


def digest(*parts: Bytes) -> int:
    """XXH3-64 of bytes end to end: 11 to 31 GB/s on one core, so it is always on."""
    if len(parts) == 1:
        return int(xxhash.xxh3_64_intdigest(parts[0]))
    state = xxhash.xxh3_64()
    for part in parts:
        state.update(part)
    return int(state.intdigest())


def hexdigest(data: Bytes) -> str:
    """``digest`` as 16 lower-case hex digits."""
    return f"{digest(data):016x}"


def escape(text: str) -> str:
    """``text`` with ``%``, control characters and lone surrogates as ``%XX`` of their bytes."""
    return _UNSAFE.sub(
        lambda found: "".join(f"%{b:02X}" for b in found[0].encode("utf-8", "surrogatepass")), text
    )


def unescape(text: str) -> str:
    """The inverse of ``escape``."""
    if "%" not in text:
        return text
    raw = _ESCAPED.sub(lambda found: bytes([int(found[1], 16)]), text.encode())
    return raw.decode("utf-8", "surrogatepass")


def escape_key(key: str) -> str:
    """The on-disk form of a record's key.

    Raises:
        StoreError: not a text, empty, or longer than the format allows.
    """
    if not isinstance(key, str) or not key:
        raise StoreError(f"a record's key is a text that is not empty, got {key!r}: name the video")
    is_plain = key.isascii() and key.isprintable() and "%" not in key  # as most are
    escaped = key if is_plain else escape(key)
    if len(escaped) > MAX_KEY_BYTES // 4 and (size := len(escaped.encode())) > MAX_KEY_BYTES:
        raise StoreError(
            f"a record's key has at most {MAX_KEY_BYTES} bytes, got {size} ({key[:40]!r}...): "
            f"use a shorter video id"
        )
    return escaped


def is_commit(name: str) -> bool:
    """Whether ``name`` may be that of a commit, hence safe to put into a path."""
    return _COMMIT.fullmatch(name) is not None


def stamp(data: bytearray, start: int, end: int | None = None) -> None:
    """Put the check of ``data[:end]`` into its 16 digits at ``start``, in place."""
    data[start : start + 16] = _ZEROS
    data[start : start + 16] = hexdigest(memoryview(data)[:end]).encode()


def check_stamp(data: bytes | bytearray, prefix: bytes, skip: int, what: str) -> None:
    """Check that ``data`` is what ``stamp`` left.

    Args:
        data: all covered bytes.
        prefix: what must stand at ``skip``; the digits follow it.
        skip: bytes before the prefix.
        what: the file's name for the message.

    Raises:
        StoreCorruptError: another beginning, or other bytes.
    """
    start = skip + len(prefix)
    found = bytes(data[start : start + 16])
    if data[skip:start] != prefix or len(found) < 16:
        raise StoreCorruptError(f"{what} does not begin as files of a token cache do: restore it")
    view = memoryview(data)
    if found != f"{digest(view[:start], _ZEROS, view[start + 16 :]):016x}".encode():
        raise StoreCorruptError(
            f"{what} was changed after it was written (its check is {found.decode('latin-1')!r}): "
            f"run verify, then restore it or write its videos again"
        )
