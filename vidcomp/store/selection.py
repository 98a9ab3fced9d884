"""Records of a cache in a fixed order, by number: what data sets and loaders read from."""

from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash
from torch import Tensor

from vidcomp.errors import ShapeError, StoreCorruptError
from vidcomp.store.batch import check_out, read_batch, split_record
from vidcomp.store.disk.index import Table
from vidcomp.store.disk.record import assemble, unpack
from vidcomp.store.disk.rows import GAP_BYTES, read_rows, read_window
from vidcomp.store.disk.types import Location, Order
from vidcomp.store.fetch import Fetcher
from vidcomp.store.memory import Memory
from vidcomp.store.room import within_memory
from vidcomp.types import PaddedTokens, TokenBatch, VideoTokens

__all__ = ["Selection", "read_many", "read_one", "read_part"]


class Selection:
    """Records of one view of a cache; ``selection[i]`` is the tokens of the ``i``-th one.

    It can be pickled, and used by threads and after a fork; it keeps showing the same records
    whatever is committed later.  Made by ``TokenCache.select``.
    """

    def __init__(
        self,
        tables: Sequence[Table],
        order: Order,
        fetcher: Fetcher,
        rebuild: Callable[[], tuple[Any, ...]],
    ) -> None:
        self._tables, self._order, self._fetcher = tuple(tables), order, fetcher
        self._rebuild = rebuild

    def __reduce__(self) -> tuple[Any, ...]:
        return self._rebuild()

    def __len__(self) -> int:
        return len(self._order.keys)

    def __repr__(self) -> str:
        return f"Selection({len(self)} records, {int(self.num_tokens.sum())} tokens)"

    @property
    def keys(self) -> Sequence[str]:
        """The records' keys in order; not a copy, do not change it."""
        return self._order.keys

    @cached_property
    def num_tokens(self) -> npt.NDArray[np.int64]:
        """[n] tokens of each record."""
        return self._column("num_tokens")

    @cached_property
    def offsets(self) -> npt.NDArray[np.int64]:
        """[n] first byte of each record in its shard."""
        return self._column("offset")

    @cached_property
    def shards(self) -> npt.NDArray[np.int64]:
        """[n] number of each record's shard, counted in the order of the shards' names."""
        names = sorted({name for table in self._tables for name in table.shards})
        number = {name: i for i, name in enumerate(names)}
        out = np.zeros(len(self), np.int64)
        for t, table in enumerate(self._tables):
            chosen = self._order.tables == t
            numbers = np.array([number[name] for name in table.shards] or [0])
            out[chosen] = numbers[table.columns["shard"][self._order.rows[chosen]]]
        return out

    @cached_property
    def digest(self) -> str:
        """16 hex digits of the keys (by their hashes) and token counts in order."""
        state = xxhash.xxh3_64(self._column("key_hash").astype("<u8").tobytes())
        state.update(self.num_tokens.astype("<i8").tobytes())
        return state.hexdigest()

    @property
    def dim(self) -> int:
        """Width of the first record's tokens; 0 for codebook ids, or without records."""
        return self._place(0).layout.dim if len(self) else 0

    @property
    def dtype(self) -> str:
        """Type of the first record's tokens, e.g. ``bfloat16``; empty without records."""
        return self._place(0).layout.dtype if len(self) else ""

    def __getitem__(self, index: int) -> VideoTokens:
        """Record ``index``; negative ones count from the end.

        Raises:
            IndexError: there is no such record.
            StoreCorruptError: its bytes are not those that were written.
        """
        i = range(len(self))[index]
        return read_one(self._fetcher, self.keys[i], self._place(i), _OWN)

    def rows(self, index: int, start: int, stop: int) -> VideoTokens:
        """Tokens ``start`` to ``stop`` of record ``index``; as ``TokenCache.rows``.

        Raises:
            IndexError: there is no such record.
            ShapeError: it has no such tokens.
            StoreCorruptError: bytes are not those that were written.
        """
        i = range(len(self))[index]
        return read_part(self._fetcher, self.keys[i], self._place(i), read_rows, start, stop)

    def window(self, index: int, start_s: float, end_s: float) -> VideoTokens:
        """Tokens of record ``index`` seen in ``[start_s, end_s)``; as ``TokenCache.window``.

        Raises:
            IndexError: there is no such record.
            ShapeError: the window does not end after it starts.
            StoreCorruptError: bytes are not those that were written.
        """
        i = range(len(self))[index]
        return read_part(self._fetcher, self.keys[i], self._place(i), read_window, start_s, end_s)

    def batch(
        self, indices: Sequence[int], memory: Memory | None = None, padded: bool = False
    ) -> TokenBatch | PaddedTokens:
        """Several records, each read straight into its place in the batch.

        Args:
            indices: of the records, in the order of the batch; any of them as often as wanted.
            memory: where the batch's tensors come from.
            padded: side by side with zeros behind the shorter ones, not end to end.

        Raises:
            ShapeError: no indices, or videos of other widths or types.
            StoreCorruptError: bytes are not those that were written.
        """
        keys = [self.keys[i] for i in indices]
        places = [self._place(i) for i in indices]
        return read_many(self._fetcher, keys, places, memory or _OWN, padded=padded)

    def _place(self, i: int) -> Location:
        table: Table = self._tables[self._order.tables[i]]
        return table.location(int(self._order.rows[i]))

    def _column(self, name: str) -> npt.NDArray[Any]:
        out = np.zeros(len(self), self._tables[0].columns[name].dtype if self._tables else np.int64)
        for t, table in enumerate(self._tables):
            chosen = self._order.tables == t
            out[chosen] = table.columns[name][self._order.rows[chosen]]
        return out


