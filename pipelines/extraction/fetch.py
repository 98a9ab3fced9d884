"""Videos on object stores: listed, recognised, and copied to this machine while they are read.

Decoders seek, and the native ones know only files.  A copy has no name where the system allows
that (Linux), so that nothing is left of it however the run ends; it lies in the system's folder for
temporary files (``TMPDIR``).  What ``http(s)://`` names is read by FFmpeg itself; only its identity
is asked for here.
"""

import fnmatch
import glob
import os
import re
import shutil
import tempfile
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from email.utils import parsedate_to_datetime
from functools import lru_cache, partial
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from vidcomp.data.matching import VIDEO_SUFFIX
from vidcomp.errors import ConfigError, DecodeError, VidcompError
from vidcomp.sample.decode import DecodeRequest
from vidcomp.store import SourceId
from vidcomp.store.files import AdvisedError
from vidcomp.types import Frames

__all__ = ["fetched", "frames_of", "is_object", "list_objects", "remote_id"]

_SCHEMES = frozenset(
    (
        *("s3", "s3a", "gs", "gcs", "az", "adl", "azure", "abfs", "abfss"),
        *("hf", "hdfs", "memory", "sftp"),
    )
)
_BUCKET_PARTS = {"s3": 1, "s3a": 1, "gs": 1, "gcs": 1}
"""Parts of a URL that name the store itself; two elsewhere: account and container."""
_PIECE = 8 << 20
_RETRY_S = 180.0
_LISTERS = 16
_HEAD_S = 5.0
_MOST_REFUSALS = 8
"""Of a web server that does not answer HEAD in time; then it is asked no more."""


def is_object(path: str) -> bool:
    """Whether ``path`` is the URL of an object that has to be copied before it is read."""
    scheme, separator, _ = path.partition("://")
    return bool(separator) and scheme.lower() in _SCHEMES


@contextmanager
def fetched(path: str, is_wanted: Callable[[], bool] = lambda: True) -> Iterator[str]:
    """A local file with the bytes of ``path``, gone when the block ends; other paths as they are.

    It is copied piece by piece: memory does not grow with its size.

    Args:
        path: of a video.
        is_wanted: asked between pieces; the copy is given up when it says no.

    Raises:
        DecodeError: the object cannot be read, changed while it was copied, or does not fit on
            the disk.
        MissingExtraError: the package for such a URL is not installed.
    """
    if not is_object(path):
        yield path
        return
    with _temporary() as (file, place):
        try:
            _copy(path, file, is_wanted)
        except OSError as error:
            raise DecodeError(_sentence(f"fetch {path}", error)) from error
        yield place


def frames_of(
    request: DecodeRequest,
    read: Callable[[DecodeRequest], Iterator[Frames]],
    is_wanted: Callable[[], bool],
) -> Iterator[Frames]:
    """The frames of a request, read from a copy if it is for an object; they and errors tell of
    the object.

    Args:
        request: for a file, an address or an object.
        read: gives the frames of a file.
        is_wanted: as of ``fetched``.

    Raises:
        DecodeError: as ``read`` does, or the object cannot be fetched.
    """
    if not is_object(request.path):
        yield from read(request)
        return
    with fetched(request.path, is_wanted) as place:
        try:
            # No name may hold on to frames here: their memory is the reader's, who waits for it.
            yield from map(partial(_renamed, request.path), read(replace(request, path=place)))
        except VidcompError as error:
            error.args = (str(error).replace(place, request.path), *error.args[1:])
            raise


def _renamed(path: str, frames: Frames) -> Frames:
    source = frames.source
    return frames if source is None else replace(frames, source=replace(source, path=path))


def remote_id(path: str) -> SourceId | None:
    """What tells whether an object, or a file on a web server, changed: size and etag, or time.

    Returns:
        ``None`` if nobody says, or there is none (reading it will say so).
    """
    if is_object(path):
        try:
            client, name = _client_of(path)
            return _identity(_retried(lambda: client.info(name)))
        except OSError:
            return None
    if path.lower().startswith(("http://", "https://")):
        return _web_id(path)
    return None


