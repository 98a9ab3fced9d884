"""Opening what has no end yet: growing files, named pipes and addresses that somebody named.

Addresses are opened with the protocols of their own scheme only, none of which reaches a file.
"""

import os
import select
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol
from urllib.parse import urlsplit, urlunsplit

from vidcomp.errors import DecodeError
from vidcomp.sample.decode._inputs import FORMATS
from vidcomp.sample.decode._request import Live

if TYPE_CHECKING:
    from av.container import InputContainer

__all__ = ["LIVE_SCHEMES", "Feed", "Source", "is_address", "open_live", "shown_address"]

_PROTOCOLS = {
    "rtsp": "rtsp,rtp,tcp,udp",
    "rtsps": "rtsp,rtsps,rtp,tcp,tls,udp",
    "rtmp": "rtmp,tcp",
    "rtmps": "rtmps,tcp,tls",
    "srt": "srt",
    "udp": "udp",
    "tcp": "tcp",
    "http": "http,tcp",
    "https": "http,https,tcp,tls",
}
LIVE_SCHEMES = tuple(sorted(_PROTOCOLS))
"""Schemes of the addresses that can be followed; each has to be in FFmpeg's build."""

_LOOK_S = 0.1
"""How often a file is asked whether it has grown."""
_OPTIONS = {"rtsp": {"rtsp_transport": "tcp"}, "rtsps": {"rtsp_transport": "tcp"}}
_FORMATS = f"{FORMATS},rtsp,mpjpeg"

Pulse = Callable[[], None]


class Feed(Protocol):
    """Bytes that come in time, for FFmpeg to read."""

    is_whole: bool
    """Reading ended because there is no more, not because something failed."""

    def read(self, size: int) -> bytes:
        """At most ``size`` bytes; empty at the end."""

    def close(self) -> None:
        """Gives the file back."""


class Source(NamedTuple):
    """What is being followed."""

    container: "InputContainer"
    feed: Feed | None
    """Of a file or a pipe; FFmpeg reads addresses itself."""

    @property
    def is_address(self) -> bool:
        """Whether it ends when the connection does, and not when there is no more to come."""
        return self.feed is None

    def close(self) -> None:
        """Gives everything back."""
        self.container.close()
        if self.feed is not None:
            self.feed.close()


def is_address(path: str) -> bool:
    """Whether that is an address rather than a file.

    Raises:
        DecodeError: an address of a kind that cannot be followed.
    """
    scheme, found, _ = path.partition("://")
    if not found or os.path.lexists(path):
        return False
    if scheme.lower() not in _PROTOCOLS:
        raise DecodeError(
            f"{scheme}:// cannot be followed: pass a file, a named pipe, or an address that "
            f"starts with {', '.join(LIVE_SCHEMES)}"
        )
    return True


def shown_address(path: str) -> str:
    """An address without the name and the password in it."""
    if "@" not in path or "://" not in path:
        return path
    parts = urlsplit(path)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def open_live(
    path: str, live: Live, max_pixels: int, pulse: Pulse, is_over: Callable[[], bool]
) -> Source:
    """The open source.

    Args:
        path: address, named pipe or file.
        live: how long to wait for what.
        max_pixels: refuse larger frames.
        pulse: called when bytes of a file or a pipe come.
        is_over: whether a file or a pipe need not be waited for any more.

    Raises:
        DecodeError: nothing is there, or nothing that can be read as it comes.
    """
    import av

    name = shown_address(path)
    options = {"format_whitelist": _FORMATS, "max_pixels": str(max_pixels)}
    feed: Feed | None = None
    try:
        if is_address(path):
            scheme = path.partition("://")[0].lower()
            options |= {"protocol_whitelist": _PROTOCOLS[scheme], **_OPTIONS.get(scheme, {})}
            patience = (live.patience_s, live.patience_s)
            return Source(av.open(path, "r", options=options, timeout=patience), None)
        feed = _open_feed(path, live, pulse, is_over)
        return Source(av.open(feed, "r", options=options), feed)
    except (av.FFmpegError, ValueError, OSError) as error:
        if feed is not None:
            feed.close()
        reason = getattr(error, "strerror", None) or str(error)
        hint = "check that it is there and that it sends"
        if feed is not None:
            hint = (
                "a file that is being written has to be MPEG-TS, Matroska or fragmented MP4, as an "
                "ordinary MP4 can only be read once it is complete"
            )
        raise DecodeError(f"{name} cannot be followed ({reason}): {hint}") from error


def _open_feed(path: str, live: Live, pulse: Pulse, is_over: Callable[[], bool]) -> Feed:
    try:
        is_pipe = stat.S_ISFIFO(Path(path).stat().st_mode)
        return (_Pipe if is_pipe else _Growing)(path, live, pulse, is_over)
    except OSError as error:
        raise DecodeError(
            f"{path} cannot be opened to be followed ({error.strerror}): check the path"
        ) from error


class _Growing:
    """A file that somebody else is writing; it ends when it has not grown for a while."""

    def __init__(self, path: str, live: Live, pulse: Pulse, is_over: Callable[[], bool]) -> None:
        self._is_over = is_over
        self._file = Path(path).open("rb", buffering=0)  # noqa: SIM115  # closed by its owner
        self._idle_s, self._pulse = live.idle_s, pulse
        self.is_whole = False

    def read(self, size: int) -> bytes:
        """See ``Feed``; waits for more."""
        if self.is_whole:  # FFmpeg asks more than once, and must not wait each time
            return b""
        patient_until = time.monotonic() + self._idle_s
        while not (data := self._file.read(size)):
            if self._is_over() or time.monotonic() > patient_until:
                self.is_whole = True
                return b""
            time.sleep(_LOOK_S)
        self._pulse()
        return data

    def close(self) -> None:
        """See ``Feed``."""
        self._file.close()


class _Pipe:
    """A named pipe; it ends when its writer closes it."""

    def __init__(self, path: str, live: Live, pulse: Pulse, is_over: Callable[[], bool]) -> None:
        # Opening must not wait for a writer: the wait has an end.
        self._pipe = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        self._poll = select.poll()
        self._poll.register(self._pipe, select.POLLIN)
        self._patience_s, self._pulse, self._is_over = live.patience_s, pulse, is_over
        self._has_begun = self._has_ended = self.is_whole = False

    def read(self, size: int) -> bytes:
        """See ``Feed``; waits for more."""
        if self._has_ended:
            return b""
        patient_until = time.monotonic() + self._patience_s
        while not self._is_over() and time.monotonic() < patient_until:
            if self._poll.poll(1000 * _LOOK_S) and (data := self._take(size)) is not None:
                if data:
                    self._has_begun = True
                    self._pulse()
                    return data
                if self._has_begun:
                    self.is_whole = self._has_ended = True
                    return b""
                time.sleep(_LOOK_S)  # nobody has opened the other end yet
        self._has_ended = True
        return b""

    def _take(self, size: int) -> bytes | None:
        try:
            return os.read(self._pipe, size)
        except BlockingIOError:
            return None

    def close(self) -> None:
        """See ``Feed``."""
        os.close(self._pipe)
