"""Frames of a source that has no end yet, as they come, in windows of time.

There is no scan: times, rotation and size are those of the frames themselves.  Which frames are
taken is decided as soon as the next one tells how long each is shown, by the rule of the sampler
``fps``: a window of a growing file holds the frames that a range of the finished file would.
Whatever cannot be decoded is left out and told in ``Source.damage`` of the window.

Legend: T frames, C channels, H W pixels.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from vidcomp.errors import ConfigError, DecodeError
from vidcomp.functional.resize import Resize, resize_frames
from vidcomp.sample._common import TOLERANCE_S
from vidcomp.sample.base import Sampler
from vidcomp.sample.decode._live_decoder import Decoder, LostError, Step
from vidcomp.sample.decode._live_open import Pulse, shown_address
from vidcomp.sample.decode._orientation import Orientation, orientation_of
from vidcomp.sample.decode._request import DecodeRequest, Live
from vidcomp.sample.fps import Fps
from vidcomp.types import Frames, Source

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

__all__ = ["check_sampler", "follow_frames"]

_EPSILON_S = 1e-6  # ranges are decimals and times fractions, as in _timeline


def check_sampler(sampler: Sampler) -> Fps:
    """The sampler, if it can choose frames as they come.

    Raises:
        ConfigError: it needs to know the end of the video.
    """
    if isinstance(sampler, Fps):
        plain = Fps(fps=sampler.fps, point=sampler.point)
        if sampler == plain:
            return sampler
        others = "by_length, max_frames, min_frames and short have to know its length: leave them"
        raise ConfigError(f"a live source is sampled by 'fps' with fps and point only, as {others}")
    name = sampler.name or type(sampler).__name__
    raise ConfigError(
        f"a live source is sampled by 'fps', as {name!r} needs to know where the video ends: set "
        f"sample={{name: fps, fps: 1}}"
    )


def follow_frames(request: DecodeRequest, pulse: Pulse) -> Iterator[Frames]:
    """The frames of a live request in chunks, window after window.

    Each window begins with ``first_index`` 0, none is left out, and its last chunk is handed on
    when the first frame of the next one has come.  ``Source.duration_s`` is the time seen so far.

    Raises:
        DecodeError: the source cannot be opened, has no video, or its connection is lost, after
            all that had come was handed on.
        ConfigError: the sampler needs to know the end of the video.
    """
    live, sampler = request.live, check_sampler(request.sampler)
    assert live is not None  # noqa: S101  # that is what makes a request live
    windows = _Windows(request, live, sampler)
    with Decoder(request, live) as decoder:
        lost = ""
        try:
            for step in decoder.steps(pulse):
                yield from windows.waited() if step is None else windows.take(step)
        except LostError as error:
            lost = str(error)
        yield from windows.end(decoder.shown_s, decoder.faults)
    if lost or not windows.num_frames:
        raise DecodeError(
            f"{shown_address(request.path)}: {lost or 'it ended before a frame came'} after "
            f"{windows.end_s:.1f} s: open it again"
        )


@dataclass(slots=True)
class _Window:
    """Frames of a window that have not been handed on yet."""

    number: int
    origin_s: float
    """Where its grid of time starts."""
    data: list[Tensor] = field(default_factory=list)
    pts_s: list[float] = field(default_factory=list)
    duration_s: list[float] = field(default_factory=list)
    num_given: int = 0
    since: float = 0.0
    """When the first of the frames that wait came, on the machine's clock."""
    damage: dict[str, int] = field(default_factory=dict)


