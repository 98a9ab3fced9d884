"""Everything else that fsspec knows: Hugging Face, SFTP, HDFS, memory, chains such as cache::x."""

import errno
import importlib
import inspect
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from vidcomp.errors import ConfigError, MissingExtraError
from vidcomp.store.disk.format import Bytes
from vidcomp.store.files import TEMPORARY
from vidcomp.store.remote.client import ObjectInfo
from vidcomp.store.remote.errors import RemoteDeniedError, RemoteError, TransientError

__all__ = ["FsspecClient"]

_WHOLE = frozenset(("memory", "s3", "s3a", "gs", "gcs", "az", "abfs", "adl", "hf", "oss", "oci"))
"""Where a written object is seen whole or not at all; elsewhere it is renamed when complete."""

_EXCLUSIVE = frozenset(("memory", "s3", "s3a", "gs", "gcs"))
"""Where creating is one step; elsewhere two writers that begin a store at once may both win."""

_TRANSIENT = frozenset(
    (
        *(errno.ETIMEDOUT, errno.ECONNRESET, errno.EPIPE, errno.ECONNABORTED, errno.EAGAIN),
        *(errno.EIO, errno.EBUSY, errno.ENETUNREACH, errno.ENETRESET, errno.ESTALE),
    )
)


class FsspecClient:
    """The objects below a URL.  It belongs to the process that made it.

    Args:
        url: of the store.
        options: what the file system takes (its ``storage_options``).

    Raises:
        MissingExtraError: the file system's package is not installed.
        ConfigError: an unknown scheme, or options that do not fit.
    """

    def __init__(self, url: str, options: Mapping[str, str]) -> None:
        self._url = url
        self._fs, self._root = _open(url, options)
        names = self._fs.protocol
        protocols = {names} if isinstance(names, str) else set(names)
        self._is_whole = bool(protocols & _WHOLE)
        self._has_mode = "mode" in inspect.signature(self._fs.pipe_file).parameters
        self.is_exclusive = self._has_mode and bool(protocols & _EXCLUSIVE)

    def info(self, name: str) -> ObjectInfo:
        """Size and tag."""
        with self._explained(name):
            self._fs.invalidate_cache()  # listings are remembered, also of what was not there
            return _info(self._fs.info(self._path(name)))

    def list(self, folder: str) -> dict[str, ObjectInfo]:
        """The objects in a folder."""
        files = (one for one in self._listed(folder) if one.get("type") != "directory")
        return {_last(one): _info(one) for one in files}

    def folders(self, folder: str) -> set[str]:
        """Names of the folders in a folder."""
        return {_last(one) for one in self._listed(folder) if one.get("type") == "directory"}

    def get(self, name: str) -> Bytes:
        """All bytes."""
        with self._explained(name):
            return memoryview(self._fs.cat_file(self._path(name)))

    def get_range(self, name: str, start: int, stop: int) -> Bytes:
        """Bytes ``start`` to ``stop``."""
        with self._explained(name):
            return memoryview(self._fs.cat_file(self._path(name), start=start, end=stop))

    def put(self, name: str, data: Bytes) -> None:
        """Make or replace an object."""
        with self._explained(name), self._finished(name) as path:
            self._fs.pipe_file(path, bytes(data))

    def create(self, name: str, data: Bytes) -> bool:
        """Make an object unless it is there: in one step where the file system can."""
        with self._explained(name):
            if self.is_exclusive:
                try:
                    self._fs.pipe_file(self._path(name), bytes(data), mode="create")
                except FileExistsError:
                    return False
                return True
            self._fs.invalidate_cache()
            if self._fs.exists(self._path(name)):
                return False
        self.put(name, data)
        return True

    def upload(self, name: str, path: Path) -> str:
        """Make or replace an object with a local file's bytes."""
        with self._explained(name), self._finished(name) as target:
            self._fs.put_file(str(path), target)
        return ""

    def remove(self, name: str) -> None:
        """Remove an object if it is there."""
        with suppress(FileNotFoundError), self._explained(name):
            self._fs.rm_file(self._path(name))

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    @contextmanager
    def _finished(self, name: str) -> Iterator[str]:
        """A path to write to, which becomes ``name`` when all is written."""
        target = self._path(name)
        if self._is_whole:
            yield target
            return
        folder = target.rsplit("/", 1)[0]
        self._fs.makedirs(folder, exist_ok=True)
        temporary = f"{folder}/{TEMPORARY}{uuid.uuid4().hex}"
        try:
            yield temporary
            self._fs.mv(temporary, target)
        except BaseException:
            with suppress(Exception):  # whatever the first error was, it is the one to report
                self._fs.rm_file(temporary)
            raise

    def _listed(self, folder: str) -> Sequence[Mapping[str, Any]]:
        try:
            with self._explained(folder):
                self._fs.invalidate_cache()
                found: Sequence[Mapping[str, Any]] = self._fs.ls(self._path(folder), detail=True)
        except FileNotFoundError:
            return []
        return found

    @contextmanager
    def _explained(self, name: str) -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, FileExistsError, RemoteError):
            raise
        except PermissionError as error:
            raise RemoteDeniedError(
                f"access denied: {error}", "check the credentials and what they allow"
            ) from error
        except OSError as error:
            if error.errno is None or error.errno in _TRANSIENT:
                raise TransientError(str(error), error.errno or errno.EIO) from error
            raise
        except Exception as error:  # file systems of others raise what they like
            raise TransientError(
                f"{type(error).__name__} for {self._url}/{name}: {error}"
            ) from error


def _open(url: str, options: Mapping[str, str]) -> tuple[Any, str]:
    try:
        core = importlib.import_module("fsspec.core")
        fs, root = core.url_to_fs(url, **options)
    except ImportError as error:
        raise MissingExtraError(
            f"{url} needs a package that is not installed ({error}): pip install 'vidcomp[s3]' for "
            f"S3, Google and Azure, else what is named there"
        ) from error
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"{url} cannot be opened ({error}): correct the URL or the client_options "
            f"{sorted(options)}"
        ) from error
    return fs, str(root).rstrip("/")


def _last(entry: Mapping[str, Any]) -> str:
    return str(entry["name"]).rstrip("/").rsplit("/", 1)[-1]


def _info(found: Mapping[str, Any]) -> ObjectInfo:
    names = ("ETag", "etag", "e_tag", "version_id", "mtime", "LastModified", "updated", "created")
    tag = next((str(found[name]) for name in names if found.get(name)), "")
    size = found.get("size")
    return ObjectInfo(-1 if size is None else int(size), tag)
