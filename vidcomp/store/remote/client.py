"""What is asked of an object store; each library that speaks to one is wrapped to answer it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from vidcomp.store.disk.format import Bytes

__all__ = ["ObjectClient", "ObjectInfo"]


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """What an object store says of an object."""

    size: int
    """Bytes."""
    tag: str
    """Changes with the content (etag, else time of the last change); empty if nothing is said."""


class ObjectClient(Protocol):
    """The objects below one URL, by names such as ``shards/x.safetensors``.

    All methods raise FileNotFoundError for an object that is not there, TransientError for what
    may work when it is tried again, RemoteError for what will not.  Objects appear whole or not
    at all.
    """

    is_exclusive: bool
    """Whether of several calls of ``create`` at once exactly one wins."""

    def info(self, name: str) -> ObjectInfo:
        """Size and tag."""

    def list(self, folder: str) -> dict[str, ObjectInfo]:
        """The objects in a folder by their names without it, those in folders below left out."""

    def folders(self, folder: str) -> set[str]:
        """Names of the folders in a folder, which hold some object."""

    def get(self, name: str) -> Bytes:
        """All bytes."""

    def get_range(self, name: str, start: int, stop: int) -> Bytes:
        """Bytes ``start`` to ``stop``, in one request; fewer if the object ends before."""

    def put(self, name: str, data: Bytes) -> None:
        """Make or replace an object."""

    def create(self, name: str, data: Bytes) -> bool:
        """Make an object unless it is there; false if it is."""

    def upload(self, name: str, path: Path) -> str:
        """Make or replace an object with a local file's bytes; its tag, empty if not said."""

    def remove(self, name: str) -> None:
        """Remove an object; one that is gone is fine."""
