"""Batches from a cache: contents, threads, damage."""

import logging

import pytest
import torch
from data_cases import EVERYTHING, KEYS, VIDEOS, Slow, orders, readers, seen
from store_builders import content, tiny, write
from torch.utils.data import DataLoader

from vidcomp.data import (
    CachedTokenDataset,
    TokenBatchSampler,
    TokenLoader,
    collate,
)
from vidcomp.errors import ConfigError, StoreCorruptError, StoreMissError
from vidcomp.store import open_cache
from vidcomp.types import PaddedTokens, TokenBatch

pytestmark = pytest.mark.usefixtures("no_thread_is_left")


@pytest.fixture
def damaged(tmp_path):
    """A store and a function that damages records of it."""
    write(tmp_path, VIDEOS)

    def damage(*keys):
        for key in keys:
            info = open_cache(tmp_path).info(key)
            shard = tmp_path / "shards" / f"{info.shard}.safetensors"
            data = bytearray(shard.read_bytes())
            data[info.offset] ^= 1
            shard.write_bytes(data)
        return tmp_path

    return damage


@pytest.mark.parametrize("num_threads", [0, 1, 3])
@pytest.mark.parametrize("shuffle", [False, True])
def test_an_epoch_is_every_record_once(cache, num_threads, shuffle):
    loader = TokenLoader(cache, 4, shuffle=shuffle, num_threads=num_threads)
    assert len(loader) == 4
    batches = list(loader)  # all are kept: none is written to by later ones
    assert [len(batch) for batch in batches] == [4, 4, 4, 1]
    assert all(isinstance(batch, TokenBatch) for batch in batches)
    assert seen(batches) == EVERYTHING
    assert ([key for batch in batches for key in batch.keys] == KEYS) is not shuffle


def test_the_order_does_not_depend_on_threads(cache):
    wanted = orders(TokenLoader(cache, 4, shuffle=True, seed=5, num_threads=0), 3)
    assert wanted[0] != wanted[1]
    uneven = Slow(cache, {0: 0.03, 4: 0.01, 7: 0.02})
    for threads, prefetch in ((1, 1), (2, 1), (2, 9), (5, 3)):
        loader = TokenLoader(
            uneven, 4, shuffle=True, seed=5, num_threads=threads, prefetch=prefetch
        )
        assert orders(loader, 3) == wanted


def test_no_global_random_state_is_read_or_changed(cache):
    first = orders(TokenLoader(cache, 4, shuffle=True), 2)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    assert orders(TokenLoader(cache, 4, shuffle=True), 2) == first
    assert torch.equal(torch.get_rng_state(), before)


def test_padded_and_cut_batches(cache):
    batches = list(TokenLoader(cache, 4, padded=True, drop_last=True))
    assert len(batches) == 3
    for batch in batches:
        wanted = TokenBatch.pack([VIDEOS[key] for key in batch.keys], batch.keys).padded()
        assert isinstance(batch, PaddedTokens)
        assert batch.keys == wanted.keys
        assert all(torch.equal(a, b) for a, b in zip(batch[:5], wanted[:5], strict=True))


def test_padding_is_zero_in_memory_that_was_used_before(tmp_path):
    videos = {f"{i:03d}": tiny(1 + i * 37 % 90, 600, i, assign=None) for i in range(40)}
    loader = TokenLoader(write(tmp_path, videos), 4, padded=True, shuffle=True)
    for _ in range(3):
        for batch in loader:
            assert not batch.tokens[~batch.mask].any()
            assert not batch.mass[~batch.mask].any()
            batch.tokens.fill_(1)  # what the next batch in this memory must not show
            batch.mass.fill_(1)


def test_batches_by_tokens(cache):
    loader = TokenLoader(cache, tokens_per_batch=8, padded=True, shuffle=True, bucket=6)
    batches = list(loader)
    assert all(batch.mask.numel() <= 8 for batch in batches)
    assert sorted(key for batch in batches for key in batch.keys) == KEYS
    assert loader.batch_size is None


def test_no_records_are_no_batches(tmp_path):
    loader = TokenLoader(write(tmp_path, {}), 4, shuffle=True)
    assert [list(loader) for _ in range(3)] == [[], [], []]
    assert len(loader) == 0


