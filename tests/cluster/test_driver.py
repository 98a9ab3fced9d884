"""Whatever becomes of hosts, every item ends exactly once, and nothing hangs."""

import random
from collections import Counter
from contextlib import closing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vidcomp.errors import ConfigError, StoreStaleError, VidcompError
from vidcomp.pipelines.cluster.drive import Driver, Rules
from vidcomp.pipelines.cluster.ledger import Ledger
from vidcomp.pipelines.cluster.messages import Report, Started, Trouble
from vidcomp.pipelines.cluster.pace import Pace
from vidcomp.pipelines.cluster.pool import Event, Patience
from vidcomp.pipelines.extraction.engine import Waits
from vidcomp.pipelines.extraction.summary import Receipt
from vidcomp.pipelines.inputs import Item


class FakePool:
    """Hosts that live in a table and do what a die says; time passes only here.

    Args:
        seed: of the die.
        poison: keys that kill the host which takes them up.
        death: chance that a host dies in a step.
        refusal: chance that a host cannot start.
    """

    def __init__(self, seed=0, poison=(), death=0.0, refusal=0.0, room=4, hang=0.0, stuck=()):
        self.rng = random.Random(seed)
        self.poison, self.death, self.refusal, self.room = set(poison), death, refusal, room
        self.hang, self.stuck = hang, set(stuck)
        self.now = 0.0
        self.alive: dict[int, dict] = {}
        self.num_started = 0
        self.most_alive = 0
        self.done = Counter()
        self.refuse_with = Trouble(kind="ConfigError", message="no model there")
        self.alone: list[str] = []

    def clock(self):
        return self.now

    def start(self):
        self.num_started += 1
        self.alive[self.num_started] = {
            "todo": [], "doing": [], "state": "new", "began": 0, "back": False, "s": 0.0
        }  # fmt: skip
        self.most_alive = max(self.most_alive, len(self.alive))
        return self.num_started

    def has_room(self):
        return len(self.alive) < self.room

    def describe(self):
        return "dice"

    def lease(self, host, items):
        self.alive[host]["todo"] += [item.key for item in items]

    def take_back(self, host):
        self.alive[host]["back"] = True

    def finish(self, host):
        self.alive[host]["state"] = "finishing"

    def drain(self, host, grace_s):
        self.alive[host]["state"] = "finishing"
        self.alive[host]["todo"].clear()

    def kill(self, host):
        self.alive.pop(host, None)

    def events(self, patience_s):
        self.now += patience_s
        return [event for host in list(self.alive) for event in self.step(host)]

    def step(self, host):
        me = self.alive[host]
        if me["state"] == "hung" or self.rng.random() < 0.3:
            return
        if me["state"] == "new":
            if self.rng.random() < self.refusal:
                yield Event(host, self.refuse_with)
            else:
                me["state"] = "ready"
                yield Event(host, STARTED)
            return
        if self.rng.random() < self.hang:
            me["state"] = "hung"
            return
        if me["back"]:
            yield Event(host, me["todo"][:])
            me["todo"].clear()
            me["back"] = False
        while me["todo"] and len(me["doing"]) < (1 if self.stuck else 2):
            me["doing"].append(me["todo"].pop(0))
            me["began"] += 1
        if self.poison & set(me["doing"]) or self.rng.random() < self.death:
            if len(me["doing"]) == 1 and not me["todo"]:
                self.alone += me["doing"]
            me["state"] = "hung"
            yield Event(host, Trouble(kind="ActorDiedError", message="died"))
            return
        ended = [k for k in me["doing"] if k not in self.stuck and self.rng.random() < 0.7]
        me["doing"] = [key for key in me["doing"] if key not in ended]
        self.done.update(ended)
        me["s"] += 0.01
        is_over = me["state"] == "finishing" and not me["doing"] and not me["todo"]
        yield Event(
            host,
            Report(
                receipts=tuple(receipt(key) for key in ended),
                waits=Waits(encode_s=me["s"] if ended else 0.0),
                num_begun=me["began"],
                is_over=is_over,
            ),
        )


STARTED = Started(
    fingerprint="f" * 16, weights={}, store_id="id", version="1", node="here", pid=1
)  # fmt: skip


def receipt(key, status="ok"):
    return Receipt(key=key, path=f"/{key}", status=status)


def items(count):
    return [Item(key=str(i), path=f"/{i}") for i in range(count)]


def given_up(item, trouble, deaths):
    assert deaths == 3
    return receipt(item.key, "failed")


def driver(pool, **rules):
    given_rules = {"readers": 2, "give_up": given_up, "max_hosts": 4} | rules
    return Driver(pool, Rules(**given_rules), clock=pool.clock)


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 10**6),
    count=st.integers(0, 60),
    poison=st.sets(st.integers(0, 59).map(str), max_size=4),
    death=st.sampled_from([0.0, 0.02, 0.1]),
    refusal=st.sampled_from([0.0, 0.2]),
    hang=st.sampled_from([0.0, 0.01]),
    least=st.integers(1, 4),
)
def test_every_item_ends_exactly_once(seed, count, poison, death, refusal, hang, least):
    pool = FakePool(seed, poison, death, refusal, hang=hang)
    patience = Patience(reply_s=20, silence_s=60, init_failures=50, fruitless=200)
    run = driver(pool, min_hosts=least, patience=patience)
    run.begin(count)
    receipts = list(run.run(Ledger(items(count))))
    assert Counter(r.key for r in receipts) == Counter(str(i) for i in range(count))
    assert not pool.alive
    assert pool.most_alive <= 4
    failed = {r.key for r in receipts if r.status == "failed"}
    assert poison & {str(i) for i in range(count)} <= failed
    if not death and not hang:
        assert failed <= poison  # whoever only stood beside it is done


