"""How a stored frame is turned upright, from the display matrix that cameras write."""

import struct
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

__all__ = ["UPRIGHT", "Orientation", "orientation_of"]


class Orientation(NamedTuple):
    """One of the eight ways to lay a picture; the steps apply in the order of the fields."""

    is_turned: bool = False
    """Rows become columns."""
    flip_rows: bool = False
    """Upside down, after turning."""
    flip_columns: bool = False
    """Mirrored, after turning."""

    @property
    def is_mirrored(self) -> bool:
        """No rotation alone makes it upright."""
        return self.is_turned ^ self.flip_rows ^ self.flip_columns

    def size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) before or after."""
        return (width, height) if self.is_turned else (height, width)

    def apply(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """[H, W, 3] as displayed, contiguous: torch takes no negative strides."""
        if self.is_turned:
            pixels = pixels.swapaxes(0, 1)
        if self.flip_rows:
            pixels = pixels[::-1]
        if self.flip_columns:
            pixels = pixels[:, ::-1]
        return np.ascontiguousarray(pixels)


UPRIGHT = Orientation()


def orientation_of(frame: "VideoFrame") -> Orientation:
    """Reads the display matrix (ISO/IEC 14496-12, section 6.2.2) to the nearest quarter turn.

    A stored pixel (x, y) is displayed at (a x + c y, b x + d y), and moved into view.
    """
    data: Any = frame.side_data.get("DISPLAYMATRIX")  # a buffer; PyAV's types name others only
    if data is None:
        return UPRIGHT
    a, b, _, c, d = struct.unpack("=5i", bytes(data)[:20])
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return Orientation(flip_rows=d < 0, flip_columns=a < 0)
    return Orientation(is_turned=True, flip_rows=b < 0, flip_columns=c < 0)
