"""Thirteen small videos that data sets, samplers and loaders read, and what is asked of loaders."""

import gc
import io
import json
import threading
import time

import torch
from store_builders import content, tiny
from torch.utils.data import DataLoader

from vidcomp.data import CachedTokenDataset, TokenBatchSampler, TokenLoader, collate

VIDEOS = {f"clip{i:02d}": tiny(i % 4 + 1, 6, i, assign=None) for i in range(13)}
KEYS = sorted(VIDEOS)
EVERYTHING = {key: content(video) for key, video in VIDEOS.items()}
STEPS = 5
"""Batches of three an epoch."""


def readers():
    return [t.name for t in threading.enumerate() if t.name.startswith("vidcomp-loader")]


def wait_for(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        gc.collect()
        assert time.monotonic() < end
        time.sleep(0.005)


class Slow(CachedTokenDataset):
    """Counts the batches it reads, and waits before each as long as it is told."""

    def __init__(self, cache, waits=()):
        super().__init__(cache)
        self.waits, self.num_read = dict(waits), 0

    def batch(self, indices, memory=None, *, padded=False):
        self.num_read += 1
        time.sleep(self.waits.get(indices[0], 0))
        return super().batch(indices, memory, padded=padded)


def seen(batches):
    """Content of each record by key, over all batches; no key may come twice."""
    out = {}
    for batch in batches:
        for key, video in zip(batch.keys, batch, strict=True):
            assert key not in out
            out[key] = content(video)
    return out


def keys_of(batches):
    return [batch.keys for batch in batches]


def orders(loader, epochs):
    return [keys_of(loader) for _ in range(epochs)]


def token_loader(cache):
    return TokenLoader(cache, 3, shuffle=True, seed=1)


def sampled(cache, loader=DataLoader, **options):
    """A loader of torch's kind, with our sampler."""
    dataset = CachedTokenDataset(cache)
    sampler = TokenBatchSampler(dataset, 3, shuffle=True, seed=1)
    return loader(dataset, batch_sampler=sampler, collate_fn=collate, **options)


def sent(state):
    """The state as another process gets it."""
    return json.loads(json.dumps(state))


def saved(state):
    """What ``torch.load`` gives of it, without the leave to run code."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)
