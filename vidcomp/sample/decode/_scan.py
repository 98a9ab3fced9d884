"""What a file holds, from its packets: real times, key flags, the stream to read, signs of damage.

A decoder is asked only as far as needed: for the first frame (its rotation, and whether frames
before the first keyframe come out), and for the whole file where the container has no presentation
times to tell frames apart by (AVI, raw streams), as packets and frames need not pair up there.

Legend: N frames.
"""

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vidcomp.errors import DecodeError
from vidcomp.sample.decode._container import missing_bytes
from vidcomp.sample.decode._inputs import Place
from vidcomp.sample.decode._open import open_video, pick_stream
from vidcomp.sample.decode._orientation import Orientation
from vidcomp.sample.decode._packets import NO_TIME, Packets, Pulse, read_packets
from vidcomp.types import Source

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream

__all__ = ["Pulse", "Scan", "scan_video"]

# Containers whose packets have no presentation times, or guessed ones.
_UNTIMED = {"avi", "h264", "hevc", "m4v", "mpegvideo", "mjpeg", "vc1", "dv", "obu", "rm", "nsv"}


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Scan:
    """Everything known of one video stream before its frames are wanted; N frames."""

    place: Place
    container: str
    """FFmpeg's name of the container, e.g. ``mov,mp4,m4a,3gp,3g2,mj2``."""
    codec: str
    stream_index: int
    ticks: NDArray[np.int64]
    """[N] presentation times in units of the stream, ascending; without ``timed`` only ordered."""
    pts_s: NDArray[np.float64]
    """[N] the same in seconds, the first at 0."""
    is_key: NDArray[np.bool_]
    """[N] frames that decode on their own."""
    key_ticks: NDArray[np.int64]
    """Times of all keyframes, also of those that an edit list hides; ascending."""
    end_s: float
    timed: bool
    """Frames are told apart by ``ticks``; else by counting decoded frames."""
    exact: bool
    """All N frames were seen decoded."""
    orientation: Orientation
    """What makes a stored frame upright."""
    height: int
    """Pixels as displayed."""
    width: int
    """Pixels as displayed."""
    pix_fmt: str
    """FFmpeg's name for how pixels are stored, e.g. ``yuv420p``."""
    is_interlaced: bool
    has_duration: bool
    """The container states how long it is."""
    has_open_groups: bool
    """Some frames after a keyframe refer to frames before it (open GOP, intra refresh)."""
    damage: str

    def __len__(self) -> int:
        return len(self.pts_s)

    @property
    def stored_size(self) -> tuple[int, int]:
        """(height, width) before rotation."""
        return self.orientation.size(self.height, self.width)

    def source(self, backend: str, damage: str) -> Source:
        """What is known of the file as plain values."""
        return Source(
            path=self.place.name,
            backend=backend,
            codec=self.codec,
            num_frames=len(self),
            duration_s=self.end_s,
            fps=len(self) / self.end_s if self.end_s > 0 else 0.0,
            height=self.height,
            width=self.width,
            damage=damage,
        )


def scan_video(place: Place, max_pixels: int, pulse: Pulse, *, decode_all: bool = False) -> Scan:
    """Reads all packets of the best video stream once.

    Args:
        place: the input.
        max_pixels: refuse larger frames.
        pulse: called for every packet, for a watchdog.
        decode_all: also decode every frame, so that the result is ``exact``.

    Raises:
        DecodeError: not a video, no frame that can be decoded, frames too large.
    """
    with open_video(place, max_pixels) as container:
        stream = pick_stream(container, place, max_pixels)
        decode_all = decode_all or container.format.name in _UNTIMED
        packets = read_packets(container, stream, pulse, decode_all)
        scan = _summarise(place, container, stream, packets, exact=decode_all)
    if scan.timed or scan.exact:
        return scan
    return scan_video(place, max_pixels, pulse, decode_all=True)


