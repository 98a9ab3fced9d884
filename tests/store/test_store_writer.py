"""Making, joining, replacing, removing, resuming."""

import os
import threading

import pytest
from store_builders import IDENTITY, bits, tiny, write

from vidcomp.config import StoreSettings
from vidcomp.errors import (
    StoreCorruptError,
    StoreError,
    StoreMissError,
    StoreStaleError,
)
from vidcomp.store import CacheWriter, SourceId, open_cache, verify

COMMITS = "deltas/*.safetensors"


def commits(path):
    return len(list(path.glob(COMMITS)))


def test_the_store_says_what_it_holds(tmp_path):
    weights = {"encode": "sha256:ab"}
    with CacheWriter(tmp_path, identity=IDENTITY, weights=weights) as writer:
        fingerprint = writer.fingerprint
    manifest = open_cache(tmp_path).manifest
    assert manifest.identity == IDENTITY
    assert manifest.weights == weights
    assert manifest.fingerprint == fingerprint
    assert manifest.format_version == 1
    assert manifest.settings == StoreSettings()


def test_the_fingerprint_is_that_of_the_recipe(tmp_path):
    from vidcomp.config import fingerprint, identity, load_recipe
    from vidcomp.store import FORMAT_VERSION

    recipe = load_recipe("embedded")
    with CacheWriter(tmp_path, identity=identity(recipe), weights={}) as writer:
        assert writer.fingerprint == fingerprint(recipe, {}, FORMAT_VERSION)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"identity": {**IDENTITY, "compress": {"budget": {"tokens": 64}}}},
            r"compress\.budget\.tokens: 16 != 64",
        ),
        ({"weights": {"encode": "sha256:cd"}}, r"weights\.encode: 'sha256:ab' != 'sha256:cd'"),
        ({"settings": StoreSettings(dtype="float32")}, r"store\.dtype: 'bfloat16' != 'float32'"),
    ],
)
def test_other_settings_do_not_mix_and_the_message_names_them(tmp_path, changed, message):
    made = {"identity": IDENTITY, "weights": {"encode": "sha256:ab"}, "settings": StoreSettings()}
    CacheWriter(tmp_path, **made).close()
    with pytest.raises(StoreStaleError, match=message):
        CacheWriter(tmp_path, **{**made, **changed})
    CacheWriter(tmp_path, **made).close()


def test_what_is_added_is_visible_after_a_seal_and_not_before(tmp_path):
    with CacheWriter(tmp_path, identity={}) as writer:
        writer.add("a", tiny())
        cache = open_cache(tmp_path)
        assert cache.keys() == []
        writer.seal()
        assert cache.keys() == []  # as it was when it was opened
        assert cache.refresh()
        assert cache.keys() == ["a"]
        assert not cache.refresh()
        writer.seal()  # nothing to do
        assert commits(tmp_path) == 1


def test_what_was_added_before_an_error_is_committed(tmp_path):
    def job():
        with CacheWriter(tmp_path, identity={}) as writer:
            writer.add("a", tiny())
            raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        job()
    assert open_cache(tmp_path).keys() == ["a"]
    assert list((tmp_path / "wal").iterdir()) == []


def test_a_closed_writer_says_so(tmp_path):
    writer = CacheWriter(tmp_path, identity={})
    writer.close()
    writer.close()
    for call in (lambda: writer.add("a", tiny()), writer.seal, lambda: writer.remove("a")):
        with pytest.raises(StoreError, match="closed: open another"):
            call()


def test_a_forked_writer_says_so(tmp_path, monkeypatch):
    with CacheWriter(tmp_path, identity={}) as writer:
        with monkeypatch.context() as patched:
            patched.setattr("os.getpid", lambda: 1)
            with pytest.raises(StoreError, match="open one in each process"):
                writer.add("a", tiny())
        writer.add("a", tiny())


def test_resuming_is_a_set_difference(tmp_path):
    write(tmp_path, {"a": tiny(seed=1), "b": tiny(seed=2)})
    with CacheWriter(tmp_path, identity=IDENTITY) as writer:
        assert writer.committed() == {
            "a": SourceId(size=0, mtime_ns=10**18),
            "b": SourceId(size=1, mtime_ns=10**18 + 1),
        }
        writer.add("c", tiny(), {}, None)
        writer.remove("a")
        assert set(writer.committed()) == {"b", "c"}
        assert writer.committed()["c"] is None


