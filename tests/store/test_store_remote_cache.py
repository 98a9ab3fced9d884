"""What was read is kept on local disk: not fetched again, not too much of it, never wrong."""

import itertools
import multiprocessing
import os
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from store_builders import same, tiny

from vidcomp.errors import ConfigError
from vidcomp.store import TokenCache
from vidcomp.store.disk.format import digest
from vidcomp.store.remote import ObjectInfo, RangeCache

VIDEOS = {f"v{i:02d}": tiny(n=40, dim=64, seed=i, assign=None) for i in range(6)}
LIMIT = 100 << 20


@pytest.fixture
def kept(remote, tmp_path):
    """A store on S3, and what makes readers of it that share a local cache."""
    remote.fill(VIDEOS)

    def reader(limit=LIMIT, **settings):
        storage = remote.storage(local_cache=tmp_path / "local", local_cache_bytes=limit)
        return TokenCache(storage, **settings)

    return reader


def files(folder):
    return sorted(p for p in folder.rglob("*") if p.is_file())


def test_a_record_is_fetched_once_by_all_readers(remote, kept):
    first = kept()
    assert all(same(first[key], one) for key, one in VIDEOS.items())
    remote.proxy.clear()
    assert all(same(first[key], one) for key, one in VIDEOS.items())
    assert all(
        same(a, b) for a, b in zip(first.get_many(list(VIDEOS)), VIDEOS.values(), strict=True)
    )
    assert remote.proxy.count() == 0
    second = kept()  # as after a restart: names are listed, what they hold is at hand
    assert all(same(second[key], one) for key, one in VIDEOS.items())
    assert [s.path for s in remote.proxy.seen if "prefix=" not in s.path] == [
        f"/{remote.bucket}/cache/store.json"
    ]


def test_parts_of_a_record_that_is_kept_need_no_request(remote, kept):
    cache = kept()
    cache["v03"]
    remote.proxy.clear()
    assert same(cache.rows("v03", 5, 9), VIDEOS["v03"].select(torch.arange(5, 9)))
    assert remote.proxy.count() == 0


def test_the_folder_is_only_used_when_asked_for(remote, kept, tmp_path):
    TokenCache(remote.storage())["v00"]
    assert not (tmp_path / "local").exists()


@pytest.mark.parametrize(
    ("harm", "verify"),
    [("flip", True), ("flip", False), ("cut", True), ("empty", False), ("longer", True)],
)
def test_what_the_disk_changed_is_fetched_again(remote, kept, tmp_path, harm, verify):
    cache = kept(verify=verify)
    for key in VIDEOS:
        cache[key]
    for path in files(tmp_path / "local"):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 4
        changed = {"flip": data, "cut": data[:-9], "empty": b"", "longer": data + b"x"}
        path.write_bytes(changed[harm])
    remote.proxy.clear()
    assert all(same(cache[key], one) for key, one in VIDEOS.items())
    assert remote.proxy.count() == len(VIDEOS)
    assert all(same(cache[key], one) for key, one in VIDEOS.items())
    assert remote.proxy.count() == len(VIDEOS)
    assert all(same(kept()[key], one) for key, one in list(VIDEOS.items())[:3])


def test_a_range_that_was_kept_wrong_is_forgotten_when_its_hash_fails(remote, kept, tmp_path):
    cache = kept()
    cache["v00"]
    (path,) = [p for p in files(tmp_path / "local") if p.stat().st_size > 4000][:1]
    wrong = bytearray(path.read_bytes()[:-8])
    wrong[7] ^= 1
    path.write_bytes(bytes(wrong) + digest(wrong).to_bytes(8, "little"))  # whole, and wrong
    remote.proxy.clear()
    assert same(cache["v00"], VIDEOS["v00"])
    assert remote.proxy.count("GET", "/shards/") == 1
    assert same(cache["v00"], VIDEOS["v00"])
    assert remote.proxy.count("GET", "/shards/") == 1


def test_an_object_that_was_replaced_is_not_taken_from_the_cache(remote, kept):
    storage = kept()._storage
    storage.replace("shards/x.y", b"one")
    assert bytes(storage.open("shards/x.y").read(0, 3, "it")) == b"one"
    remote.storage().replace("shards/x.y", b"two")
    storage.names("shards", ".y")
    assert bytes(storage.open("shards/x.y").read(0, 3, "it")) == b"two"


