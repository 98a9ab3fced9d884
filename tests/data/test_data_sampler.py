"""Batches of indices: every item of an epoch once, whatever the ranks and the rule."""

import json
import pickle
from collections import Counter

import pytest
import torch
from data_items import Items, items, rules
from hypothesis import given, settings
from hypothesis import strategies as st
from store_builders import tiny, write
from torch.utils.data import DataLoader

from vidcomp.data import CachedTokenDataset, TokenBatchSampler, collate
from vidcomp.errors import ConfigError

many = settings(deadline=None, max_examples=150)
tails = st.sampled_from(["pad", "drop", "uneven"])


def flat(batches):
    return [i for batch in batches for i in batch]


def samplers(items, world, **options):
    return [TokenBatchSampler(items, rank=r, world_size=world, **options) for r in range(world)]


@many
@given(items(), rules(), st.integers(0, 3))
def test_an_epoch_is_every_item_once(items, rule, epoch):
    sampler = TokenBatchSampler(items, seed=5, **rule)
    sampler.set_epoch(epoch)
    num_batches = len(sampler)
    batches = list(sampler)
    assert len(batches) == num_batches
    missing = Counter(range(len(items))) - Counter(flat(batches))
    assert missing.total() == sampler.num_dropped
    assert Counter(flat(batches)) <= Counter(range(len(items)))
    if not rule["drop_last"]:
        assert not missing
    for batch in batches:
        assert 1 <= len(batch) <= (rule["batch_size"] or 10**6)
        lengths = [int(items.num_tokens[i]) for i in batch]
        cells = max(lengths) * len(batch) if rule["padded"] else sum(lengths)
        assert cells <= (rule["tokens_per_batch"] or 10**6)
    if not rule["shuffle"] and not rule["bucket"]:
        assert flat(batches) == list(range(len(flat(batches))))


@many
@given(items(), rules(), st.integers(1, 7), tails)
def test_ranks_deal_out_the_same_batches(items, rule, world, tail):
    alone = list(TokenBatchSampler(items, **rule))
    group = samplers(items, world, tail=tail, **rule)
    steps = [len(sampler) for sampler in group]
    shares = [list(sampler) for sampler in group]
    assert [len(share) for share in shares] == steps
    rounds = max(map(len, shares))
    dealt = [share[k] for k in range(rounds) for share in shares if k < len(share)]
    if tail == "pad":
        assert len({*map(len, shares)}) == 1
        assert dealt[: len(alone)] == alone
        repeated = dealt[len(alone) :]
        assert len(repeated) < world
        assert all(batch in alone for batch in repeated)
        assert len(flat(repeated)) == group[0].num_repeated
    elif tail == "drop":
        assert dealt == alone[: len(alone) // world * world]
        cut = len(items) - len(flat(alone))
        assert group[0].num_dropped == cut + len(flat(alone[len(dealt) :]))
    else:
        assert dealt == alone
        assert rounds - min(map(len, shares)) <= 1
    if tail != "pad":
        assert group[0].num_repeated == 0


def test_each_iteration_is_the_next_epoch():
    sampler = TokenBatchSampler(Items([1] * 20), 3, shuffle=True, seed=4)
    epochs = [list(sampler) for _ in range(3)]
    assert epochs[0] != epochs[1] != epochs[2]
    assert sampler.epoch == 3
    sampler.set_epoch(1)
    assert sampler.epoch == 1
    running = iter(sampler)
    assert next(running) == epochs[1][0]
    assert sampler.epoch == 1
    assert list(running) == epochs[1][1:]
    assert list(sampler) == epochs[2]
    assert list(TokenBatchSampler(Items([1] * 20), 3, shuffle=True, seed=5)) != epochs[0]
    with pytest.raises(ConfigError, match="epochs count from 0"):
        sampler.set_epoch(-1)


def test_an_iteration_that_never_began_is_no_epoch():
    sampler = TokenBatchSampler(Items([1] * 20), 3, shuffle=True)
    first = list(TokenBatchSampler(Items([1] * 20), 3, shuffle=True))
    iter(sampler)
    iter(sampler)
    assert list(sampler) == first
    next(iter(sampler))  # a look at the next epoch ends it: the one after it is whole
    assert sampler.epoch == 1
    assert sorted(flat(sampler)) == list(range(20))
    assert sampler.epoch == 3


def test_buckets_waste_little_padding():
    lengths = [(i * 7919) % 1000 for i in range(2000)]

    def waste(**options):
        batches = TokenBatchSampler(Items(lengths), 8, shuffle=True, **options)
        cells = sum(max(lengths[i] for i in batch) * len(batch) for batch in batches)
        return 1 - sum(lengths) / cells

    assert waste() > 0.35
    assert waste(bucket=400) < 0.05


def test_a_video_over_the_limit_is_named():
    items = Items([3, 12, 5])
    with pytest.raises(ConfigError, match="at most 10 tokens, but 'k1' alone has 12"):
        list(TokenBatchSampler(items, tokens_per_batch=10))
    sampler = TokenBatchSampler(items, tokens_per_batch=10, allow_long=True)
    assert list(sampler) == [[0], [1], [2]]
    assert list(TokenBatchSampler(items, tokens_per_batch=12)) == [[0], [1], [2]]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "got neither"),
        ({"batch_size": 0}, "batch_size is a whole number of at least 1, got 0"),
        ({"batch_size": True}, "got True"),
        ({"batch_size": 2, "bucket": -1}, "bucket is a whole number"),
        ({"tokens_per_batch": 1.5}, "tokens_per_batch is a whole number"),
        ({"batch_size": 2, "shard_window": 2}, "pass shuffle=True"),
        ({"batch_size": 2, "seed": -1}, "a seed is a whole number"),
        ({"batch_size": 2, "tail": "cut"}, "tail is one of pad, drop, uneven, got 'cut'"),
        ({"batch_size": 2, "rank": 1}, "rank and world_size belong together"),
        ({"batch_size": 2, "rank": 2, "world_size": 2}, "got rank 2 of 2"),
        ({"batch_size": 2, "rank": 0, "world_size": 0}, "got rank 0 of 0"),
    ],
)
def test_what_cannot_be_is_said_at_once(options, words):
    with pytest.raises(ConfigError, match=words):
        TokenBatchSampler(Items([1, 2]), **options)


