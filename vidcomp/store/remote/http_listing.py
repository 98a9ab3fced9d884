"""Folders on plain HTTP: the page that a web server shows for one, read for its links."""

import errno
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

from vidcomp.store.remote.client import ObjectInfo
from vidcomp.store.remote.errors import RemoteError

__all__ = ["list_folders", "list_page"]


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.hrefs: list[str] = []
        self.is_page = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.is_page = self.is_page or tag in ("html", "a", "body", "pre")
        self.hrefs += [value for name, value in attrs if tag == "a" and name == "href" and value]


def list_page(page: bytes, url: str) -> dict[str, ObjectInfo]:
    """The files that a folder's page links to; sizes are not known from it, so -1.

    Args:
        page: HTML as made by nginx, Apache, ``python -m http.server`` and others.
        url: the store's, for the message.

    Raises:
        RemoteError: it is no such page.
    """
    names = (path.rsplit("/", 1)[-1] for path in _paths(page, url))
    return {name: ObjectInfo(-1, "") for name in names if name and name not in (".", "..")}


def list_folders(page: bytes, url: str) -> set[str]:
    """The folders that a folder's page links to, which is with a slash at the end.

    Raises:
        RemoteError: it is no such page.
    """
    paths = (path.removeprefix("./") for path in _paths(page, url))
    found = (path[:-1] for path in paths if path.endswith("/"))
    return {name for name in found if name and name != ".." and "/" not in name}


def _paths(page: bytes, url: str) -> list[str]:
    """Where a page's links lead to."""
    links = _Links()
    links.feed(page.decode("utf-8", "replace"))
    if not links.is_page:
        raise RemoteError(
            errno.ENOTSUP,
            "the server lists no folders",
            f"let it show indexes of {url} (nginx: autoindex on), or copy the store",
        )
    return [unquote(urlsplit(href).path) for href in links.hrefs]
