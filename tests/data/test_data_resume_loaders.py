"""Loaders go on from a state, in other processes and with stores that change meanwhile."""

import shutil
import subprocess
import sys
import time

import pytest
from data_cases import KEYS, VIDEOS, keys_of, sent
from store_builders import tiny, write

from vidcomp.data import CachedTokenDataset, TokenLoader
from vidcomp.errors import ConfigError, StoreStaleError
from vidcomp.store import open_cache


@pytest.fixture
def cache(tmp_path):
    return write(tmp_path / "cache", VIDEOS)


def test_only_what_the_trainer_was_given_counts(cache):
    wanted = keys_of(TokenLoader(cache, 1, shuffle=True))
    loader = TokenLoader(cache, 1, shuffle=True, num_threads=2, prefetch=8)
    states = [loader.state_dict()]
    for batch in loader:
        time.sleep(0.001)  # much is read ahead
        assert batch.keys == wanted[len(states) - 1]
        states.append(loader.state_dict())
    following = keys_of(loader)
    for given_, state in enumerate(states):
        again = TokenLoader(cache, 1, shuffle=True)
        again.load_state_dict(sent(state))
        assert keys_of(again) == (wanted[given_:] or following)


def test_a_fresh_process_goes_on(cache):
    code = """
import json, sys
from vidcomp.data import TokenLoader
loader = TokenLoader(sys.argv[1], 2, shuffle=True, seed=6, num_threads=int(sys.argv[2]))
if len(sys.argv) > 3:
    loader.load_state_dict(json.loads(sys.argv[3]))
for number, batch in enumerate(loader):
    print(*batch.keys)
    if number == 2:
        break
print(json.dumps(loader.state_dict()))
"""
    wanted = keys_of(TokenLoader(cache, 2, shuffle=True, seed=6))
    state, lines = [], []
    for threads in ("3", "0", "1"):
        command = [sys.executable, "-c", code, str(cache), threads, *state]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        *found, last = done.stdout.splitlines()
        lines += found
        state = [last]
        assert len(last) < 300
    assert [tuple(line.split()) for line in lines] == wanted


def test_loading_ends_the_iteration_under_way(cache):
    loader = TokenLoader(cache, 2, shuffle=True)
    batches = iter(loader)
    next(batches)
    state = loader.state_dict()
    next(batches)
    loader.load_state_dict(state)
    assert list(batches) == []
    assert len(keys_of(loader)) == 6


# Stores that change


def add(path, names):
    videos = {name: tiny(2, 6, 100 + i, assign=None) for i, name in enumerate(names)}
    write(path, videos)


def half_way(path, **options):
    """Keys seen and the state in the middle of an epoch."""
    loader = TokenLoader(path, 2, shuffle=True, **options)
    batches = iter(loader)
    seen = [key for _ in range(3) for key in next(batches).keys]
    return seen, sent(loader.state_dict()), keys_of(batches)


@pytest.mark.parametrize("times", [1, 3])
def test_a_store_that_grew_shows_the_records_of_then(cache, times):
    seen, state, rest = half_way(cache)
    for n in range(times):
        add(cache, [f"a{n}{i}" for i in range(5)])
    loader = TokenLoader(cache, 2, shuffle=True)
    assert len(loader.dataset) == 13 + 5 * times
    loader.load_state_dict(state)
    assert keys_of(loader) == rest
    assert sorted([*seen, *(key for keys in rest for key in keys)]) == KEYS
    assert loader.state_dict()["digest"] == state["digest"]
    fresh = TokenLoader(cache, 2, shuffle=True)
    fresh.set_epoch(loader.epoch)
    assert len([key for batch in fresh for key in batch.keys]) == 13 + 5 * times


def test_named_keys_need_no_pin(cache):
    _, state, rest = half_way(CachedTokenDataset(cache, KEYS))
    add(cache, ["a"])
    loader = TokenLoader(CachedTokenDataset(cache, KEYS), 2, shuffle=True)
    here = loader.dataset.cache
    loader.load_state_dict(state)
    assert loader.dataset.cache is here
    assert keys_of(loader) == rest


