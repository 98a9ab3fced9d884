"""Snapshots: a line of numbered indexes, each made with the one before it in view.

A number is taken once, by whoever creates the file first; who comes later looks again and takes
the next.  So a snapshot never loses what an earlier one said, without any lock: above all, which
commits are retired, that is replaced by others and only kept for readers that still hold them.
"""

import re
from collections.abc import Iterable, Mapping

from vidcomp.errors import StoreCorruptError
from vidcomp.store.disk.columns import KIND, write_index
from vidcomp.store.disk.format import is_commit
from vidcomp.store.disk.header import parse_header
from vidcomp.store.disk.index import Table
from vidcomp.store.files import explained
from vidcomp.store.storage import Storage

__all__ = ["Retired", "is_snapshot", "next_number", "publish_index", "read_snapshot"]

Retired = dict[str, int]
"""Names of commits and snapshots, and when each was replaced, in seconds since 1970."""

_NAME = re.compile(r"[0-9]{16}")


def is_snapshot(name: str) -> bool:
    """Whether ``name`` may be that of a snapshot, hence safe to put into a path."""
    return _NAME.fullmatch(name) is not None


def next_number(names: Iterable[str]) -> int:
    """The number that the next snapshot takes, damaged ones counted."""
    return max((int(name) for name in names if is_snapshot(name)), default=-1) + 1


def publish_index(
    storage: Storage, number: int, table: Table, retired: Mapping[str, int]
) -> str | None:
    """Create the snapshot of that number.

    Args:
        storage: where the store's files lie.
        number: found by ``next_number`` before the commits were listed that ``table`` covers.
        table: valid rows of all commits, none of them in a retired one.
        retired: what is kept for readers only.

    Returns:
        Its name; ``None`` if another process took the number: look again.

    Raises:
        OSError: it cannot be written.
    """
    name = f"{number:016d}"
    lists = {
        "covers": table.covers,
        "shards": table.shards,
        "writers": table.writers,
        "layouts": [layout.fields for layout in table.layouts],
        "retired": dict(sorted(retired.items())),
    }
    data = write_index(table.store, lists, table.columns)
    return name if storage.create(f"index/{name}.safetensors", data) else None


def read_snapshot(storage: Storage, name: str, store: str) -> tuple[Table, Retired]:
    """A snapshot's table, and what it says is retired.

    Raises:
        StoreCorruptError: it is damaged, or of another store.
        StoreError: it cannot be read.
        FileNotFoundError: it is gone.
    """
    what = f"snapshot {name}"
    try:
        data = storage.read(f"index/{name}.safetensors")
    except FileNotFoundError:
        raise
    except OSError as error:
        with explained(f"read {what} of {storage.path}"):
            raise error
    table = Table.read(data, what)
    header = parse_header(data, KIND, len(data), what)
    retired = header.json("retired", what) if "retired" in header.metadata else {}
    if table.store != store or not isinstance(retired, dict):
        raise StoreCorruptError(f"{what} belongs to another store: run repair")
    known = (item for item in retired.items() if is_commit(item[0]) or is_snapshot(item[0]))
    return table, {key: when for key, when in known if type(when) is int}