def test_sources_match_by_content_or_else_by_size_and_time(tmp_path):
    file = tmp_path / "v.mp4"
    file.write_bytes(b"x" * 1000)
    plain, full = SourceId.of_file(file), SourceId.of_file(file, content=True)
    assert plain.size == 1000
    assert plain.matches(full)
    os.utime(file, ns=(1, 1))
    touched, touched_full = SourceId.of_file(file), SourceId.of_file(file, content=True)
    assert not plain.matches(touched)
    assert full.matches(touched_full)
    file.write_bytes(b"y" * 1000)
    assert not full.matches(SourceId.of_file(file, content=True))
    assert not plain.matches(None)


@pytest.mark.parametrize("seal_between", [False, True])
def test_the_newest_record_of_a_key_wins(tmp_path, seal_between):
    with CacheWriter(tmp_path, identity={}) as writer:
        for i in range(4):
            receipt = writer.add("v", tiny(i + 1, seed=i), {"n": i})
            writer.add(f"other{i}", tiny())
            assert receipt.generation == i + 1
            if seal_between:
                writer.seal()
    cache = open_cache(tmp_path)
    assert len(cache) == 5
    assert cache.keys() == ["other0", "other1", "other2", "other3", "v"]
    assert cache.meta("v") == {"n": 3}
    assert bits(cache["v"].tokens) == bits(tiny(4, seed=3).tokens)
    assert commits(tmp_path) == (4 if seal_between else 1)
    assert verify(tmp_path).ok


def test_a_reader_keeps_the_record_it_opened_with(tmp_path):
    write(tmp_path, {"v": tiny(seed=1)})
    before = open_cache(tmp_path)
    write(tmp_path, {"v": tiny(seed=2)})
    assert bits(before["v"].tokens) == bits(tiny(seed=1).tokens)
    assert bits(open_cache(tmp_path)["v"].tokens) == bits(tiny(seed=2).tokens)
    assert before.refresh()
    assert bits(before["v"].tokens) == bits(tiny(seed=2).tokens)


@pytest.mark.parametrize("seal_between", [False, True])
def test_removing_and_adding_again(tmp_path, seal_between):
    with CacheWriter(tmp_path, identity={}) as writer:
        writer.add("v", tiny(seed=1))
        writer.add("w", tiny(seed=2))
        if seal_between:
            writer.seal()
        writer.remove("v")
        with pytest.raises(StoreMissError, match="no record 'v' to remove"):
            writer.remove("v")
    assert open_cache(tmp_path).keys() == ["w"]
    assert verify(tmp_path).ok
    with CacheWriter(tmp_path, identity={}) as writer:
        assert writer.add("v", tiny(seed=3)).generation == 3
        with pytest.raises(StoreMissError, match="no record 'gone'"):
            writer.remove("gone")
    cache = open_cache(tmp_path)
    assert cache.keys() == ["v", "w"]
    assert bits(cache["v"].tokens) == bits(tiny(seed=3).tokens)
    assert verify(tmp_path).num_records == 2


def test_a_commit_may_only_remove(tmp_path):
    write(tmp_path, {"v": tiny()})
    with CacheWriter(tmp_path, identity=IDENTITY) as writer:
        writer.remove("v")
    assert open_cache(tmp_path).keys() == []
    assert verify(tmp_path).ok


def test_shards_are_sealed_by_size_and_by_time(tmp_path):
    with CacheWriter(tmp_path / "a", identity={}, seal_bytes=10_000) as writer:
        for i in range(20):
            writer.add(f"v{i}", tiny(20, 40))
    assert commits(tmp_path / "a") == 4  # records of 2.2 kB: each fifth one closes the shard
    with CacheWriter(tmp_path / "b", identity={}, seal_s=0.0) as writer:
        assert all(writer.add(f"v{i}", tiny()).durable for i in range(3))
        assert open_cache(tmp_path / "b").keys() == ["v0", "v1", "v2"]
    assert commits(tmp_path / "b") == 3


def test_a_full_header_closes_the_shard_and_the_next_one_has_more_room(tmp_path):
    with CacheWriter(tmp_path, identity={}) as writer:
        for i in range(700):
            writer.add(f"v{i}", tiny(1, 1))
    sizes = {}
    for entry in open_cache(tmp_path).entries():
        sizes[entry.shard] = min(sizes.get(entry.shard, entry.offset), entry.offset)
    assert [sizes[name] for name in sorted(sizes)] == [16384, 262144, 4194304]
    assert verify(tmp_path).ok


