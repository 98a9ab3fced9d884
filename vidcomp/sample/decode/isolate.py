"""Decoding in a process of its own, so that a file that crashes or hangs a decoder harms no other.

The process is started fresh (never forked: decoders and threads do not survive that), does not
import the program's main module, so scripts need no ``if __name__`` guard, and runs one thread.
Frames come back over a pipe, pulled chunk by chunk; the process works one chunk ahead.
"""

import os
import pickle
import signal
from collections.abc import Iterator
from typing import Literal, Self

from torch import Tensor

from vidcomp import errors
from vidcomp.errors import ConfigError, DecodeError, VidcompError
from vidcomp.sample.decode._process import DecodeProcess, GoneError
from vidcomp.sample.decode._request import DecodeRequest
from vidcomp.sample.decode._wire import Message, frames_from
from vidcomp.types import Frames

__all__ = ["DecodeWorker"]


class DecodeWorker:
    """One decode process, long-lived, replaced when it crashes, hangs or has served enough.

    Used by one thread at a time.  A worker that a fork copied starts a process of its own.
    """

    def __init__(self, *, stall_s: float = 60.0, recycle_after: int = 500) -> None:
        """Starts nothing yet.

        Args:
            stall_s: seconds without any progress after which the process is given up; however
                long a video takes, it makes progress as long as packets are decoded.
            recycle_after: requests after which a fresh process takes over, as native libraries
                lose a little memory on each file.
        """
        if not stall_s > 0 or recycle_after < 1:
            raise ConfigError(
                f"a decode worker needs stall_s > 0 and recycle_after >= 1, got {stall_s} and "
                f"{recycle_after}: change them"
            )
        self._stall_s = stall_s
        self._recycle_after = recycle_after
        self._process: DecodeProcess | None = None
        self._job = 0
        self._state: Literal["idle", "active", "stopping"] = "idle"

    def start(self) -> None:
        """Starts the process without waiting for it, to hide its start behind other work."""
        if self._process is not None and self._process.owner != os.getpid():
            self._process = None  # a fork copied it; it is not ours
        if self._process is None:
            self._process = DecodeProcess()
            self._state = "idle"

    def frames(self, request: DecodeRequest) -> Iterator[Frames]:
        """The frames of ``stream_frames(request)``, decoded in the process.

        Closing the iterator early stops the work; so does asking for another request.

        Raises:
            DecodeError: the file does not give the frames, crashes the process or hangs it.
            ConfigError: as ``stream_frames``; or the sampler cannot be pickled.
            VidcompError: the process cannot be started.
        """
        payload = _pickled(request)
        process = self._idle_process()
        self._job += 1
        job = self._job
        try:
            tick_s = min(1.0, self._stall_s / 4)
            process.send({"kind": "start", "id": job, "tick_s": tick_s}, payload)
            self._state = "active"
            while True:
                process.send({"kind": "next"})
                message, pixels = self._answer(process)
                if pixels is None:
                    break
                yield from self._lent(job, frames_from(message, pixels))
                if job != self._job:
                    raise ConfigError(
                        f"frames of {request.path} were wanted after their worker had been given "
                        f"another request: use one worker for each thread"
                    )
            self._state = "idle"
        except GoneError as gone:
            self._drop()
            raise _death(request, gone, self._stall_s) from gone
        except (KeyboardInterrupt, SystemExit, MemoryError):
            self._drop()  # perhaps in the middle of a message
            raise
        if message["kind"] == "error":
            raise _error(request, message)

    def close(self) -> None:
        """Ends the process; the worker can be used again and then starts a new one."""
        self._job += 1
        self._drop()

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
        is_old = process.num_requests >= self._recycle_after
        if is_old or not self._becomes_idle(process):
            self._drop()
            return self._idle_process()
        process.wait_ready()
        process.num_requests += 1
        return process

    def _becomes_idle(self, process: DecodeProcess) -> bool:
        """Waits until an abandoned request is over; False if the process died over it."""
        if self._state == "active":
            self._ask_to_stop()
        try:
            while self._state == "stopping":
                message, _ = process.receive(self._stall_s)
                if message["kind"] == "stopped":
                    self._state = "idle"
        except GoneError:
            return False
        return self._process is process

    def _answer(self, process: DecodeProcess) -> tuple[Message, Tensor | None]:
        while True:
            message, pixels = process.receive(self._stall_s)
            if message["kind"] != "tick":
                return message, pixels

    def _ask_to_stop(self) -> None:
        try:
            if self._process is not None:
                self._process.send({"kind": "stop"})
                self._state = "stopping"
        except GoneError:
            self._drop()

    def _drop(self) -> None:
        if self._process is not None:
            self._process.end()
        self._process = None
        self._state = "idle"


def _pickled(request: DecodeRequest) -> bytes:
    try:
        return pickle.dumps(request)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ConfigError(
            f"the request cannot be sent to the decode process ({error}): define the classes of "
            f"its sampler and its rule of sizes at the top of a module"
        ) from error


def _death(request: DecodeRequest, gone: GoneError, stall_s: float) -> DecodeError:
    if gone.is_stalled:
        what = f"made no progress for {stall_s:g} s and was ended"
    else:
        what = f"died of it (exit {gone.exit_code}{_signal_name(gone.exit_code)})"
    error = DecodeError(
        f"{request.path} cannot be decoded, the decode process {what}: leave the file out, or try "
        f"another backend than {request.backend!r}"
    )
    if gone.trace:
        error.add_note(gone.trace)
    return error


def _signal_name(exit_code: int) -> str:
    try:
        return f", {signal.Signals(-exit_code).name}" if exit_code < 0 else ""
    except ValueError:
        return ""


def _error(request: DecodeRequest, message: Message) -> VidcompError:
    """The error of the process, as the same class; others are told as errors of the file."""
    if message["is_ours"]:
        kind: type[VidcompError] = getattr(errors, message["type"], DecodeError)
        return kind(message["text"])
    error = DecodeError(
        f"{request.path} cannot be decoded ({message['type']}: {message['text']}): leave the file "
        f"out, or report this with the file"
    )
    error.add_note(message["trace"])
    return error
