"""Compaction loses nothing, whatever happens meanwhile: others, deaths, damage, full disks."""

import errno
import json
import os
import random
import shutil
import time

import pytest
import store_maintain_child as child
from compacting import COMPACT, assert_state, files, filled, shards, state, values
from store_builders import IDENTITY, content, tiny, write
from store_step import SteppedStorage

from vidcomp.errors import StoreCorruptError, StoreError
from vidcomp.store import CacheWriter, open_cache, verify
from vidcomp.store.commit import snapshot
from vidcomp.store.local import LocalStorage
from vidcomp.store.upkeep import copying as copying_module
from vidcomp.store.upkeep.compact import compact


def between_actions():
    """What may happen between two steps of a compaction, and what it does to the keys."""

    def overwrite(path):
        with CacheWriter(path, identity=IDENTITY) as writer:
            writer.add("v3", tiny(seed=77))

    def remove(path):
        with CacheWriter(path, identity=IDENTITY) as writer:
            writer.remove("v3")

    def compact_fully(path):
        for _ in range(2):
            compact(path, grace_s=0)

    def publish(path):
        snapshot(LocalStorage(path), open_cache(path).manifest.id)

    return {
        "overwrite": overwrite,
        "remove": remove,
        "compact": compact_fully,
        "snapshot": publish,
        "remove, compact": lambda path: (remove(path), compact_fully(path)),
    }


@pytest.mark.parametrize("action", between_actions())
def test_whatever_happens_between_any_two_steps(tmp_path, action):
    filled(tmp_path / "template", commits=3)
    expected = tmp_path / "expected"
    shutil.copytree(tmp_path / "template", expected)
    between_actions()[action](expected)
    wanted, step, steps = values(expected), 0, 1
    while step < steps:
        path = tmp_path / str(step)
        shutil.copytree(tmp_path / "template", path)
        storage = SteppedStorage(path, step, lambda p=path: between_actions()[action](p))
        compact(storage, grace_s=0)
        steps = storage.steps
        assert values(path) == wanted, step
        compact(path, grace_s=0)
        assert values(path) == wanted, step
        report = verify(path)
        assert (report.problems, report.pending) == ([], []), step
        shutil.rmtree(path / "index")
        assert values(path) == wanted, step
        shutil.rmtree(path)
        step += 1
    assert steps > 25


def test_a_reader_is_right_at_every_moment(tmp_path):
    filled(tmp_path / "template", commits=3)
    wanted, step, steps = values(tmp_path / "template"), 0, 1
    while step < steps:
        path = tmp_path / str(step)
        shutil.copytree(tmp_path / "template", path)
        early = open_cache(path)
        seen = []
        storage = SteppedStorage(path, step, lambda p=path, seen=seen: seen.append(open_cache(p)))
        compact(storage)
        for cache in (early, *seen):
            assert {key: content(cache[key]) for key in cache} == wanted
        steps = storage.steps
        shutil.rmtree(path)
        step += 1


def test_killed_before_every_step(tmp_path):
    filled(tmp_path / "template", commits=3)
    compact(tmp_path / "template")  # so that there is something to remove, too
    write(tmp_path / "template", {"v3": tiny(seed=50), "w": tiny(seed=51)})
    wanted, deaths = state(tmp_path / "template"), 0
    while True:
        path = tmp_path / str(deaths)
        shutil.copytree(tmp_path / "template", path)
        killed = child.die_in(child.compact_now, deaths, path)
        assert state(path) == wanted  # before anyone recovers it
        compact(path, grace_s=0)
        assert_state(path, wanted)
        assert [p for p in (path / "wal").iterdir() if not p.name.startswith(".tmp-")] == []
        assert len(shards(path)) == 1
        shutil.rmtree(path)
        if not killed:
            break
        deaths += 1
    assert deaths > 30


def test_a_plan_that_is_old_is_looked_at_again(tmp_path, monkeypatch):
    """A record is removed, and even its removal is forgotten, while a slow compaction copies it."""
    monkeypatch.setattr(COMPACT, "_STALE_S", -1.0)
    path = filled(tmp_path / "store", commits=2)
    real_drop = copying_module.Copier._fill

    def slow(self, part, batch):
        real_drop(self, part, batch)
        monkeypatch.setattr(copying_module.Copier, "_fill", real_drop)
        with CacheWriter(path, identity=IDENTITY) as writer:
            writer.remove("v2")

    monkeypatch.setattr(copying_module.Copier, "_fill", slow)
    report = compact(path)
    assert "v2" not in open_cache(path)
    assert report.num_copied == report.num_records - 1
    assert verify(path).ok


