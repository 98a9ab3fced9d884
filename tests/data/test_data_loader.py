"""Batches from a cache: contents, threads, memory, damage."""

import gc
import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import weakref

import pytest
import torch
from store_builders import content, same, tiny, write
from torch.utils.data import DataLoader

from vidcomp.data import (
    CachedTokenDataset,
    Sample,
    TokenBatchSampler,
    TokenLoader,
    collate,
    collate_padded,
)
from vidcomp.errors import ConfigError, ShapeError, StoreCorruptError, StoreMissError
from vidcomp.store import open_cache
from vidcomp.types import PaddedTokens, TokenBatch

VIDEOS = {f"clip{i:02d}": tiny(i % 4 + 1, 6, i, assign=None) for i in range(13)}
KEYS = sorted(VIDEOS)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return write(tmp_path_factory.mktemp("cache"), VIDEOS)


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


@pytest.fixture(autouse=True)
def _no_thread_is_left():
    yield
    wait_for(lambda: readers() == [])


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


# The data set


def test_the_data_set_is_the_records_in_the_order_of_their_keys(cache):
    dataset = CachedTokenDataset(cache)
    assert len(dataset) == 13
    assert list(dataset.keys) == KEYS
    assert dataset.num_tokens.tolist() == [len(VIDEOS[key]) for key in KEYS]
    for i, key in enumerate(KEYS):
        assert dataset[i].key == key
        assert same(dataset[i].video, VIDEOS[key])
    assert dataset[-1].key == "clip12"
    for index in (13, -14):
        with pytest.raises(IndexError):
            dataset[index]


def test_the_data_set_takes_keys_in_the_order_given(cache):
    dataset = CachedTokenDataset(open_cache(cache), ["clip05", "clip01", "clip05"])
    assert [dataset[i].key for i in range(3)] == ["clip05", "clip01", "clip05"]
    assert dataset.num_tokens.tolist() == [2, 2, 2]
    assert dataset.digest != CachedTokenDataset(cache, ["clip05", "clip01"]).digest
    with pytest.raises(StoreMissError, match=r"lacks 2 of the 3 records asked for \('x', 'y'\)"):
        CachedTokenDataset(cache, ["clip01", "x", "y"])
    with pytest.raises(StoreMissError, match="no token cache"):
        CachedTokenDataset(cache / "gone")


def test_the_data_set_is_picklable_and_small(cache):
    dataset = CachedTokenDataset(cache, ["clip03"])
    assert dataset.shard_digest
    sent = pickle.dumps(dataset)
    assert len(sent) < 1500
    back = pickle.loads(sent)
    assert same(back[0].video, VIDEOS["clip03"])
    assert (back.digest, back.shard_digest) == (dataset.digest, dataset.shard_digest)


def test_items_are_read_at_once_for_torchs_loader(cache):
    dataset = CachedTokenDataset(cache)
    items = dataset.__getitems__([3, -1, 3])
    assert [item.key for item in items] == ["clip03", "clip12", "clip03"]
    assert [len(item.video) for item in items[1:]] == [1, 4]
    assert all(same(item.video, VIDEOS[item.key]) for item in items)
    assert collate(items) is items.batch
    assert collate_padded(items).keys == ("clip03", "clip12", "clip03")
    with pytest.raises(IndexError):
        dataset.__getitems__([13])


def test_items_of_several_widths_are_still_items(tmp_path):
    dataset = CachedTokenDataset(write(tmp_path, {"a": tiny(2, 6), "b": tiny(2, 7)}))
    items = dataset.__getitems__([0, 1])
    assert [item.video.tokens.shape[1] for item in items] == [6, 7]
    with pytest.raises(ShapeError):
        collate(items)


def test_collating_packs_and_pads():
    items = [Sample(key, VIDEOS[key]) for key in ("clip02", "clip00")]
    batch = collate(items)
    assert batch.keys == ("clip02", "clip00")
    assert batch.lengths.tolist() == [3, 1]
    assert same(batch[0], VIDEOS["clip02"])
    assert collate([VIDEOS["clip02"]]).keys == ()
    padded = collate_padded(items)
    assert isinstance(padded, PaddedTokens)
    assert padded.mask.tolist() == [[True] * 3, [True, False, False]]
    assert torch.equal(padded.tokens[1, 0], VIDEOS["clip00"].tokens[0])
    assert not padded.tokens[1, 1:].any()
    with pytest.raises(ShapeError):
        collate([])


# The loader


def seen(batches):
    """Content of each record by key, over all batches; no key may come twice."""
    out = {}
    for batch in batches:
        for key, video in zip(batch.keys, batch, strict=True):
            assert key not in out
            out[key] = content(video)
    return out


EVERYTHING = {key: content(video) for key, video in VIDEOS.items()}


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


def orders(loader, epochs):
    return [[batch.keys for batch in loader] for _ in range(epochs)]


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


# Lifetimes


def test_kept_batches_stay_and_dropped_ones_give_their_memory_back(tmp_path):
    videos = {f"{i:02d}": tiny(100, 700, i, assign=None) for i in range(40)}
    loader = TokenLoader(write(tmp_path, videos), 4, shuffle=True, prefetch=2)
    addresses = set()
    for _ in range(5):
        for batch in loader:
            addresses.add(batch.tokens.data_ptr())
    assert len(addresses) <= 8  # of 50 batches
    kept = []
    for epoch in range(2):
        for number, batch in enumerate(loader):
            if number % 3 == epoch:
                kept.append(batch)
            else:
                batch.tokens.zero_()
    for batch in kept:
        assert all(same(video, videos[key]) for key, video in zip(batch.keys, batch, strict=True))
    tokens = next(iter(loader)).tokens  # a part of a batch holds on to its memory, too
    before = tokens.clone()
    list(loader)
    assert torch.equal(tokens, before)


