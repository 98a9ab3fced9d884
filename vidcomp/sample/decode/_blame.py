"""Whose fault it was: errors of a file out of what happened to the process that read it."""

import signal

from vidcomp import errors
from vidcomp.errors import CrashError, DecodeError, VidcompError
from vidcomp.sample.decode._process import GoneError
from vidcomp.sample.decode._request import DecodeRequest
from vidcomp.sample.decode._wire import Message

__all__ = ["death", "error_of"]

_MOST_TEXT = 4000


def death(
    request: DecodeRequest, gone: GoneError, *, stall_s: float, was_fresh: bool
) -> CrashError:
    """The error of a file over which the process has ended.

    Args:
        request: what the process was reading.
        gone: how it ended.
        stall_s: its owner's patience.
        was_fresh: it had read no other file.
    """
    error = CrashError(f"{request.path} cannot be decoded, {_story(request, gone, stall_s)}")
    error.exit_code = gone.exit_code
    error.is_stalled = gone.is_silent
    error.was_fresh = was_fresh
    if gone.trace:
        error.add_note(gone.trace)
    return error


def _story(request: DecodeRequest, gone: GoneError, stall_s: float) -> str:
    advice = f"leave the file out, or try another backend than {request.backend!r}"
    if gone.is_silent:
        return f"the decode process made no progress for {stall_s:g} s and was ended: {advice}"
    if gone.nonsense:
        return f"the decode process sent {gone.nonsense} and was ended: {advice}"
    name = _signal_name(gone.exit_code)
    if name == "SIGKILL":
        return (
            f"the decode process was killed by the system (exit {gone.exit_code}, {name}), as "
            f"happens when memory runs out: run fewer workers, or ask for smaller frames or chunks"
        )
    exit_text = f"{gone.exit_code}, {name}" if name else str(gone.exit_code)
    return f"the decode process died of it (exit {exit_text}): {advice}"


def _signal_name(exit_code: int) -> str:
    try:
        return signal.Signals(-exit_code).name if exit_code < 0 else ""
    except ValueError:
        return ""


def error_of(request: DecodeRequest, message: Message) -> VidcompError:
    """The error that the process tells, as the same class; others are errors of the file."""
    name, text, trace = (str(message.get(key))[:_MOST_TEXT] for key in ("type", "text", "trace"))
    if message.get("is_full") is True:
        error = DecodeError(
            f"{request.path} cannot be decoded in the memory that is left ({name}: {text}): raise "
            f"the limit of the process, or ask for smaller frames or chunks"
        )
    elif message.get("is_ours") is True:
        kind = getattr(errors, name) if name in errors.__all__ else DecodeError
        ours: VidcompError = kind(text)
        return ours
    else:
        error = DecodeError(
            f"{request.path} cannot be decoded ({name}: {text}): leave the file out, or report "
            f"this with the file"
        )
    error.add_note(trace)
    return error
