"""Orders and cuts of an epoch: pure, seeded, and the same everywhere."""

import time
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vidcomp.data.order import (
    Batches,
    bucket_order,
    cut_by_count,
    cut_by_tokens,
    epoch_order,
    shard_order,
    shuffle_batches,
)
from vidcomp.errors import ConfigError

quick = settings(deadline=None, max_examples=60)
lengths_of = st.lists(st.integers(0, 9), max_size=40)


def listed(batches):
    return [batches.items(b) for b in range(len(batches))]


def chance(count, seed, epoch, purpose):
    """The raw numbers an order is made of, straight from what the module promises."""
    sequence = np.random.SeedSequence(seed, spawn_key=(epoch, purpose))
    return [int(x) for x in np.random.PCG64(sequence).random_raw(count)]


@quick
@given(st.integers(0, 300), st.integers(0, 2**70), st.integers(0, 2**40))
def test_an_order_is_a_sort_by_raw_random_numbers(n, seed, epoch):
    bits = n.bit_length()
    numbers = chance(n, seed, epoch, 0)
    wanted = sorted(range(n), key=lambda i: (numbers[i] >> bits, i))
    order = epoch_order(n, seed, epoch)
    assert order.tolist() == wanted
    assert order.dtype == np.int64


def test_orders_are_the_same_on_all_machines():
    assert epoch_order(12, 0, 0).tolist() == [9, 7, 10, 2, 0, 11, 4, 3, 5, 6, 1, 8]
    assert epoch_order(12, 0, 0, shuffle=False).tolist() == list(range(12))
    assert shard_order(np.repeat(np.arange(4), 3), 0, 0, 2).tolist() == [
        9,
        10,
        2,
        0,
        11,
        1,
        7,
        4,
        3,
        5,
        6,
        8,
    ]


def test_seeds_and_epochs_are_told_apart():
    orders = {tuple(epoch_order(50, s, e).tolist()) for s in range(6) for e in range(6)}
    assert len(orders) == 36
    for seed, epoch in ((-1, 0), (0, -1)):
        with pytest.raises(ConfigError, match="at least 0"):
            epoch_order(3, seed, epoch)


def test_every_item_comes_everywhere_equally_often():
    counts = np.zeros((6, 6))
    for epoch in range(3000):
        counts[np.arange(6), epoch_order(6, 7, epoch)] += 1
    assert abs(counts - 500).max() < 120  # 5.9 standard deviations of a fair draw


@quick
@given(st.lists(st.integers(0, 7), max_size=60), st.integers(1, 9), st.integers(0, 99))
def test_only_so_many_shards_are_mixed(shards, window, seed):
    order = shard_order(np.array(shards, np.int64), seed, 3, window).tolist()
    assert sorted(order) == list(range(len(shards)))
    left, begun = Counter(shards), set()
    for i in order:
        if not any(left[s] for s in begun):
            begun = set()  # those shards are read to their ends: the next ones begin
        begun.add(shards[i])
        left[shards[i]] -= 1
        assert len(begun) <= window


def test_shards_and_their_videos_come_in_another_order_each_epoch():
    shards = np.repeat(np.arange(10), 10)
    first, second = (shard_order(shards, 0, epoch, 1) for epoch in (0, 1))
    assert shards[first].reshape(10, 10).std(axis=1).max() == 0
    assert shards[first][::10].tolist() != shards[second][::10].tolist()
    assert sorted(first[:10]) != first[:10].tolist()
    with pytest.raises(ConfigError, match="at least 1 shard"):
        shard_order(shards, 0, 0, 0)


@quick
@given(lengths_of, st.integers(1, 12), st.integers(0, 5))
def test_buckets_are_sorted_windows(lengths, window, seed):
    order = epoch_order(len(lengths), seed, 0)
    bucketed = bucket_order(order, np.array(lengths, np.int64), window).tolist()
    for number, start in enumerate(range(0, len(lengths), window)):
        before = order[start : start + window].tolist()
        sign = -1 if number % 2 else 1
        assert bucketed[start : start + window] == sorted(before, key=lambda i: sign * lengths[i])


def plain_cut(order, lengths, limit, padded, most):
    """The definition: an item joins the batch before it if that stays within the limits."""
    out = []
    for i in order:
        both = [lengths[j] for j in (*out[-1], i)] if out else []
        cells = max(both, default=0) * len(both) if padded else sum(both)
        if out and cells <= limit and len(both) <= most:
            out[-1].append(i)
        else:
            out.append([i])
    return out


@quick
@given(lengths_of, st.integers(1, 25), st.booleans(), st.none() | st.integers(1, 5), st.booleans())
def test_batches_of_tokens_are_as_full_as_they_can_be(lengths, limit, padded, most, drop_last):
    order = epoch_order(len(lengths), 1, 2)
    batches = cut_by_tokens(
        order,
        np.array(lengths, np.int64),
        limit,
        padded=padded,
        batch_size=most,
        drop_last=drop_last,
    )
    wanted = plain_cut(order.tolist(), lengths, limit, padded, most or len(lengths))
    assert listed(batches) == (wanted[:-1] if drop_last else wanted)


@quick
@given(st.integers(0, 40), st.integers(1, 12), st.booleans())
def test_batches_of_videos_are_slices(n, size, drop_last):
    order = epoch_order(n, 3, 4)
    wanted = [order[i : i + size].tolist() for i in range(0, n, size)]
    if drop_last:
        wanted = [batch for batch in wanted if len(batch) == size]
    assert listed(cut_by_count(order, size, drop_last)) == wanted


@quick
@given(lengths_of, st.integers(9, 25), st.integers(0, 50), st.booleans())
def test_what_is_left_is_what_was_not_taken(lengths, limit, taken, drop_last):
    order = epoch_order(len(lengths), 1, 1)
    batches = cut_by_tokens(order, np.array(lengths, np.int64), limit, drop_last=drop_last)
    mixed = shuffle_batches(batches, 5, 6)
    assert sorted(listed(mixed)) == sorted(listed(batches))
    gone = {i for batch in listed(mixed)[:taken] for i in batch}
    assert mixed.without_first(taken).tolist() == [i for i in order.tolist() if i not in gone]


def test_batches_are_shuffled():
    batches = cut_by_count(np.arange(100), 2)
    assert listed(shuffle_batches(batches, 0, 0)) != listed(batches)
    assert listed(shuffle_batches(batches, 0, 0)) != listed(shuffle_batches(batches, 0, 1))
    assert isinstance(batches, Batches)
    with pytest.raises(ConfigError, match="at least 1 video"):
        bucket_order(np.arange(3), np.arange(3), 0)


@pytest.mark.slow
def test_two_million_items_take_no_time():
    n = 2_000_000
    lengths = np.random.default_rng(0).integers(1, 1600, n)

    def seconds(work):
        took = []
        for _ in range(3):
            start = time.perf_counter()
            work()
            took.append(time.perf_counter() - start)
        return min(took)

    order = epoch_order(n, 0, 0)
    assert seconds(lambda: cut_by_count(epoch_order(n, 0, 0), 8)) < 0.3
    assert seconds(lambda: cut_by_tokens(order, lengths, 8192)) < 1.5
    assert seconds(lambda: cut_by_tokens(bucket_order(order, lengths, 800), lengths, 8192)) < 2
