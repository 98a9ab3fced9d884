"""A store on an object store: the storage of manifest, index, shards, and of their writers."""

import errno
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from vidcomp.errors import ConfigError
from vidcomp.store.disk.format import Bytes
from vidcomp.store.remote.cached import RangeCache
from vidcomp.store.remote.client import ObjectClient, ObjectInfo
from vidcomp.store.remote.errors import RemoteError, TransientError
from vidcomp.store.remote.files import RemoteFile
from vidcomp.store.remote.make import make_client
from vidcomp.store.remote.retry import retry
from vidcomp.store.remote.staging import staging_folder

__all__ = ["ObjectStorage"]

_log = logging.getLogger(__name__)

_T = TypeVar("_T")

_MANIFEST = "store.json"
_IMMUTABLE = ("shards/", "deltas/", "index/")


@dataclass
class _Live:
    """What belongs to one process: connections and threads of it do not survive a fork."""

    client: ObjectClient
    cache: RangeCache | None
    seen: dict[str, ObjectInfo] = field(default_factory=dict)
    """Immutable objects that were listed."""


class ObjectStorage:
    """The files of a store below a URL.  It may be pickled, forked and used by threads.

    Credentials and endpoints are found as the cloud's own tools find them (``AWS_*`` and ``~/.aws``
    for S3); ``client_options`` come before them.

    Args:
        url: ``s3://bucket/folder``, ``gs://``, ``az://``, ``https://`` (for reading), or any other
            that fsspec knows.
        client_options: settings of the client, such as ``endpoint``, ``region``,
            ``skip_signature``, ``timeout``; what it does not know is refused.
        staging: local folder for shards that are being written, of all stores; by default the
            user's own.
        local_cache: local folder that keeps what was read; by default nothing is kept.
        local_cache_bytes: its size limit.
        retry_s: how long an operation is tried again, seconds.

    Raises:
        ConfigError: a URL or options that cannot be.
        MissingExtraError: the package that the URL needs is not installed.
    """

    is_local = False
    concurrency = 16
    """Ranges that are fetched at once: the time to the first byte is what costs."""

    def __init__(
        self,
        url: str,
        *,
        client_options: Mapping[str, str] | None = None,
        staging: str | Path | None = None,
        local_cache: str | Path | None = None,
        local_cache_bytes: int = 64 << 30,
        retry_s: float = 180.0,
    ) -> None:
        if local_cache_bytes <= 0 or retry_s <= 0:
            raise ConfigError(
                f"local_cache_bytes and retry_s are more than 0, got {local_cache_bytes} and "
                f"{retry_s}: leave local_cache out for no cache"
            )
        self._url = _checked(url)
        self._options = dict(client_options or {})
        self._staging = Path(staging).absolute() if staging else None
        self._local_cache = Path(local_cache).absolute() if local_cache else None
        self._local_cache_bytes, self._retry_s = local_cache_bytes, retry_s
        self._setup()

    def _setup(self) -> None:
        self._lives: dict[int, _Live] = {}
        self._folder = staging_folder(self._url, self._staging)

    def __getstate__(self) -> dict[str, Any]:
        left_out = ("_lives", "_folder")
        return {name: value for name, value in vars(self).items() if name not in left_out}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._setup()

    def __repr__(self) -> str:
        return f"ObjectStorage({self._url!r})"

    @property
    def path(self) -> str:
        """The URL, without a slash at its end."""
        return self._url

    @property
    def wal(self) -> Path:
        """Local folder of unfinished shards, which writers on other machines do not see."""
        return self._folder / "wal"

    def names(self, folder: str, suffix: str) -> list[str]:
        """Sorted names in a folder; none if it is not there."""
        live = self._live()
        found = self._retried(lambda: live.client.list(folder))
        for name, info in found.items():
            if info.size >= 0 and folder + "/" in _IMMUTABLE:
                live.seen[f"{folder}/{name}"] = info
        return sorted(
            name.removesuffix(suffix)
            for name in found
            if name.endswith(suffix) and not name.startswith(".")
        )

    def folders(self, folder: str) -> list[str]:
        """Sorted names of the folders in a folder; none if it is not there."""
        live = self._live()
        found = self._retried(lambda: live.client.folders(folder))
        return sorted(name for name in found if not name.startswith("."))

    def exists(self, name: str) -> bool:
        """Whether the object is there."""
        try:
            self._info(name)
        except FileNotFoundError:
            return False
        return True

    def size(self, name: str) -> int:
        """Bytes of an object."""
        return self._info(name).size

    def read(self, name: str) -> bytearray:
        """All bytes of an object; of what is immutable, from the local cache if it is there."""
        live = self._live()
        if live.cache is None or not name.startswith(_IMMUTABLE):
            return bytearray(self._get(name))
        info = live.seen.get(name) or self._info(name)
        key = live.cache.key(self._url, name, info)
        data = bytearray(max(0, info.size))
        if info.size >= 0 and live.cache.read(key, 0, [memoryview(data)]):
            return data
        data = bytearray(self._get(name))
        if len(data) == info.size:
            live.cache.write(key, 0, data)
        return data

    def open(self, name: str) -> RemoteFile:
        """An object for reading ranges of it."""
        live = self._live()
        info = live.seen.get(name) or self._info(name)
        return RemoteFile(self, name, info)

    def create(self, name: str, data: bytes | bytearray) -> bool:
        """Make an object unless it is there; whether it is the one of this call."""
        return self._retried(lambda: self._create(name, data))

    def replace(self, name: str, data: bytes | bytearray) -> None:
        """Make or replace an object."""
        self._refuse_if_read_only()
        live = self._live()
        self._retried(lambda: live.client.put(name, data))
        live.seen.pop(name, None)

    def adopt(self, name: str, path: Path) -> None:
        """Upload a finished file, see that it has arrived, and remove the local one."""
        self._refuse_if_read_only()
        self._retried(lambda: self._upload(name, path))
        path.unlink()

    def remove(self, name: str) -> None:
        """Remove an object if it is there."""
        self._refuse_if_read_only()
        live = self._live()
        self._retried(lambda: live.client.remove(name))
        live.seen.pop(name, None)

    def prepare(self) -> None:
        """Make the staging folder, and see that objects can be written.

        Raises:
            OSError: they cannot, which is better known before the work than after it.
        """
        self._refuse_if_read_only()
        self.wal.mkdir(parents=True, exist_ok=True)
        if not os.access(self.wal, os.W_OK | os.X_OK):
            raise OSError(errno.EACCES, os.strerror(errno.EACCES), str(self.wal))
        (self._folder / "url").write_text(self._url + "\n", encoding="utf-8")
        try:
            found = bytes(self._get(_MANIFEST))
        except FileNotFoundError:
            return  # the first writer is about to make it, and will see
        # A create that must fail asks for the permission and changes nothing.  Should the server
        # ignore its condition, the same bytes are written again.
        if self._retried(lambda: self._live().client.create(_MANIFEST, found)):
            _log.warning(
                "%s ignores conditions on writes: let one writer begin a store alone", self._url
            )

    def barrier(self, folder: str) -> None:
        """Nothing: what a server has acknowledged is durable."""

    def fetch(self, name: str, start: int, stop: int) -> Bytes:
        """Bytes ``start`` to ``stop`` of an object, fewer only if the object ends before.

        Raises:
            FileNotFoundError: there is none.
            OSError: they cannot be read.
        """
        return self._retried(lambda: self._fetch(name, start, stop))

    def fresh_size(self, name: str) -> int:
        """Bytes that the object has now, whatever was said of it before."""
        self._live().seen.pop(name, None)
        return self._info(name).size

    @property
    def cache(self) -> RangeCache | None:
        """The local cache, if there is one."""
        return self._live().cache

    def _live(self) -> _Live:
        live = self._lives.get(os.getpid())
        if live is None:
            # Those of a parent process are kept: their end would disturb it.
            live = self._lives[os.getpid()] = _Live(
                make_client(self._url, self._options, self._retry_s),
                RangeCache(self._local_cache, self._local_cache_bytes)
                if self._local_cache
                else None,
            )
        return live

    def _retried(self, call: Callable[[], _T]) -> _T:
        return retry(call, self._retry_s)

    def _info(self, name: str) -> ObjectInfo:
        live = self._live()
        return self._retried(lambda: live.client.info(name))

    def _get(self, name: str) -> Bytes:
        live = self._live()
        return self._retried(lambda: live.client.get(name))

    def _fetch(self, name: str, start: int, stop: int) -> Bytes:
        client = self._live().client
        data = client.get_range(name, start, stop)
        if len(data) < stop - start and client.info(name).size >= stop:
            raise TransientError(f"{len(data)} of {stop - start} bytes came", errno.ECONNRESET)
        return data

    def _create(self, name: str, data: bytes | bytearray) -> bool:
        self._refuse_if_read_only()
        if self._live().client.create(name, data):
            return True
        # An earlier try may have been stored though its answer was lost.
        return bytes(self._get(name)) == bytes(data)

    def _upload(self, name: str, path: Path) -> None:
        live = self._live()
        size = path.stat().st_size
        tag = live.client.upload(name, path)
        live.seen.pop(name, None)
        info = live.client.info(name)
        if info.size != size or (tag and info.tag and tag != info.tag):
            raise TransientError(
                f"{name} was uploaded with {size} bytes and has {info.size}, or was replaced by "
                f"another"
            )

    def _refuse_if_read_only(self) -> None:
        if urlsplit(self._url).scheme in ("http", "https"):
            raise RemoteError(
                errno.EROFS, "a store on http is for reading", "write to the folder it is served of"
            )


def _checked(url: str) -> str:
    scheme, separator, rest = url.partition("://")
    parts = rest.rstrip("/").split("/")[1:]
    if not separator or any(part in ("", ".", "..") for part in parts):
        raise ConfigError(
            f"a store's URL is scheme://bucket/folder without empty or dotted parts, got {url!r}: "
            f"correct it"
        )
    return f"{scheme.lower()}://{rest.rstrip('/')}"
