"""Videos from other machines, if the server may fetch them at all.

Addresses of this machine and of its network are refused.  The name is looked up once and the
connection goes to the address that was checked, so that a second look-up cannot lead elsewhere;
every redirection is checked anew.
"""

import http.client
import io
import ipaddress
import socket
import ssl
import time
from collections.abc import Callable
from typing import BinaryIO, cast
from urllib.parse import urljoin, urlsplit

from .limits import Limits, RefusedError

__all__ = ["Fetched", "fetch", "is_public"]

_REDIRECTS = 3
_MOVED = (301, 302, 303, 307, 308)


def is_public(address: str) -> bool:
    """Whether an IP address is one of the open network."""
    known = ipaddress.ip_address(address)
    mapped = getattr(known, "ipv4_mapped", None) or getattr(known, "sixtofour", None)
    if mapped is not None:
        return is_public(str(mapped))
    return known.is_global and not known.is_multicast


class Fetched(io.RawIOBase):
    """The body of an answer, which ends when too much time or too many bytes have passed."""

    def __init__(self, answer: http.client.HTTPResponse, until_s: float, most: int) -> None:
        self._answer, self._until_s, self._left = answer, until_s, most

    def readable(self) -> bool:
        """True."""
        return True

    def read(self, size: int = -1, /) -> bytes:
        """The next bytes.

        Raises:
            RefusedError: it takes too long, is too large, or the connection broke.
        """
        if time.monotonic() > self._until_s:
            raise _refused("it took too long")
        try:
            piece = self._answer.read1(min(size, 1 << 16) if size > 0 else 1 << 16)
        except (OSError, http.client.HTTPException) as error:
            raise _refused(f"the connection broke ({type(error).__name__})") from error
        self._left -= len(piece)
        if self._left < 0:
            raise _refused("it is too large", status=413)
        return piece

    def close(self) -> None:
        """End the connection."""
        self._answer.close()
        super().close()


def fetch(
    url: str, limits: Limits, *, allowed: Callable[[str], bool] = is_public
) -> tuple[BinaryIO, str]:
    """The bytes behind a link, and the file's name in it.

    Args:
        url: of http or https.
        limits: of bytes and seconds.
        allowed: whether an address may be asked.

    Raises:
        RefusedError: another kind of link, an address that is not allowed, or no file there.
    """
    until_s = time.monotonic() + limits.fetch_s
    for _ in range(_REDIRECTS + 1):
        answer = _ask(url, until_s, allowed)
        if answer.status == 200:
            body = Fetched(answer, until_s, limits.upload_bytes)
            return cast("BinaryIO", body), urlsplit(url).path.rsplit("/", 1)[-1] or "video.mp4"
        place = answer.getheader("location")
        answer.close()
        if answer.status not in _MOVED or not place:
            raise _refused(f"the other machine answered {answer.status}")
        url = urljoin(url, place)
    raise _refused(f"it was moved more than {_REDIRECTS} times")


def _ask(url: str, until_s: float, allowed: Callable[[str], bool]) -> http.client.HTTPResponse:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError as error:
        raise _refused("that is no link") from error
    if parts.scheme not in ("http", "https") or not host or parts.username is not None:
        raise _refused("links of http and https without a user's name were wanted")
    address = _address(host, port, allowed)
    left_s = max(0.1, until_s - time.monotonic())
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    try:
        connection = _connect(parts.scheme, host, port, address, left_s)
        connection.request("GET", path, headers={"Host": parts.netloc, "User-Agent": "vidcomp"})
        return connection.getresponse()
    except (OSError, http.client.HTTPException, UnicodeError) as error:
        raise _refused(f"there is no connection ({type(error).__name__})") from error


def _address(host: str, port: int, allowed: Callable[[str], bool]) -> str:
    """The first address of a name, if all of them are allowed."""
    try:
        found = [
            str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        ]
    except (OSError, UnicodeError) as error:
        raise _refused("its machine has no address") from error
    if not found or not all(allowed(address.partition("%")[0]) for address in found):
        raise _refused("addresses of private networks are not asked")
    return found[0]


def _connect(
    scheme: str, host: str, port: int, address: str, left_s: float
) -> http.client.HTTPConnection:
    connection = http.client.HTTPConnection(host, port, timeout=left_s)
    plain = socket.create_connection((address, port), timeout=left_s)
    connection.sock = plain
    if scheme == "https":
        connection.sock = ssl.create_default_context().wrap_socket(plain, server_hostname=host)
    return connection


def _refused(reason: str, status: int = 400) -> RefusedError:
    return RefusedError(
        f"the video behind the link cannot be fetched: {reason}; upload it instead",
        status=status,
        code="invalid_url",
        param="messages",
    )
