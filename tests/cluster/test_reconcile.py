"""The store has the last word: what receipts say is compared with what a reader sees."""

from collections import Counter
from dataclasses import replace
from importlib import metadata
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_builders import tiny
from test_driver import STARTED, FakePool, items

from vidcomp.errors import ConfigError
from vidcomp.pipelines.cluster import runner as runner_module
from vidcomp.pipelines.cluster.messages import Report
from vidcomp.pipelines.cluster.reconcile import Reconciler
from vidcomp.pipelines.extraction.run_options import Options, RayOptions
from vidcomp.pipelines.extraction.summary import Summary
from vidcomp.pipelines.inputs import Item
from vidcomp.store import CacheWriter, SourceId
from vidcomp.store.manifest import read_manifest
from vidcomp.store.storage import open_storage


def source(mtime):
    return SourceId(size=1, mtime_ns=mtime)


def write(path, *keys, mtime=0):
    with CacheWriter(path, identity={"recipe": "test"}) as writer:
        for key in keys:
            writer.add(key, tiny(), {}, source(mtime))


def missing(reconciler, *keys, mtime=0):
    found = reconciler.missing(Item(key=k, path=k, source=source(mtime)) for k in keys)
    return [item.key for item in found]


def test_what_is_missing(tmp_path):
    reconciler = Reconciler(open_storage(tmp_path / "c"), overwrite=False)
    assert missing(reconciler, "a", "b") == ["a", "b"]  # no store at all
    write(tmp_path / "c", "a", "b", "c")
    assert missing(reconciler, "a", "b", "d") == ["d"]
    with CacheWriter(tmp_path / "c", identity={"recipe": "test"}) as writer:
        writer.remove("b")
    assert missing(reconciler, "a", "b", "c") == ["b"]
    assert missing(reconciler, "a", mtime=7) == ["a"]  # of a file that was another then


def test_of_what_is_overwritten_only_the_new_counts(tmp_path):
    write(tmp_path / "c", "a", "b")
    reconciler = Reconciler(open_storage(tmp_path / "c"), overwrite=True)
    assert missing(reconciler, "a", "b", "c") == ["a", "b", "c"]
    write(tmp_path / "c", "b", "c")
    assert missing(reconciler, "a", "b", "c") == ["a"]


class LossyPool(FakePool):
    """Of the records that its hosts write, some are never seen by readers."""

    def __init__(self, seed, loss, failure, death):
        super().__init__(seed, death=death)
        self.loss, self.failure = loss, failure
        self.visible = set()

    def step(self, host):
        for event in super().step(host):
            if isinstance(event.what, Report):
                told = tuple(map(self.turned, event.what.receipts))
                event = event._replace(what=Report(receipts=told, is_over=event.what.is_over))
            yield event

    def turned(self, receipt):
        if self.rng.random() < self.failure:
            return replace(receipt, status="failed", message="bad")
        if self.rng.random() >= self.loss:
            self.visible.add(receipt.key)
        return receipt


def runner_on(pool, folder, patch, rounds):
    """A ``RayRunner`` without Ray."""
    driver = runner_module.Driver
    cluster = SimpleNamespace(nodes=list, can_grow=True, close=lambda: None)
    look = SimpleNamespace(missing=lambda made: [i for i in made if i.key not in pool.visible])
    patch.setattr(runner_module, "Cluster", lambda options: cluster)
    patch.setattr(runner_module, "RayPool", lambda *_: pool)
    patch.setattr(runner_module, "Driver", lambda *a: driver(*a, clock=pool.clock))
    patch.setattr(runner_module, "Reconciler", lambda *_, **__: look)
    patch.setattr(runner_module.RayRunner, "_check", lambda *_: None)
    options = Options(engine="ray", workers=2, ray=RayOptions(min_actors=2))
    storage = open_storage(folder)
    return runner_module.RayRunner(storage, None, options, most=20, rounds=rounds)


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 10**6),
    loss=st.sampled_from([0.0, 0.2, 0.9]),
    failure=st.sampled_from([0.0, 0.1]),
    death=st.sampled_from([0.0, 0.03]),
    rounds=st.integers(0, 3),
)
def test_counts_add_up_and_nothing_is_done_that_is_not_there(
    tmp_path_factory, seed, loss, failure, death, rounds
):
    with pytest.MonkeyPatch.context() as patch:
        pool = LossyPool(seed, loss, failure, death)
        made = runner_on(pool, tmp_path_factory.mktemp("store"), patch, rounds)
        summary, last, counts = Summary(store="", recipe="", planned=20), {}, Counter()
        with made:
            for receipt in made.run(items(20)):
                summary.add(receipt)
                assert receipt.replaces == (last.get(receipt.key, ""))
                last[receipt.key] = receipt.status
                counts[receipt.status] += 1
    assert len(last) == 20
    ends = Counter(last.values())
    assert (summary.done, summary.failed, summary.lost) == (
        ends["ok"],
        ends["failed"],
        ends["lost"],
    )
    assert {key for key, status in last.items() if status == "ok"} <= pool.visible
    assert not {key for key, status in last.items() if status == "lost"} & pool.visible
    if not loss:
        assert not ends["lost"]


def test_a_node_that_sees_another_store_or_other_code_is_refused(tmp_path, monkeypatch):
    write(tmp_path / "c", "a")
    one = runner_module.RayRunner.__new__(runner_module.RayRunner)
    one._storage = open_storage(tmp_path / "c")
    one._driver = SimpleNamespace(started=None)
    good = replace(
        STARTED, version=metadata.version("vidcomp"), store_id=read_manifest(one._storage).id
    )
    one._check(good)
    with pytest.raises(ConfigError, match="does not see the folder"):
        one._check(replace(good, store_id="other"))
    with pytest.raises(ConfigError, match=r"has vidcomp 0\.0"):
        one._check(replace(good, version="0.0"))
    one._driver.started = replace(good, node="first", fingerprint="0" * 16)
    with pytest.raises(ConfigError, match="other weights"):
        one._check(good)
