"""Files that do native code real harm: one kills the library that reads it, one is never read.

``promising`` crashes decord 0.6 by itself: its table of durations promises more frames than memory
can hold, decord makes room for all of them, and the C++ exception that this throws passes the
border to C, which ends the process (SIGABRT).  FFmpeg, which counts packets, reads the same file
without a complaint.

``unending`` keeps FFmpeg busy: after a whole Matroska file comes a terabyte of nothing, as a
download leaves it that reserved its room and broke off, and FFmpeg looks through it byte by byte
for something to go on with.  The terabyte is a hole, which takes no room on the disk.
"""

import os
import struct
from collections.abc import Iterator
from pathlib import Path

from clips import moving_square, write_clip

_ENTRIES, _MOST = 64, 2**31 - 1
_HOLE_BYTES = 1 << 40


def promising(path: Path) -> Path:
    """A clip of twelve frames that promises some 10^11."""
    data = bytearray(write_clip(path, moving_square(12)).read_bytes())
    trail = list(_boxes(data, [b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stts"]))
    durations, size = trail[-1]
    (num_entries,) = struct.unpack_from(">I", data, durations + 12)
    struct.pack_into(">I", data, durations + 12, num_entries + _ENTRIES)
    more = struct.pack(">II", _MOST, 0) * _ENTRIES
    data[durations + size : durations + size] = more  # the pictures lie before: none moves
    for start, old in trail:
        struct.pack_into(">I", data, start, old + len(more))
    path.write_bytes(data)
    return path


def unending(path: Path, num_bytes: int = _HOLE_BYTES) -> Path:
    """A Matroska clip of twelve frames and a hole; ``OSError`` where files cannot be so large."""
    write_clip(path, moving_square(12))
    os.truncate(path, num_bytes)
    return path


class Ended:
    """Lets who reads such a file come to its end; afterwards it is as it was."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        self.before = self.path.stat()
        os.truncate(self.path, self.before.st_blocks * 512)

    def __exit__(self, *exc: object) -> None:
        os.truncate(self.path, self.before.st_size)
        os.utime(self.path, ns=(self.before.st_atime_ns, self.before.st_mtime_ns))


def _boxes(data: bytearray, names: list[bytes]) -> Iterator[tuple[int, int]]:
    """Start and size of the box of each name, each inside the one before."""
    start, end = 0, len(data)
    for name in names:
        while data[start + 4 : start + 8] != name:
            start += struct.unpack_from(">I", data, start)[0]
            assert start < end, f"no box {name!r}"
        (size,) = struct.unpack_from(">I", data, start)
        yield start, size
        start, end = start + 8, start + size
