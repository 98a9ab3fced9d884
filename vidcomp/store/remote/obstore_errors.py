"""What obstore's exceptions mean, as OSErrors with a reason and an advice."""

import errno
import re
from types import ModuleType

from vidcomp.store.remote.errors import RemoteDeniedError, RemoteError, TransientError

__all__ = ["explain"]

# The messages are all there is: they quote the answer, and end with a dump of the error.
_STATUS = re.compile(r"\bstatus(?: code)?: (\d{3})\b")
_KIND = re.compile(r"HttpError \{\s*kind: (\w+)")
_HOST = re.compile(r"https?://([^/\s,\"?]+)")
_CODE = re.compile(r"<Code>([^<]{1,100})</Code>(?:\s*<Message>([^<]{1,300})</Message>)?")

_CONTAINERS = ("NoSuchBucket", "ContainerNotFound", "The specified bucket does not exist")
_METADATA = ("169.254.169.254", "metadata.google.internal", "/latest/api/token")
_REGION = ("PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraint")

_CREDENTIALS = (
    "check the credentials (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or those of your cloud) "
    "and what they allow"
)
_FULL = {507: errno.ENOSPC, 413: errno.EFBIG}


def explain(error: Exception, obstore: ModuleType, url: str, name: str) -> OSError:
    """The OSError to raise for an exception of obstore.

    Args:
        error: what was caught.
        obstore: the module it came from.
        url: the store's, for messages.
        name: the object's.
    """
    text = str(error)
    if any(word in text for word in _CONTAINERS):
        bucket = url.split("://", 1)[-1].split("/", 1)[0]
        return RemoteError(
            errno.ENOENT,
            f"there is no bucket {bucket!r}",
            "make the bucket, or correct the URL or the endpoint",
        )
    if isinstance(error, FileNotFoundError):
        return FileNotFoundError(errno.ENOENT, "no such object", f"{url}/{name}")
    if any(word in text for word in _METADATA):
        return RemoteDeniedError("no credentials were found", _CREDENTIALS)
    if isinstance(error, ValueError):
        return RemoteError(errno.EINVAL, f"{name!r} cannot be a name there", "correct the URL")
    status = _status(text)
    exceptions = obstore.exceptions
    denied = (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError)
    if isinstance(error, denied) or status in (401, 403, 407):
        return RemoteDeniedError(f"access denied{_said(text)}", _CREDENTIALS)
    if status in (301, 307) or any(word in text for word in _REGION) or "LOCATION" in text:
        return RemoteError(
            errno.EREMOTE,
            "the bucket lies in another region",
            "set AWS_REGION, or region in client_options",
        )
    return _explain_failure(error, exceptions, text, status)


def _explain_failure(
    error: Exception, exceptions: ModuleType, text: str, status: int | None
) -> OSError:
    """For what is neither missing nor forbidden."""
    kind = found[1] if (found := _KIND.search(text)) else None
    if kind == "Connect":
        host = found[1] if (found := _HOST.search(text)) else "the server"
        reason = f"cannot connect to {host}"
        if "dns error" in text or "lookup address" in text:
            reason += ", as its name is not known"
        return RemoteError(errno.EHOSTUNREACH, reason, "check the endpoint and the network")
    if "BadScheme" in text:
        return RemoteError(
            errno.EPROTONOSUPPORT,
            "the endpoint is http:// and not https://",
            "set allow_http=true in client_options if you trust the network",
        )
    if isinstance(error, exceptions.NotSupportedError) or status in (405, 501):
        return RemoteError(errno.ENOTSUP, f"the server cannot do that{_said(text)}", "use another")
    if status is not None and 400 <= status < 500 and status not in (408, 409, 425, 429):
        number = _FULL.get(status, errno.EIO)
        return RemoteError(
            number, f"the server refused with {status}{_said(text)}", "check the URL and options"
        )
    if status is not None:
        number = _FULL.get(status, errno.EIO)
        return TransientError(f"the server failed with {status}{_said(text)}", number)
    if kind == "Timeout" or "TimedOut" in text:
        return TransientError("the server did not answer in time", errno.ETIMEDOUT)
    return TransientError(f"the connection broke ({_first_line(text)})", errno.ECONNRESET)


def _status(text: str) -> int | None:
    found = _STATUS.search(text)
    return int(found[1]) if found else None


def _said(text: str) -> str:
    found = _CODE.search(text)
    if not found:
        return ""
    return f": {found[1]}" + (f", {found[2].rstrip('.')}" if found[2] else "")


def _first_line(text: str) -> str:
    return text.split("\n", 1)[0][:200]
