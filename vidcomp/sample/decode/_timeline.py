"""From the scan of a file to the timeline of a range of it, with thumbnails on demand.

Legend: N frames of the range, h w pixels of a thumbnail.
"""

import math
from collections import OrderedDict
from dataclasses import dataclass, replace
from threading import Lock
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from vidcomp.errors import DecodeError
from vidcomp.sample.base import Timeline
from vidcomp.sample.decode._inputs import Place
from vidcomp.sample.decode._pyav import PyAVReader
from vidcomp.sample.decode._request import DecodeRequest, OnDamage
from vidcomp.sample.decode._scan import Pulse, Scan, scan_video

__all__ = ["MiscountError", "Part", "Thumbnails", "cut", "remembered_scan", "timeline_of"]

# Ranges are given as decimals and times are fractions: 1.0 s must not catch the frame before.
_EPSILON_S = 1e-6
_THUMBNAIL_SIDE = 64
_MIN_THUMBNAIL_SIDE = 8
_THUMBNAIL_BYTES = 256 << 20
_NUM_REMEMBERED = 4

_scans: "OrderedDict[tuple[object, ...], Scan]" = OrderedDict()
_lock = Lock()


class MiscountError(DecodeError):
    """Packets announced frames that a sound file does not have: count by decoding."""


class Part(NamedTuple):
    """Consecutive frames of a file."""

    first: int
    """Row of the scan."""
    timeline: Timeline


def remembered_scan(
    place: Place, max_pixels: int, pulse: Pulse, *, decode_all: bool = False
) -> Scan:
    """The scan of a file; those of the last few unchanged files are kept, for ranges of them."""
    if place.path is None:
        return scan_video(place, max_pixels, pulse, decode_all=decode_all)
    facts = place.path.stat()
    key = (place.path, facts.st_size, facts.st_mtime_ns, facts.st_ino, max_pixels)
    with _lock:
        scan = _scans.get(key)
    if scan is None or (decode_all and not scan.exact):
        scan = scan_video(place, max_pixels, pulse, decode_all=decode_all)
    with _lock:  # decoding threads share the store
        _scans[key] = scan
        _scans.move_to_end(key)
        while len(_scans) > _NUM_REMEMBERED:
            _scans.popitem(last=False)
    return replace(scan, place=place)  # messages use the name as written this time


def cut(scan: Scan, request: DecodeRequest, pulse: Pulse) -> Part:
    """The frames shown within [start_s, end_s) of the request; times stay those of the file.

    Raises:
        DecodeError: no frame is shown then.
    """
    start = 0.0 if request.start_s is None else request.start_s
    end = scan.end_s if request.end_s is None else min(request.end_s, scan.end_s)
    rows = rows_between(scan, start, end)
    if not rows:
        raise DecodeError(
            f"{scan.place.name} lasts {scan.end_s:.3f} s and shows no frame from {start:g} to "
            f"{end:g} s: choose a range inside"
        )
    thumbnails = Thumbnails(scan, rows, request.limits.max_pixels, request.on_damage, pulse)
    return Part(rows.start, timeline_of(scan, rows, request.start_s, end, thumbnails))


def timeline_of(
    scan: Scan, rows: range, start_s: float | None, end_s: float, thumbnails: "Thumbnails"
) -> Timeline:
    """What samplers see of the frames ``rows``, shown within [start_s, end_s)."""
    stop_s = scan.end_s if rows.stop == len(scan) else float(scan.pts_s[rows.stop])
    return Timeline(
        pts_s=torch.from_numpy(scan.pts_s[rows.start : rows.stop].copy()),
        end_s=min(end_s, stop_s),
        is_key=torch.from_numpy(scan.is_key[rows.start : rows.stop].copy()),
        thumbnails=thumbnails,
        start_s=start_s,
    )


def rows_between(scan: Scan, start_s: float, end_s: float) -> range:
    """Frames that are on the screen at some moment of [start_s, end_s)."""
    stops_s = np.append(scan.pts_s[1:], scan.end_s)
    first = int(np.searchsorted(stops_s, start_s + _EPSILON_S, side="right"))
    stop = int(np.searchsorted(scan.pts_s, end_s - _EPSILON_S, side="left"))
    return range(first, max(first, stop))


@dataclass(frozen=True, slots=True)
class Thumbnails:
    """Small pictures of all frames of a range, decoded when called."""

    scan: Scan
    rows: range
    max_pixels: int
    on_damage: OnDamage
    pulse: Pulse

    def __call__(self) -> Tensor:
        """[N, 3, h, w] uint8; what cannot be decoded and may be kept repeats the frame before.

        Raises:
            DecodeError: damage, with ``on_damage="raise"``, or no frame at all.
        """
        scan, rows = self.scan, self.rows
        height, width = _thumbnail_size(scan.height, scan.width, len(rows))
        size = scan.orientation.size(height, width)
        small = torch.empty((len(rows), 3, height, width), dtype=torch.uint8)
        nearest = np.full(len(rows), -1)
        reader = PyAVReader(scan, rows, self.max_pixels, self.pulse, size)
        try:
            for picture in reader.read(rows):
                row = picture.index - rows.start
                small[row] = torch.from_numpy(picture.pixels).permute(2, 0, 1)
                nearest[row] = row
        finally:
            reader.close()
        if not (nearest < 0).any():
            return small
        self._check(int((nearest < 0).sum()), reader)
        first = nearest[nearest >= 0][0]
        return small[torch.from_numpy(np.maximum(np.maximum.accumulate(nearest), first))]

    def _check(self, num_missing: int, reader: PyAVReader) -> None:
        if reader.num_unexplained and not self.scan.exact:
            raise MiscountError(f"{self.scan.place.name}: {num_missing} frames do not exist")
        if num_missing == len(self.rows) or self.on_damage == "raise":
            raise DecodeError(
                f"{self.scan.place.name}: {num_missing} of {len(self.rows)} frames cannot be "
                f"decoded by pyav ({reader.fault}): pass on_damage='keep' to use the rest"
            )


def _thumbnail_size(height: int, width: int, num_frames: int) -> tuple[int, int]:
    """Aspect kept, never enlarged; smaller for very long videos so that all of them fit."""
    longest = max(height, width)
    area = _THUMBNAIL_BYTES / (3 * num_frames) * longest / min(height, width)
    side = min(_THUMBNAIL_SIDE, longest, max(_MIN_THUMBNAIL_SIDE, math.isqrt(int(area))))
    return max(1, round(height * side / longest)), max(1, round(width * side / longest))
