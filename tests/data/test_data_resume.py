"""Going on from a state: exactly what was still due, whatever changed meanwhile."""

import json
import shutil
import subprocess
import sys
import time
from collections import Counter

import numpy as np
import pytest
from data_items import Items, items, rules
from hypothesis import example, given, settings
from hypothesis import strategies as st
from store_builders import tiny, write

from vidcomp.data import CachedTokenDataset, TokenBatchSampler, TokenLoader
from vidcomp.errors import ConfigError, StoreStaleError
from vidcomp.store import open_cache

many = settings(deadline=None, max_examples=200)
VIDEOS = {f"clip{i:02d}": tiny(i % 4 + 1, 6, i, assign=None) for i in range(13)}
KEYS = sorted(VIDEOS)


def flat(batches):
    return [i for batch in batches for i in batch]


def sent(state):
    """The state as another process gets it."""
    return json.loads(json.dumps(state))


class Ranks:
    """Samplers of all ranks in step."""

    def __init__(self, items, world, tail, rule, seed=3):
        self.samplers = [
            TokenBatchSampler(items, seed=seed, rank=r, world_size=world, tail=tail, **rule)
            for r in range(world)
        ]

    def load(self, state):
        for sampler in self.samplers:
            sampler.load_state_dict(sent(state))

    def run(self, num_steps=None):
        """Batches of up to so many steps, in the order of ranks; all states are equal after."""
        runs, out = [iter(sampler) for sampler in self.samplers], []
        while num_steps is None or num_steps > 0:
            batches = [next(run, None) for run in runs]
            if not any(batches):
                break
            out += [batch for batch in batches if batch is not None]
            num_steps = None if num_steps is None else num_steps - 1
        return out

    @property
    def state(self):
        first, *others = [sampler.state_dict() for sampler in self.samplers]
        assert all(state == first for state in others)
        return first


segments = st.lists(
    st.tuples(rules(), st.integers(1, 4), st.sampled_from(["uneven", "pad"]), st.integers(0, 6)),
    min_size=1,
    max_size=4,
)


@many
@given(items(), segments, rules(), st.integers(1, 4), st.integers(0, 3))
def test_an_epoch_in_pieces_is_every_item_once(items, pieces, rule, world, epoch):
    """Each piece stops after some steps; the next one has other ranks and another rule."""
    for past, *_ in pieces:
        past["drop_last"] = False
    rule["drop_last"] = False
    seen, state = [], None
    for past, ranks, tail, steps in pieces:
        group = Ranks(items, ranks, tail, past)
        if state is None:
            for sampler in group.samplers:
                sampler.set_epoch(epoch)
        else:
            group.load(state)
        if any(sampler.epoch != epoch for sampler in group.samplers):
            break  # all was taken before
        seen += flat(group.run(steps))
        repeated = Counter(seen) - Counter(range(len(items)))
        if repeated:  # a padded tail: the epoch is over
            assert set(seen) == set(range(len(items)))
            seen = list(range(len(items)))
        state = group.state
    group = Ranks(items, world, "uneven", rule)
    group.load(state)
    due = Counter(range(len(items))) - Counter(seen)
    if not due:
        assert all(sampler.epoch == epoch + (len(items) > 0) for sampler in group.samplers)
        assert sorted(flat(group.run())) == list(range(len(items)))
        return
    assert all(sampler.epoch == epoch for sampler in group.samplers)
    assert Counter(flat(group.run())) == due
    after = Ranks(items, world, "uneven", rule)
    after.load(group.state)
    assert all(sampler.epoch == epoch + 1 for sampler in after.samplers)
    wanted = Ranks(items, world, "uneven", rule)
    for sampler in wanted.samplers:
        sampler.set_epoch(epoch + 1)
    assert after.run() == group.run() == wanted.run()