def test_ranks_share_an_epoch(cache):
    loaders = [TokenLoader(cache, 2, shuffle=True, rank=r, world_size=3) for r in range(3)]
    batches = [list(loader) for loader in loaders]
    assert [len(share) for share in batches] == [3, 3, 3]
    keys = [key for share in batches for batch in share for key in batch.keys]
    assert set(keys) == set(KEYS)
    assert len(keys) == 13 + loaders[0].num_repeated == 17


def test_what_cannot_be_is_said_at_once(cache, tmp_path):
    for options, words in (
        ({"batch_size": 0}, "batch_size is a whole number of at least 1, got 0"),
        ({"batch_size": 1, "num_threads": -1}, "num_threads >= 0"),
        ({"batch_size": 1, "prefetch": 0}, "prefetch >= 1"),
        ({"batch_size": 1, "on_error": "warn"}, "'raise' or 'skip', got 2, 4 and 'warn'"),
    ):
        with pytest.raises(ConfigError, match=words):
            TokenLoader(cache, **options)
    with pytest.raises(StoreMissError, match="no token cache"):
        TokenLoader(tmp_path / "gone", 1)


def test_a_video_over_the_limit_is_named(cache):
    loader = TokenLoader(cache, tokens_per_batch=3)
    with pytest.raises(ConfigError, match="at most 3 tokens, but 'clip03' alone has 4"):
        next(iter(loader))
    assert not readers()
    assert len(list(TokenLoader(cache, tokens_per_batch=3, allow_long=True))) > 8


def test_damage_is_raised_at_its_own_batch(damaged):
    loader = TokenLoader(damaged("clip07"), 2, prefetch=6)
    batches, keys = iter(loader), []
    with pytest.raises(StoreCorruptError, match="clip07"):
        keys.extend(key for batch in batches for key in batch.keys)
    assert keys == KEYS[:6]
    assert list(batches) == []
    again = TokenLoader(loader.dataset, 3)
    again.load_state_dict(loader.state_dict())  # what was not given is still due
    assert again.sampler.begin().share.items(0) == [6, 7, 8]


def test_damage_can_be_left_out(damaged, caplog):
    path = damaged("clip01", "clip07", "clip08", "clip09")
    loader = TokenLoader(path, 3, on_error="skip")
    with caplog.at_level(logging.WARNING, logger="vidcomp"):
        batches = list(loader)
    assert [batch.keys for batch in batches] == [
        ("clip00", "clip02"),
        ("clip03", "clip04", "clip05"),
        ("clip06",),
        ("clip10", "clip11"),
        ("clip12",),
    ]
    assert all(content(v) == EVERYTHING[k] for b in batches for k, v in zip(b.keys, b, strict=True))
    assert loader.num_skipped == 4
    assert [text.count("left out") for text in caplog.messages] == [1] * 4
    assert "clip01" in caplog.text
    list(loader)
    assert loader.num_skipped == 8


@pytest.mark.parametrize("num_threads", [0, 2])
def test_ranks_stay_in_step_when_a_whole_batch_is_lost(damaged, num_threads):
    path = damaged("clip02", "clip03", "clip12")
    options = {"on_error": "skip", "num_threads": num_threads}
    assert len(list(TokenLoader(path, 2, **options))) == 5
    shares = [
        [batch.keys for batch in TokenLoader(path, 2, rank=r, world_size=2, **options)]
        for r in range(2)
    ]
    assert [len(share) for share in shares] == [4, 4]
    assert {key for share in shares for keys in share for key in keys} == set(KEYS) - {
        "clip02",
        "clip03",
        "clip12",
    }
    damaged(*[key for key in KEYS if key not in ("clip02", "clip03", "clip12")])
    with pytest.raises(StoreCorruptError, match="cannot read a single video"):
        list(TokenLoader(path, 2, rank=0, world_size=2, **options))


@pytest.mark.parametrize("context", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_workers_read_too(cache, context):
    dataset = CachedTokenDataset(cache)
    loader = DataLoader(
        dataset,
        batch_sampler=TokenBatchSampler(dataset, 5, shuffle=True),
        num_workers=2,
        collate_fn=collate,
        multiprocessing_context=context,
    )
    assert seen(loader) == EVERYTHING
