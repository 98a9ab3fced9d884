"""What kind of keyframe an H.264 packet really is; containers call more things a keyframe.

A stream with intra refresh marks packets of P slices from which a picture only *begins* to become
whole, and in open groups a keyframe is intra but later frames look behind it.
"""

from collections.abc import Iterator
from typing import Literal

__all__ = ["key_kind"]

_SLICE, _IDR = 1, 5
_INTRA_TYPES = (2, 4, 7, 9)  # I and SI, alone or for all slices of the picture


def key_kind(packet: memoryview) -> Literal["idr", "intra", ""]:
    """``idr``: nothing looks behind it; ``intra``: it decodes on its own; empty: it does not."""
    kind: Literal["intra", ""] = ""
    for unit in _units(packet):
        unit_type = unit[0] & 0x1F
        if unit_type == _IDR:
            return "idr"
        if unit_type == _SLICE:
            if _slice_type(unit) not in _INTRA_TYPES:
                return ""
            kind = "intra"
    return kind


def _units(packet: memoryview) -> Iterator[bytes]:
    """The first bytes of each NAL unit, after start codes (annex B) or lengths (ISO 14496-15)."""
    if bytes(packet[:3]) == b"\0\0\1" or bytes(packet[:4]) == b"\0\0\0\1":
        yield from (unit[:16] for unit in bytes(packet).split(b"\0\0\1")[1:] if unit)
        return
    place = 0
    while place + 4 < len(packet):
        yield bytes(packet[place + 4 : place + 20])
        place += 4 + int.from_bytes(packet[place : place + 4], "big")


def _slice_type(unit: bytes) -> int:
    """The second Exp-Golomb number of the slice header (ITU-T H.264, 7.3.3); -1 if cut off."""
    bits = "".join(f"{byte:08b}" for byte in unit[1:])
    place = number = 0
    for _ in range(2):
        zeros = bits.find("1", place) - place
        if zeros < 0:
            return -1
        place += 2 * zeros + 1
        number = int(bits[place - zeros - 1 : place] or "0", 2) - 1
    return number