@pytest.mark.gpu
def test_pinned_batches_reach_the_gpu_as_they_are(tmp_path):
    videos = {f"{i:02d}": tiny(50 + i, 700, i, assign=None) for i in range(40)}
    loader = TokenLoader(write(tmp_path, videos), 4, shuffle=True, pin_memory=True)
    for _ in range(3):
        there = []
        for batch in loader:
            assert batch.tokens.is_pinned()
            there.append(batch.to("cuda", non_blocking=True))
        torch.cuda.synchronize()
        found = {k: v.to("cpu") for b in there for k, v in zip(b.keys, b, strict=True)}
        assert all(same(found[key], video) for key, video in videos.items())


def test_pinning_needs_a_gpu(cache):
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="pin_memory=False"):
            TokenLoader(cache, 4, pin_memory=True)


def test_no_more_is_read_ahead_than_asked_for(cache):
    dataset = Slow(cache)
    batches = iter(TokenLoader(dataset, 1, prefetch=3))
    assert dataset.num_read == 0
    next(batches)
    wait_for(lambda: dataset.num_read == 4)
    time.sleep(0.05)
    assert dataset.num_read == 4
    next(batches)
    wait_for(lambda: dataset.num_read == 5)


def _fail_within(loader):
    for _ in loader:
        raise ZeroDivisionError


def test_leaving_the_loop_ends_the_threads(cache):
    loader = TokenLoader(cache, 1)
    for _ in loader:
        assert len(readers()) == 2
        break
    wait_for(lambda: not readers())
    with pytest.raises(ZeroDivisionError):
        _fail_within(loader)
    wait_for(lambda: not readers())
    batches = iter(loader)
    next(batches)
    del batches
    wait_for(lambda: not readers())
    batches = iter(loader)
    next(batches)
    loader.close()
    assert not readers()
    assert list(batches) == []
    list(loader)
    assert not readers()


def test_a_loader_that_is_dropped_takes_all_with_it(cache):
    loader = TokenLoader(cache, 1)
    batches = iter(loader)
    next(batches)
    gone = weakref.ref(loader)
    del loader, batches
    wait_for(lambda: not readers())
    assert gone() is None


def test_two_iterations_at_once_are_two_epochs(cache):
    loader = TokenLoader(cache, 4, shuffle=True)
    wanted = orders(TokenLoader(cache, 4, shuffle=True), 2)
    pairs = list(zip(loader, loader, strict=True))
    assert [[pair[n].keys for pair in pairs] for n in (0, 1)] == wanted


def test_it_can_be_copied_between_epochs_and_in_the_middle(cache):
    loader = TokenLoader(cache, 4, shuffle=True, seed=9)
    wanted = orders(TokenLoader(cache, 4, shuffle=True, seed=9), 2)
    assert [batch.keys for batch in loader] == wanted[0]
    copy = pickle.loads(pickle.dumps(loader))
    assert copy.dataset is copy.sampler.dataset
    assert [batch.keys for batch in copy] == wanted[1]
    running = iter(loader)
    next(running)
    assert [batch.keys for batch in pickle.loads(pickle.dumps(loader))] == wanted[1][1:]
    loader.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_it_works_in_a_forked_child(cache):
    loader = TokenLoader(cache, 2, shuffle=True)
    running = iter(loader)
    next(running)
    child = os.fork()
    if child == 0:
        # Both an iteration that was under way, and a new one.
        good = len(list(running)) == 6 and len(list(loader)) == 7
        os._exit(0 if good else 1)
    rest = list(running)
    assert os.waitpid(child, 0)[1] == 0
    assert len(rest) == 6


def run_code(code, *arguments, **options):
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def test_an_iteration_that_is_held_does_not_hinder_the_end(cache):
    code = """
import sys
from vidcomp.data import TokenLoader
held = iter(TokenLoader(sys.argv[1], 1))
print(next(held).keys)
"""
    child = run_code(code, cache)
    out, err = child.communicate(timeout=60)
    assert (child.returncode, out, err) == (0, "('clip00',)\n", "")


def test_ctrl_c_ends_a_wait_at_once(cache):
    code = """
import sys, threading, time
from vidcomp.data import CachedTokenDataset, TokenLoader
class Slow(CachedTokenDataset):
    def batch(self, indices, memory=None, *, padded=False):
        if indices[0] > 2:
            print("stuck", flush=True)
            time.sleep(4)
        return super().batch(indices, memory, padded=padded)
try:
    for batch in TokenLoader(Slow(sys.argv[1]), 1, num_threads=1):
        pass
except KeyboardInterrupt:
    print("out", flush=True)
"""
    child = run_code(code, cache)
    assert child.stdout.readline() == "stuck\n"
    start = time.monotonic()
    child.send_signal(signal.SIGINT)
    assert child.stdout.readline() == "out\n"
    assert time.monotonic() - start < 3.5
    out, err = child.communicate(timeout=60)
    assert (child.returncode, out, err) == (0, "", "")


# Damage


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


# In torch's own loader


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