@many
@given(items(), rules(), st.integers(1, 5), st.sampled_from(["pad", "drop", "uneven"]), st.data())
def test_the_same_job_goes_on_with_the_very_next_batch(items, rule, world, tail, data):
    whole = Ranks(items, world, tail, rule)
    batches = [whole.run() for _ in range(3)]
    per_epoch = [-(-len(epoch) // world) for epoch in batches]
    stops = [(e, s) for e in range(2) for s in range(1, per_epoch[e] + 1)]
    if not stops:
        assert batches[:2] == [[], []]  # the third may be of another order
        return
    epoch, stop = data.draw(st.sampled_from(stops))
    first = Ranks(items, world, tail, rule)
    for _ in range(epoch):
        first.run()
    assert first.run(stop) == batches[epoch][: stop * world]
    again = Ranks(items, world, tail, rule, seed=99)  # the seed is the state's
    again.load(first.state)
    if stop == per_epoch[epoch]:
        assert again.run() == batches[epoch + 1]
    else:
        assert len(again.samplers[0]) == len(first.samplers[0])
        assert again.run() == batches[epoch][stop * world :]
        assert again.run() == batches[epoch + 1]


@many
@given(items(), rules(), st.integers(1, 5), st.integers(1, 5), st.integers(0, 5))
@example(Items([1] * 7), {"batch_size": 1, "drop_last": True}, 1, 4, 6)
def test_dropped_tails_are_never_an_empty_epoch(items, rule, before, after, steps):
    group = Ranks(items, before, "drop", rule)
    group.run(steps)
    again = Ranks(items, after, "drop", rule)
    again.load(group.state)
    whole = Ranks(items, after, "drop", rule)
    for sampler in whole.samplers:
        sampler.set_epoch(again.samplers[0].epoch)
    batches = again.run()
    assert bool(batches) == bool(whole.run())
    assert [len(s) for s in again.samplers] == [len(s) for s in whole.samplers]


def test_states_of_all_ranks_stay_small_and_plain():
    items = Items([1] * 200_000)
    group = Ranks(items, 8, "pad", {"batch_size": 8, "shuffle": True})
    group.run(3)
    assert len(json.dumps(group.state)) < 200
    assert group.state["done"] == [[{"batch_size": 8, "shuffle": True}, 24]]


def test_set_epoch_keeps_the_place_of_a_loaded_state():
    items = Items([1] * 10)
    sampler = TokenBatchSampler(items, 3, shuffle=True)
    running = iter(sampler)
    next(running)
    state = sent(sampler.state_dict())
    rest = list(running)
    for epoch, wanted in ((0, rest), (1, list(sampler))):
        again = TokenBatchSampler(items, 3, shuffle=True)
        again.load_state_dict(state)
        again.set_epoch(epoch)
        assert list(again) == wanted
    again.set_epoch(0)  # no longer loaded: the whole epoch
    assert len(list(again)) == 4


def test_an_epoch_that_is_over_is_empty_only_for_who_asks_for_it():
    items = Items([1] * 10)
    sampler = TokenBatchSampler(items, 3, shuffle=True)
    list(sampler)
    state, following = sent(sampler.state_dict()), [list(sampler) for _ in range(2)]
    for asked, wanted in ((None, following), (1, following), (0, [[], following[0]])):
        again = TokenBatchSampler(items, 3, shuffle=True)
        again.load_state_dict(state)
        assert again.epoch == 1
        if asked is not None:
            again.set_epoch(asked)
        assert [list(again) for _ in range(2)] == wanted


def test_a_state_before_the_first_batch_is_the_whole_epoch():
    items = Items([1] * 10)
    sampler = TokenBatchSampler(items, 3, shuffle=True, seed=8)
    state = sent(sampler.state_dict())
    again = TokenBatchSampler(items, 3, shuffle=True)
    again.load_state_dict(state)
    assert list(again) == list(sampler)


# Loaders


@pytest.fixture
def cache(tmp_path):
    return write(tmp_path / "cache", VIDEOS)


def keys_of(batches):
    return [batch.keys for batch in batches]


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


@pytest.mark.slow
def test_going_on_at_step_20_000_of_250_000_takes_no_time():
    items = Items(np.random.default_rng(0).integers(1, 1600, 2_000_000))
    sampler = TokenBatchSampler(items, 8, shuffle=True)
    run = sampler.begin()
    run.steps = 20_000
    state = sent(sampler.state_dict())
    took = []
    for _ in range(3):
        again = TokenBatchSampler(items, 8, shuffle=True)
        start = time.perf_counter()
        again.load_state_dict(state)
        first = next(iter(again))
        took.append(time.perf_counter() - start)
        assert first == run.share.items(20_000)
    assert min(took) < 0.2


def test_the_cache_that_was_given_is_left_alone(cache):
    _, state, _ = half_way(cache)
    add(cache, ["a"])
    opened = open_cache(cache)
    loader = TokenLoader(opened, 2)
    loader.load_state_dict(state)
    assert len(opened) == 14
    assert len(loader.dataset) == 13
