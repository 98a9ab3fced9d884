"""Decoded frames of a source without an end, with times that never go back.

A thread of its own waits for bytes, so that whoever takes the frames can do something else when
none come: hand on what there is, or stop.
"""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import TYPE_CHECKING, NamedTuple, Self

from vidcomp.sample.decode._inputs import Place
from vidcomp.sample.decode._live_open import Pulse, Source, open_live, shown_address
from vidcomp.sample.decode._open import pick_stream
from vidcomp.sample.decode._request import DecodeRequest, Live

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

__all__ = ["Decoder", "LostError", "Step"]

_AHEAD = 4
"""Frames that may wait to be taken."""
_LOOK_S = 0.2
_MAX_GAP_S = 10.0
"""A clock that runs ahead of the real one by more than this was set."""


class LostError(Exception):
    """The source ended although more was to come."""


class Step(NamedTuple):
    """A frame, its time, and what went wrong before it."""

    frame: "VideoFrame"
    start_s: float
    faults: list[str]
    codec: str


class Decoder:
    """Follows one source; leaving the ``with`` block lets go of it."""

    def __init__(self, request: DecodeRequest, live: Live) -> None:
        self._request, self._live = request, live
        self._steps: queue.Queue[Step | None] = queue.Queue(_AHEAD)
        self._is_over = threading.Event()
        self._num_signs = 0  # of life: packets, and bytes of files and pipes
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.faults: list[str] = []
        """What went wrong after the last frame."""
        self.shown_s = 0.0
        """How long the last frame is shown."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        # The thread closes what it has opened: nobody else knows when FFmpeg is done with it.
        self._is_over.set()
        self._thread.join(timeout=2)

    def steps(self, pulse: Pulse) -> Iterator[Step | None]:
        """Frames as they come; ``None`` now and then while none does.

        Args:
            pulse: called when there are signs of life.

        Raises:
            LostError: reading failed, or a connection ended.
            DecodeError: the source cannot be opened.
        """
        seen = 0
        while True:
            if seen != self._num_signs:
                seen = self._num_signs
                pulse()
            try:
                step = self._steps.get(timeout=_LOOK_S)
            except queue.Empty:
                yield None
                continue
            if step is None:
                break
            yield step
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            limit = self._request.limits.max_pixels
            opened = open_live(
                self._request.path, self._live, limit, self._sign, self._is_over.is_set
            )
            try:
                name = shown_address(self._request.path)
                stream = pick_stream(opened.container, Place(name, self._request.path, None), limit)
                self._decode(opened, stream)
            finally:
                opened.close()
        except Exception as error:  # noqa: BLE001  # raised again where frames are taken
            self._error = error
        self._put(None)

    def _decode(self, opened: Source, stream: "VideoStream") -> None:
        clock = _Clock(opened, stream, self._live)
        frames = _Frames(opened, stream, self._sign)
        for frame in frames:
            start_s, jump_s = clock.time(frame)
            if jump_s:
                frames.faults.append(f"times jump by {jump_s:.3f} s")
            self.shown_s = clock.shown_s(frame)
            faults, frames.faults = frames.faults, []
            if not self._put(Step(frame, start_s, faults, stream.codec_context.name)):
                return
        self.faults = frames.faults
        if frames.lost:
            raise LostError(frames.lost)

    def _put(self, step: Step | None) -> bool:
        """Whether it was put where frames are taken before nobody wanted any more."""
        while not self._is_over.is_set():
            try:
                self._steps.put(step, timeout=_LOOK_S)
            except queue.Full:
                continue
            return True
        return False

    def _sign(self) -> None:
        self._num_signs += 1


class _Frames:
    """Whole frames in order; afterwards ``lost`` tells whether there should have been more."""

    def __init__(self, opened: Source, stream: "VideoStream", sign: Callable[[], None]) -> None:
        self._opened, self._stream, self._sign = opened, stream, sign
        self._has_begun = False
        self.faults: list[str] = []
        """What went wrong since somebody last emptied this."""
        self.lost = ""

    def __iter__(self) -> "Iterator[VideoFrame]":
        import av

        container: InputContainer = self._opened.container
        try:
            for packet in container.demux(self._stream):
                self._sign()
                for frame in self._decoded(packet):
                    self._has_begun = True
                    yield frame
            self.lost = self._why_lost()
        except (av.FFmpegError, OSError) as error:
            yield from self._rest()
            self.lost = f"reading failed ({getattr(error, 'strerror', None) or error})"

    def _why_lost(self) -> str:
        feed, container = self._opened.feed, self._opened.container
        if feed is not None:
            return "" if feed.is_whole else "nothing more came"
        # An address that promised so many bytes was a recording, and no broadcast.
        is_complete = container.format.name != "rtsp" and container.size > 0
        return "" if is_complete else "the connection was closed"

    def _decoded(self, packet: "Packet[VideoStream]") -> "list[VideoFrame]":
        import av

        if not packet.size and packet.dts is not None:
            return []  # an empty packet would tell the decoder that the video ends
        try:
            frames = packet.decode()
        except av.FFmpegError as error:
            self._note(error.strerror or str(error))
            return []
        if any(frame.is_corrupt for frame in frames):
            self._note("the decoder marks a frame as corrupt")
        return [frame for frame in frames if not frame.is_corrupt]

    def _rest(self) -> "list[VideoFrame]":
        """What the decoder still holds."""
        import av

        try:
            return [f for f in self._stream.codec_context.decode(None) if not f.is_corrupt]
        except av.FFmpegError:
            return []

    def _note(self, fault: str) -> None:
        # Whoever joins in the middle gets packets that refer to what was sent before.
        if self._has_begun:
            self.faults.append(fault)


class _Clock:
    """Times of frames as they come."""

    def __init__(self, opened: Source, stream: "VideoStream", live: Live) -> None:
        rate = stream.average_rate or stream.guessed_rate or Fraction(25)
        self._gap_s = float(1 / rate)  # usual time between frames
        self._unit_s = float(stream.time_base or Fraction(1, 1000))
        self._is_address = opened.is_address
        self._origin_s = live.origin_s if opened.is_address else 0.0
        self._offset_s: float | None = None
        self._last_s = 0.0
        self._seen_at: float | None = None

    def shown_s(self, frame: "VideoFrame") -> float:
        """How long the last frame is shown."""
        return (frame.duration or 0) * self._unit_s or self._gap_s

    def time(self, frame: "VideoFrame") -> tuple[float, float]:
        """When the frame is shown, and by how much the source's own clock has jumped."""
        now = time.monotonic()
        due_s, jump_s = self._last_s + self._gap_s, 0.0
        if self._seen_at is None:
            due_s = self._last_s = self._origin_s
        if frame.pts is None or self._offset_s is None:
            # The first frames of a camera may come without times: they count from the first that
            # has one.
            if frame.pts is not None:
                self._offset_s = due_s - frame.pts * self._unit_s
            self._last_s, self._seen_at = due_s, now
            return due_s, 0.0
        time_s = frame.pts * self._unit_s + self._offset_s
        step_s = time_s - self._last_s
        elapsed_s = now - (self._seen_at or now)
        is_ahead = self._is_address and step_s > elapsed_s + _MAX_GAP_S
        if step_s <= 0 or is_ahead:
            self._offset_s += due_s - time_s
            time_s, jump_s = due_s, step_s or -self._gap_s
        elif step_s < 1:
            self._gap_s += 0.1 * (step_s - self._gap_s)
        self._last_s, self._seen_at = time_s, now
        return time_s, jump_s
