"""The decode process: reads requests from stdin, answers on what was its stdout.

It ignores Ctrl-C (its owner decides when it ends), and ends as soon as its owner is gone.
"""

import io
import os
import pickle
import threading
import time
import traceback
from pathlib import Path

from vidcomp.errors import ConfigError, VidcompError
from vidcomp.sample.decode import stream_frames
from vidcomp.sample.decode._fill import LentSlots
from vidcomp.sample.decode._link import Link, StoppedError
from vidcomp.sample.decode._request import DecodeRequest
from vidcomp.sample.decode._wire import Inbox, Message

__all__ = ["main"]

_WATCH_S = 2.0
# What Python, PyAV, FFmpeg and torch say when there is no more memory.
_FULL = ("allocate memory", "bad_alloc")


def main(
    pipe: io.FileIO, *, shared: int | None = None, memory_limit_bytes: int | None = None
) -> None:
    """Serves requests until ``pipe`` ends.

    Args:
        pipe: where requests come from.
        shared: inherited descriptor of the shared memory; ``None`` sends pixels over the pipe.
        memory_limit_bytes: that may be taken beyond what the libraries take; ``None``: all.
    """
    import torch

    torch.set_num_threads(1)
    _end_with_owner()
    if memory_limit_bytes is not None:
        _limit_memory(memory_limit_bytes)
    answers = io.FileIO(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print must not get among the answers
    link = Link(Inbox(pipe), answers, None if shared is None else LentSlots(shared))
    link.tell({"kind": "ready"})
    while True:
        _serve(link, link.next_request())


def _limit_memory(most_bytes: int) -> None:
    """Counts what only this process can see: shared memory has bounds of its own."""
    import resource

    status = Path("/proc/self/status").read_text()
    held = int(status.partition("VmData:")[2].split()[0]) * 1024
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    limit = held + most_bytes
    resource.setrlimit(resource.RLIMIT_DATA, (limit if hard < 0 else min(limit, hard), hard))


def _end_with_owner() -> None:
    """Ends the process when its parent changes, should it be too busy to notice stdin's end."""
    owner = os.getppid()

    def watch() -> None:
        while os.getppid() == owner:
            time.sleep(_WATCH_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _serve(link: Link, pickled: bytes) -> None:
    """Answers one request."""
    try:
        try:
            for frames in stream_frames(_load(pickled), on_progress=link.pulse, room=link.room):
                link.give(frames)
                del frames  # the next chunk is decoded while nobody needs this one
            link.tell({"kind": "end"})
        except Exception as error:  # noqa: BLE001  # all that went wrong is told to the owner
            link.tell(_error_message(error))
    except StoppedError:
        link.tell({"kind": "stopped"})
    link.tidy()


def _load(pickled: bytes) -> DecodeRequest:
    try:
        request: DecodeRequest = pickle.loads(pickled)
    except Exception as error:
        raise ConfigError(
            f"the sampler cannot be loaded in the decode process ({error}): define it in a module "
            f"that can be imported, not in a script or notebook"
        ) from error
    return request


def _error_message(error: Exception) -> Message:
    is_ours = isinstance(error, VidcompError)
    is_full = isinstance(error, MemoryError) or any(words in str(error) for words in _FULL)
    return {
        "kind": "error",
        "type": type(error).__name__,
        "is_ours": is_ours,
        "is_full": is_full,
        "text": str(error),
        "trace": "" if is_ours else traceback.format_exc(),
    }
