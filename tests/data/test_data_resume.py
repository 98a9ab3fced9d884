"""Samplers go on from a state: exactly what was still due, whatever changed meanwhile."""

import json
import time
from collections import Counter

import numpy as np
import pytest
from data_cases import sent
from data_items import Items, items, rules
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vidcomp.data import TokenBatchSampler

many = settings(deadline=None, max_examples=200)


def flat(batches):
    return [i for batch in batches for i in batch]


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
