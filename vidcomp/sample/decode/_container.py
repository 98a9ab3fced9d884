"""Bytes that a container promises and the file does not have: a cut download shows here.

Decoders tell of a cut file late or never; the sizes written in the boxes tell at once.
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

__all__ = ["missing_bytes"]


def missing_bytes(path: Path) -> int:
    """Bytes that the outermost boxes of an MP4, Matroska or AVI file promise beyond its end.

    0 if nothing is missing, if the sizes are left open (live streams) or for other containers.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(12)
        if head[:4] == b"\x1aE\xdf\xa3":
            ends = _matroska_ends(file)
        elif head[:4] == b"RIFF" and head[8:12] == b"AVI ":
            ends = iter([8 + struct.unpack("<I", head[4:8])[0]])
        elif head[4:8] in (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"styp"):
            ends = _mp4_ends(file, size)
        else:
            return 0
        return max(0, max(ends, default=0) - size)


def _mp4_ends(file: BinaryIO, size: int) -> Iterator[int]:
    """Where each top-level box ends (ISO/IEC 14496-12, section 4.2)."""
    start = 0
    while start + 8 <= size:
        file.seek(start)
        length, _kind = struct.unpack(">I4s", file.read(8))
        if length == 1:
            large = file.read(8)
            length = struct.unpack(">Q", large)[0] if len(large) == 8 else 0
        if length < 8:  # 0: up to the end of the file; else not a box
            return
        start += length
        yield start


def _matroska_ends(file: BinaryIO) -> Iterator[int]:
    """Where the EBML header and the segment end (RFC 8794)."""
    file.seek(0)
    for _ in range(2):
        if _read_vint(file, keep_marker=True) is None:
            return
        length = _read_vint(file, keep_marker=False)
        if length is None:
            return
        yield file.seek(length, 1)


def _read_vint(file: BinaryIO, *, keep_marker: bool) -> int | None:
    """A variable-length integer; ``None`` at the end of the file or for "unknown size"."""
    first = file.read(1)
    if not first or not first[0]:
        return None
    length = 9 - first[0].bit_length()
    rest = file.read(length - 1)
    if len(rest) < length - 1:
        return None
    value = int.from_bytes(first + rest, "big")
    if keep_marker:
        return value
    value &= (1 << 7 * length) - 1
    return None if value == (1 << 7 * length) - 1 else value
