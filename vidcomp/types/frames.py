"""Pixels with real times.

Legend: T frames, C channels, H W pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from vidcomp.errors import ShapeError
from vidcomp.types._describe import describe

__all__ = ["Frames", "Source"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where frames come from and how they were read; plain values, fit for JSON."""

    path: str
    """File path or URL."""
    backend: str = ""
    """Library that decoded it: decord, pyav or torchcodec."""
    codec: str = ""
    """Name of the codec, e.g. ``h264``."""
    num_frames: int = 0
    """Frames of the whole file."""
    duration_s: float = 0.0
    """End of the last frame minus start of the first, in seconds."""
    fps: float = 0.0
    """Average frames per second."""
    height: int = 0
    """Pixels as displayed, rotation applied."""
    width: int = 0
    """Pixels as displayed, rotation applied."""
    damage: str = ""
    """What could not be decoded, in words; empty if the file is whole."""
    num_sampled: int = 0
    """Frames that the whole request asks for, those that only fill up included; 0: not known."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Frames:
    """Pictures with real times; a long video is an iterator of these chunks."""

    data: Tensor
    """[T, C, H, W] uint8 RGB."""
    pts_s: Tensor
    """[T] float64 presentation times in seconds; the file's first frame is at 0."""
    duration_s: Tensor
    """[T] float64 seconds for which each frame is shown."""
    first_index: int = 0
    """Place of row 0 in the sampled sequence (chunks of one video count on)."""
    source: Source | None = None
    """Where the frames come from; ``None`` for made-up pixels."""
    content: tuple[int, int, int, int] | None = None
    """(top, left, height, width) of the real pixels of a letterboxed frame; ``None``: all."""
    num_padded: int = 0
    """Rows at the end that only repeat the last frame to fill a fixed length."""

    def __post_init__(self) -> None:
        if self.data.ndim != 4 or self.data.dtype != torch.uint8:
            raise ShapeError(
                f"frames must be [T, C, H, W] uint8, got {list(self.data.shape)} "
                f"{self.data.dtype}: permute and convert them"
            )
        for name in ("pts_s", "duration_s"):
            value: Tensor = getattr(self, name)
            if value.shape != self.data.shape[:1] or value.dtype != torch.float64:
                raise ShapeError(
                    f"{name} must be [{len(self.data)}] float64 as there are {len(self.data)} "
                    f"frames, got {list(value.shape)} {value.dtype}: give one time a frame"
                )

    def __len__(self) -> int:
        return len(self.data)

    def __repr__(self) -> str:
        return describe(self)

    def __getitem__(self, rows: slice) -> Self:
        """Consecutive frames ``rows``, all fields together."""
        start, stop, step = rows.indices(len(self))
        if step != 1:
            raise ShapeError(f"frames are sliced with step 1, got {rows}: use select for others")
        return replace(
            self,
            data=self.data[rows],
            pts_s=self.pts_s[rows],
            duration_s=self.duration_s[rows],
            first_index=self.first_index + start,
            num_padded=min(max(0, stop - start), max(0, stop - (len(self) - self.num_padded))),
        )

    @property
    def spans(self) -> Tensor:
        """[T, 2] float32 [start, stop) seconds in which each frame is shown."""
        return torch.stack([self.pts_s, self.pts_s + self.duration_s], dim=1).float()

    @classmethod
    def cat(cls, chunks: Sequence["Frames"]) -> "Frames":
        """One value from consecutive chunks of one video.

        Raises:
            ShapeError: no chunks, or of different sizes.
        """
        if not chunks:
            raise ShapeError("frames are joined from at least one chunk, got none: pass some")
        if len({c.data.shape[1:] for c in chunks}) > 1:
            sizes = sorted({tuple(c.data.shape[1:]) for c in chunks})
            raise ShapeError(f"chunks must have one size to be joined, got {sizes}: resize first")
        return replace(
            chunks[0],
            data=torch.cat([c.data for c in chunks]),
            pts_s=torch.cat([c.pts_s for c in chunks]),
            duration_s=torch.cat([c.duration_s for c in chunks]),
            num_padded=sum(c.num_padded for c in chunks),
        )
