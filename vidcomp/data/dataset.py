"""Records of a token cache as a map-style data set, and what makes batches of them."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np
from torch.utils.data import Dataset

from vidcomp.data.order import Indices
from vidcomp.errors import ShapeError, StoreError, StoreStaleError
from vidcomp.store import Memory, Selection, TokenCache
from vidcomp.store.disk.format import hexdigest
from vidcomp.types import PaddedTokens, TokenBatch, VideoTokens

__all__ = ["CachedTokenDataset", "Sample", "Samples", "collate", "collate_padded"]


class Sample(NamedTuple):
    """One item of the data set."""

    key: str
    video: VideoTokens


class Samples(Sequence[Sample]):
    """Items that were read at once; ``collate`` takes their batch as it is.

    Args:
        batch: with a key for each video.
    """

    def __init__(self, batch: TokenBatch) -> None:
        self.batch = batch

    def __len__(self) -> int:
        return len(self.batch)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        return Sample(self.batch.keys[index], self.batch[index])

    def __iter__(self) -> Iterator[Sample]:
        return (self[i] for i in range(len(self)))


class CachedTokenDataset(Dataset[Sample]):
    """Videos of a token cache, one an index.

    It is picklable and works in worker processes, forked or spawned: each opens the shards
    itself, and all see the records that were there when the data set was made.

    Args:
        cache: a cache, or the path or URL of one.
        keys: which records, in this order and as often as they are named; by default all, sorted.

    Raises:
        StoreMissError: no such cache, or a key that it does not hold.
    """

    def __init__(self, cache: TokenCache | str | Path, keys: Sequence[str] | None = None) -> None:
        self._keys = None if keys is None else list(keys)
        self._use(cache if isinstance(cache, TokenCache) else TokenCache(cache))

    def _use(self, cache: TokenCache) -> None:
        self.selection: Selection = cache.select(self._keys)
        self.cache = cache
        for name in ("pin", "shard_digest", "shards"):
            self.__dict__.pop(name, None)  # what was derived from other records

    @property
    def keys(self) -> Sequence[str]:
        """Key of each item."""
        return self.selection.keys

    @property
    def num_tokens(self) -> Indices:
        """[len(self)] int64 tokens of each item."""
        return self.selection.num_tokens

    @property
    def digest(self) -> str:
        """16 hex digits of all keys and token counts in order: equal for equal items."""
        return self.selection.digest

    @cached_property
    def shards(self) -> Indices:
        """[len(self)] int64 which of the shards that are used here holds each item."""
        return np.unique(self.selection.shards, return_inverse=True)[1].astype(np.int64)

    @cached_property
    def shard_digest(self) -> str:
        """16 hex digits of which items lie together: compaction may change it."""
        return hexdigest(self.shards.astype("<i8").tobytes())

    @cached_property
    def pin(self) -> str:
        """What opens these records again when the store has grown."""
        return self.cache.pin

    def __len__(self) -> int:
        return len(self.selection)

    def __getitem__(self, index: int) -> Sample:
        """Item ``index``; negative ones count from the end.

        Raises:
            IndexError: there is no such item.
            StoreCorruptError: its bytes are not those that were written.
        """
        i = range(len(self))[index]
        return Sample(self.keys[i], self.selection[i])

    def __getitems__(self, indices: Sequence[int]) -> Sequence[Sample]:
        """Several items, read at once; torch's own ``DataLoader`` asks for them this way.

        Raises:
            IndexError, StoreCorruptError: as for one.
        """
        wanted = [range(len(self))[i] for i in indices]
        try:
            batch = self.selection.batch(wanted)
        except ShapeError:
            return [self[i] for i in wanted]  # of several widths: no batch, but still items
        assert isinstance(batch, TokenBatch)  # noqa: S101  # not padded
        return Samples(batch)

    def batch(
        self, indices: Sequence[int], memory: Memory | None = None, *, padded: bool = False
    ) -> Any:  # a subclass may join more to its batches
        """Items as one batch, read straight into its memory; what ``TokenLoader`` yields.

        Args:
            indices: items from 0 on.
            memory: where batches are put; by default fresh memory.
            padded: a ``PaddedTokens`` and not a ``TokenBatch``.

        Raises:
            StoreCorruptError: bytes that are not those that were written.
            ShapeError: no items, or videos of other widths or types.
        """
        return self.selection.batch(indices, memory, padded=padded)

    def state_dict(self) -> dict[str, Any]:
        """Which records these are, for ``load_state_dict`` in a store that grew meanwhile."""
        return {"digest": self.digest, "pin": self.pin}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to the records of a ``state_dict``, if these are others.

        Raises:
            StoreStaleError: they are gone, or the state is of other keys.
        """
        self.restore(state["digest"], state["pin"], state.get("shards"))

    def restore(self, digest: str, pin: str, shard_digest: str | None = None) -> None:
        """Be the items of this digest: these ones, or else those of the pinned store.

        Args:
            digest: of keys and token counts.
            pin: of the store at that time.
            shard_digest: of which items lie together, if that has to be the same, too.

        Raises:
            StoreStaleError: neither has them.
        """
        if self._fits(digest, shard_digest):
            return
        before = self.cache
        try:
            self._use(before.at(pin))
            if self._fits(digest, shard_digest):
                return
        except StoreError as error:
            raise _stale(before, "the store has lost them", self.digest, digest) from error
        here = self.digest
        self._use(before)
        raise _stale(before, "these are others", here, digest)

    def __getstate__(self) -> dict[str, Any]:
        derived = ("selection", "shards")  # of the cache and the keys, and larger than both
        return {name: value for name, value in self.__dict__.items() if name not in derived}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.selection = self.cache.select(self._keys)

    def _fits(self, digest: str, shard_digest: str | None) -> bool:
        if self.digest != digest:
            return False
        return shard_digest is None or self.shard_digest == shard_digest  # asked for only then


def collate(items: Sequence[Sample | VideoTokens]) -> TokenBatch:
    """Videos end to end, without padding; the batch knows the keys of samples.

    Raises:
        ShapeError: no items, or videos of other widths or types.
    """
    if isinstance(items, Samples):
        return items.batch
    videos = [item.video if isinstance(item, Sample) else item for item in items]
    keys = [item.key for item in items if isinstance(item, Sample)]
    return TokenBatch.pack(videos, keys if len(keys) == len(videos) else ())


def collate_padded(items: Sequence[Sample | VideoTokens]) -> PaddedTokens:
    """Videos side by side, zeros behind the shorter ones, with a mask.

    Raises:
        ShapeError: no items, or videos of other widths or types.
    """
    return collate(items).padded()


def _stale(cache: TokenCache, why: str, here: str, wanted: str) -> StoreStaleError:
    return StoreStaleError(
        f"the state is of records with digest {wanted}, and {why} in {cache.path} (digest {here}): "
        f"give the loader the same store and keys as when the state was saved, or begin an epoch "
        f"without the state"
    )
