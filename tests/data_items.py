"""Numbered items with lengths: what samplers need of a data set, without a store."""

import numpy as np
from hypothesis import strategies as st

from vidcomp.errors import StoreStaleError
from vidcomp.store.disk.format import hexdigest


class Items:
    """Stands in for a data set where only numbers matter."""

    pin = "[null,{}]"

    def __init__(self, lengths, shards=None):
        self.num_tokens = np.array(lengths, np.int64)
        self.shards = np.array([0] * len(lengths) if shards is None else shards, np.int64)
        self.keys = [f"k{i}" for i in range(len(lengths))]
        self.digest = hexdigest(self.num_tokens.tobytes())
        self.shard_digest = hexdigest(self.shards.tobytes())

    def __len__(self):
        return len(self.num_tokens)

    def restore(self, digest, pin, shard_digest=None):
        if digest != self.digest or shard_digest not in (None, self.shard_digest):
            raise StoreStaleError("other items")


@st.composite
def items(draw, max_size=40):
    lengths = draw(st.lists(st.integers(0, 9), max_size=max_size))
    many = {"min_size": len(lengths), "max_size": len(lengths)}
    return Items(lengths, draw(st.lists(st.integers(0, 4), **many)))


@st.composite
def rules(draw):
    """Arguments of a sampler that say how an epoch is cut; no length is over a limit of tokens."""
    kind = draw(st.sampled_from(["videos", "tokens", "both"]))
    shuffle = draw(st.booleans())
    return {
        "batch_size": draw(st.integers(1, 6)) if kind != "tokens" else None,
        "tokens_per_batch": draw(st.integers(9, 30)) if kind != "videos" else None,
        "padded": draw(st.booleans()),
        "shuffle": shuffle,
        "shard_window": draw(st.none() | st.integers(1, 3)) if shuffle else None,
        "bucket": draw(st.none() | st.integers(1, 12)),
        "drop_last": draw(st.booleans()),
    }
