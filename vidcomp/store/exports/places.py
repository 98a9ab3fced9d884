"""Valid records of a view in the order of their bytes: what reads a whole store at disk speed."""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from vidcomp.errors import StoreMissError
from vidcomp.store.disk.format import escape_key
from vidcomp.store.disk.types import Row
from vidcomp.store.view import View

__all__ = ["Places"]

Numbers = npt.NDArray[np.int64]


class Places:
    """Records by shard and offset; few bytes each, rows are made when they are asked for.

    Args:
        view: of the store.
        keys: of the records; all by default.
        what: the store's name for messages.

    Raises:
        StoreMissError: no such keys.
    """

    def __init__(self, view: View, keys: Sequence[str] | None, what: object) -> None:
        self._tables = view.tables
        tables, rows = _all(view) if keys is None else _some(view, keys, what)
        shards = sorted({name for table in view.tables for name in table.shards})
        numbers = {name: i for i, name in enumerate(shards)}
        shard = np.zeros(len(rows), np.int64)
        for t, table in enumerate(view.tables):
            lookup = np.array([numbers[name] for name in table.shards] or [0], np.int64)
            at = tables == t
            shard[at] = lookup[table.columns["shard"][rows[at]]]
        self._at, self._rows = tables, rows
        order = np.lexsort((self._column("offset"), shard))
        self._at, self._rows = tables[order], rows[order]
        self.nbytes = self._column("nbytes")
        """[n] bytes of each record."""

    def __len__(self) -> int:
        return len(self._rows)

    def rows(self, start: int = 0, stop: int | None = None) -> Iterator[Row]:
        """Rows ``start`` to ``stop``."""
        for t, i in zip(
            self._at[start:stop].tolist(), self._rows[start:stop].tolist(), strict=True
        ):
            yield self._tables[t].row(i)

    def groups(self, most_bytes: int) -> list[tuple[int, int]]:
        """Where to cut so that each piece has at most so many bytes, or one record."""
        ends = np.cumsum(self.nbytes)
        out, start = [], 0
        while start < len(self):
            before = int(ends[start - 1]) if start else 0
            stop = max(int(np.searchsorted(ends, before + most_bytes, "right")), start + 1)
            out.append((start, stop))
            start = stop
        return out

    def _column(self, name: str) -> Numbers:
        out = np.zeros(len(self._rows), np.int64)
        for t, table in enumerate(self._tables):
            at = self._at == t
            out[at] = table.columns[name][self._rows[at]]
        return out


def _all(view: View) -> tuple[Numbers, Numbers]:
    rows = [np.flatnonzero(valid) for valid in view.valid]
    return (
        np.repeat(np.arange(len(rows)), [len(r) for r in rows]),
        np.concatenate(rows) if rows else np.zeros(0, np.int64),
    )


def _some(view: View, keys: Sequence[str], what: object) -> tuple[Numbers, Numbers]:
    found, missing = [], []
    for key in dict.fromkeys(keys):
        place = view.place(escape_key(key)) if key else None
        if place is None:
            missing.append(key)
        else:
            found.append(
                (next(t for t, table in enumerate(view.tables) if table is place[0]), place[1])
            )
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise StoreMissError(
            f"{what} has no records {', '.join(map(repr, missing[:3]))}{more}: check the keys"
        )
    both = np.array(found, np.int64).reshape(-1, 2)
    return both[:, 0], both[:, 1]
