"""Records of a token cache as a map-style data set, and what makes batches of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from torch.utils.data import Dataset

from vidcomp.errors import StoreMissError
from vidcomp.store import TokenCache
from vidcomp.types import PaddedTokens, TokenBatch, VideoTokens

__all__ = ["CachedTokenDataset", "Sample", "collate", "collate_padded"]


class Sample(NamedTuple):
    """One item of the data set."""

    key: str
    video: VideoTokens


class CachedTokenDataset(Dataset[Sample]):
    """Videos of a token cache, one an index.

    It is picklable and works in worker processes, forked or spawned: each opens the shards
    itself, and all see the records that were there when the data set was made.

    Args:
        cache: a cache, or the path of one.
        keys: which records, in this order and as often as they are named; by default all, sorted.

    Raises:
        StoreMissError: no such cache, or a key that it does not hold.
    """

    def __init__(self, cache: TokenCache | str | Path, keys: Sequence[str] | None = None) -> None:
        self.cache = cache if isinstance(cache, TokenCache) else TokenCache(cache)
        self.keys = self.cache.keys() if keys is None else list(keys)
        missing = [] if keys is None else [key for key in self.keys if key not in self.cache]
        if missing:
            shown = ", ".join(map(repr, missing[:3]))
            raise StoreMissError(
                f"{self.cache.path} lacks {len(missing)} of the {len(self.keys)} records asked "
                f"for ({shown}{', ...' if len(missing) > 3 else ''}): extract them, or leave them "
                f"out"
            )

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> Sample:
        """Record ``index``; negative ones count from the end.

        Raises:
            IndexError: there is no such record.
            StoreCorruptError: its bytes are not those that were written.
        """
        key = self.keys[index]
        return Sample(key, self.cache[key])


def collate(items: Sequence[Sample | VideoTokens]) -> TokenBatch:
    """Videos end to end, without padding; the batch knows the keys of samples.

    Raises:
        ShapeError: no items, or videos of other widths or types.
    """
    videos = [item.video if isinstance(item, Sample) else item for item in items]
    keys = [item.key for item in items if isinstance(item, Sample)]
    return TokenBatch.pack(videos, keys if len(keys) == len(videos) else ())


def collate_padded(items: Sequence[Sample | VideoTokens]) -> PaddedTokens:
    """Videos side by side, zeros behind the shorter ones, with a mask.

    Raises:
        ShapeError: no items, or videos of other widths or types.
    """
    return collate(items).padded()
