"""Token caches on object stores: S3, Google, Azure, HTTP, and whatever fsspec knows."""

from vidcomp.store.remote.cached import RangeCache
from vidcomp.store.remote.client import ObjectClient, ObjectInfo
from vidcomp.store.remote.errors import RemoteDeniedError, RemoteError, TransientError
from vidcomp.store.remote.files import RemoteFile
from vidcomp.store.remote.objects import ObjectStorage
from vidcomp.store.remote.staging import default_staging

__all__ = [
    "ObjectClient",
    "ObjectInfo",
    "ObjectStorage",
    "RangeCache",
    "RemoteDeniedError",
    "RemoteError",
    "RemoteFile",
    "TransientError",
    "default_staging",
]
