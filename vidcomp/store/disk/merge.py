"""Many tables into one, by column and not by row: an index of a million records in a second."""

from collections.abc import Sequence

import numpy as np

from vidcomp.store.disk.columns import COLUMNS, Array
from vidcomp.store.disk.index import Table
from vidcomp.store.disk.layout import Layout

__all__ = ["gather", "merge_tables"]


def merge_tables(store: str, covers: Sequence[str], tables: Sequence[Table]) -> Table:
    """One table of the valid rows of several; of rows with one key the largest rank stays.

    Args:
        store: the store's id.
        covers: commits whose rows these are.
        tables: not changed; of places that have the same row, that of the last table stays.
    """
    shards = tuple(sorted({name for t in tables for name in t.shards}))
    writers = tuple(sorted({name for t in tables for name in t.writers}))
    layouts: tuple[Layout, ...] = tuple(
        sorted({layout for t in tables for layout in t.layouts}, key=lambda layout: layout.text)
    )
    columns = {
        name: _joined(name, tables, None if column.free else (0, *column.inner))
        for name, column in COLUMNS.items()
    }
    for name, union in (("shard", shards), ("writer", writers), ("layout", layouts)):
        columns[name] = _renumbered(name, union, tables)
    # Writers are numbered in the order of their names, so ranks compare as numbers.
    order = np.lexsort((columns["writer"], columns["generation"], columns["key_hash"]))
    order = order[_best(columns, order)]
    picked = {
        name: columns[name][order]
        for name, column in COLUMNS.items()
        if not column.free and name not in ("key_end", "content_end")
    }
    for data, end in (("keys", "key_end"), ("contents", "content_end")):
        picked[data], picked[end] = gather(columns[data], columns[end], order)
    return Table(store, tuple(covers), shards, writers, layouts, picked)


def _joined(name: str, tables: Sequence[Table], shape: tuple[int, ...] | None) -> Array:
    """A column of all tables; ends count on from table to table."""
    free = {"key_end": "keys", "content_end": "contents"}.get(name)
    parts, first = [], 0
    for table in tables:
        part = table.columns[name]
        if free is not None:
            part, first = part + first, first + len(table.columns[free])
        parts.append(part)
    if not parts:
        return np.zeros(shape or 0, COLUMNS[name].numpy)
    return np.concatenate(parts)


def _renumbered(
    name: str, union: Sequence[str] | Sequence[Layout], tables: Sequence[Table]
) -> Array:
    """A column of numbers of names, in the numbers of the union of all tables' names."""
    places = {value: i for i, value in enumerate(union)}
    parts = [np.zeros(0, np.uint32)]
    for table in tables:
        names = getattr(table, f"{name}s")
        lookup = np.array([places[value] for value in names] or [0], np.uint32)
        column = table.columns[name]
        parts.append(lookup[np.where(column < len(lookup), column, 0)])  # 0 in removals
    return np.concatenate(parts)


def _best(columns: dict[str, Array], order: Array) -> Array:
    """Which places of ``order`` stay, sorted by (hash, key): the last one of each key."""
    hashes = columns["key_hash"][order]
    same = hashes[1:] == hashes[:-1]
    if not same.any():
        return np.arange(len(order))
    starts = np.flatnonzero(np.concatenate(([True], ~same)))
    stops = np.append(starts[1:], len(order))
    keep = stops - 1
    crowded = np.flatnonzero(stops - starts > 1)
    extra: dict[int, list[int]] = {}
    for run in crowded.tolist():
        last: dict[bytes, int] = {}
        for place in range(int(starts[run]), int(stops[run])):
            last[_key(columns, int(order[place]))] = place
        if len(last) > 1:  # two keys of one hash: once in a universe, but it must be right
            extra[run] = [place for _, place in sorted(last.items())]
    if not extra:
        return keep
    return np.array(
        [p for run, place in enumerate(keep.tolist()) for p in extra.get(run, [place])], np.int64
    )


def _key(columns: dict[str, Array], row: int) -> bytes:
    end = columns["key_end"]
    return columns["keys"][int(end[row - 1]) if row else 0 : int(end[row])].tobytes()


def gather(data: Array, end: Array, order: Array) -> tuple[Array, Array]:
    """Pieces of ``data`` in another order, end to end, and where each ends now."""
    start = np.concatenate(([0], end[:-1])).astype(np.int64) if len(end) else end
    sizes = (end - start)[order]
    ends = np.cumsum(sizes, dtype=np.int64)
    if not len(ends) or not ends[-1]:
        return np.zeros(0, np.uint8), ends
    shift = start[order] - (ends - sizes)
    return data[np.repeat(shift, sizes) + np.arange(ends[-1])], ends
