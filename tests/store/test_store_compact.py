"""Compaction changes where records lie and nothing else, whatever happens meanwhile."""

import errno
import json
import os
import pickle
import random
import shutil
import sys
import time

import pytest
import store_maintain_child as child
from hypothesis import given, settings
from hypothesis import strategies as st
from store_builders import IDENTITY, content, tiny, write
from store_step import SteppedStorage

from vidcomp.config import StoreSettings
from vidcomp.errors import ConfigError, StoreCorruptError, StoreError, StoreMissError
from vidcomp.store import CacheWriter, SourceId, open_cache, verify
from vidcomp.store.commit import snapshot
from vidcomp.store.local import LocalStorage
from vidcomp.store.upkeep import copying as copying_module
from vidcomp.store.upkeep.compact import compact

DAY = 86_400.0
COMPACT = sys.modules["vidcomp.store.upkeep.compact"]  # its name in the package is the function


def state(path):
    """Key to all that a record says and is, but for where it lies."""
    cache = open_cache(path)
    out = {}
    for key in cache.keys():  # noqa: SIM118
        info = cache.info(key)
        about = info.checksum, info.generation, info.source, cache.meta(key)
        out[key] = (content(cache[key]), about)
    return out


def assert_state(path, wanted):
    """What readers see, with the snapshots and without them; and nothing is damaged."""
    assert state(path) == wanted
    report = verify(path)
    assert (report.problems, report.pending) == ([], [])
    bare = path.with_name(f"{path.name}-bare")
    shutil.copytree(path, bare)
    shutil.rmtree(bare / "index")
    assert state(bare) == wanted
    shutil.rmtree(bare)


def files(path):
    return {str(p.relative_to(path)) for p in path.rglob("*") if p.is_file()}


def shards(path):
    return {p.stem for p in (path / "shards").iterdir()}


@pytest.fixture
def later(monkeypatch):
    """Moves the clock that grace periods are measured with."""
    moved = [0.0]

    def move(seconds):
        moved[0] += seconds

    monkeypatch.setattr(COMPACT, "time", lambda: real() + moved[0])
    monkeypatch.setattr("vidcomp.store.commit.time.time", lambda: real() + moved[0])
    return move


real = time.time


def filled(path, commits=4):
    """Commits that overlap: each replaces some of the one before; one key is removed."""
    for i in range(commits):
        write(path, {f"v{j}": tiny(seed=10 * i + j) for j in range(i, i + 3)})
    with CacheWriter(path, identity=IDENTITY) as writer:
        writer.remove("v1")
    return path


OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.sampled_from("abcde"), st.integers(0, 99)),
        st.tuples(st.just("remove"), st.sampled_from("abcde")),
        st.tuples(st.just("seal")),
        st.tuples(st.just("snapshot")),
        st.tuples(
            st.just("compact"),
            st.sampled_from([0.0, 0.5, 1.0]),
            st.sampled_from([0, DAY]),
            st.sampled_from([1, 1500, 1 << 20]),
        ),
        st.tuples(st.just("wait")),
    ),
    max_size=25,
)


@given(operations=OPERATIONS)
@settings(deadline=None, max_examples=60)
def test_a_store_that_is_compacted_is_the_same_dictionary(operations, tmp_path_factory):
    path = tmp_path_factory.mktemp("s") / "store"
    model, moved = {}, [0.0]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(COMPACT, "time", lambda: real() + moved[0])
        patched.setattr("vidcomp.store.commit.time.time", lambda: real() + moved[0])
        writer = CacheWriter(path, identity=IDENTITY)
        for name, *args in operations:
            if name == "add":
                writer.add(args[0], model.setdefault(args[0], tiny(seed=args[1])))
                model[args[0]] = tiny(seed=args[1], assign=None)
                writer.add(args[0], model[args[0]])
            elif name == "remove" and args[0] in model:
                writer.remove(args[0])
                del model[args[0]]
            elif name == "seal":
                writer.seal()
            elif name == "snapshot":
                snapshot(LocalStorage(path), writer.manifest.id)
            elif name == "wait":
                moved[0] += 2 * DAY
            elif name == "compact":
                writer.close()
                min_live, grace_s, seal_bytes = args
                compact(path, min_live=min_live, grace_s=grace_s, seal_bytes=seal_bytes)
                writer = CacheWriter(path, identity=IDENTITY)
        writer.close()
        cache = open_cache(path)
        assert {key: content(cache[key]) for key in cache} == {
            key: content(video) for key, video in model.items()
        }
        assert_state(path, state(path))


