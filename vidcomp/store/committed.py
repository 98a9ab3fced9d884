"""The keys that a writer need not write again, looked up as they are asked for."""

from collections.abc import Iterator, Mapping

import numpy as np

from vidcomp.errors import StoreError
from vidcomp.store.disk.format import escape_key, unescape
from vidcomp.store.disk.types import Row, SourceId
from vidcomp.store.view import View

__all__ = ["Committed"]


class Committed(Mapping[str, SourceId | None]):
    """Keys of valid records, and the files behind them.

    Args:
        view: what was visible.
        own: rows that came after it, by escaped key; removals too.
    """

    def __init__(self, view: View, own: Mapping[str, Row]) -> None:
        self._view, self._own = view, own

    def __getitem__(self, key: str) -> SourceId | None:
        try:
            escaped = escape_key(key)
        except StoreError as error:
            raise KeyError(key) from error
        row = self._own.get(escaped)
        if row is not None:
            if row.removed:
                raise KeyError(key)
            return row.source
        place = self._view.place(escaped)
        if place is None:
            raise KeyError(key)
        return place[0].source(place[1])

    def __iter__(self) -> Iterator[str]:
        hidden = {unescape(key) for key in self._own}
        for table, valid in zip(self._view.tables, self._view.valid, strict=True):
            yield from (key for key in table.texts(np.flatnonzero(valid)) if key not in hidden)
        yield from (unescape(key) for key, row in self._own.items() if not row.removed)

    def __len__(self) -> int:
        seen = sum(self._view.place(key) is not None for key in self._own)
        return len(self._view) - seen + sum(not row.removed for row in self._own.values())

    def __repr__(self) -> str:
        return f"Committed({len(self)} records)"