def test_durable_means_synced(tmp_path, monkeypatch):
    synced = []
    real = os.fsync
    monkeypatch.setattr("os.fsync", lambda fd: (synced.append(fd), real(fd))[1])
    with CacheWriter(tmp_path, identity={}, sync_every=3, sync_s=1e9) as writer:
        synced.clear()
        assert [writer.add(f"v{i}", tiny()).durable for i in range(6)] == [False, False, True] * 2
        assert len(synced) == 4  # the part, then the journal, twice
        assert not writer.add("w", tiny()).durable
        writer.sync()
        assert len(synced) == 6


def test_threads_may_share_a_writer(tmp_path):
    with CacheWriter(tmp_path, identity={}, seal_bytes=20_000) as writer:

        def work(thread):
            for i in range(25):
                writer.add(f"{thread}/{i}", tiny(seed=thread * 100 + i), {"by": thread})

        threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    cache = open_cache(tmp_path)
    assert len(cache) == 100
    assert all(
        bits(cache[f"{t}/{i}"].tokens) == bits(tiny(seed=t * 100 + i).tokens)
        for t in range(4)
        for i in range(25)
    )
    assert verify(tmp_path).ok


def test_many_commits_get_a_snapshot(tmp_path):
    with CacheWriter(tmp_path, identity={}, seal_s=0.0) as writer:
        for i in range(70):
            writer.add(f"v{i % 50}", tiny(seed=i))
    (snapshot,) = (tmp_path / "index").glob("*.safetensors")
    assert snapshot.stem == "0" * 16
    assert len(open_cache(tmp_path)) == 50
    write_more = CacheWriter(tmp_path, identity={})
    write_more.add("v3", tiny(seed=99))
    write_more.remove("v4")
    write_more.close()
    cache = open_cache(tmp_path)
    assert len(cache) == 49
    assert len(cache.keys()) == 49
    assert bits(cache["v3"].tokens) == bits(tiny(seed=99).tokens)
    assert bits(cache["v5"].tokens) == bits(tiny(seed=55).tokens)
    assert "v4" not in cache
    assert verify(tmp_path).ok


def test_there_is_no_cache_here(tmp_path):
    for path in (tmp_path / "gone", tmp_path):
        with pytest.raises(StoreMissError, match="no token cache at"):
            open_cache(path)
        with pytest.raises(StoreMissError, match="no token cache at"):
            verify(path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="folder is needed"):
        open_cache(tmp_path / "file")
    (tmp_path / "store.json").write_text('{"name": "some other program"}')
    with pytest.raises(StoreCorruptError, match="does not begin"):
        open_cache(tmp_path)


def test_other_files_in_the_folder_are_ignored(tmp_path):
    write(tmp_path, {"v": tiny()})
    for folder in ("shards", "deltas", "index", "wal", "errors"):
        (tmp_path / folder).mkdir(exist_ok=True)
        for name in ("notes.txt", ".tmp-123", "evil.safetensors", "evil.journal", "x.part"):
            (tmp_path / folder / name).write_text("not ours")
    (tmp_path / "index" / "evil.safetensors").unlink()
    assert open_cache(tmp_path).keys() == ["v"]
    write(tmp_path, {"w": tiny()})
    assert open_cache(tmp_path).keys() == ["v", "w"]
    assert verify(tmp_path).ok
    assert (tmp_path / "shards" / "evil.safetensors").exists()


def test_a_newer_format_and_unknown_features_are_refused(tmp_path, monkeypatch):
    from vidcomp.store import manifest

    monkeypatch.setattr(manifest, "FORMAT_VERSION", 2)
    CacheWriter(tmp_path / "a", identity={}).close()
    monkeypatch.undo()
    with pytest.raises(StoreError, match=r"format 2.*newer vidcomp"):
        open_cache(tmp_path / "a")
    real = manifest.Manifest.to_json
    monkeypatch.setattr(
        manifest.Manifest, "to_json", lambda self: {**real(self), "features": ["zip"]}
    )
    monkeypatch.setattr(manifest, "FEATURES", frozenset({"zip"}))
    CacheWriter(tmp_path / "b", identity={}).close()
    monkeypatch.undo()
    with pytest.raises(StoreError, match=r"format 1 with zip.*newer vidcomp"):
        open_cache(tmp_path / "b")
