"""From what a person types to the list of videos to do: files, folders, globs, lists, manifests."""

import glob
import logging
import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from vidcomp.data.matching import VIDEO_SUFFIX, ranged_key
from vidcomp.data.tables import read_rows
from vidcomp.errors import ConfigError
from vidcomp.store import SourceId

from .extraction.fetch import is_object, list_objects, remote_id

__all__ = ["Item", "LiveInput", "Manifest", "expand", "source_id"]

_log = logging.getLogger(__name__)

_URL = re.compile(r"^[a-z][a-z0-9+.-]*://", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveInput:
    """How an item is followed that has no end yet; each of its windows is a record."""

    name: str
    """Key of the item that is followed; its windows have others."""
    address: str
    """What is opened, with the password if there is one."""
    window_s: float
    """Length of a record, in seconds."""
    is_file: bool = False
    """A file that is written, and no pipe or address."""
    base: str = ""
    """Name of the records before their ranges; empty: made when the source is opened."""
    resume_s: float = 0.0
    """Where records that are there end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One record to make: a video, or a time range of it."""

    key: str
    """Name of the record in the cache."""
    path: str
    """File path or URL."""
    start_s: float | None = None
    end_s: float | None = None
    source: SourceId | None = None
    """Identity of the file when the run was planned, if it is known."""
    rows: int = 1
    """Rows of the inputs that name it; each of them is counted."""
    live: LiveInput | None = None
    """For a source without an end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A table of videos and the columns that matter in it."""

    path: str
    """csv, tsv, jsonl or parquet file; relative video paths count from its folder."""
    column: str = "path"
    """Column with the video's path or URL."""
    id_column: str | None = None
    """Column with the record's key; by default the path as written."""


def expand(
    inputs: Sequence[str],
    *,
    manifest: Manifest | None = None,
    start_s: float | None = None,
    end_s: float | None = None,
    limit: int | None = None,
) -> list[Item]:
    """All items of the inputs, in a stable order, each once; rows that repeat one are counted.

    Args:
        inputs: files, folders (searched through) and globs, here or on an object store, URLs,
            ``@list.txt`` (a path a line) or ``-`` (the same on standard input).
        manifest: a table that gives items too; its ``start_s`` and ``end_s`` columns win.
        start_s: start of the range of every item, in seconds.
        end_s: end of it.
        limit: take only the first so many rows, whatever became of them in earlier runs.

    Raises:
        ConfigError: nothing matches, or two different videos would get one key.
    """
    if start_s is not None and end_s is not None and end_s <= start_s:
        raise ConfigError(
            f"a range must end after it starts, got {start_s} to {end_s} s: swap them"
        )
    items: dict[str, Item] = {}
    rows: Counter[str] = Counter()
    for row in islice(_rows(inputs, manifest), limit):
        item = _ranged(row, start_s, end_s)
        other = items.setdefault(item.key, item)
        if other is not item and not _is_same(item, other):
            raise ConfigError(
                f"{other.path} and {item.path} would both be stored as {item.key!r}: pass their "
                f"common folder, or a manifest with an id column"
            )
        rows[item.key] += 1
    if not items:
        wanted = " ".join(inputs) or "the manifest"
        raise ConfigError(f"no videos found in {wanted}: pass files, folders or a manifest")
    return [
        item if rows[key] == 1 else replace(item, rows=rows[key]) for key, item in items.items()
    ]


def source_id(path: str, *, content: bool = False) -> SourceId | None:
    """What tells whether a file changed: size and time, with ``content`` the bytes' hash too.

    Returns:
        ``None`` for what is not there (reading it will say so), or a URL of which nothing is known.
    """
    if _URL.match(path):
        return remote_id(path)
    try:
        return SourceId.of_file(path, content=content)
    except OSError:
        return None


def _rows(inputs: Sequence[str], manifest: Manifest | None) -> Iterator[Item]:
    for text in inputs:
        yield from _expand_one(text)
    if manifest is not None:
        yield from _read_manifest(manifest)


def _is_same(item: Item, other: Item) -> bool:
    """Whether both are the same range of the same file, however it is written."""
    if (item.start_s, item.end_s) != (other.start_s, other.end_s):
        return False
    if item.path == other.path:
        return True
    if _URL.match(item.path) or _URL.match(other.path):
        return False
    return os.path.realpath(item.path) == os.path.realpath(other.path)


def _expand_one(text: str) -> Iterator[Item]:
    if text == "-":
        yield from _expand_lines(sys.stdin)
    elif text.startswith("@"):
        try:
            lines = Path(text[1:]).read_text().splitlines()
        except OSError as error:
            raise ConfigError(
                f"the list {text[1:]} cannot be read ({error.strerror}): check its path"
            ) from error
        yield from _expand_lines(lines)
    elif is_object(text):
        for url, name, source in list_objects(text):
            yield Item(key=name, path=url, source=source)
    elif _URL.match(text):
        yield Item(key=re.sub(_URL, "", text), path=text)
    elif Path(text).is_dir():
        yield from _walk(Path(text))
    elif not Path(text).exists() and glob.has_magic(text):
        for path in sorted(glob.glob(text, recursive=True)):  # noqa: PTH207  # absolute too
            if Path(path).is_file():
                yield Item(key=Path(path).name, path=path)
    else:  # a path that is not there is that item's error, not the run's
        yield Item(key=Path(text).name or text, path=text)


def _expand_lines(lines: Iterable[str]) -> Iterator[Item]:
    for line in lines:
        if (path := line.strip()) and not path.startswith("#"):
            yield Item(key=re.sub(_URL, "", path), path=path)


def _walk(folder: Path, before: str = "") -> Iterator[Item]:
    """Videos below a folder by name; links to folders are not followed, as they may lead back."""
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        if not before:
            raise ConfigError(
                f"the folder {folder} cannot be read ({error.strerror}): check its permissions"
            ) from error
        _log.warning("left out the folder %s, which cannot be read: %s", folder, error.strerror)
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(Path(entry.path), f"{before}{entry.name}/")
            continue
        suffix = os.path.splitext(entry.name)[1]  # noqa: PTH122  # a Path each takes far longer
        if VIDEO_SUFFIX.fullmatch(suffix) and not entry.is_dir():
            yield Item(key=before + entry.name, path=entry.path.removeprefix("./"))


def _ranged(item: Item, start_s: float | None, end_s: float | None) -> Item:
    """The item with its range, from the manifest or from the command, in its key."""
    start = start_s if item.start_s is None else item.start_s
    end = end_s if item.end_s is None else item.end_s
    if start is None and end is None:
        return item
    return replace(item, key=ranged_key(item.key, start, end), start_s=start, end_s=end)


def _read_manifest(manifest: Manifest) -> Iterator[Item]:
    folder = Path(manifest.path).parent
    for number, row in enumerate(read_rows(manifest.path, "manifest"), start=1):
        raw = row.get(manifest.column)
        if raw in (None, ""):
            raise ConfigError(
                f"row {number} of {manifest.path} has no {manifest.column!r}: it has "
                f"{sorted(row)}; name the right one with --column"
            )
        path = str(raw)
        place = path if _URL.match(path) or Path(path).is_absolute() else str(folder / path)
        key = path if manifest.id_column is None else str(row.get(manifest.id_column) or "")
        if not key:
            raise ConfigError(
                f"row {number} of {manifest.path} has no {manifest.id_column!r}: it has "
                f"{sorted(row)}; name the right one with --id-column"
            )
        start, end = (_seconds(manifest, number, row, name) for name in ("start", "end"))
        yield Item(key=key, path=place, start_s=start, end_s=end)


def _seconds(manifest: Manifest, number: int, row: dict[str, Any], name: str) -> float | None:
    value = row.get(f"{name}_s", row.get(name))
    if value in (None, ""):
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ConfigError(
            f"row {number} of {manifest.path} has {name}={value!r}: write seconds"
        ) from None
