"""The owner's end of a decode process: start it, talk to it, notice when it dies or hangs."""

import io
import json
import math
import os
import subprocess
import sys
import tempfile
import threading
import weakref
from contextlib import suppress
from typing import IO, Any, cast

import torch

from vidcomp.errors import VidcompError
from vidcomp.sample.decode._chunks import frames_from, pixel_bytes, shape_of
from vidcomp.sample.decode._request import DecodeRequest
from vidcomp.sample.decode._slots import OwnSlots, SlotError, open_slots
from vidcomp.sample.decode._wire import Inbox, Message, SilenceError, WireError, send
from vidcomp.types import Frames

__all__ = ["DecodeProcess", "GoneError"]

_START_S = 300.0
_DYING_S = 5.0
_WAKE_S = 2.0
_PIPE_BYTES = 1 << 20
_STDERR_TAIL = 2000
_LAST_KINDS = {"end", "error", "stopped"}
_KINDS = {"frames", "ready", "tick", *_LAST_KINDS}

# The search path is the program's, so that its modules (samplers) are found wherever it runs.
# Read without a buffer, as what follows the line are messages.
_BOOT = (
    "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); "
    "import faulthandler; faulthandler.enable(); "
    "import json, sys; pipe = open(0, 'rb', buffering=0, closefd=False); "
    "settings = json.loads(pipe.readline()); sys.path[:] = settings.pop('path'); "
    "from vidcomp.sample.decode._child import main; main(pipe, **settings)"
)


class GoneError(Exception):
    """The process has ended, by itself or because it made no progress."""

    def __init__(self, exit_code: int, trace: str, *, is_silent: bool, nonsense: str) -> None:
        super().__init__(exit_code)
        self.exit_code = exit_code
        """As of ``subprocess``: minus the signal that ended it."""
        self.is_silent = is_silent
        """Ended by its owner, as nothing came from it."""
        self.nonsense = nonsense
        """What it sent, if it was ended for that; else empty."""
        self.trace = trace
        """The end of what it wrote to stderr over this request, such as the stack at a crash."""


