"""Decoding in a process of its own, so that a file that crashes or hangs a decoder harms no other.

The process is started fresh (never forked: decoders and threads do not survive that), does not
import the program's main module, so scripts need no ``if __name__`` guard, and runs one thread.
On Linux, frames come back in shared memory and the process works ahead as far as there is room in
it; elsewhere over a pipe, with one chunk ahead.
"""

import os
import pickle
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Literal, Self

from vidcomp.errors import ConfigError, VidcompError
from vidcomp.sample.decode._blame import death, error_of
from vidcomp.sample.decode._process import DecodeProcess, GoneError
from vidcomp.sample.decode._request import DecodeRequest
from vidcomp.sample.decode._wire import Message
from vidcomp.types import Frames

__all__ = ["DecodeWorker"]

# About as long as a process takes to start on a busy machine: so long before one is due to be
# replaced its successor is started, so that nobody waits for it.
_AHEAD_S = 6.0
# A process that does not let go of an abandoned file is replaced, which takes about as long.
_LET_GO_S = 5.0


class DecodeWorker:
    """One decode process, long-lived, replaced when it crashes, hangs or has served enough.

    Used by one thread at a time.  A worker that a fork copied starts a process of its own.
    """

    def __init__(
        self,
        *,
        stall_s: float = 60.0,
        recycle_after: int = 2000,
        memory_limit_bytes: int | None = None,
    ) -> None:
        """Starts nothing yet.

        Args:
            stall_s: seconds without any progress after which the process is given up; however
                long a video takes, it makes progress as long as packets are decoded.  Time in
                which nobody waits for frames does not count.
            recycle_after: requests after which a fresh process takes over, as native libraries
                lose a little memory on each file.
            memory_limit_bytes: that the process may take on top of what it starts with, frames it
                hands over not counted; a file that needs more is an error of that file (Linux
                only).  ``None``: as much as there is.

        Raises:
            ConfigError: settings that cannot be.
        """
        if not stall_s > 0 or recycle_after < 1:
            raise ConfigError(
                f"a decode worker needs stall_s > 0 and recycle_after >= 1, got {stall_s} and "
                f"{recycle_after}: change them"
            )
        _check_limit(memory_limit_bytes)
        self._stall_s = stall_s
        self._recycle_after = recycle_after
        self._memory_limit_bytes = memory_limit_bytes
        self._process: DecodeProcess | None = None
        self._successor: DecodeProcess | None = None
        self._since_s = 0.0
        """When the process got its first request."""
        self._job = 0
        self._state: Literal["idle", "active", "stopping"] = "idle"

    def start(self) -> None:
        """Starts the process without waiting for it, to hide its start behind other work."""
        if self._process is not None and self._process.owner != os.getpid():
            self._process = self._successor = None  # a fork copied them; they are not ours
        if self._process is None:
            ready, self._successor = self._successor, None
            self._process = ready or DecodeProcess(self._memory_limit_bytes)
            self._state = "idle"

    def frames(self, request: DecodeRequest) -> Iterator[Frames]:
        """The frames of ``stream_frames(request)``, decoded in the process.

        Their pixels may lie in memory that the process fills again once the last reference to them
        is gone; keeping them is safe, and makes later ones be copied.  Closing the iterator early
        stops the work; so does asking for another request.

        Raises:
            CrashError: the file crashes the process or hangs it.
            DecodeError: the file does not give the frames.
            ConfigError: as ``stream_frames``; or the sampler cannot be pickled.
            VidcompError: the process cannot be started.
        """
        payload = _pickled(request)
        process = self._idle_process()
        self._job += 1
        job = self._job
        try:
            process.begin(job, min(1.0, self._stall_s / 4), payload)
            self._state = "active"
            num_chunks = 1
            message = self._answer(process)
            while message["kind"] == "frames":
                yield from self._lent(job, process.frames_of(message, request, self._stall_s))
                if job != self._job:
                    raise _outdated(request)
                num_chunks += 1
                process.ask(num_chunks)
                message = self._answer(process)
            self._state = "idle"
        except GoneError as gone:
            if job != self._job:  # ended by whoever closed the worker
                raise _outdated(request) from gone
            self._drop()
            raise death(
                request, gone, stall_s=self._stall_s, was_fresh=process.num_requests == 1
            ) from gone
        except (KeyboardInterrupt, SystemExit, MemoryError):
            self._drop()  # perhaps in the middle of a message
            raise
        if message["kind"] == "error":
            raise error_of(request, message)

    def close(self) -> None:
        """Ends the process; frames stay valid, and the worker can be used again."""
        self._job += 1
        self._drop()
        if self._successor is not None:
            self._successor.end()
        self._successor = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _lent(self, job: int, frames: Frames) -> Iterator[Frames]:
        """Hands frames out; if the receiver wants no more, the process is told."""
        try:
            yield frames
        except GeneratorExit:
            if job == self._job:
                self._ask_to_stop()
            raise

    def _idle_process(self) -> DecodeProcess:
        """A process that waits for a request."""
        self.start()
        process = self._process
        assert process is not None  # noqa: S101  # just started
        is_old = process.num_requests >= self._recycle_after or process.is_worn
        if is_old or process.has_ended or not self._becomes_idle(process):
            self._drop()
            return self._idle_process()
        process.wait_ready()
        self._provide_successor(process)
        return process

    def _provide_successor(self, process: DecodeProcess) -> None:
        """Starts it when the process is about to be replaced."""
        now_s = time.monotonic()
        if process.num_requests == 0:
            self._since_s = now_s
            return
        each_s = (now_s - self._since_s) / process.num_requests
        num_left = self._recycle_after - process.num_requests
        # Not in the first half, though requests are quick: there may be few.
        is_near = num_left <= self._recycle_after // 2 and num_left * each_s < _AHEAD_S
        if self._successor is None and is_near:
            with suppress(VidcompError):  # told when there is no other
                self._successor = DecodeProcess(self._memory_limit_bytes)

    def _becomes_idle(self, process: DecodeProcess) -> bool:
        """Waits until an abandoned request is over; False if the process died over it."""
        if self._state == "active":
            self._ask_to_stop()
        try:
            while self._state == "stopping":
                message = process.receive(min(self._stall_s, _LET_GO_S))
                process.discard(message)
                if message["kind"] == "stopped":
                    self._state = "idle"
        except GoneError:
            return False
        return self._process is process

    def _answer(self, process: DecodeProcess) -> Message:
        """The next message about the current request that is more than a sign of life."""
        while True:
            message = process.receive(self._stall_s)
            if message.get("id") == self._job and message["kind"] != "tick":
                return message
            process.discard(message)

    def _ask_to_stop(self) -> None:
        try:
            if self._process is not None:
                self._process.stop()
                self._state = "stopping"
        except GoneError:
            self._drop()

    def _drop(self) -> None:
        if self._process is not None:
            self._process.end()
        self._process = None
        self._state = "idle"


def _outdated(request: DecodeRequest) -> ConfigError:
    return ConfigError(
        f"frames of {request.path} were wanted after their worker had been closed or given another "
        f"request: use one worker for each thread"
    )


def _check_limit(memory_limit_bytes: int | None) -> None:
    if memory_limit_bytes is None:
        return
    if sys.platform != "linux" or memory_limit_bytes < 1:
        raise ConfigError(
            f"the memory of a decode worker can be limited on Linux, to at least 1 byte, got "
            f"{memory_limit_bytes} on {sys.platform}: leave memory_limit_bytes out or change it"
        )


def _pickled(request: DecodeRequest) -> bytes:
    try:
        return pickle.dumps(request)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ConfigError(
            f"the request cannot be sent to the decode process ({error}): define the classes of "
            f"its sampler and its rule of sizes at the top of a module"
        ) from error