class _Windows:
    """Takes frames as they come, and hands on those that the sampler picks."""

    def __init__(self, request: DecodeRequest, live: Live, sampler: Fps) -> None:
        self._request, self._live, self._codec = request, live, ""
        self._fps, self._offset = sampler.fps, 0.0 if sampler.point == "start" else 0.5
        self._start_s = request.start_s or 0.0
        self._held: Step | None = None
        self._window: _Window | None = None
        self._picture: _Picture | None = None
        self.num_frames = 0
        """Frames that came, picked or not."""
        self.end_s = 0.0
        """Time seen so far."""

    def take(self, step: Step) -> Iterator[Frames]:
        """The next frame: what is ready because of it."""
        self.num_frames += 1
        self._codec = step.codec
        held, self._held = self._held, step
        if held is not None:
            yield from self._show(held, step.start_s, step.faults)

    def waited(self) -> Iterator[Frames]:
        """No frame has come for a moment: what has waited for long enough."""
        if self._window is not None and self._window.data:
            yield from self._ready(self._window, is_last=False)

    def end(self, shown_s: float, faults: list[str]) -> Iterator[Frames]:
        """All that is left; the last frame is shown for ``shown_s``."""
        held, self._held = self._held, None
        if held is None:
            return
        stop_s = held.start_s + shown_s
        yield from self._show(held, stop_s, faults)
        window = self._window
        if window is not None and not window.data and not window.num_given:
            self._add(window, held, stop_s)  # the window ended before its first point
        if window is not None and window.data:
            yield self._chunk(window, len(window.data))

    def _show(self, held: Step, stop_s: float, faults: list[str]) -> Iterator[Frames]:
        """A frame that is on the screen until ``stop_s``, in all windows that it reaches into."""
        self.end_s = stop_s
        start_s = max(held.start_s, self._start_s)
        if stop_s <= start_s + _EPSILON_S:
            faults.clear()
            return
        length_s = self._live.window_s
        number = math.floor((start_s + _EPSILON_S) / length_s)
        while number * length_s < stop_s - _EPSILON_S:
            if self._window is None or self._window.number < number:
                origin_s = max(start_s, number * length_s)
                self._window = _Window(number, origin_s)
            window = self._window
            for fault in faults:
                window.damage[fault] = window.damage.get(fault, 0) + 1
            faults.clear()
            is_last = stop_s >= (number + 1) * length_s - _EPSILON_S
            is_empty = is_last and not window.data and not window.num_given
            if self._is_picked(window, held.start_s, stop_s) or is_empty:
                self._add(window, held, stop_s)
            yield from self._ready(window, is_last=is_last)
            number += 1

    def _is_picked(self, window: _Window, start_s: float, stop_s: float) -> bool:
        """Whether a point of the window's grid of time falls on the frame, as in ``fps_index``."""
        end_s = (window.number + 1) * self._live.window_s
        num_points = self._point(min(end_s, stop_s) - window.origin_s)
        return max(0, self._point(start_s - window.origin_s)) < num_points

    def _point(self, elapsed_s: float) -> int:
        """The first point of the grid that is not before that time."""
        return math.ceil((elapsed_s - TOLERANCE_S) * self._fps - self._offset)

    def _add(self, window: _Window, held: Step, stop_s: float) -> None:
        if self._picture is None:
            self._picture = _Picture(self._request, self._num_sampled, held.frame)
        if not window.data:
            window.since = time.monotonic()
        window.data.append(self._picture.pixels(held.frame))
        window.pts_s.append(held.start_s)
        window.duration_s.append(stop_s - held.start_s)

    def _ready(self, window: _Window, *, is_last: bool) -> Iterator[Frames]:
        """Full chunks, what has waited for long enough, and at the window's end all."""
        num, multiple = len(window.data), self._live.multiple
        if is_last:
            if num:
                yield self._chunk(window, num)
        elif num >= self._request.chunk_frames:
            yield self._chunk(window, self._request.chunk_frames)
        elif num >= multiple and time.monotonic() - window.since >= self._live.chunk_s:
            yield self._chunk(window, num - num % multiple)

    def _chunk(self, window: _Window, num: int) -> Frames:
        chunk = Frames(
            data=torch.stack(window.data[:num]),
            pts_s=torch.tensor(window.pts_s[:num], dtype=torch.float64),
            duration_s=torch.tensor(window.duration_s[:num], dtype=torch.float64),
            first_index=window.num_given,
            source=self._source(window),
            content=None if self._picture is None else self._picture.content,
        )
        del window.data[:num], window.pts_s[:num], window.duration_s[:num]
        window.num_given += num
        window.since = time.monotonic()
        return chunk

    @property
    def _num_sampled(self) -> int:
        """Most frames of a window."""
        return math.ceil(self._live.window_s * self._fps) + 1

    def _source(self, window: _Window) -> Source:
        height, width = (0, 0) if self._picture is None else self._picture.shown_size
        damage = [f"{fault} ({n} times)" if n > 1 else fault for fault, n in window.damage.items()]
        return Source(
            path=shown_address(self._request.path),
            backend="pyav",
            codec=self._codec,
            num_frames=self.num_frames,
            duration_s=self.end_s,
            fps=self.num_frames / self.end_s if self.end_s > 0 else 0.0,
            height=height,
            width=width,
            damage="; ".join(damage),
            num_sampled=self._num_sampled,
        )


class _Picture:
    """Pixels of frames, all at the size of the first one, whatever the source changes to."""

    def __init__(self, request: DecodeRequest, num_frames: int, first: "VideoFrame") -> None:
        from av.video.reformatter import Interpolation, VideoReformatter

        self._orientation: Orientation = orientation_of(first)
        self._stored = (first.height, first.width)
        self.shown_size = self._orientation.size(first.height, first.width)
        """(height, width) as displayed."""
        self._resize: Resize | None = request.resize_of(*self.shown_size, num_frames)
        self._scaler, self._filter = VideoReformatter(), Interpolation.BILINEAR
        self.content: tuple[int, int, int, int] | None = None
        """Real pixels of a letterboxed frame."""

    def pixels(self, frame: "VideoFrame") -> Tensor:
        """[C, h, w] uint8."""
        height, width = self._stored
        rgb = self._scaler.reformat(
            frame, width=width, height=height, format="rgb24", interpolation=self._filter, threads=1
        )
        upright = self._orientation.apply(np.asarray(rgb.to_ndarray(), dtype=np.uint8))
        data_1CHW = torch.from_numpy(upright[None]).permute(0, 3, 1, 2)
        if self._resize is not None:
            data_1CHW, self.content = resize_frames(data_1CHW, self._resize)
        return data_1CHW[0]
