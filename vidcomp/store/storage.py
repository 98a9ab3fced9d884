"""Where the files of a store lie: in a folder, or on an object store behind a URL."""

import inspect
import re
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

__all__ = ["RangeFile", "Storage", "open_storage"]

_NAME = r"[A-Za-z][A-Za-z0-9+.-]+"  # one letter would be a drive of Windows
_URL = re.compile(f"({_NAME}::)*{_NAME}://")


class RangeFile(Protocol):
    """An open shard, of which ranges are read; safe with threads."""

    size: int
    """Bytes."""

    def fileno(self) -> int:
        """Descriptor of a local file; -1 if there is none."""

    def read_pieces(self, pieces: list[memoryview], offset: int, what: str) -> None:
        """Fill buffers one after another from ``offset`` on, in one request if possible.

        Args:
            pieces: writable buffers of bytes.
            offset: of the first byte in the file.
            what: the file's name for messages.

        Raises:
            StoreCorruptError: the file ends before they are full.
            OSError: it cannot be read.
        """

    def read(self, offset: int, nbytes: int, what: str) -> memoryview:
        """Bytes of a range, in a buffer of their own.

        Raises:
            StoreCorruptError, OSError: as for pieces.
        """

    def forget(self, offset: int, nbytes: int) -> bool:
        """Drop copies of a range that was read and found wrong; whether reading again may help."""


class Storage(Protocol):
    """The files of one store, by names such as ``shards/x.safetensors``.

    It can be pickled, and used by threads and after a fork.  Methods raise OSError when the disk
    or the network says no, FileNotFoundError for what is not there.
    """

    is_local: bool
    """Whether writers of this store all see its ``wal``."""
    concurrency: int
    """How many reads at once pay; 1 if a read waits for nothing but memory."""

    @property
    def path(self) -> Path | str:
        """The folder, or the URL, as the user named it."""

    @property
    def wal(self) -> Path:
        """Local folder of the shards that are being written, and of their journals."""

    def names(self, folder: str, suffix: str) -> list[str]:
        """Sorted names in ``folder`` that end with ``suffix``, without it; hidden ones left out."""

    def folders(self, folder: str) -> list[str]:
        """Sorted names of the folders in ``folder``; hidden ones left out."""

    def exists(self, name: str) -> bool:
        """Whether the file is there."""

    def size(self, name: str) -> int:
        """Bytes of a file."""

    def read(self, name: str) -> bytearray:
        """All bytes of a small file."""

    def open(self, name: str) -> RangeFile:
        """A file for reading ranges of it."""

    def create(self, name: str, data: bytes | bytearray) -> bool:
        """Make a file, whole and durable, unless it is there already; whether this call made it."""

    def replace(self, name: str, data: bytes | bytearray) -> None:
        """Write a file so that others see all of it or none, and that it survives a power cut."""

    def adopt(self, name: str, path: Path) -> None:
        """Make a finished local file the file ``name``; the local one is gone afterwards."""

    def remove(self, name: str) -> None:
        """Remove a file; one that is gone already is fine."""

    def prepare(self) -> None:
        """Make the folders, and see that they can be written."""

    def barrier(self, folder: str) -> None:
        """Make what was moved into ``folder`` before survive a power cut."""


def open_storage(path: "str | Path | Storage", **options: Any) -> Storage:
    """The storage at a path or URL.

    Args:
        path: a folder, ``file://...``, or the URL of an object store such as ``s3://bucket/name``;
            a storage is returned as it is.
        options: of ``ObjectStorage``; a folder takes none.

    Raises:
        MissingExtraError: what the URL's scheme needs is not installed.
        ConfigError: an unknown option.
    """
    from vidcomp.errors import ConfigError
    from vidcomp.store.local import LocalStorage

    if not isinstance(path, str | Path):
        return path
    if isinstance(path, str) and _URL.match(path) and not path.lower().startswith("file://"):
        from vidcomp.store.remote import ObjectStorage

        known = inspect.signature(ObjectStorage).parameters.keys() - {"url"}
        if unknown := options.keys() - known:
            raise ConfigError(
                f"a store at {path} has no options {sorted(unknown)}: pass some of {sorted(known)}"
            )
        return ObjectStorage(path, **options)
    if options:
        raise ConfigError(
            f"the options {sorted(options)} are for object stores, got the folder {path}: pass a "
            f"URL such as s3://bucket/name, or leave them out"
        )
    if isinstance(path, str) and path.lower().startswith("file://"):
        path = unquote(urlsplit(path).path)
    return LocalStorage(Path(path))
