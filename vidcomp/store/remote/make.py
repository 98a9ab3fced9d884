"""Which library speaks to which URL."""

import importlib.util
from collections.abc import Mapping

from vidcomp.store.remote.client import ObjectClient
from vidcomp.store.remote.fsspec_client import FsspecClient
from vidcomp.store.remote.obstore_client import OBSTORE_SCHEMES, ObstoreClient

__all__ = ["make_client"]


def make_client(url: str, options: Mapping[str, str], retry_s: float) -> ObjectClient:
    """A client of this process for the objects below ``url``: obstore where it can, else fsspec.

    Args:
        url: without a slash at its end.
        options: of the client.
        retry_s: how long it tries again, seconds; fsspec's file systems have limits of their own.

    Raises:
        MissingExtraError: neither is installed with what the URL needs.
        ConfigError: an unknown scheme or option.
    """
    if url.split("://", 1)[0] in OBSTORE_SCHEMES and importlib.util.find_spec("obstore"):
        return ObstoreClient(url, options, retry_s)
    return FsspecClient(url, options)
