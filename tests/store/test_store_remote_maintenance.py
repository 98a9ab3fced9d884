"""Maintenance of a store on an object store does what it does in a folder."""

import uuid

import pytest
from store_builders import IDENTITY, content, tiny, write

from vidcomp.store import CacheWriter, compact, export, merge, open_cache, remove, repair, verify
from vidcomp.store.remote import ObjectStorage

pytest.importorskip("obstore")


@pytest.fixture(params=["s3", "memory"])
def place(request, tmp_path):
    """Makes storages at names of their own."""

    def make(name):
        if request.param == "s3":
            remote = request.getfixturevalue("remote")
            return remote.storage(f"s3://{remote.bucket}/{name}")
        return ObjectStorage(f"memory://{key}/{name}", staging=tmp_path / "staging")

    key = uuid.uuid4().hex
    return make


def filled(storage):
    """Commits that overlap; one key is removed."""
    for i in range(3):
        write(storage, {f"v{j}": tiny(seed=10 * i + j) for j in range(i, i + 3)})
    with CacheWriter(storage, identity=IDENTITY) as writer:
        writer.remove("v1")
    return storage


def values(storage):
    cache = open_cache(storage)
    return {key: content(cache[key]) for key in cache.keys()}  # noqa: SIM118


def spoil(storage, name, where):
    data = storage.read(name)
    data[where] ^= 1
    storage.replace(name, data)


def test_compact(place):
    storage = filled(place("a"))
    wanted, early = values(storage), open_cache(storage)
    report = compact(storage)
    assert (len(report.rewritten), len(report.made)) == (4, 1)
    assert len(storage.names("shards", ".safetensors")) == 5
    assert {key: content(early[key]) for key in early} == wanted
    report = compact(storage, grace_s=0)
    assert len(report.removed) == 8
    assert storage.names("shards", ".safetensors") == storage.names("deltas", ".safetensors")
    assert len(storage.names("shards", ".safetensors")) == 1
    assert values(storage) == wanted
    assert verify(storage).problems == []


def test_compactions_that_meet(place):
    """The numbers of snapshots are taken by conditional puts."""
    storage, again = filled(place("a")), place("a")
    wanted = values(storage)
    met = []

    def meet(done, total):
        if not met:
            met.append(compact(again, grace_s=0))

    compact(storage, grace_s=0, progress=meet)
    assert len(met) == 1
    assert values(storage) == wanted
    compact(storage, grace_s=0)
    assert values(storage) == wanted
    assert verify(storage).problems == []


def test_repair(place):
    storage = filled(place("a"))
    wanted = values(storage)
    info = {key: open_cache(storage).info(key) for key in wanted}
    spoil(storage, f"shards/{info['v4'].shard}.safetensors", info["v4"].offset + 3)
    spoil(storage, f"shards/{info['v0'].shard}.safetensors", 100)
    spoil(storage, f"deltas/{info['v4'].shard}.safetensors", 500)
    spoil(storage, "store.json", 30)
    storage = place("a")
    report = repair(storage)
    assert list(report.bad) == ["v4"]
    assert values(storage) == {key: value for key, value in wanted.items() if key != "v4"}
    assert verify(storage).problems == []
    assert storage.exists(f"quarantine/shards/{info['v0'].shard}.safetensors")
    assert not repair(storage).changed


def test_an_upload_without_delta_is_left_until_it_is_forced(place):
    storage = filled(place("a"))
    wanted = values(storage)
    name = open_cache(storage).info("v4").shard
    storage.remove(f"deltas/{name}.safetensors")
    storage = place("a")
    report = repair(storage)
    assert not report.changed
    assert name in report.left[0]
    assert "v4" not in open_cache(storage)
    assert repair(storage, force_recover=True).changed
    assert values(storage) == wanted
    assert verify(storage).problems == []


def test_merge_remove_and_export(place, tmp_path):
    storage, other = filled(place("a")), write(tmp_path / "b", {"w": tiny(seed=5)})
    wanted = {**values(storage), **values(other)}
    assert merge([storage, other], place("c")).num_copied == len(wanted)
    assert values(place("c")) == wanted
    assert merge([place("c")], tmp_path / "local").num_copied == len(wanted)
    assert values(tmp_path / "local") == wanted
    assert remove(place("c"), ["w", "x"]).missing == ["x"]
    assert sorted(values(place("c"))) == sorted(set(wanted) - {"w"})
    report = export(place("c"), tmp_path / "out")
    assert (report.num_written, report.bad) == (len(wanted) - 1, {})