class DecodeProcess:
    """A running decode process."""

    def __init__(self, memory_limit_bytes: int | None = None) -> None:
        """Starts it and does not wait until it is ready.

        Raises:
            VidcompError: the system does not start any more processes.
        """
        # A file without a name: nothing to clean up, and no pipe of the program is held open.
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115  # closed by end()
        self._slots = open_slots()
        shared = () if self._slots is None else (self._slots.file,)
        try:
            self._process = _spawn(self._stderr, shared)
        except OSError as error:
            self._stderr.close()
            if self._slots is not None:
                self._slots.close()
            raise VidcompError(
                f"the decode process cannot be started ({error}): run fewer workers, raise the "
                f"limits of the system, or decode in threads"
            ) from error
        # Unbuffered, so both are raw files; the library's types do not tell.
        self._requests = cast(io.FileIO, self._process.stdin)
        self._answers = cast(io.FileIO, self._process.stdout)
        self._inbox = Inbox(self._answers, self._process.kill)
        self._pipes_in_use = threading.Lock()  # another thread may end the process meanwhile
        self._early: Message | None = None  # a message that came before it was waited for
        self._is_ready = False
        self._told_bytes = 0  # of stderr, before this request
        self.owner = os.getpid()
        self.num_requests = 0
        self._finalizer = weakref.finalize(
            self,
            _end,
            self._process,
            (self._requests, self._answers, self._stderr),
            self._slots,
            self._pipes_in_use,
            self.owner,
        )
        _widen(self._answers)
        settings = {
            "path": [str(p) for p in sys.path],
            "shared": shared[0] if shared else None,
            "memory_limit_bytes": memory_limit_bytes,
        }
        with suppress(OSError):  # it ended at once: wait_ready tells
            self._requests.write(json.dumps(settings).encode() + b"\n")

    @property
    def is_worn(self) -> bool:
        """It can serve on, but not without copies."""
        return self._slots is not None and self._slots.is_worn

    @property
    def has_ended(self) -> bool:
        """It was ready once and is there no more, such as killed while it was idle."""
        return self._is_ready and self._process.poll() is not None

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

    def begin(self, job: int, tick_s: float, pickled: bytes) -> None:
        """Asks for the first chunk of a request.

        Raises:
            GoneError: nobody is there to read it.
        """
        self.num_requests += 1
        self._told_bytes = os.fstat(self._stderr.fileno()).st_size
        self._send({"kind": "start", "id": job, "tick_s": tick_s, "free": self._free()}, pickled)

    def ask(self, num_chunks: int) -> None:
        """Asks for so many chunks in all; ``GoneError`` as ``receive``."""
        try:
            with self._pipes_in_use:
                self._early = self._inbox.get_ready()
        except (EOFError, OSError, ValueError, WireError) as error:
            raise self._gone(error) from error
        if self._early is not None and self._early["kind"] in _LAST_KINDS:
            return  # there are no more
        self._send({"kind": "next", "wanted": num_chunks, "free": self._free()})

    def stop(self) -> None:
        """Asks for no more; answered by ``stopped``.  ``GoneError`` as ``begin``."""
        self._send({"kind": "stop"})

    def receive(self, patience_s: float) -> Message:
        """The next message; kills the process if it takes too long.

        Raises:
            GoneError: the process has ended, or has been killed for its silence or its talk.
        """
        try:
            with self._pipes_in_use:
                message, self._early = self._early or self._inbox.get(patience_s), None
            if message["kind"] not in _KINDS:
                raise WireError("an unknown message")
            if self._slots is not None and message["kind"] in _LAST_KINDS:
                self._slots.rest()
            return message
        except (EOFError, OSError, SilenceError, ValueError, WireError) as error:
            raise self._gone(error) from error

    def frames_of(self, message: Message, request: DecodeRequest, patience_s: float) -> Frames:
        """The chunk that a message announces.

        Raises:
            GoneError: as ``receive``; the process sent what makes no sense.
        """
        try:
            shape = shape_of(message, request)
            num_bytes = math.prod(shape)
            if self._slots is not None and message.get("slot") is not None:
                pixels = self._slots.take(message["slot"], num_bytes)
            elif message.get("num_bytes") == num_bytes:
                pixels = torch.empty(num_bytes, dtype=torch.uint8)
                with self._pipes_in_use:
                    self._inbox.take_into(pixel_bytes(pixels), patience_s)
            else:
                raise WireError("a chunk without its pixels")
            return frames_from(message, pixels.view(shape))
        except (EOFError, OSError, SilenceError, ValueError, WireError, SlotError) as error:
            raise self._gone(error) from error

    def discard(self, message: Message) -> None:
        """Lets go of what a message announces; ``GoneError`` as ``receive``."""
        try:
            if message.get("num_bytes") != 0:
                raise WireError("pixels that nobody asked for")
            if self._slots is not None and message.get("slot") is not None:
                self._slots.put_back(message["slot"])
        except (SlotError, WireError) as error:
            raise self._gone(error) from error

    def end(self) -> None:
        """Kills it: it holds nothing worth saving."""
        self._finalizer()

    def _free(self) -> list[int]:
        return [] if self._slots is None else self._slots.free()

    def _send(self, message: Message, payload: bytes = b"") -> None:
        try:
            with self._pipes_in_use:
                send(self._requests, message, payload)
        except (OSError, ValueError) as error:  # nobody reads; closed
            raise self._gone(error) from error

    def _gone(self, error: Exception) -> GoneError:
        """Makes sure that it has ended, and tells how it did."""
        is_silent = isinstance(error, SilenceError)
        nonsense = str(error) if isinstance(error, WireError | SlotError) else ""
        if not (is_silent or nonsense):
            try:  # what died has closed its end a little before it can be waited for
                self._process.wait(_DYING_S)
            except subprocess.TimeoutExpired:
                nonsense = "no more"
        self._process.kill()
        exit_code = self._process.wait()
        gone = GoneError(exit_code, self._trace(), is_silent=is_silent, nonsense=nonsense)
        self.end()
        return gone

    def _trace(self) -> str:
        if self._stderr.closed:
            return ""
        end = self._stderr.seek(0, os.SEEK_END)
        self._stderr.seek(max(self._told_bytes, end - _STDERR_TAIL))
        return self._stderr.read().decode(errors="replace")


def _spawn(stderr: IO[bytes], shared: tuple[int, ...]) -> "subprocess.Popen[bytes]":
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    return subprocess.Popen(
        [sys.executable, "-c", _BOOT],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        env={**os.environ, **threads},
        bufsize=0,
        pass_fds=shared,
    )


def _end(
    process: "subprocess.Popen[bytes]",
    files: tuple[Any, ...],
    slots: OwnSlots | None,
    in_use: threading.Lock,
    owner: int,
) -> None:
    """Also runs when the object is collected or the program ends; not in a forked copy of it."""
    if os.getpid() != owner:
        return
    process.kill()
    process.wait()
    # A thread that waits for the process is woken by its end.  Were the pipe closed before, the
    # thread might wait for whatever file gets the number next.
    is_free = in_use.acquire(timeout=_WAKE_S)
    for file in files:
        file.close()
    if slots is not None:
        slots.close()
    if is_free:
        in_use.release()


def _widen(pipe: io.FileIO) -> None:
    """A larger pipe saves switches between the processes; only Linux has the call."""
    try:
        from fcntl import F_SETPIPE_SZ, fcntl

        fcntl(pipe, F_SETPIPE_SZ, _PIPE_BYTES)
    except (ImportError, OSError):  # other systems; quota of the user
        pass