def test_the_last_death_of_a_poisonous_item_is_its_own():
    pool = FakePool(poison={"3"})
    run = driver(pool)
    run.begin(30)
    receipts = list(run.run(Ledger(items(30))))
    assert [r.key for r in receipts if r.status == "failed"] == ["3"]
    assert pool.alone[-1] == "3"
    assert max(pool.done.values()) == 1


@pytest.mark.parametrize("least", [1, 3])
def test_an_error_of_the_start_is_ours_after_three_hosts(least):
    pool = FakePool(refusal=1.0)
    run = driver(pool, min_hosts=least)
    with pytest.raises(ConfigError, match="no model there"):
        run.begin(10)
    assert pool.num_started == 3
    run.close(0)
    assert not pool.alive


def test_what_every_host_would_meet_ends_the_run_at_once():
    pool = FakePool(refusal=1.0)
    pool.refuse_with = Trouble(kind="StoreStaleError", message="another recipe")
    with pytest.raises(StoreStaleError, match="another recipe"):
        driver(pool).begin(10)
    assert pool.num_started == 1


def test_hosts_that_only_die_end_the_run():
    pool = FakePool(death=1.0)
    run = driver(pool)
    run.begin(100)
    with pytest.raises(VidcompError, match="ActorDiedError: died"):
        list(run.run(Ledger(items(100))))
    assert pool.num_started < 20


def test_no_host_for_long_is_an_error_that_says_what_is_missing():
    pool = FakePool()
    pool.step = lambda host: iter(())
    with pytest.raises(VidcompError, match=r"no host has started for 18\d\d s \(dice\)"):
        driver(pool).begin(1)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6), after=st.integers(0, 30), death=st.sampled_from([0.0, 0.05]))
def test_a_drained_run_ends_soon_and_counts_nothing_twice(seed, after, death):
    pool = FakePool(seed, death=death)
    run = driver(pool, patience=Patience(fruitless=200))
    run.begin(100)
    receipts, since = [], None
    with closing(run.run(Ledger(items(100)))) as outcomes:
        for number, one in enumerate(outcomes):
            if number == after:
                run.drain(5.0)
                since = pool.now
            receipts.append(one)
    keys = {one.key for one in receipts}
    assert len(keys) == len(receipts)
    assert not pool.alive
    assert pool.now - since < 30
    assert {one.key for one in receipts if one.status != "failed"} <= set(pool.done)


def test_hosts_are_added_while_there_is_a_backlog_and_go_when_there_is_none():
    pool = FakePool(room=3)
    run = driver(pool, max_hosts=None)
    run.begin(1000)
    list(run.run(Ledger(items(1000))))
    assert pool.most_alive == 3
    few = FakePool(room=3)
    run = driver(few, max_hosts=None)
    run.begin(8)
    list(run.run(Ledger(items(8))))
    assert few.most_alive == 1


def test_a_host_without_work_gets_what_another_has_not_begun():
    """Host 1 sits on one item for ever and has three more in reserve."""
    pool = FakePool(stuck={"0"})
    run = driver(pool, min_hosts=2, max_hosts=2, readers=1)
    run.begin(4)
    while len(run.at_work) < 2:
        for event in pool.events(0.25):
            list(run._handle(event))
    ledger = Ledger(items(4))
    pool.lease(1, ledger.lease(1, 4))
    receipts = run.run(ledger)
    assert {next(receipts).key for _ in range(3)} == {"1", "2", "3"}
    pool.stuck.clear()
    assert [one.key for one in receipts] == ["0"]


@given(
    held=st.integers(0, 40), waiting=st.integers(0, 500), hosts=st.integers(1, 50),
    readers=st.integers(1, 8), rate=st.floats(0, 1000),
)  # fmt: skip
def test_leases_keep_readers_busy_and_leave_some_for_others(held, waiting, hosts, readers, rate):
    pace = Pace(readers, 0.0)
    pace.per_s = rate
    size = pace.lease(held, waiting, hosts)
    assert 0 <= size <= waiting
    if held < readers:
        assert held + size >= min(readers, held + waiting)
    assert size <= max(readers, -(-waiting // (2 * hosts)))


def test_a_pace_follows_what_is_measured():
    pace = Pace(2, 0.0)
    for second in range(1, 20):
        pace.note(10, float(second))
    assert pace.per_s == pytest.approx(10)
    assert pace.lease(0, 10**6, 1) == 80
    for second in range(20, 40):
        pace.note(1, float(second))
    assert pace.per_s == pytest.approx(1, rel=0.01)


@settings(deadline=None, max_examples=100)
@given(steps=st.lists(st.tuples(st.sampled_from("lsdtx"), st.integers(0, 3)), max_size=60))
def test_a_ledger_never_loses_or_doubles_an_item(steps):
    ledger, ended = Ledger(items(12)), Counter()
    for what, host in steps:
        held = [key for key in map(str, range(12)) if key in ledger._leased.get(host, {})]
        if what == "l":
            ledger.lease(host, 3)
        elif what == "x" and not held:
            assert len(ledger.lease_suspect(host)) <= 1
        elif what == "s" and held:
            assert ledger.settle(host, held[0]).key == held[0]
            ended[held[0]] += 1
            assert ledger.settle(host, held[0]) is None
        elif what == "t":
            ledger.take_back(host, held[:1])
        elif what == "d":
            ended.update(item.key for item in ledger.lose(host))
    assert len(ended) + ledger.num_open == 12
    assert set(ended.values()) <= {1}
