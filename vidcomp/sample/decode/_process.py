"""The owner's end of a decode process: start it, talk to it, notice when it dies or hangs."""

import json
import os
import subprocess
import sys
import tempfile
import threading
import weakref
from contextlib import suppress
from typing import Any, BinaryIO, cast

import torch

from vidcomp.errors import VidcompError
from vidcomp.sample.decode._wire import Message, receive, receive_pixels, send

__all__ = ["DecodeProcess", "GoneError"]

_START_S = 300.0
_PIPE_BYTES = 1 << 20
_STDERR_TAIL = 2000

# The search path is the program's, so that its modules (samplers) are found wherever it runs.
_BOOT = (
    "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); "
    "import faulthandler; faulthandler.enable(); "
    "import json, sys; sys.path[:] = json.loads(sys.stdin.buffer.readline()); "
    "from vidcomp.sample.decode._child import main; main()"
)


class GoneError(Exception):
    """The process has ended, by itself or because it made no progress."""

    def __init__(self, exit_code: int, is_stalled: bool, trace: str) -> None:
        super().__init__(exit_code)
        self.exit_code = exit_code
        self.is_stalled = is_stalled
        self.trace = trace
        """The end of what it wrote to stderr, such as the stack at a crash."""


class DecodeProcess:
    """A running decode process."""

    def __init__(self) -> None:
        """Starts it and does not wait until it is ready."""
        # A file without a name: nothing to clean up, and no pipe of the program is held open.
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115  # closed by end()
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        self._process = subprocess.Popen(
            [sys.executable, "-c", _BOOT],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env={**os.environ, **threads},
            bufsize=0,
        )
        # Unbuffered, so both are raw files; the library's types do not tell.
        self._requests = cast(BinaryIO, self._process.stdin)
        self._answers = cast(BinaryIO, self._process.stdout)
        self._is_ready = False
        self._is_stalled = False
        self.owner = os.getpid()
        self.num_requests = 0
        self._finalizer = weakref.finalize(
            self, _end, self._process, (self._requests, self._answers, self._stderr), self.owner
        )
        _widen(self._answers)
        with suppress(OSError):  # it ended at once: wait_ready tells
            self._requests.write(json.dumps([str(p) for p in sys.path]).encode() + b"\n")

    def wait_ready(self) -> None:
        """Until it has imported all that it needs.

        Raises:
            VidcompError: it ended instead.
        """
        if self._is_ready:
            return
        try:
            self.receive(_START_S)
        except GoneError as gone:
            last_line = gone.trace.strip().rpartition("\n")[2]
            raise VidcompError(
                f"the decode process cannot start (exit {gone.exit_code}: {last_line}): check the "
                f"installation with 'vidcomp doctor', or decode in threads"
            ) from gone
        self._is_ready = True

    def send(self, message: Message, payload: bytes = b"") -> None:
        """Hands a message over.

        Raises:
            GoneError: nobody is there to read it.
        """
        try:
            send(self._requests, message, payload)
        except OSError as error:
            raise self._gone() from error

    def receive(self, patience_s: float) -> tuple[Message, torch.Tensor | None]:
        """The next message and its pixels, if it has any; kills the process if it takes too long.

        Raises:
            GoneError: the process has ended, or has been killed for its silence.
        """
        timer = threading.Timer(patience_s, self._stall)
        timer.daemon = True
        timer.start()
        try:
            message = receive(self._answers)
            pixels = None
            if message is not None and message["num_bytes"]:
                pixels = receive_pixels(self._answers, message)
        finally:
            timer.cancel()
        if message is None or (message["num_bytes"] and pixels is None):
            raise self._gone()
        return message, pixels

    def end(self) -> None:
        """Kills it: it holds nothing worth saving."""
        self._finalizer()

    def _stall(self) -> None:
        self._is_stalled = True
        self._process.kill()

    def _gone(self) -> GoneError:
        self._process.kill()  # it may only have closed its end
        exit_code = self._process.wait()
        self._stderr.seek(0, os.SEEK_END)
        self._stderr.seek(max(0, self._stderr.tell() - _STDERR_TAIL))
        trace = self._stderr.read().decode(errors="replace")
        self.end()
        return GoneError(exit_code, self._is_stalled, trace)


def _end(process: "subprocess.Popen[bytes]", files: tuple[Any, ...], owner: int) -> None:
    """Also runs when the object is collected or the program ends; not in a forked copy of it."""
    if os.getpid() != owner:
        return
    process.kill()
    process.wait()
    for file in files:
        file.close()


def _widen(pipe: BinaryIO) -> None:
    """A larger pipe saves switches between the processes; only Linux has the call."""
    try:
        from fcntl import F_SETPIPE_SZ, fcntl

        fcntl(pipe, F_SETPIPE_SZ, _PIPE_BYTES)
    except (ImportError, OSError):  # other systems; quota of the user
        pass
