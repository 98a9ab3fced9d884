"""File names that are safe everywhere, for keys that may be any text."""

import re

import xxhash

__all__ = ["safe_name"]

_PLAIN = re.compile(r"[a-z0-9_][a-z0-9_-]{0,99}")
_UNSAFE = re.compile(r"[^a-z0-9_-]+")
_HASHED = re.compile(r".*-[0-9a-f]{16}")
_RESERVED = {"con", "prn", "aux", "nul", *(f"{d}{i}" for d in ("com", "lpt") for i in range(10))}
_MOST = 60


def safe_name(key: str) -> str:
    """A file name for a key, without extension, one for each key.

    A key of lower-case letters, digits, ``_`` and ``-`` is its own name.  Of any other the unsafe
    characters become ``_``, and 16 hex digits of its hash follow, so that names differ even where
    upper and lower case are the same.  There is no dot and no separator in it, so it cannot lead
    out of a folder, and WebDataset takes all of it for the sample's key.

    Args:
        key: any text.
    """
    if _PLAIN.fullmatch(key) and key not in _RESERVED and not _HASHED.fullmatch(key):
        return key
    words = _UNSAFE.sub("_", key.lower()[: 4 * _MOST]).strip("_-")[:_MOST] or "video"
    return f"{words}-{xxhash.xxh3_128_hexdigest(key.encode('utf-8', 'surrogatepass'))[:16]}"