def test_ranks_are_those_of_torch_once_it_has_them(monkeypatch):
    sampler = TokenBatchSampler(Items([1] * 7), 1)
    assert sampler.ranks == (0, 1)
    group = torch.distributed
    monkeypatch.setattr(group, "is_initialized", lambda: True)
    monkeypatch.setattr(group, "get_rank", lambda: 1)
    monkeypatch.setattr(group, "get_world_size", lambda: 3)
    assert sampler.ranks == (1, 3)
    assert list(sampler) == [[1], [4], [0]]
    assert len(TokenBatchSampler(Items([1] * 7), 1, rank=0, world_size=1)) == 7


def test_it_can_be_copied_in_the_middle():
    sampler = TokenBatchSampler(Items([1] * 20), 3, shuffle=True)
    running = iter(sampler)
    next(running), next(running)
    copy = pickle.loads(pickle.dumps(sampler))
    assert list(copy) == list(running)
    assert list(copy) == list(sampler)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_torch_loads_its_batches(tmp_path, num_workers):
    videos = {f"clip{i:02d}": tiny(i % 4 + 1, 6, i, assign=None) for i in range(13)}
    dataset = CachedTokenDataset(write(tmp_path, videos))
    sampler = TokenBatchSampler(dataset, tokens_per_batch=8, shuffle=True)
    loader = DataLoader(dataset, batch_sampler=sampler, collate_fn=collate, num_workers=num_workers)
    batches = list(loader)
    assert len(batches) == len(list(TokenBatchSampler(dataset, tokens_per_batch=8, shuffle=True)))
    assert sorted(key for batch in batches for key in batch.keys) == sorted(videos)
    assert all(int(batch.offsets[-1]) <= 8 for batch in batches)
    running = iter(loader)
    kept = [next(running).keys for _ in range(2)]
    state = json.loads(json.dumps(sampler.state_dict(num_batches=2)))
    rest = [batch.keys for batch in running]
    again = TokenBatchSampler(dataset, tokens_per_batch=8, shuffle=True)
    again.load_state_dict(state)
    assert [tuple(dataset.keys[i] for i in batch) for batch in again] == rest
    assert sorted(flat([*kept, *rest])) == sorted(videos)
