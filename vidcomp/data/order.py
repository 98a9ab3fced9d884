"""Orders of an epoch and their cuts into batches: pure functions of seeds and lengths.

Random numbers are the raw 64-bit output of numpy's PCG64, seeded by a SeedSequence of the seed
with (epoch, purpose) as its spawn key.  Numpy promises that output for every platform and version,
which it does not for shuffles and permutations; so an order is made by sorting it.

Legend: M items, B batches.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vidcomp.errors import ConfigError

__all__ = [
    "Batches",
    "Indices",
    "bucket_order",
    "cut_by_count",
    "cut_by_tokens",
    "epoch_order",
    "shard_order",
    "shuffle_batches",
]

Indices = npt.NDArray[np.int64]

_ITEMS, _SHARDS, _BATCHES = range(3)  # what random numbers are for: each has its own stream


@dataclass(frozen=True, slots=True, eq=False)
class Batches:
    """Batch ``b`` is the items ``order[starts[b]:stops[b]]``."""

    order: Indices
    """[M] items; a last batch that was dropped has its items here, too."""
    starts: Indices
    """[B]."""
    stops: Indices
    """[B]."""

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def sizes(self) -> Indices:
        """[B] items of each batch."""
        return self.stops - self.starts

    def items(self, index: int) -> list[int]:
        """The items of batch ``index``."""
        found: list[int] = self.order[self.starts[index] : self.stops[index]].tolist()
        return found

    def without_first(self, count: int) -> Indices:
        """The items that are in none of the first ``count`` batches, in their order."""
        taken = np.zeros(len(self.order) + 1, np.int64)
        taken[self.starts[:count]] += 1  # batches do not overlap, so no place is there twice
        np.subtract.at(taken, self.stops[:count], 1)
        left: Indices = self.order[taken[:-1].cumsum() == 0]
        return left


def epoch_order(num_items: int, seed: int, epoch: int, shuffle: bool = True) -> Indices:
    """[num_items] every item once: as they are, or in an order of this seed and epoch.

    Args:
        num_items: how many.
        seed: at least 0.
        epoch: at least 0; each has its own order.
        shuffle: whether to.

    Raises:
        ConfigError: a negative seed or epoch.
    """
    if not shuffle:
        return np.arange(num_items, dtype=np.int64)
    return _sorted_by_chance(num_items, _random(num_items, seed, epoch, _ITEMS))


def shard_order(shards: Indices, seed: int, epoch: int, window: int) -> Indices:
    """[M] every item once, so that only a few shards are read from at any time.

    The shards are shuffled, and then the items of each ``window`` shards that follow.

    Args:
        shards: [M] number of each item's shard.
        seed: at least 0.
        epoch: at least 0.
        window: shards that are mixed, at least 1.

    Raises:
        ConfigError: a negative seed or epoch, or no window.
    """
    if window < 1:
        raise ConfigError(f"at least 1 shard is shuffled at a time, got {window}: raise it")
    names, place = np.unique(shards, return_inverse=True)
    order = _sorted_by_chance(len(names), _random(len(names), seed, epoch, _SHARDS))
    turn = np.empty(len(names), np.int64)
    turn[order] = np.arange(len(names))
    chance = _random(len(shards), seed, epoch, _ITEMS)
    return _sorted_by_chance(len(shards), chance, turn[place] // window)


def bucket_order(order: Indices, lengths: Indices, window: int) -> Indices:
    """Items of like length side by side: each ``window`` of the order, sorted by length.

    Every second window falls instead of rising, so that lengths do not jump between windows.

    Args:
        order: [M] items.
        lengths: tokens of each item, by its number.
        window: items that are sorted at a time, at least 1.

    Raises:
        ConfigError: no window.
    """
    if window < 1:
        raise ConfigError(f"at least 1 video is sorted at a time, got a bucket of {window}")
    place = np.arange(len(order))
    size, group = lengths[order], place // window
    top = int(size.max(initial=0))
    size = np.where(group % 2 == 0, size, top - size)
    return order[np.argsort(_join(group, size, place % window))]


def cut_by_count(order: Indices, batch_size: int, drop_last: bool = False) -> Batches:
    """Batches of ``batch_size`` items; the last one is smaller, or left out."""
    starts = np.arange(0, len(order), batch_size, dtype=np.int64)
    if drop_last and len(order) % batch_size:
        starts = starts[:-1]
    return Batches(order, starts, np.minimum(starts + batch_size, len(order)))


def cut_by_tokens(
    order: Indices,
    lengths: Indices,
    limit: int,
    *,
    padded: bool = False,
    batch_size: int | None = None,
    drop_last: bool = False,
) -> Batches:
    """Batches of as many consecutive items as fit: each begins where the one before is full.

    An item longer than the limit is a batch of its own.

    Args:
        order: [M] items.
        lengths: tokens of each item, by its number.
        limit: tokens a batch, at least 1.
        padded: count the cells of a padded batch: items times the longest.
        batch_size: at most so many items a batch.
        drop_last: leave out the last batch, which nothing filled.
    """
    most = len(order) if batch_size is None else batch_size
    ends = (_full_padded if padded else _full_packed)(lengths[order].tolist(), limit, most)
    bounds = np.array([0, *ends, len(order)] if len(order) else [0], np.int64)
    if drop_last:
        bounds = bounds[:-1]
    return Batches(order, bounds[:-1], bounds[1:])


def shuffle_batches(batches: Batches, seed: int, epoch: int) -> Batches:
    """The same batches in an order of this seed and epoch."""
    turn = _sorted_by_chance(len(batches), _random(len(batches), seed, epoch, _BATCHES))
    return Batches(batches.order, batches.starts[turn], batches.stops[turn])


def _full_packed(lengths: list[int], limit: int, most: int) -> list[int]:
    """Where batches end, the last one left out."""
    ends, first, total = [], 0, 0
    for i, length in enumerate(lengths):
        total += length
        if (total > limit or i - first >= most) and i > first:
            ends.append(i)
            first, total = i, length
    return ends


def _full_padded(lengths: list[int], limit: int, most: int) -> list[int]:
    ends, first, longest = [], 0, 0
    for i, length in enumerate(lengths):
        if length > longest:
            longest = length
        if (longest * (i - first + 1) > limit or i - first >= most) and i > first:
            ends.append(i)
            first, longest = i, length
    return ends


def _random(count: int, seed: int, epoch: int, purpose: int) -> npt.NDArray[np.uint64]:
    if seed < 0 or epoch < 0:
        raise ConfigError(f"seeds and epochs are at least 0, got {seed} and {epoch}: raise them")
    sequence = np.random.SeedSequence(seed, spawn_key=(epoch, purpose))
    return np.random.PCG64(sequence).random_raw(count)


def _sorted_by_chance(
    count: int, chance: npt.NDArray[np.uint64], group: Indices | None = None
) -> Indices:
    """0..count - 1 sorted by group, then by chance.

    One sort of whole numbers is several times faster than one of places: group, as many bits of
    chance as there is room for, and place share a number.
    """
    bits = count.bit_length()
    top = 0 if group is None else int(group.max(initial=0)).bit_length()
    shift = np.uint64(bits)
    mixed = (chance >> np.uint64(bits + top)) << shift
    mixed |= np.arange(count, dtype=np.uint64)
    if group is not None and top:
        mixed |= group.astype(np.uint64) << np.uint64(64 - top)
    mixed.sort()
    mixed &= np.uint64((1 << bits) - 1)
    return mixed.astype(np.int64)


def _join(*parts: Indices) -> Indices:
    """One number an item, no two alike, that sorts like the parts one after another."""
    joined = np.zeros(len(parts[0]), np.int64)
    for part in parts:
        joined = (joined << int(part.max(initial=0)).bit_length()) | part
    return joined
