"""From the token cache to batches: data sets of records, samplers and loaders that resume."""

from vidcomp.data.dataset import CachedTokenDataset, Sample, collate, collate_padded
from vidcomp.data.loader import TokenLoader
from vidcomp.data.sampler import TokenBatchSampler

__all__ = [
    "CachedTokenDataset",
    "Sample",
    "TokenBatchSampler",
    "TokenLoader",
    "collate",
    "collate_padded",
]