_OWN = Memory(keep_bytes=64 << 20)
_FAR_GAP = 1 << 20


@within_memory
def read_one(
    fetcher: Fetcher,
    key: str,
    place: Location,
    memory: Memory,
    *,
    out: Tensor | None = None,
) -> VideoTokens:
    """One record.

    Raises:
        ShapeError: ``out`` cannot take its tokens.
        StoreCorruptError, StoreError: it is damaged, or cannot be read.
    """
    layout, counts = place.layout, place.counts
    file = fetcher.check(key, place)
    try:
        if out is None:
            data = memory.take([place.nbytes])[0].numpy().data
            fetcher.fill(key, place, [data], file=file)
            return unpack(data, layout, counts)
        slot = check_out(out, counts.num_tokens, *layout.row_fields["tokens"])
        tensors, pieces = split_record(place, slot)
        fetcher.fill(key, place, pieces, file=file)
        return assemble(tensors, layout, counts, slot)
    except StoreCorruptError as error:
        raise StoreCorruptError(f"{key!r}: {error}") from error


@within_memory
def read_part(
    fetcher: Fetcher,
    key: str,
    place: Location,
    part: Callable[..., VideoTokens],
    start: float,
    stop: float,
) -> VideoTokens:
    """Some rows of one record.

    Args:
        fetcher: reads them.
        key: of the record.
        place: where it lies.
        part: ``read_rows`` or ``read_window``.
        start: first row, or second.
        stop: row, or second, after the last.

    Raises:
        ShapeError: there are no such rows.
        StoreCorruptError, StoreError: they are damaged, or cannot be read.
    """
    fetcher.check(key, place)
    fetch = partial(fetcher.ranges, key, place)
    options = {"verify": fetcher.verify, "gap": _FAR_GAP if fetcher.is_far else GAP_BYTES}
    try:
        return part(key, place, start, stop, fetch, **options)
    except StoreCorruptError:
        if not fetcher.forget(key, place):  # else a copy of it was damaged, not the shard
            raise
    return part(key, place, start, stop, fetch, **options)


@within_memory
def read_many(
    fetcher: Fetcher,
    keys: Sequence[str],
    places: Sequence[Location],
    memory: Memory,
    *,
    padded: bool = False,
    out: Tensor | None = None,
    threads: int = 1,
) -> TokenBatch | PaddedTokens:
    """Several records as one batch.

    Raises:
        ShapeError: no records, or of other widths or types; ``out`` cannot take them.
        StoreCorruptError, StoreError: one is damaged, or cannot be read.
    """
    fetcher.check_many(keys, places)  # before room is made for all of them
    batch = (
        read_batch(fetcher, keys, places, memory, padded=padded, out=out, threads=threads)
        if places
        else None
    )
    if batch is not None:
        return batch
    if out is not None:
        raise ShapeError(
            f"only records of one type and width are read into a tensor, got {len(places)} that "
            f"differ: read them one by one"
        )
    # Records of several forms are left to the batch itself: it joins or refuses them.
    videos = [
        read_one(fetcher, key, place, memory) for key, place in zip(keys, places, strict=True)
    ]
    packed = TokenBatch.pack(videos, keys)
    return packed.padded() if padded else packed
