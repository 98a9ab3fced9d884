"""Compaction changes where records lie and nothing else."""

import pickle

import pytest
from compacting import COMPACT, DAY, assert_state, files, filled, real, shards, state
from hypothesis import given, settings
from hypothesis import strategies as st
from store_builders import IDENTITY, content, tiny, write

from vidcomp.config import StoreSettings
from vidcomp.errors import ConfigError, StoreMissError
from vidcomp.store import CacheWriter, SourceId, open_cache, verify
from vidcomp.store.commit import snapshot
from vidcomp.store.local import LocalStorage
from vidcomp.store.upkeep.compact import compact

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