def list_objects(url: str) -> Iterator[tuple[str, str, SourceId | None]]:
    """The videos below a folder of an object store, or those that match a pattern, sorted.

    Args:
        url: a folder, or one with ``*``, ``?``, ``[...]`` or ``**`` after the bucket; a single
            object is listed as itself, whatever its name.

    Yields:
        URL, name within the folder (for a pattern: within its part without magic), identity.

    Raises:
        ConfigError: it cannot be listed.
        MissingExtraError: the package for such a URL is not installed.
    """
    try:
        client, name = _client_of(url)
        if not glob.has_magic(name) and name and not name.endswith("/"):
            info = _info(client, name)
            if info is not None or _is_video(name):  # reading one that is not there says so
                yield url, url.partition("://")[2], None if info is None else _identity(info)
                return
        folder = _fixed_part(name)
        pattern = _pattern(name) if glob.has_magic(name) else None
        found = _walk(client, folder.rstrip("/"))
    except OSError as error:
        raise ConfigError(_sentence(f"list {url}", error)) from error
    base = url.removesuffix(name).rstrip("/") + "/"
    for key in sorted(found):
        is_meant = _is_video(key) if pattern is None else bool(pattern.fullmatch(key))
        if is_meant:
            yield f"{base}{key}", key.removeprefix(folder), _identity(found[key])


def _client_of(url: str) -> tuple[Any, str]:
    """A client of the store that ``url`` lies in, and the rest of the URL."""
    scheme, _, rest = url.partition("://")
    count = _BUCKET_PARTS.get(scheme.lower(), 2)
    parts = rest.split("/", count)
    base, name = "/".join(parts[:count]), parts[count] if len(parts) > count else ""
    if not name and count == 2:
        base, _, name = rest.partition("/")
    return _client(f"{scheme.lower()}://{base}", os.getpid()), name


def _info(client: Any, name: str) -> Any:
    """What is said of an object; ``None`` if there is none."""
    try:
        return _retried(lambda: client.info(name))
    except FileNotFoundError:
        return None


@lru_cache(maxsize=64)
def _client(base: str, _: int) -> Any:
    """One for each process and store: connections do not survive a fork."""
    from vidcomp.store.remote.make import make_client

    return make_client(base, {}, _RETRY_S)


def _retried(call: Callable[[], Any]) -> Any:
    from vidcomp.store.remote.retry import retry

    return retry(call, _RETRY_S)


def _copy(url: str, file: IO[bytes], is_wanted: Callable[[], bool]) -> None:
    client, name = _client_of(url)
    before = _retried(lambda: client.info(name))
    room = shutil.disk_usage(tempfile.gettempdir()).free
    if before.size > room:
        raise DecodeError(
            f"{url} has {before.size} bytes and {tempfile.gettempdir()} room for {room}: set "
            f"TMPDIR to a folder on a larger disk"
        )
    for start in range(0, before.size, _PIECE):
        stop = min(start + _PIECE, before.size)
        data = _retried(partial(client.get_range, name, start, stop))
        if len(data) != stop - start or not is_wanted():
            raise DecodeError(f"{url} was not copied to its end: run again")
        file.write(data)
    file.flush()
    after = _retried(lambda: client.info(name))
    if after != before:
        raise DecodeError(f"{url} changed while it was copied: run again")


@contextmanager
def _temporary() -> Iterator[tuple[IO[bytes], str]]:
    """A file to write to, and a path under which other processes of the user read it."""
    if (fd := _nameless()) is not None:
        with os.fdopen(fd, "wb") as file:
            yield file, f"/proc/{os.getpid()}/fd/{fd}"
        return
    with tempfile.NamedTemporaryFile(prefix="vidcomp-", suffix=".video", delete=False) as file:
        try:
            yield file, file.name
        finally:
            with suppress(OSError):
                Path(file.name).unlink()


