"""Object stores through obstore: S3 and what speaks like it, Google, Azure, plain HTTP."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from vidcomp.errors import ConfigError
from vidcomp.store.disk.format import Bytes
from vidcomp.store.remote.client import ObjectInfo
from vidcomp.store.remote.credentials import aws_defaults
from vidcomp.store.remote.errors import RemoteError
from vidcomp.store.remote.http_listing import list_folders, list_page
from vidcomp.store.remote.obstore_errors import explain
from vidcomp.store.remote.obstore_module import load_obstore

__all__ = ["OBSTORE_SCHEMES", "ObstoreClient"]

OBSTORE_SCHEMES = frozenset(
    ("s3", "s3a", "gs", "az", "adl", "azure", "abfs", "abfss", "http", "https")
)
"""Beginnings of URLs that obstore knows."""

_HTTP_OPTIONS = frozenset(
    (
        *("allow_http", "allow_invalid_certificates", "connect_timeout", "default_content_type"),
        *("default_headers", "http1_only", "http2_keep_alive_interval"),
        *("http2_keep_alive_timeout", "http2_keep_alive_while_idle", "http2_only"),
        *("pool_idle_timeout", "pool_max_idle_per_host", "proxy_url", "proxy_ca_certificate"),
        *("proxy_excludes", "root_certificate", "randomize_addresses", "read_timeout"),
        *("timeout", "user_agent"),
    )
)
# A request may take long if it moves: what stands still ends it.
_HTTP_DEFAULTS = {"connect_timeout": "5s", "read_timeout": "60s", "timeout": "300s"}
_MULTIPART_BYTES = 16 << 20
_CHUNK_BYTES = 8 << 20
_MOST_CHUNKS = 9_000
_UPLOADS = 8


class ObstoreClient:
    """The objects below a URL.  It belongs to the process that made it.

    Args:
        url: of the store.
        options: settings of obstore: of the store (``endpoint``, ``region``, ``access_key_id``,
            ``skip_signature`` ...) and of its HTTP client (``timeout``, ``proxy_url`` ...).
        retry_s: how long requests are tried again, seconds.

    Raises:
        ConfigError: an unknown option, or a URL that cannot be one.
        RemoteDeniedError: there are no credentials.
    """

    is_exclusive = True

    def __init__(self, url: str, options: Mapping[str, str], retry_s: float) -> None:
        self._obstore = load_obstore()
        self._url = url
        self._is_http = urlsplit(url).scheme.lower() in ("http", "https")
        exceptions = self._obstore.exceptions
        self._errors = (exceptions.BaseError, FileNotFoundError, PermissionError, ValueError)
        self._store = self._make(url, options, _retries(retry_s))
        self._has_pages = False
        self._lister = self._store
        if self._is_http:  # a server that cannot list says so with a status that looks transient
            self._lister = self._make(url, options, {"max_retries": 0})

    def info(self, name: str) -> ObjectInfo:
        """Size and tag, by a HEAD."""
        with self._explained(name):
            return _info(self._obstore.head(self._store, name))

    def list(self, folder: str) -> dict[str, ObjectInfo]:
        """The objects in a folder; on plain HTTP, those that the server's page links to."""
        found = self._listed(folder)
        if found is None:
            return list_page(self._page(folder), self._url)
        return {meta["path"].rsplit("/", 1)[-1]: _info(meta) for meta in found.get("objects", ())}

    def folders(self, folder: str) -> set[str]:
        """Names of the folders in a folder; on plain HTTP, those that its page links to."""
        found = self._listed(folder)
        if found is None:
            return list_folders(self._page(folder), self._url)
        return {path.rstrip("/").rsplit("/", 1)[-1] for path in found.get("common_prefixes", ())}

    def get(self, name: str) -> Bytes:
        """All bytes."""
        with self._explained(name):
            return memoryview(self._obstore.get(self._store, name).bytes())

    def get_range(self, name: str, start: int, stop: int) -> Bytes:
        """Bytes ``start`` to ``stop``."""
        with self._explained(name):
            return memoryview(self._obstore.get_range(self._store, name, start=start, end=stop))

    def put(self, name: str, data: Bytes) -> None:
        """Make or replace an object."""
        with self._explained(name):
            self._obstore.put(
                self._store,
                name,
                memoryview(data),
                use_multipart=len(data) > _MULTIPART_BYTES,
                chunk_size=_CHUNK_BYTES,
                max_concurrency=_UPLOADS,
            )

    def create(self, name: str, data: Bytes) -> bool:
        """Make an object by a PUT that is refused if there is one."""
        try:
            with self._explained(name):
                self._obstore.put(self._store, name, memoryview(data), mode="create")
        except FileExistsError:
            return False
        return True

    def upload(self, name: str, path: Path) -> str:
        """Make or replace an object with a local file's bytes, in parts if there are many."""
        size = path.stat().st_size
        with self._explained(name):
            done = self._obstore.put(
                self._store,
                name,
                path,
                use_multipart=size > _MULTIPART_BYTES,
                chunk_size=max(_CHUNK_BYTES, -(-size // _MOST_CHUNKS)),
                max_concurrency=_UPLOADS,
            )
        return done["e_tag"] or ""

    def remove(self, name: str) -> None:
        """Remove an object if it is there."""
        try:
            with self._explained(name):
                self._obstore.delete(self._store, name)
        except FileNotFoundError:
            return

    def _make(self, url: str, options: Mapping[str, str], retries: dict[str, Any]) -> Any:
        parts = urlsplit(url, allow_fragments=False)
        said = {key.lower(): value for key, value in options.items()}
        if "anonymous" in said:
            said["skip_signature"] = said.pop("anonymous")
        if parts.scheme.lower() in ("s3", "s3a"):
            said = {**aws_defaults(said), **said}
        elif parts.scheme.lower() == "http":
            said.setdefault("allow_http", "true")
        if not self._is_http:  # what stands in a bucket's URL is meant as it is written
            bucket, slash, folder = url.split("://", 1)[1].partition("/")
            url = f"{parts.scheme.lower()}://{bucket}{slash}{quote(folder)}"
        http = {**_HTTP_DEFAULTS, **{k: v for k, v in said.items() if k in _HTTP_OPTIONS}}
        config = {k: v for k, v in said.items() if k not in _HTTP_OPTIONS}
        provider = config.pop("credential_provider", None)
        extra: dict[str, Any] = {"config": config} if config else {}
        if provider is not None:
            extra["credential_provider"] = provider
        try:
            return self._obstore.store.from_url(
                url, client_options=http, retry_config=retries, **extra
            )
        except (self._obstore.exceptions.BaseError, TypeError, ValueError) as error:
            raise ConfigError(
                f"{url} cannot be opened ({str(error).splitlines()[0]}): correct the URL or the "
                f"client_options {sorted(options)}"
            ) from error

    def _listed(self, folder: str) -> Mapping[str, Any] | None:
        """Objects and folders in a folder; ``None`` from a server that only shows pages."""
        if self._has_pages:
            return None
        try:
            with self._explained(folder):
                found: Mapping[str, Any] = self._obstore.list_with_delimiter(self._lister, folder)
        except (FileNotFoundError, RemoteError) as error:
            if self._is_http:  # few web servers can list (WebDAV), most show a page
                self._has_pages = True
                return None
            if isinstance(error, FileNotFoundError):
                return {}
            raise
        return found

    def _page(self, folder: str) -> bytes:
        """What a web server shows of a folder; a page without links if there is none."""
        try:
            return bytes(self.get(folder))
        except FileNotFoundError:
            return b"<html></html>"

    @contextmanager
    def _explained(self, name: str) -> Iterator[None]:
        try:
            yield
        except self._obstore.exceptions.AlreadyExistsError as error:
            raise FileExistsError(name) from error
        except self._errors as error:
            raise explain(error, self._obstore, self._url, name) from error


def _retries(retry_s: float) -> dict[str, Any]:
    # A base of 3 doubles the wait about every second time; of 2, it would hardly grow.
    backoff = {
        "init_backoff": timedelta(milliseconds=100),
        "max_backoff": timedelta(seconds=10),
        "base": 3,
    }
    return {"max_retries": 10, "backoff": backoff, "retry_timeout": timedelta(seconds=retry_s)}


def _info(meta: Mapping[str, Any]) -> ObjectInfo:
    changed = meta.get("last_modified")
    tag = meta.get("e_tag") or meta.get("version") or (changed.isoformat() if changed else "")
    return ObjectInfo(int(meta["size"]), str(tag))
