"""The program as its decode process knows it: what it wants, what it was given, where pixels go.

The process works ahead of what was asked for as far as there is shared memory for it, and one chunk
where there is none.
"""

import io
import math
import sys
import time

import torch
from torch import Tensor

from vidcomp.sample.decode._chunks import chunk_message, pixel_bytes
from vidcomp.sample.decode._fill import LentSlots
from vidcomp.sample.decode._memory import SLOT_BYTES
from vidcomp.sample.decode._wire import Inbox, Message, SilenceError, send
from vidcomp.types import Frames

__all__ = ["Link", "StoppedError"]

# Seldom enough to cost nothing, often enough that who closes a stream early does not wait.
_LOOK_S = 0.02
_IDLE_S = 10.0
# Pixels that may wait for the program, unless it waits for them.
_AHEAD_BYTES = 128 << 20
# How much of what a request filled is kept for the next: memory that is at hand is faster.
_KEPT = 2
_LEAST_KEPT = 1 << 20


class StoppedError(BaseException):
    """The program wants no more; no ``Exception``, as decoding code must not catch it."""


class Link:
    """Both pipes, the shared memory, and the state of the current request.

    All methods raise ``SystemExit`` when the program is gone.
    """

    def __init__(self, inbox: Inbox, answers: io.FileIO, slots: LentSlots | None) -> None:
        self._inbox = inbox
        self._answers = answers
        self._slots = slots
        self._start: Message = {"id": None, "tick_s": 1.0}
        self._given: list[int] = []  # bytes of each chunk
        self._wanted = 0  # chunks that the program has asked for
        self._last_word_s = self._last_look_s = time.monotonic()

    def next_request(self) -> bytes:
        """Waits for a pickled request; gives memory back if none comes."""
        while True:
            try:
                message = self._get(_IDLE_S if self._slots else None)
                self._heed(message)
            except SilenceError:
                self._trim(0)
            except StoppedError:  # the request was answered already
                self.tell({"kind": "stopped"})
            else:
                if message["kind"] == "start":
                    self._start, self._given, self._wanted = message, [], 1
                    return self._get_payload(message)

    def room(self, shape: tuple[int, int, int, int]) -> Tensor:
        """Memory for a chunk of a shape [T, H, W, C]: a slot if there is room, so that it stays."""
        num_bytes = math.prod(shape)
        self._look()
        if self._slots is not None and self._may_fill(num_bytes):
            return self._slots.reserve(num_bytes).view(shape)
        return torch.empty(shape, dtype=torch.uint8)

    def give(self, frames: Frames) -> None:
        """Hands a chunk over as soon as there is room.

        Raises:
            StoppedError: it is not wanted any more.
        """
        message, pixels = chunk_message(frames)
        num_bytes = pixels.numel()
        self._look()
        is_placed = self._slots is not None and self._slots.holds(pixels)
        while not (is_placed or self._is_waited_for or self._may_fill(num_bytes)):
            self._heed(self._get())
        if self._slots is not None and (is_placed or self._may_fill(num_bytes)):
            self.tell({**message, "slot": self._slots.send(pixels)})
        else:
            self.tell(message, pixel_bytes(pixels.contiguous()))
        self._given.append(num_bytes)

    def pulse(self) -> None:
        """Called often while work goes on; ``StoppedError`` as ``give``."""
        now_s = time.monotonic()
        if now_s - self._last_look_s > _LOOK_S:
            self._last_look_s = now_s
            self._look()
        if now_s - self._last_word_s > self._start["tick_s"]:
            self.tell({"kind": "tick"})

    def tell(self, message: Message, payload: "bytes | memoryview" = b"") -> None:
        """Sends a message about the current request."""
        try:
            send(self._answers, {**message, "id": self._start["id"]}, payload)
        except OSError:
            sys.exit(0)
        self._last_word_s = time.monotonic()

    def tidy(self) -> None:
        """Keeps no more memory than the next request is likely to need."""
        self._trim(max([_LEAST_KEPT, *(_KEPT * size for size in self._given)]))

    @property
    def _is_waited_for(self) -> bool:
        return len(self._given) < self._wanted

    def _may_fill(self, num_bytes: int) -> bool:
        """A slot is free, and what lies ahead of the program stays within bounds."""
        if self._slots is None or num_bytes > SLOT_BYTES or not self._slots.has_free:
            return False
        ahead_bytes = sum(self._given[self._wanted :]) + self._slots.reserved_bytes
        return not ahead_bytes or ahead_bytes + num_bytes <= _AHEAD_BYTES

    def _look(self) -> None:
        while self._inbox.is_ready:
            self._heed(self._get())

    def _heed(self, message: Message) -> None:
        if self._slots is not None:
            self._slots.add_free(message.get("free", ()))
        if message["kind"] == "next":
            self._wanted = message["wanted"]
        elif message["kind"] == "stop":
            raise StoppedError

    def _get(self, patience_s: float | None = None) -> Message:
        try:
            return self._inbox.get(patience_s)
        except EOFError:
            sys.exit(0)

    def _get_payload(self, message: Message) -> bytes:
        try:
            return self._inbox.take(message["num_bytes"])
        except EOFError:
            sys.exit(0)

    def _trim(self, most_bytes: int) -> None:
        if self._slots is not None:
            self._slots.trim(most_bytes)