def _nameless() -> int | None:
    """Descriptor of a new file without a name; ``None`` where there is no such thing."""
    flags = getattr(os, "O_TMPFILE", 0)
    if not flags or not Path("/proc/self/fd").exists():
        return None
    try:
        return os.open(tempfile.gettempdir(), flags | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError:  # not every file system has them
        return None


def _walk(client: Any, folder: str) -> dict[str, Any]:
    """Every object below a folder by its name, hidden ones left out."""
    found: dict[str, Any] = {}
    level = [folder]

    def look(at: str) -> tuple[str, dict[str, Any], set[str]]:
        return at, _retried(lambda: client.list(at)), _retried(lambda: client.folders(at))

    with ThreadPoolExecutor(_LISTERS) as pool:
        while level:
            below = []
            for at, objects, folders in pool.map(look, level):
                before = f"{at}/" if at else ""
                found |= {before + n: i for n, i in objects.items() if not n.startswith(".")}
                below += [before + n for n in sorted(folders) if not n.startswith(".")]
            level = below
    return found


def _is_video(name: str) -> bool:
    return bool(VIDEO_SUFFIX.fullmatch(os.path.splitext(name)[1]))  # noqa: PTH122  # no path


def _fixed_part(name: str) -> str:
    """The folders before the first one with magic in its name, with a slash at the end."""
    if not glob.has_magic(name):
        return f"{name.rstrip('/')}/" if name else ""
    parts = name.split("/")
    first = next(i for i, part in enumerate(parts) if glob.has_magic(part))
    return "".join(f"{part}/" for part in parts[:first])


def _pattern(name: str) -> re.Pattern[str]:
    """A glob as an expression; ``*`` stays within a folder, ``**`` does not."""
    text = ""
    for piece in re.split(r"(\*\*/|\*\*|\*|\?|\[!?[^\]]+\])", name):
        known = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}.get(piece)
        if known is None and piece.startswith("[") and piece.endswith("]"):
            whole = fnmatch.translate(piece)  # which knows what a set may not hold
            known = whole[: whole.rindex(")") + 1]
        text += re.escape(piece) if known is None else known
    return re.compile(text, re.DOTALL)


def _identity(info: Any) -> SourceId | None:
    if info.size < 0:
        return None
    return SourceId(size=info.size, mtime_ns=0, content=f"tag:{info.tag}" if info.tag else "")


def _sentence(wanted: str, error: OSError) -> str:
    if isinstance(error, AdvisedError):
        return f"cannot {wanted} ({error.strerror}): {error.advice}"
    if isinstance(error, FileNotFoundError):
        return f"cannot {wanted}, as there is no such object: check the URL"
    return f"cannot {wanted} ({error.strerror or error}): check the disk and the network"


_refusals: Counter[str] = Counter()


def _web_id(url: str) -> SourceId | None:
    """What a web server says of a file by HEAD; whatever goes wrong, nothing is known."""
    host = urlsplit(url).netloc
    if _refusals[host] >= _MOST_REFUSALS:
        return None
    try:
        request = urllib.request.Request(url, method="HEAD")
        with urllib.request.urlopen(request, timeout=_HEAD_S) as answer:
            said = answer.headers
            size, tag = int(said["Content-Length"]), said["ETag"]
            changed = said["Last-Modified"]
            _refusals[host] = 0
        time_ns = int(parsedate_to_datetime(changed).timestamp()) * 10**9 if changed else 0
        strong = tag if tag and not tag.startswith("W/") else ""
        return SourceId(size=size, mtime_ns=time_ns, content=f"tag:{strong}" if strong else "")
    except (OSError, ValueError, TypeError) as error:
        _refusals[host] += not hasattr(error, "code")  # an answer of any kind is quick
        return None
