"""One machine's engine, video by video: readers, a queue bounded by bytes, an encoder, a writer.

Exact for this model: each reader takes the next video as soon as it is free; a video enters the
queue when it is decoded and there is room, else its reader waits; the encoder takes videos in that
order, one at a time, and a video leaves the queue when its encoding begins; the writer follows the
encoder.  Simplified: all videos have as many frames; one is handed on whole, so that a long one
does not encode while it decodes; a batch of several costs what they cost alone; while readers wait
for room, one with a broken file takes the video after theirs.
"""

import math
from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush, heapreplace

__all__ = ["Actor", "Work"]

Work = tuple[float, float, int, int]
"""Seconds of decoding and of encoding, bytes of pixels, number of the video; once it is begun the
first is when its decoding ends."""

_State = tuple[
    list[float], list[Work], deque[Work], deque[tuple[float, int]], int, float, float, int
]


@dataclass(slots=True, eq=False)
class Actor:
    """The state of one engine, advanced from event to event.

    Args:
        num_readers: videos decoded at once.
        queue_bytes: pixels that may wait for the encoder; one video may always.
        write_s: of one record.
    """

    num_readers: int
    queue_bytes: int
    write_s: float
    idle: list[float] = field(default_factory=list)
    """Since when each idle reader is."""
    busy: list[Work] = field(default_factory=list)
    """Heap of videos in readers."""
    inbox: deque[Work] = field(default_factory=deque)
    """Videos that are not begun."""
    times: list[float] = field(default_factory=list)
    """When videos leave the pipeline, rising, of those that nobody has taken note of."""
    done: list[int] = field(default_factory=list)
    """Which they are."""
    _waiting: deque[tuple[float, int]] = field(default_factory=deque)
    """When the encoder takes each video of the queue, and its bytes; past ones may remain."""
    _held: int = 0
    """Bytes in it."""
    _encoder_s: float = 0.0
    """When the encoder is free."""
    _writer_s: float = 0.0
    """When the writer is free."""
    _before: _State | None = None
    """The state before the future was looked at."""

    def start(self, at_s: float) -> None:
        """A fresh process, all readers idle."""
        self.idle, self.busy, self.inbox = [at_s] * self.num_readers, [], deque()
        self.times, self.done, self._waiting = [], [], deque()
        self._held, self._encoder_s, self._writer_s, self._before = 0, at_s, at_s, None

    def give(self, work: Sequence[Work], at_s: float) -> None:
        """More videos; the state must be that of ``at_s``."""
        self.inbox.extend(work)
        while self.idle and self.inbox:
            free = heappop(self.idle)
            decode, encode, size, video = self.inbox.popleft()
            heappush(self.busy, (max(free, at_s) + decode, encode, size, video))

    def num_held(self, now: float) -> int:
        """Videos that it has been given and that have not left the pipeline by then."""
        there = len(self.inbox) + len(self.busy) + len(self.times)
        return there - bisect_right(self.times, now)

    def foresee(self, count: int) -> float:
        """When the ``count``-th of the held videos leaves, if nothing else is given until then.

        Follow it by ``keep`` when that moment has come, or by ``rewind`` before.
        """
        if count > len(self.times):
            self._before = (
                [*self.idle],
                [*self.busy],
                self.inbox.copy(),
                self._waiting.copy(),
                self._held,
                self._encoder_s,
                self._writer_s,
                len(self.times),
            )
            self._run(math.inf, count)
        return self.times[count - 1]

    def keep(self) -> None:
        """What was foreseen has come."""
        self._before = None

    def rewind(self, now: float) -> None:
        """The state of ``now``: what was foreseen for later is undone."""
        if self._before is not None:
            (
                self.idle,
                self.busy,
                self.inbox,
                self._waiting,
                self._held,
                self._encoder_s,
                self._writer_s,
                number,
            ) = self._before
            del self.times[number:], self.done[number:]
            self._before = None
        self._run(now, 1 << 62)

    def taken(self, now: float) -> tuple[list[float], list[int]]:
        """Times and numbers of videos that have left by then, each once."""
        number = bisect_right(self.times, now)
        found = self.times[:number], self.done[:number]
        del self.times[:number], self.done[:number]
        return found

    def _run(self, until_s: float, count: int) -> None:
        """Take videos through the pipeline whose decoding ends by then, until so many are done."""
        busy, inbox, waiting, idle = self.busy, self.inbox, self._waiting, self.idle
        times, done, limit, write_s = self.times, self.done, self.queue_bytes, self.write_s
        encoder, writer, held = self._encoder_s, self._writer_s, self._held
        while busy and busy[0][0] <= until_s and len(times) < count:
            free, work, nbytes, video = busy[0]
            if nbytes:
                while waiting and held + nbytes > limit:
                    taken, room = waiting.popleft()
                    held -= room
                    if taken > free:
                        free = taken
                if free > encoder:
                    encoder = free
                waiting.append((encoder, nbytes))
                held += nbytes
                encoder += work
                writer = (encoder if encoder > writer else writer) + write_s
                times.append(writer)
            else:  # broken: told when the encoder comes to it
                if free > encoder:
                    encoder = free
                if encoder > writer:
                    writer = encoder
                times.append(writer)
            done.append(video)
            if inbox:
                decode, encode, size, new = inbox.popleft()
                heapreplace(busy, (free + decode, encode, size, new))
            else:
                heappop(busy)
                heappush(idle, free)
        self._encoder_s, self._writer_s, self._held = encoder, writer, held