def test_what_is_replaced_stays_for_a_day_and_what_is_valid_is_left_as_it_was(tmp_path, later):
    path = filled(tmp_path / "store")
    before, old = state(path), shards(path)
    reader = open_cache(path)
    pinned = pickle.dumps(reader)
    report = compact(path)
    assert report.num_records == len(before) == report.num_copied
    assert len(report.made) == 1
    assert report.num_shards == 5
    assert sorted(old) == report.rewritten
    assert shards(path) == old | set(report.made)
    assert report.removed == []
    assert report.bytes_waiting == sum(
        (path / f"shards/{n}.safetensors").stat().st_size for n in old
    )
    assert_state(path, before)
    later(DAY - 100)
    assert compact(path).removed == []
    fresh, again = open_cache(path), pickle.loads(pinned)
    for cache in (reader, again):  # open before, or opened again as it was then
        assert {key: content(cache[key]) for key in cache} == {k: v[0] for k, v in before.items()}
    later(200)
    report = compact(path)
    assert len(report.removed) == 2 * len(old)
    assert report.bytes_freed > 0
    assert report.bytes_waiting == 0
    assert {key: content(fresh[key]) for key in fresh} == {k: v[0] for k, v in before.items()}
    assert len(shards(path)) == len(list((path / "deltas").iterdir())) == 1
    assert_state(path, before)


def test_a_second_run_has_nothing_to_do(tmp_path):
    path = filled(tmp_path / "store")
    compact(path, grace_s=0)
    before = files(path)
    report = compact(path, grace_s=0)
    assert (report.rewritten, report.made, report.removed, report.num_copied) == ([], [], [], 0)
    assert files(path) == before


def test_only_shards_below_the_share_are_rewritten(tmp_path):
    path = tmp_path / "store"
    for i in range(3):
        write(path, {f"{i}.{j}": tiny(seed=j) for j in range(4)})
    dense = {open_cache(path).info("2.0").shard}
    with CacheWriter(path, identity=IDENTITY) as writer:
        for key in ("0.0", "0.1", "0.2", "1.0"):
            writer.add(key, tiny(seed=50))
    newest = {open_cache(path).info("0.0").shard}
    cache = open_cache(path)
    sparse, half = cache.info("0.3").shard, cache.info("1.1").shard
    # Shards count as small below half of seal_bytes; these are not.
    report = compact(path, min_live=0.5, seal_bytes=1500)
    assert report.rewritten == [sparse]
    assert report.num_copied == 1
    report = compact(path, min_live=0.9, seal_bytes=1500)
    assert half in report.rewritten
    assert not dense & set(report.rewritten)
    assert not newest & set(report.rewritten)


def test_many_small_shards_become_few_full_ones(tmp_path):
    path = tmp_path / "store"
    for i in range(12):
        write(path, {f"v{i}": tiny(seed=i)})
    before = state(path)
    nbytes = open_cache(path).info("v0").nbytes
    report = compact(path, seal_bytes=4 * nbytes, grace_s=0)
    assert len(report.made) == len(shards(path)) == 3
    assert_state(path, before)
    assert compact(path, seal_bytes=4 * nbytes).rewritten == []


def test_shards_that_are_full_of_headers_are_full(tmp_path, monkeypatch):
    """Very small records: headers reach their limit long before shards reach their size."""
    path = tmp_path / "store"
    for i in range(4):
        write(path, {f"{i}.{j}": tiny(1, 1, seed=j) for j in range(40)})
    before = state(path)
    for module in ("upkeep.copying", "upkeep.plan"):
        monkeypatch.setattr(f"vidcomp.store.{module}.MOST_HEADER_BYTES", 40_000)
    assert 1 < len(compact(path, grace_s=0).made) < 6
    assert_state(path, before)
    assert compact(path, grace_s=0).rewritten == []


