"""From the token cache to batches: a data set of records and plain loaders."""

from vidcomp.data.dataset import CachedTokenDataset, Sample, collate, collate_padded
from vidcomp.data.loader import token_loader

__all__ = ["CachedTokenDataset", "Sample", "collate", "collate_padded", "token_loader"]