def test_a_replaced_record_is_read_as_it_was(cache):
    dataset = CachedTokenDataset(cache)
    _, state, rest = half_way(dataset)
    write(cache, {"clip03": tiny(9, 6, 77, assign=None)})
    loader = TokenLoader(cache, 2, shuffle=True)
    assert len(loader.dataset[3].video) == 9
    loader.load_state_dict(state)
    assert keys_of(loader) == rest
    assert len(loader.dataset[3].video) == 4


def test_a_copy_of_the_store_does_as_well(cache, tmp_path):
    _, state, rest = half_way(cache)
    shutil.copytree(cache, tmp_path / "copy")
    loader = TokenLoader(tmp_path / "copy", 2, shuffle=True)
    loader.load_state_dict(state)
    assert keys_of(loader) == rest


def test_records_that_are_gone_or_others_are_refused(cache, tmp_path):
    _, state, _ = half_way(cache)
    other = TokenLoader(write(tmp_path / "other", {**VIDEOS, "z": tiny(1, 6)}), 2)
    with pytest.raises(StoreStaleError, match=r"the store has lost them in .*other"):
        other.load_state_dict(state)
    assert len(list(other)) == 7  # it is as it was
    loader = TokenLoader(CachedTokenDataset(cache, KEYS[:5]), 2)
    with pytest.raises(StoreStaleError, match=r"these are others .* same store and keys"):
        loader.load_state_dict(state)
    assert len(list(loader)) == 3


def test_an_order_by_shards_needs_the_same_shards(tmp_path):
    split = write(tmp_path / "split", dict(list(VIDEOS.items())[:6]))
    write(split, dict(list(VIDEOS.items())[6:]))
    seen, state, rest = half_way(split, shard_window=1)
    assert len({key in KEYS[:6] for key in seen}) == 1
    loader = TokenLoader(split, 2, shuffle=True, shard_window=1)
    loader.load_state_dict(state)
    assert keys_of(loader) == rest
    whole = TokenLoader(write(tmp_path / "whole", VIDEOS), 2, shuffle=True)
    with pytest.raises(StoreStaleError):
        whole.load_state_dict(state)
    plain = TokenLoader(split, 2, shuffle=True)
    _, state, rest = half_way(split)
    assert "shards" not in state
    whole.load_state_dict(state)  # the shuffle over all does not care where videos lie
    plain.load_state_dict(state)
    assert keys_of(whole) == keys_of(plain) == rest


# What is no state


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: None, "got None"),
        (lambda s: [s], "a state is what state_dict"),
        (lambda s: {}, "got {}"),
        (lambda s: {**s, "version": 2}, "version 1 is wanted, got version 2"),
        (lambda s: {k: s[k] for k in s if k != "pin"}, "KeyError: 'pin'"),
        (lambda s: {**s, "epoch": -1}, "at least 0 is wanted, got -1"),
        (lambda s: {**s, "seed": "x"}, "got 'x'"),
        (lambda s: {**s, "done": [[{"batch_size": 2}]]}, "the state cannot be used"),
        (lambda s: {**s, "done": [[{"size": 2}, 1]]}, "a rule of batches has"),
        (lambda s: {**s, "done": [[{"batch_size": 0}, 1]]}, "batch_size is a whole number"),
        (lambda s: {**s, "done": 5}, "the state cannot be used"),
    ],
)
def test_a_wrong_state_is_said_in_one_sentence(cache, change, words):
    loader = TokenLoader(cache, 2)
    with pytest.raises(ConfigError, match=words) as caught:
        loader.load_state_dict(change(loader.state_dict()))
    assert "\n" not in str(caught.value)
    assert len(list(loader)) == 7


def test_a_wrong_pin_is_refused(cache):
    loader = TokenLoader(cache, 2)
    state = {**loader.state_dict(), "digest": "0" * 16}
    with pytest.raises(StoreStaleError, match="these are others"):
        loader.load_state_dict(state)
    with pytest.raises((ConfigError, StoreStaleError)):
        loader.load_state_dict({**state, "pin": "nonsense"})
    assert len(list(loader)) == 7


def test_the_cache_that_was_given_is_left_alone(cache):
    _, state, _ = half_way(cache)
    add(cache, ["a"])
    opened = open_cache(cache)
    loader = TokenLoader(opened, 2)
    loader.load_state_dict(state)
    assert len(opened) == 14
    assert len(loader.dataset) == 13
