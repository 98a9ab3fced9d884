"""Batches of cached tokens through torch's own DataLoader."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from vidcomp.data.dataset import CachedTokenDataset, Sample
from vidcomp.errors import ConfigError
from vidcomp.store import TokenCache
from vidcomp.types import PaddedTokens, TokenBatch

__all__ = ["token_loader"]


def token_loader(
    source: CachedTokenDataset | TokenCache | str | Path,
    batch_size: int,
    *,
    shuffle: bool = False,
    seed: int = 0,
    padded: bool = False,
    num_workers: int = 0,
    drop_last: bool = False,
) -> DataLoader[Any]:
    """A DataLoader over a token cache.

    Records need no decoding, so ``num_workers=0`` is usually the fastest: worker processes pay
    for handing over what the main process could have read itself.

    Args:
        source: a data set, a cache, or the path of one.
        batch_size: videos a batch, at least 1.
        shuffle: another order each epoch.
        seed: of the shuffle; the same seed gives the same sequence of epochs.
        padded: yield ``PaddedTokens`` and not ``TokenBatch``.
        num_workers: processes that read.
        drop_last: leave out a last batch that is not full.

    Raises:
        StoreMissError: there is no such cache.
        ConfigError: a batch size below 1.
    """
    if batch_size < 1:
        raise ConfigError(f"a batch has at least 1 video, got batch_size={batch_size}: raise it")
    dataset = source if isinstance(source, CachedTokenDataset) else CachedTokenDataset(source)
    finish: Callable[[Any], Any] = _padded if padded else _packed
    return DataLoader(
        _Batches(dataset),
        batch_size,
        # torch's own shuffle refuses an empty data set; a run over no videos is no mistake.
        shuffle=shuffle and len(dataset) > 0,
        num_workers=num_workers,
        collate_fn=finish,
        drop_last=drop_last,
        generator=torch.Generator().manual_seed(seed),
    )


class _Batches(Dataset[Sample]):
    """The data set for a loader of ours: it reads a batch at once, straight into its place."""

    def __init__(self, dataset: CachedTokenDataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample:
        return self.dataset[index]

    def __getitems__(self, index: list[int]) -> TokenBatch:
        return self.dataset.cache.get_many([self.dataset.keys[i] for i in index])


def _packed(batch: TokenBatch) -> TokenBatch:
    return batch


def _padded(batch: TokenBatch) -> PaddedTokens:
    return batch.padded()
