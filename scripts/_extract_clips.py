"""Videos and encoders that the benchmarks of the job share."""

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from _bench import write_video
from torch import Tensor

from vidcomp.api import Prepared
from vidcomp.encode.base import Encoder
from vidcomp.types import Frames, Grid, VideoTokens

__all__ = [
    "FRAMES",
    "RECIPE",
    "Blind",
    "Waiting",
    "make_corpus",
    "make_tiny",
    "with_encoder",
    "write_noise",
]

FRAMES = 32
"""Sampled of each clip."""
RECIPE = {
    "sample": {"name": "uniform", "num_frames": FRAMES},
    "encode": {"name": "dct"},
    "compress": {"budget": {"tokens": 196}, "stages": [{"name": "uniform"}]},
}


class Waiting(Encoder):
    """Waits for each frame as a device would, then returns what a real encoder gives."""

    def __init__(self, inner: Encoder, wait_s: float) -> None:
        """``wait_s``: for ``FRAMES`` frames; the real encoder's own time is part of it."""
        self.inner, self.wait_s = inner, wait_s
        self.config, self.resize, self.dim = inner.config, inner.resize, inner.dim

    def grid(self, num_frames: int, height: int, width: int) -> Grid:
        """As the real one."""
        return self.inner.grid(num_frames, height, width)

    def valid(self, frames: Frames) -> Tensor | None:
        """As the real one."""
        return self.inner.valid(frames)

    def many(
        self, batch: Sequence[Frames], keep: Sequence[Tensor | None] | None = None
    ) -> list[VideoTokens]:
        """Wait, then encode."""
        until = time.perf_counter() + self.wait_s * sum(map(len, batch)) / FRAMES
        tokens = self.inner.many(batch, keep)
        time.sleep(max(0.0, until - time.perf_counter()))
        return tokens


class Blind(Waiting):
    """Costs nothing: a frame is one token of zeros."""

    def __init__(self, inner: Encoder) -> None:
        super().__init__(inner, 0.0)

    def many(
        self, batch: Sequence[Frames], _: Sequence[Tensor | None] | None = None
    ) -> list[VideoTokens]:
        """Looks at no pixel."""
        return [
            VideoTokens.from_grid(
                torch.zeros(len(frames), 1),
                Grid(len(frames), 1, 1),
                frames.spans,
                first_t=frames.first_index,
            )
            for frames in batch
        ]


def with_encoder(prepared: Prepared, encoder: Encoder) -> Prepared:
    """The same recipe with another encoder."""
    return Prepared(
        recipe=prepared.recipe,
        encoder=encoder,
        pipeline=prepared.pipeline,
        projector=None,
    )


def make_tiny(scratch: Path, count: int) -> Path:
    """Clips of three frames of 64x64."""
    folder = scratch / f"tiny{count}"
    folder.mkdir()
    for i in range(count):
        rng = np.random.default_rng(i)
        base = rng.integers(0, 255, (8, 8, 3)).repeat(8, 0).repeat(8, 1).astype(np.uint8)
        write_video(folder / f"{i:04}.mp4", (np.roll(base, t, axis=1) for t in range(3)), fps=10)
    return folder


def write_noise(path: Path, seconds: int, fps: int = 10) -> None:
    """A video of moving noise, 320x180."""
    rng = np.random.default_rng(0)
    base = rng.integers(0, 255, (180, 320, 3), dtype=np.uint8)
    write_video(path, (np.roll(base, 3 * i, axis=1) for i in range(seconds * fps)), fps=fps)


def make_corpus(scratch: Path, count: int = 12) -> Path:
    """Clips of 480x270, 3 to 6 s at 25 frames per second, with motion."""
    folder = scratch / f"corpus{count}"
    if folder.exists():
        return folder
    folder.mkdir()
    for i in range(count):
        rng = np.random.default_rng(i)
        coarse = rng.integers(0, 255, (17, 30, 3)).repeat(16, 0).repeat(16, 1)[:270, :480]
        base = coarse.astype(np.uint8)
        length = int(rng.integers(75, 150))
        frames = (np.roll(base, (2 * t, 5 * t), axis=(0, 1)) for t in range(length))
        write_video(folder / f"{i:02}.mp4", frames, fps=25)
    return folder
