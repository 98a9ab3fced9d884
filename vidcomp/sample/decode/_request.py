"""What is asked of a reader: a range of a file, which frames of it, how large."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from vidcomp.errors import ConfigError
from vidcomp.functional.resize import Resize, ResizeRule
from vidcomp.sample.base import Sampler

__all__ = ["Backend", "DecodeRequest", "Limits", "Live", "OnDamage"]

Backend = Literal["auto", "decord", "pyav", "torchcodec"]
OnDamage = Literal["raise", "keep"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Guards of memory; more is a ``DecodeError``, never a crash of the machine."""

    max_pixels: int = 1 << 26
    """Height x width of a decoded frame (default 8192 x 8192)."""
    max_frames: int = 100_000
    """Frames that one request may ask for."""
    max_bytes: int = 4 << 30
    """Pixels held at once: one chunk of a stream, or all that ``read_frames`` returns."""

    def __post_init__(self) -> None:
        for name in ("max_pixels", "max_frames", "max_bytes"):
            if getattr(self, name) < 1:
                raise ConfigError(f"Limits.{name} must be at least 1, got {getattr(self, name)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """How a source is followed whose end is not there yet.

    Raises:
        ConfigError: a length of time that is none.
    """

    window_s: float
    """Frames come in windows that end at multiples of this; ``Frames.first_index`` counts in each
    from 0, and each holds the frames that a range of the finished video would."""
    origin_s: float = 0.0
    """Time of the first frame that comes; files and pipes count from 0."""
    multiple: int = 1
    """Chunks that are handed on early hold a multiple of so many frames."""
    chunk_s: float = 5.0
    """Seconds after which frames are handed on, however few."""
    idle_s: float = 10.0
    """Seconds without growth after which a file has ended."""
    patience_s: float = 45.0
    """Seconds without a byte after which an address is lost."""

    def __post_init__(self) -> None:
        for name in ("window_s", "chunk_s", "idle_s", "patience_s"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ConfigError(f"Live.{name} must be seconds above 0, got {value}: change it")


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeRequest:
    """Everything needed to read one range of one file; a plain value that can be pickled.

    Raises:
        ConfigError: settings that fit no file.
    """

    path: str
    """A local file, or an http(s) address."""
    sampler: Sampler
    """Which frames, by index or content."""
    resize: Resize | ResizeRule | None = None
    """Applied while decoding; ``None`` keeps the stored size.  A rule is asked once the video's
    size and the number of picked frames (without padding) are known."""
    start_s: float | None = None
    """Frames shown at or after this time; ``None``: from the start."""
    end_s: float | None = None
    """Frames shown before this time; ``None``: to the end."""
    chunk_frames: int = 32
    """Most frames handed on together."""
    on_damage: OnDamage = "raise"
    """``keep``: those of the frames that can be decoded; ``Source.damage`` says what is missing."""
    backend: Backend = "auto"
    """``auto``: decord where it is known to be right, PyAV for all else and where decord fails."""
    limits: Limits = Limits()
    live: Live | None = None
    """Follow a source that has no end yet: ``path`` may be a growing file, a named pipe or an
    address of the kinds that ``vidcomp.sample.decode.LIVE_SCHEMES`` lists.  What can be decoded is
    kept, whatever ``on_damage`` says, by PyAV, whatever ``backend`` says."""

    def resize_of(self, height: int, width: int, num_frames: int) -> Resize | None:
        """The policy for a video of that size, of which so many frames are picked.

        Raises:
            ShapeError: the rule refuses such a video.
        """
        if self.resize is None or isinstance(self.resize, Resize):
            return self.resize
        return self.resize(height, width, num_frames)

    def __post_init__(self) -> None:
        start, end = self.start_s, self.end_s
        for name, value in (("start_s", start), ("end_s", end)):
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise ConfigError(f"{name} must be seconds from 0 on, got {value}: leave it out")
        if start is not None and end is not None and start >= end:
            raise ConfigError(f"a range needs start_s < end_s, got {start} and {end}: swap them")
        if self.chunk_frames < 1:
            raise ConfigError(f"chunk_frames must be at least 1, got {self.chunk_frames}")
        for name, choices in (("on_damage", OnDamage), ("backend", Backend)):
            if getattr(self, name) not in get_args(choices):
                raise ConfigError(
                    f"{name} must be one of {', '.join(get_args(choices))}, got "
                    f"{getattr(self, name)!r}: choose one"
                )
