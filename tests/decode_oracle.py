"""An independent decode of whole files, from PyAV's own loop, and samplers to test with."""

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import xxhash

from vidcomp.sample.base import Sampler, Selection, Timeline


def all_frames(path: str | Path) -> Iterator[np.ndarray]:
    """Every frame that the decoder gives, [H, W, 3] RGB, rotated by what PyAV says."""
    import av

    with av.open(str(path)) as container:
        stream = container.streams.best("video")
        stream.codec_context.thread_count = 1
        for packet in container.demux(stream):
            try:
                frames = packet.decode()
            except av.FFmpegError:
                continue
            for frame in frames:
                pixels = frame.to_ndarray(format="rgb24")
                yield np.rot90(pixels, frame.rotation // 90 % 4)


def digest(pixels: np.ndarray) -> str:
    return xxhash.xxh3_128_hexdigest(np.ascontiguousarray(pixels).data)


def rows_of(frames) -> list[np.ndarray]:
    """[H, W, 3] arrays of ``Frames``."""
    return list(frames.data.permute(0, 2, 3, 1).numpy())


class Rows(Sampler):
    """Exactly these frames."""

    rows: tuple[int, ...]
    num_padded: int = 0

    def __call__(self, timeline: Timeline) -> Selection:
        return Selection(torch.tensor(self.rows), self.num_padded)


class Every(Sampler):
    """All frames."""

    step: int = 1

    def __call__(self, timeline: Timeline) -> Selection:
        return Selection(torch.arange(0, len(timeline), self.step))


class Spread(Sampler):
    """First, last, and evenly between."""

    count: int = 8

    def __call__(self, timeline: Timeline) -> Selection:
        count = min(self.count, len(timeline))
        return Selection(torch.linspace(0, len(timeline) - 1, count).long())


class Dies(Sampler):
    """Ends its process by a signal, as a native decoder does on a bad file."""

    number: int = signal.SIGSEGV

    def __call__(self, timeline: Timeline) -> Selection:
        os.kill(os.getpid(), self.number)
        raise AssertionError("not reached")


class Hangs(Sampler):
    """Never comes back."""

    def __call__(self, timeline: Timeline) -> Selection:
        time.sleep(600)
        raise AssertionError("not reached")


class Shouts(Sampler):
    """Writes to standard output from Python and from below."""

    def __call__(self, timeline: Timeline) -> Selection:
        print("x" * 100)
        sys.stdout.flush()
        os.write(1, b"y" * 100)
        return Selection(torch.tensor([0]))


class Stumbles(Sampler):
    """Has a bug."""

    def __call__(self, timeline: Timeline) -> Selection:
        raise ZeroDivisionError("in the sampler")


class Works(Sampler):
    """Busy with the pixels for some seconds."""

    seconds: float = 3.0

    def __call__(self, timeline: Timeline) -> Selection:
        end_s = time.monotonic() + self.seconds
        while time.monotonic() < end_s:
            timeline.thumbnails()
        return Selection(torch.tensor([0]))
