"""Merging stores copies every record once, byte by byte, or changes nothing."""

import shutil

import pytest
import store_maintain_child as child
from hypothesis import given, settings
from hypothesis import strategies as st
from store_builders import IDENTITY, content, tiny, write

from vidcomp.config import StoreSettings
from vidcomp.errors import ConfigError, StoreError, StoreMissError, StoreStaleError
from vidcomp.store import CacheWriter, open_cache, verify
from vidcomp.store.upkeep.combine import merge
from vidcomp.store.upkeep.remove import remove

RECORDS = st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 3), max_size=5)


def stored(path, records):
    """A store of seeds; the same seed gives the same bytes in every store."""
    with CacheWriter(path, identity=IDENTITY) as writer:
        for key, seed in records.items():
            writer.add(key, tiny(seed=seed, assign=None), {"seed": seed})
    return path


def seeds(path):
    """Key to seed, from meta and tokens, which must agree."""
    cache = open_cache(path)
    out = {key: cache.meta(key)["seed"] for key in cache.keys()}  # noqa: SIM118
    for key, seed in out.items():
        assert content(cache[key]) == content(tiny(seed=seed, assign=None))
    return out


def model(stores, on_conflict):
    """The slow twin: dictionaries put together; ``None`` if that is refused."""
    out = {}
    for records in stores:
        for key, seed in records.items():
            if out.get(key, seed) != seed and on_conflict == "error":
                return None
            if key not in out or on_conflict == "last":
                out[key] = seed
    return out


@given(stores=st.lists(RECORDS, min_size=1, max_size=4), there=st.none() | RECORDS, data=st.data())
@settings(deadline=None, max_examples=50)
def test_merging_stores_is_merging_dictionaries(stores, there, data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("s")
    on_conflict = data.draw(st.sampled_from(["error", "first", "last"]))
    sources = [stored(folder / str(i), records) for i, records in enumerate(stores)]
    if there is not None:
        stored(folder / "out", there)
    wanted = model([*([there] if there is not None else []), *stores], on_conflict)
    if wanted is None:
        before = seeds(folder / "out") if there is not None else {}
        with pytest.raises(StoreError, match="on_conflict"):
            merge(sources, folder / "out")
        assert seeds(folder / "out") == before
        return
    report = merge(sources, folder / "out", on_conflict=on_conflict)
    assert seeds(folder / "out") == wanted
    assert report.num_copied == sum(
        1 for key, seed in wanted.items() if (there or {}).get(key) != seed
    )
    assert (report.bad, report.problems) == ({}, [])
    assert verify(folder / "out").problems == []
    again = merge(sources, folder / "out", on_conflict=on_conflict)
    assert again.num_copied == 0
    assert seeds(folder / "out") == wanted


def test_rows_and_bytes_are_the_same(tmp_path):
    a = write(tmp_path / "a", {f"a{i}": tiny(seed=i) for i in range(4)})
    b = write(tmp_path / "b", {f"b/{i}.mp4": tiny(seed=i) for i in range(4)})
    merge([a, b], tmp_path / "out")
    there = {entry.key: entry for entry in open_cache(tmp_path / "out").entries()}
    for source in (a, b):
        for entry in open_cache(source).entries():
            for name in ("nbytes", "num_tokens", "grid", "fields", "checksum", "source"):
                assert getattr(there[entry.key], name) == getattr(entry, name)
    assert len(there) == 8
    assert len(list((tmp_path / "out" / "shards").iterdir())) == 1


def test_a_removed_record_can_come_back_by_a_merge(tmp_path):
    a = stored(tmp_path / "a", {"x": 1})
    out = stored(tmp_path / "out", {"x": 2})
    remove(out, ["x"])
    merge([a], out)
    assert seeds(out) == {"x": 1}


def test_stores_that_differ_are_refused_and_the_setting_is_named(tmp_path):
    a = stored(tmp_path / "a", {"x": 1})
    other = {**IDENTITY, "compress": {"budget": {"tokens": 64}}}
    with CacheWriter(tmp_path / "b", identity=other) as writer:
        writer.add("y", tiny())
    with pytest.raises(StoreStaleError, match=r"compress.budget.tokens: 16 != 64"):
        merge([a, tmp_path / "b"], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    write(tmp_path / "c", {"y": tiny()}, settings=StoreSettings(dtype="float32"))
    with pytest.raises(StoreStaleError, match=r"store.dtype"):
        merge([tmp_path / "c"], a)
    with CacheWriter(tmp_path / "d", identity=IDENTITY, weights={"encode": "sha256:1"}) as writer:
        writer.add("y", tiny())
    with pytest.raises(StoreStaleError, match=r"weights.encode"):
        merge([tmp_path / "d"], a)


def test_nothing_itself_and_nowhere_are_refused(tmp_path):
    a = stored(tmp_path / "a", {"x": 1})
    with pytest.raises(ConfigError, match="at least one"):
        merge([], tmp_path / "out")
    with pytest.raises(ConfigError, match="itself"):
        merge([a], a)
    with pytest.raises(StoreMissError):
        merge([a, tmp_path / "nowhere"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_damaged_record_is_named_and_stops_nothing(tmp_path):
    a = stored(tmp_path / "a", {"x": 1, "y": 2})
    info = open_cache(a).info("x")
    shard = a / "shards" / f"{info.shard}.safetensors"
    data = bytearray(shard.read_bytes())
    data[info.offset] ^= 1
    shard.write_bytes(data)
    report = merge([a], tmp_path / "out")
    assert list(report.bad) == ["x"]
    assert seeds(tmp_path / "out") == {"y": 2}


def test_killed_before_every_step_the_next_one_ends_it(tmp_path):
    sources = [stored(tmp_path / "a", {f"a{i}": i for i in range(6)})]
    sources.append(stored(tmp_path / "b", {f"b{i}": i for i in range(6)}))
    wanted = {**seeds(sources[0]), **seeds(sources[1])}
    deaths, copied = 0, set()
    while True:
        out = tmp_path / f"out{deaths}"
        killed = child.die_in(child.merge_now, deaths, sources, out)
        report = merge(sources, out, seal_bytes=1000)
        copied.add(report.num_copied)
        assert seeds(out) == wanted
        assert verify(out).problems == []
        shutil.rmtree(out)
        if not killed:
            break
        deaths += 1
    assert deaths > 30
    assert {0, 12} < copied  # and something in between


@pytest.mark.parametrize("dry_run", [False, True])
def test_remove_lists_what_it_knows_and_what_not(tmp_path, dry_run):
    path = stored(tmp_path / "a", {"x": 1, "y": 2, "z": 3})
    nbytes = open_cache(path).info("x").nbytes
    report = remove(path, ["x", "gone", "z", "x"], dry_run=dry_run)
    assert (report.removed, report.missing) == (["x", "z"], ["gone"])
    assert report.num_bytes == 2 * nbytes
    assert sorted(seeds(path)) == (["x", "y", "z"] if dry_run else ["y"])
    assert verify(path).ok