def _summarise(
    place: Place,
    container: "InputContainer",
    stream: "VideoStream",
    packets: Packets,
    *,
    exact: bool,
) -> Scan:
    name = container.format.name
    codec = stream.codec.canonical_name
    ticks, is_key = _decoded_frames(packets) if exact else _expected_frames(packets)
    _check_frames(place, name, codec, ticks, packets)
    ascending = bool((np.diff(ticks) > 0).all()) and ticks[0] != NO_TIME
    time_base = stream.time_base or Fraction(1, 1)
    rate = stream.average_rate or stream.guessed_rate or Fraction(25)
    if exact and not ascending:  # no times at all, or none to trust: count at the stated rate
        time_base, ticks = 1 / rate, np.arange(len(ticks), dtype=np.int64)
    pts_s = (ticks - ticks[0]) * time_base.numerator / time_base.denominator
    height, width = packets.orientation.size(*packets.size)
    last_s = float(_last_duration(packets, ticks[-1]) * time_base) or _usual_gap_s(pts_s, rate)
    pts = np.array(packets.pts)
    return Scan(
        place=place,
        container=name,
        codec=codec,
        stream_index=stream.index,
        ticks=ticks,
        pts_s=pts_s,
        is_key=is_key,
        key_ticks=np.sort(pts[np.array(packets.is_key, dtype=bool) & (pts != NO_TIME)]),
        end_s=float(pts_s[-1]) + last_s,
        timed=ascending and name not in _UNTIMED,
        exact=exact,
        orientation=packets.orientation,
        height=height,
        width=width,
        pix_fmt=packets.pix_fmt,
        is_interlaced=packets.is_interlaced,
        has_duration=container.duration is not None,
        has_open_groups=_has_open_groups(packets),
        damage=_damage(place, name, stream.frames, packets),
    )


def _expected_frames(packets: Packets) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Times and key flags of the frames that packets announce, in order of presentation.

    Frames shown before the first keyframe refer to pictures that a cut took away (or not, in a
    closed group): they count only if the decoder gave them.
    """
    pts, is_key = np.array(packets.pts), np.array(packets.is_key, dtype=bool)
    kept = np.array(packets.is_shown, dtype=bool)
    if packets.is_cut and len(kept):
        kept[-1] = False
    if packets.first_key is not None:
        kept &= (pts >= packets.first_key) | np.isin(pts, np.array(packets.decoded))
    order = np.argsort(pts[kept], kind="stable")
    return pts[kept][order], is_key[kept][order]


def _has_open_groups(packets: Packets) -> bool:
    pts, is_key = np.array(packets.pts), np.array(packets.is_key, dtype=bool)
    newest_key = np.maximum.accumulate(np.where(is_key, pts, NO_TIME))
    return packets.has_soft_key or bool(((pts < newest_key) & (pts != NO_TIME)).any())


def _decoded_frames(packets: Packets) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Times and key flags of decoded frames, in the order in which they came out."""
    return np.array(packets.decoded), np.array(packets.decoded_key, dtype=bool)


def _check_frames(
    place: Place, container: str, codec: str, ticks: NDArray[np.int64], packets: Packets
) -> None:
    if not packets.decoded or not len(ticks):
        raise DecodeError(
            f"{place.name} has a {codec} stream of {len(packets.pts)} packets, but no frame of it "
            f"can be decoded: the file is damaged or encrypted, check it with a player"
        )
    if container == "gif" and len(ticks) == 1:
        raise DecodeError(f"{place.name} is a still GIF picture, not a video: pass a video file")


def _last_duration(packets: Packets, last: np.int64) -> int:
    """Stated duration of the packet shown last, in units of the stream; 0 if it states none."""
    rows = np.flatnonzero(np.array(packets.pts) == last)
    return packets.durations[rows[-1]] if len(rows) else 0


def _usual_gap_s(pts_s: NDArray[np.float64], rate: Fraction) -> float:
    return float(np.median(np.diff(pts_s))) if len(pts_s) > 1 else float(1 / rate)


def _damage(place: Place, container: str, num_stated: int, packets: Packets) -> str:
    """What is missing of the file, in words; empty if nothing is."""
    if packets.stop:
        return packets.stop
    lost = missing_bytes(place.path) if place.path else 0
    is_short = packets.is_cut or len(packets.pts) < num_stated
    # Trailing boxes without pictures may be cut from an MP4 with an index: nothing is lost then.
    if lost and (is_short or num_stated == 0 or not container.startswith("mov")):
        stated = f", {num_stated} frames were announced" if num_stated > len(packets.pts) else ""
        return f"the file is cut: {lost} bytes are missing{stated}"
    if packets.num_faults:
        return f"{packets.num_faults} of {len(packets.pts)} packets cannot be decoded"
    return ""
