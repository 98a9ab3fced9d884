"""Samplers that make trouble in the process that decodes; for tests of its owner."""

import ctypes
import sys
import time
from collections.abc import Callable

import numpy as np
import torch

from vidcomp.sample.base import Sampler, Selection, Timeline
from vidcomp.sample.decode._assemble import Assembler
from vidcomp.sample.decode._pyav import PyAVReader

_put_away = Assembler._put_away
_pixels = PyAVReader._pixels


def after_picture(number: int, step: Callable[[], None]) -> None:
    """Has this process do something right after it has placed each picture from that one on."""
    seen = 0

    def patched(self, index, picture, stop):
        nonlocal seen
        seen += 1
        if seen > number:
            step()
        _put_away(self, index, picture, stop)

    Assembler._put_away = patched


class All(Sampler):
    """All frames, with some trouble."""

    def __call__(self, timeline: Timeline) -> Selection:
        self.prepare()
        return Selection(torch.arange(len(timeline)))

    def prepare(self) -> None:
        """The trouble."""


class CrashesAt(All):
    """A native crash in the middle of a chunk."""

    picture: int

    def prepare(self) -> None:
        after_picture(self.picture, lambda: ctypes.string_at(0))


class HangsAt(All):
    """No sign of life from some picture on."""

    picture: int

    def prepare(self) -> None:
        after_picture(self.picture, lambda: time.sleep(600))


class SlowFrom(All):
    """A second for decoding each picture from some picture on."""

    picture: int

    def prepare(self) -> None:
        seen = 0

        def patched(reader, frame):
            nonlocal seen
            seen += 1
            time.sleep(seen > self.picture)
            return _pixels(reader, frame)

        PyAVReader._pixels = patched


class Grumbles(All):
    """Says something on stderr."""

    def prepare(self) -> None:
        print("grumble", file=sys.stderr, flush=True)


class Bloats(All):
    """Takes as much memory."""

    num_bytes: int
    by: str = "torch"

    def prepare(self) -> None:
        if self.by == "torch":
            torch.ones(self.num_bytes, dtype=torch.uint8)
        elif self.by == "numpy":
            np.ones(self.num_bytes, dtype=np.uint8)
        else:
            bytearray(self.num_bytes)
