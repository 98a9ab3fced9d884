"""What every frame sampler is: settings, and indices out of a timeline.

Legend: N frames of the (cut) video, K frames asked for.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from vidcomp.config import Config

__all__ = ["Sampler", "Selection", "Timeline"]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Timeline:
    """What is known of a video, or of a time range of it, before any frame is decoded."""

    pts_s: Tensor
    """[N] float64 real presentation times, ascending; the file's first frame is at 0."""
    end_s: float
    """End of the last frame (or of the range), in seconds."""
    is_key: Tensor
    """[N] bool: frames that decode on their own."""
    thumbnails: Callable[[], Tensor] | None = None
    """Decodes all N frames at thumbnail size, [N, 3, h, w] uint8, for content-based samplers."""
    start_s: float | None = None
    """Start of a time range; its first frame may have begun before.  ``None``: with it."""

    def __len__(self) -> int:
        return len(self.pts_s)

    @property
    def origin_s(self) -> float:
        """Where time grids and clips start: at the range, but not before its first frame."""
        first_s = float(self.pts_s[0])
        return first_s if self.start_s is None else max(first_s, self.start_s)

    @property
    def seconds(self) -> float:
        """Length of what is shown, from ``origin_s`` to ``end_s``."""
        return max(0.0, self.end_s - self.origin_s)


class Selection(NamedTuple):
    """Frames a sampler picked."""

    indices: Tensor
    """[K] int64 rows of the timeline (ascending inside a clip; repeats only where asked)."""
    num_padded: int = 0
    """Entries at the end that only repeat the last frame to fill a fixed length."""


class Sampler(Config, ABC):
    """Picks frames by index math; never reads pixels unless ``timeline.thumbnails`` is called."""

    @abstractmethod
    def __call__(self, timeline: Timeline) -> Selection:
        """The frames to decode; at least one for a timeline of at least one frame."""
