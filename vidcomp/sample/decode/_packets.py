"""Reading all packets of a stream once, and decoding as few of them as needed.

A decoder is asked for the first frame (its size, how it lies, and whether frames before the first
keyframe come out), or for the whole file where packets and frames need not pair up.
"""

from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vidcomp.sample.decode._h264 import key_kind
from vidcomp.sample.decode._orientation import UPRIGHT, Orientation, orientation_of

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.stream import VideoStream

__all__ = ["NO_TIME", "Packets", "Pulse", "read_packets"]

Pulse = Callable[[], None]
"""Called often while work goes on, for a watchdog."""

NO_TIME = -(2**63)


@dataclass(slots=True)
class Packets:
    """What the packets and the frames decoded on the way say; compact, as files may be long."""

    pts: "array[int]" = field(default_factory=lambda: array("q"))
    durations: "array[int]" = field(default_factory=lambda: array("q"))
    is_key: bytearray = field(default_factory=bytearray)
    is_shown: bytearray = field(default_factory=bytearray)
    decoded: "array[int]" = field(default_factory=lambda: array("q"))
    decoded_key: bytearray = field(default_factory=bytearray)
    first_key: int | None = None
    """Presentation time of the first keyframe in the order of decoding."""
    has_soft_key: bool = False
    """A keyframe of H.264 is not an IDR picture: what follows may refer to what comes before."""
    num_faults: int = 0
    """Packets after the first decoded frame that failed."""
    orientation: Orientation = UPRIGHT
    size: tuple[int, int] = (0, 0)
    """(height, width) of the first frame."""
    pix_fmt: str = ""
    """FFmpeg's name for how the first frame's pixels are stored."""
    is_interlaced: bool = False
    is_cut: bool = False
    """The last packet is only partly there."""
    stop: str = ""
    """Why reading ended before the end of the file."""


def read_packets(
    container: "InputContainer", stream: "VideoStream", pulse: Pulse, decode_all: bool
) -> Packets:
    """All packets of ``stream``; with ``decode_all`` also the times of all frames."""
    import av

    found = Packets()
    codec = stream.codec.canonical_name
    decoding = True
    try:
        for packet in container.demux(stream):
            pulse()
            if packet.size:
                _note(packet, found, codec)
            if decoding and (packet.size or packet.dts is None):  # the last, empty one flushes
                decoding = _decode(packet, found) or decode_all
    except av.FFmpegError as error:
        found.stop = f"reading stops after {len(found.pts)} packets ({error.strerror})"
    return found


def _note(packet: "Packet[VideoStream]", found: Packets, codec: str) -> None:
    pts = NO_TIME if packet.pts is None else packet.pts
    is_key = packet.is_keyframe
    if is_key and codec == "h264":
        kind = key_kind(memoryview(packet))
        found.has_soft_key |= kind != "idr"
        is_key = kind != ""
    found.pts.append(pts)
    found.durations.append(packet.duration or 0)
    found.is_key.append(is_key)
    hidden = codec == "vp8" and not memoryview(packet)[0] & 0x10  # show_frame, RFC 6386, 9.1
    found.is_shown.append(not (packet.is_discard or hidden))
    found.is_cut = packet.is_corrupt
    if is_key and found.first_key is None:
        found.first_key = pts


def _decode(packet: "Packet[VideoStream]", found: Packets) -> bool:
    """Notes the frames that come out; False once they are past the first keyframe."""
    import av

    try:
        frames = packet.decode()
    except av.FFmpegError:
        found.num_faults += bool(found.decoded)
        return True
    for frame in frames:
        if not found.decoded:
            found.orientation = orientation_of(frame)
            found.size = (frame.height, frame.width)
            found.pix_fmt = frame.format.name
            found.is_interlaced = frame.interlaced_frame
        found.decoded.append(NO_TIME if frame.pts is None else frame.pts)
        found.decoded_key.append(frame.key_frame)
    is_past = found.decoded and found.first_key is not None and found.decoded[-1] >= found.first_key
    return not is_past