def test_a_damaged_record_is_left_where_it_is_and_named(tmp_path):
    path = filled(tmp_path / "store")
    before = state(path)
    info = open_cache(path).info("v3")
    shard = path / "shards" / f"{info.shard}.safetensors"
    data = bytearray(shard.read_bytes())
    data[info.offset + 9] ^= 4
    shard.write_bytes(data)
    report = compact(path, min_live=1, grace_s=0)
    assert report.bad == {"v3": "its bytes are not those that were written"}
    assert info.shard not in report.rewritten
    assert info.shard in shards(path)
    assert open_cache(path).info("v3").shard == info.shard
    cache = open_cache(path)
    for key in before.keys() - {"v3"}:
        assert content(cache[key]) == before[key][0]
    assert list(verify(path).bad) == ["v3"]


def test_a_shard_that_was_cut_costs_only_what_is_missing(tmp_path):
    path = filled(tmp_path / "store")
    before = state(path)
    info = open_cache(path).info("v5")
    os.truncate(path / "shards" / f"{info.shard}.safetensors", info.offset + 10)
    report = compact(path, min_live=1)
    assert report.bad == {"v5": "its shard ends before it does"}
    cache = open_cache(path)
    assert {k: content(cache[k]) for k in before.keys() - {"v5"}} == {
        k: v[0] for k, v in before.items() if k != "v5"
    }


def test_a_damaged_index_is_for_repair(tmp_path):
    path = filled(tmp_path / "store")
    name = open_cache(path).info("v3").shard
    for folder in ("shards", "deltas"):
        file = path / folder / f"{name}.safetensors"
        data = bytearray(file.read_bytes())
        data[100] ^= 1
        file.write_bytes(data)
    before = files(path)
    with pytest.raises(StoreCorruptError, match="run repair first"):
        compact(path)
    assert files(path) == before


@pytest.mark.parametrize("step", range(0, 60, 3))
def test_a_full_disk_is_one_sentence_and_loses_nothing(tmp_path, monkeypatch, step):
    path = filled(tmp_path / "store")
    before, left = state(path), [step]

    def limited(name):
        real_call = getattr(os, name)

        def call(*args):
            left[0] -= 1
            if left[0] < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real_call(*args)

        return call

    for name in ("pwritev", "fsync", "link"):
        monkeypatch.setattr(os, name, limited(name))
    try:
        compact(path)
        assert left[0] >= 0
    except StoreError as error:
        assert "No space left" in str(error)  # noqa: PT017
        assert "nothing committed is lost" in str(error)  # noqa: PT017
        assert len(str(error).splitlines()) == 1  # noqa: PT017
    monkeypatch.undo()
    assert state(path) == before
    compact(path, grace_s=0)
    assert len(shards(path)) == 1
    assert list((path / "wal").iterdir()) == []
    assert_state(path, before)


def test_writers_and_compactions_that_are_killed_at_once(tmp_path):
    path = tmp_path / "store"
    CacheWriter(path, identity=IDENTITY).close()
    rng = random.Random(0)
    writers = [
        child.start(child.write_own_keys, path, tmp_path / f"{name}.json", name, 2000)
        for name in ("a", "b")
    ]
    compactions = [child.start(child.compact_for_ever, path) for _ in range(2)]
    while any(writer.is_alive() for writer in writers):
        time.sleep(rng.random() * 0.5)
        victim = rng.randrange(2)
        compactions[victim].kill()
        compactions[victim].join()
        compactions[victim] = child.start(child.compact_for_ever, path)
    for process in compactions:
        process.kill()
        process.join()
    assert [writer.exitcode for writer in writers] == [0, 0]
    wanted = {}
    for name in ("a", "b"):
        wanted |= json.loads((tmp_path / f"{name}.json").read_text())
    compact(path, grace_s=0)
    cache = open_cache(path)
    assert {key: cache.meta(key)["seed"] for key in cache} == wanted
    for key, seed in wanted.items():
        assert content(cache[key]) == content(tiny(20, 20, seed=seed, assign=None))
    assert_state(path, state(path))
    assert len(shards(path)) < 30