def test_a_dry_run_says_what_would_be_done_and_changes_nothing(tmp_path):
    path = filled(tmp_path / "store")
    before = files(path)
    said = compact(path, dry_run=True)
    assert files(path) == before
    done = compact(path)
    assert said.dry_run
    assert (said.rewritten, said.num_copied, said.bytes_copied) == (
        done.rewritten,
        done.num_copied,
        done.bytes_copied,
    )
    said = compact(path, grace_s=0, dry_run=True)
    waiting = files(path)
    assert compact(path, grace_s=0).removed == said.removed
    assert files(path) == waiting - set(said.removed)


def test_removals_stay_as_long_as_an_older_record_is_there(tmp_path, later):
    path = tmp_path / "store"
    write(path, {"gone": tiny(seed=1), "stays": tiny(seed=2)})
    with CacheWriter(path, identity=IDENTITY) as writer:
        writer.remove("gone")
    compact(path)
    (path / "index" / "0000000000000000.safetensors").unlink()  # all deltas count again
    assert open_cache(path).keys() == ["stays"]
    compact(path)
    later(2 * DAY)
    compact(path)
    assert shards(path) == {open_cache(path).info("stays").shard}
    write(path, {"more": tiny(seed=3)})
    compact(path)  # rewrites both; nothing is left that the removal would hide
    later(2 * DAY)
    compact(path)
    write(path, {"last": tiny(seed=4)})
    compact(path)
    with CacheWriter(path, identity=IDENTITY) as writer:
        assert writer.add("gone", tiny(seed=4)).generation == 1
    assert sorted(open_cache(path).keys()) == ["gone", "last", "more", "stays"]
    assert verify(path).ok


def test_a_removal_that_is_not_copied_rests_for_an_hour_even_without_grace(tmp_path, later):
    path = tmp_path / "store"
    write(path, {"gone": tiny(seed=1), "stays": tiny(seed=2)})
    with CacheWriter(path, identity=IDENTITY) as writer:
        writer.remove("gone")
    compact(path, grace_s=0)
    assert len(shards(path)) == 1
    write(path, {"more": tiny(seed=3)})
    compact(path, grace_s=0)
    assert len(shards(path)) == 2  # the new one, and the one with the removal
    later(3700)
    compact(path, grace_s=0)
    assert len(shards(path)) == 1
    assert_state(path, state(path))


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


def values(path):
    cache = open_cache(path)
    return {key: content(cache[key]) for key in cache.keys()}  # noqa: SIM118


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


def test_rows_keep_all_they_say(tmp_path):
    path = tmp_path / "store"
    chosen = StoreSettings(assign=True, extras=("saliency",))
    with CacheWriter(path, identity=IDENTITY, settings=chosen) as writer:
        for i in range(6):
            video = tiny(seed=i, extras={"saliency": tiny(seed=i).mass})
            source = None if i % 2 else SourceId(size=i, mtime_ns=i, content=f"h{i}")
            writer.add(f"v{i}", video, {"n": i}, source)
            writer.seal()
    before = {entry.key: entry for entry in open_cache(path).entries()}
    compact(path)
    after = {entry.key: entry for entry in open_cache(path).entries()}
    for key, entry in before.items():
        for name in ("nbytes", "num_tokens", "grid", "fields", "checksum", "generation", "source"):
            assert getattr(entry, name) == getattr(after[key], name)
        assert entry.shard != after[key].shard


def test_progress_ends_with_all_of_it(tmp_path):
    path, calls = filled(tmp_path / "store"), []
    report = compact(path, progress=lambda done, total: calls.append((done, total)))
    assert calls[-1] == (report.bytes_copied, report.bytes_copied)


def test_an_empty_store_and_a_missing_one(tmp_path):
    CacheWriter(tmp_path / "empty", identity=IDENTITY).close()
    assert compact(tmp_path / "empty").num_shards == 0
    with pytest.raises(StoreMissError):
        compact(tmp_path / "missing")


@pytest.mark.parametrize("wrong", [{"min_live": 1.5}, {"grace_s": -1}, {"seal_bytes": 0}])
def test_numbers_that_cannot_be_are_refused(tmp_path, wrong):
    with pytest.raises(ConfigError, match="min_live"):
        compact(tmp_path, **wrong)


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
