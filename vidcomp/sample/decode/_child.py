"""The decode process: reads requests from stdin, answers on what was its stdout.

It decodes one chunk ahead of what was asked for and no further, ignores Ctrl-C (its owner decides
when it ends), and ends as soon as its owner is gone.
"""

import os
import pickle
import sys
import threading
import time
import traceback
from typing import Any, BinaryIO

from vidcomp.errors import ConfigError, VidcompError
from vidcomp.sample.decode import stream_frames
from vidcomp.sample.decode._request import DecodeRequest
from vidcomp.sample.decode._wire import Message, frames_message, receive, send

__all__ = ["main"]

_WATCH_S = 2.0


def main() -> None:
    """Serves requests until stdin ends."""
    import torch

    torch.set_num_threads(1)
    _end_with_owner()
    requests = sys.stdin.buffer
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what libraries print must not get among the answers
    send(answers, {"kind": "ready"})
    while (message := receive(requests)) is not None:
        if message["kind"] == "start":
            pickled = requests.read(message["num_bytes"])
            _Job(requests, answers, message).serve(pickled)


def _end_with_owner() -> None:
    """Ends the process when its parent changes, should it be too busy to notice stdin's end."""
    owner = os.getppid()

    def watch() -> None:
        while os.getppid() == owner:
            time.sleep(_WATCH_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


class _Job:
    """One request being answered."""

    def __init__(self, requests: BinaryIO, answers: BinaryIO, start: Message) -> None:
        self._requests = requests
        self._answers = answers
        self._id: int = start["id"]
        self._tick_s: float = start["tick_s"]
        self._last_tick_s = time.monotonic()

    def serve(self, pickled: bytes) -> None:
        try:
            stream = stream_frames(_load(pickled), on_progress=self._tick)
            for frames in stream:
                if not self._is_wanted():
                    stream.close()  # type: ignore[attr-defined]  # a generator
                    return
                self._answer(*frames_message(frames))
                del frames  # the next chunk is decoded while nobody needs this one
            end: Message = {"kind": "end"}
        except Exception as error:  # noqa: BLE001  # all that went wrong is told to the owner
            end = _error_message(error)
        if self._is_wanted():
            self._answer(end)

    def _is_wanted(self) -> bool:
        """Waits for the owner's next word: go on, or stop."""
        message = receive(self._requests)
        if message is None:
            sys.exit(0)
        if message["kind"] == "next":
            return True
        self._answer({"kind": "stopped"})
        return False

    def _answer(self, message: Message, payload: "bytes | memoryview" = b"") -> None:
        send(self._answers, {**message, "id": self._id}, payload)
        self._last_tick_s = time.monotonic()

    def _tick(self) -> None:
        if time.monotonic() - self._last_tick_s > self._tick_s:
            self._answer({"kind": "tick"})


def _load(pickled: bytes) -> DecodeRequest:
    try:
        request: DecodeRequest = pickle.loads(pickled)
    except Exception as error:
        raise ConfigError(
            f"the sampler cannot be loaded in the decode process ({error}): define it in a module "
            f"that can be imported, not in a script or notebook"
        ) from error
    return request


def _error_message(error: Exception) -> dict[str, Any]:
    is_ours = isinstance(error, VidcompError)
    return {
        "kind": "error",
        "type": type(error).__name__,
        "is_ours": is_ours,
        "text": str(error),
        "trace": "" if is_ours else traceback.format_exc(),
    }