def test_a_folder_that_cannot_be_used_costs_only_speed(remote, kept, tmp_path, caplog):
    (tmp_path / "local").write_text("a file")
    cache = kept()
    assert all(same(cache[key], one) for key, one in VIDEOS.items())
    assert caplog.text.count("is not used") == 1


def test_a_record_larger_than_a_quarter_of_the_limit_is_not_kept(kept, tmp_path):
    cache = kept(limit=8000)
    assert same(cache["v00"], VIDEOS["v00"])
    assert not any("v1" in str(p) for p in files(tmp_path / "local"))


def test_the_limit_is_kept_and_what_was_used_last_stays(tmp_path):
    limit = 40 * 4096
    cache = RangeCache(tmp_path, limit)
    info = ObjectInfo(10**6, "tag")
    key = cache.key("s3://b/x", "shards/a", info)
    for i in range(200):
        cache.write(key, i, bytes([i]) * 4000)
        for path in files(tmp_path):  # times of use that no clock's steps confuse
            number = int(path.name.split("-")[0])
            os.utime(path, (10**9 + number,) * 2)
        assert sum(-(-p.stat().st_size // 4096) * 4096 for p in files(tmp_path)) <= limit
    left = {int(p.name.split("-")[0]) for p in files(tmp_path)}
    assert len(left) >= 40 // 2
    assert left == set(range(200 - len(left), 200))


@settings(max_examples=30, deadline=None)
@given(
    ranges=st.lists(st.tuples(st.integers(0, 900), st.integers(1, 300)), min_size=1, max_size=8),
    wanted=st.tuples(st.integers(0, 900), st.integers(1, 100)),
    pieces=st.integers(1, 4),
)
def test_what_is_kept_is_what_was_written_or_nothing(tmp_path_factory, ranges, wanted, pieces):
    content = random.Random(0).randbytes(1200)
    cache = RangeCache(tmp_path_factory.mktemp("cache"), LIMIT)
    key = cache.key("s3://b/x", "shards/a", ObjectInfo(1200, ""))
    for offset, nbytes in ranges:
        cache.write(key, offset, content[offset : offset + nbytes])
    offset, nbytes = wanted
    buffer = bytearray(nbytes)
    cuts = sorted({0, nbytes, *(nbytes * i // pieces for i in range(pieces))})
    views = [memoryview(buffer)[a:b] for a, b in itertools.pairwise(cuts)]
    found = cache.read(key, offset, views)
    assert found == any(a <= offset and offset + nbytes <= a + n for a, n in ranges)
    if found:
        assert buffer == content[offset : offset + nbytes]
        cache.forget(key, offset, 1)
        assert not cache.read(key, offset, views)


def share(folder, seed, limit, failures):
    cache = RangeCache(folder, limit)
    draw = random.Random(seed)
    keys = [cache.key("s3://b/x", f"shards/{i}", ObjectInfo(1, "")) for i in range(3)]
    for _ in range(400):
        number = draw.randrange(120)
        data = bytes([number]) * (500 + 50 * number)
        buffer = bytearray(len(data))
        if cache.read(keys[number % 3], number, [memoryview(buffer)]):
            if buffer != data:
                failures.put(number)
        else:
            cache.write(keys[number % 3], number, data)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")
def test_processes_share_a_folder_that_is_always_too_small(tmp_path):
    limit = 60 * 4096
    context = multiprocessing.get_context("fork")
    failures = context.SimpleQueue()
    children = [
        context.Process(target=share, args=(tmp_path, i, limit, failures)) for i in range(4)
    ]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
        assert child.exitcode == 0
    assert failures.empty()
    assert sum(-(-p.stat().st_size // 4096) * 4096 for p in files(tmp_path)) <= limit
    assert not [p for p in files(tmp_path) if p.name.startswith(".")]


def test_a_limit_is_more_than_nothing(remote, tmp_path):
    with pytest.raises(ConfigError, match="local_cache_bytes"):
        remote.storage(local_cache=tmp_path, local_cache_bytes=-1)
