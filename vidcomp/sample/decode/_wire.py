"""Messages between a program and its decode process, over two pipes.

A message is a length, a JSON object, and as many raw bytes as the object's ``num_bytes`` says.
What the process sends is never unpickled and every value of it is checked: a video that takes it
over cannot reach further.
"""

import io
import json
import select
import struct
import threading
from collections.abc import Callable
from typing import Any

__all__ = ["Inbox", "Message", "SilenceError", "WireError", "send"]

Message = dict[str, Any]  # JSON

_HEAD = struct.Struct("<I")
_READ_BYTES = 1 << 16
_SMALL_BYTES = 1 << 12
_MOST_TEXT = 64 << 20  # of the times of a chunk of a million frames
_HAS_POLL = hasattr(select, "poll")


class WireError(Exception):
    """What came is no message, or not one that makes sense here."""


class SilenceError(Exception):
    """Nothing came for too long."""


def send(pipe: io.FileIO, message: Message, payload: "bytes | memoryview" = b"") -> None:
    """Writes one message; ``OSError`` if nobody reads any more."""
    text = json.dumps({**message, "num_bytes": len(payload)}).encode()
    head = _HEAD.pack(len(text)) + text
    if len(payload) < _SMALL_BYTES:  # each write may wake the reader: one is enough
        head, payload = head + payload, b""
    for data in (head, payload):
        left = memoryview(data)
        while left:  # an unbuffered pipe may take a part
            left = left[pipe.write(left) :]


class Inbox:
    """Messages out of a pipe, each waited for no longer than one likes.

    Args:
        pipe: unbuffered.
        on_silence: called where pipes cannot be polled (Windows) when nothing came for too long;
            must make the pipe end.
    """

    def __init__(self, pipe: io.FileIO, on_silence: Callable[[], None] | None = None) -> None:
        self._pipe = pipe
        self._on_silence = on_silence
        self._read = bytearray()
        self._poll = None
        if _HAS_POLL:
            self._poll = select.poll()
            self._poll.register(pipe, select.POLLIN)

    @property
    def is_ready(self) -> bool:
        """Something is there already; never so where pipes cannot be polled."""
        return bool(self._read) or (self._poll is not None and bool(self._poll.poll(0)))

    def get_ready(self) -> Message | None:
        """The next message if it is there already, as a whole; errors as of ``get``."""
        if not self._is_whole() and self._poll is not None and self._poll.poll(0):
            self._read_some(None)
        return self.get() if self._is_whole() else None

    def get(self, patience_s: float | None = None) -> Message:
        """The next message, its payload still unread.

        Raises:
            EOFError: the other end is closed.
            SilenceError: not a byte came for ``patience_s`` seconds.
            WireError: what came is no message.
        """
        (size,) = _HEAD.unpack(self.take(_HEAD.size, patience_s))
        if size > _MOST_TEXT:
            raise WireError(f"a message of {size} bytes")
        try:
            message = json.loads(self.take(size, patience_s))
        except (ValueError, RecursionError) as error:
            raise WireError(f"no JSON: {error}") from error
        if not isinstance(message, dict) or not isinstance(message.get("kind"), str):
            raise WireError("a message without a kind")
        return message

    def take(self, size: int, patience_s: float | None = None) -> bytes:
        """The next ``size`` bytes; errors as of ``get``."""
        while len(self._read) < size:
            self._read_some(patience_s)
        taken = bytes(self._read[:size])
        del self._read[:size]
        return taken

    def take_into(self, space: memoryview, patience_s: float | None = None) -> None:
        """The next bytes, as many as fill ``space``; errors as of ``get``."""
        at_hand = min(len(space), len(self._read))
        space[:at_hand] = self._read[:at_hand]
        del self._read[:at_hand]
        space = space[at_hand:]
        while space:
            space = space[self._fill(space, patience_s) :]

    def _is_whole(self) -> bool:
        if len(self._read) < _HEAD.size:
            return False
        size: int = _HEAD.unpack_from(self._read)[0]
        return len(self._read) >= _HEAD.size + size

    def _read_some(self, patience_s: float | None) -> None:
        space = bytearray(_READ_BYTES)
        count = self._fill(memoryview(space), patience_s)
        self._read += space[:count]

    def _fill(self, space: memoryview, patience_s: float | None) -> int:
        if patience_s is None:
            count = self._pipe.readinto(space)
        elif self._poll is None:
            count = self._read_watched(space, patience_s)
        elif self._poll.poll(1000 * patience_s):
            count = self._pipe.readinto(space)
        else:
            raise SilenceError
        if not count:
            raise EOFError
        return count

    def _read_watched(self, space: memoryview, patience_s: float) -> int:
        """Reads while another thread looks at the clock."""
        assert self._on_silence is not None  # noqa: S101  # told where patience ends
        is_silent = threading.Event()
        watch = [is_silent.set, self._on_silence]
        timer = threading.Timer(patience_s, lambda: [step() for step in watch])
        timer.daemon = True
        timer.start()
        try:
            count = self._pipe.readinto(space)
        finally:
            timer.cancel()
        if is_silent.is_set():
            raise SilenceError
        return count
