"""A store on S3, and on what fsspec knows, is the same store as one in a folder."""

import pickle
import threading
import uuid

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from store_builders import IDENTITY, any_video, same, tiny, write

from vidcomp.config import StoreSettings
from vidcomp.errors import (
    ConfigError,
    StoreCorruptError,
    StoreMissError,
    StoreStaleError,
    VidcompError,
)
from vidcomp.store import CacheWriter, TokenCache, verify
from vidcomp.store.remote import ObjectStorage
from vidcomp.store.storage import open_storage

pytest.importorskip("obstore")

ALL = StoreSettings(assign=True)
KINDS = ("s3", "memory", "local")


@pytest.fixture(params=KINDS)
def storage(request, tmp_path):
    if request.param == "s3":
        return request.getfixturevalue("remote").storage()
    url = f"memory://{uuid.uuid4().hex}" if request.param == "memory" else f"local://{tmp_path}/s"
    return ObjectStorage(url, staging=tmp_path / "staging")


def test_what_is_not_there_is_said_to_be_missing(storage):
    assert storage.names("shards", ".x") == []
    assert not storage.exists("shards/a.x")
    for ask in (storage.read, storage.size, storage.open):
        with pytest.raises(FileNotFoundError):
            ask("shards/a.x")
    storage.remove("shards/a.x")


def test_an_object_is_created_once_replaced_at_will_and_removed(storage):
    assert storage.create("deltas/a.x", b"first")
    assert not storage.create("deltas/a.x", b"second")
    assert storage.create("deltas/a.x", b"first")  # as after an answer that was lost
    assert bytes(storage.read("deltas/a.x")) == b"first"
    storage.replace("deltas/a.x", bytearray(b"third one"))
    assert bytes(storage.read("deltas/a.x")) == b"third one"
    assert storage.size("deltas/a.x") == 9
    assert storage.exists("deltas/a.x")
    storage.remove("deltas/a.x")
    assert not storage.exists("deltas/a.x")


def test_folders_are_those_that_hold_something(storage, tmp_path):
    folder = open_storage(tmp_path / "folder")
    (tmp_path / "folder/runs/one").mkdir(parents=True)
    (tmp_path / "folder/runs/two").mkdir()
    for place in (storage, folder):
        for name in ("runs/two/run.json", "runs/one/run.json", "runs/file", "runs/.tmp-x"):
            place.replace(name, b"{}")
        assert place.folders("runs") == ["one", "two"]
        assert place.folders("nothing") == []
    assert storage.names("runs", "") == ["file"]


def test_a_finished_file_becomes_an_object_and_is_gone(storage, tmp_path):
    path = tmp_path / "part"
    path.write_bytes(b"abc" * 1000)
    storage.adopt("shards/a.x", path)
    assert bytes(storage.read("shards/a.x")) == b"abc" * 1000
    assert not path.exists()


def test_names_are_sorted_and_hide_what_is_hidden_or_deeper(storage):
    for name in ("b.x", "a.x", "c.y", ".tmp-1.x", "deep/d.x"):
        storage.replace(f"shards/{name}", b"1")
    storage.replace("shards.x", b"1")
    assert storage.names("shards", ".x") == ["a", "b"]


@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_ranges_are_those_of_the_bytes(storage, data):
    content = bytes(range(256)) * 4
    storage.replace("shards/r.x", content)
    file = storage.open("shards/r.x")
    assert file.size == len(content)
    sizes = data.draw(st.lists(st.integers(0, 200), max_size=5))
    offset = data.draw(st.integers(0, len(content)))
    buffers = [bytearray(n) for n in sizes]
    pieces = [memoryview(b) for b in buffers]
    if offset + sum(sizes) > len(content):
        with pytest.raises(StoreCorruptError, match="ends at 1024"):
            file.read_pieces(pieces, offset, "it")
    else:
        file.read_pieces(pieces, offset, "it")
        assert b"".join(buffers) == content[offset : offset + sum(sizes)]
        assert bytes(file.read(offset, sum(sizes), "it")) == b"".join(buffers)


def test_a_whole_life_of_a_store(storage):
    videos = {f"v/{i}": tiny(n=3 + i, seed=i) for i in range(8)}
    write(storage, videos, settings=ALL)
    cache = TokenCache(storage)
    assert cache.keys() == sorted(videos)
    assert all(same(cache[key], video) for key, video in videos.items())
    batch = cache.get_many(list(videos))
    assert all(same(one, video) for one, video in zip(batch, videos.values(), strict=True))
    with CacheWriter(storage, identity=IDENTITY, settings=ALL) as writer:
        writer.add("v/1", tiny(n=9, seed=99))
        writer.remove("v/2")
    assert same(cache["v/1"], videos["v/1"])  # what was opened before stays as it was
    assert cache.refresh()
    assert same(cache["v/1"], tiny(n=9, seed=99))
    with pytest.raises(StoreMissError):
        cache["v/2"]
    assert verify(storage).ok
    assert sorted(p.name for p in storage.wal.iterdir()) == []
    with pytest.raises(StoreStaleError):
        CacheWriter(storage, identity={"other": 1})


@settings(
    max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(video=any_video())
def test_any_video_comes_back_bit_for_bit(remote, video):
    storage = remote.storage(f"s3://{remote.bucket}/{uuid.uuid4().hex}")
    names = {"extras": tuple(video.extras), "frame_extras": tuple(video.frame_extras)}
    write(storage, {"k": video}, settings=StoreSettings(assign=True, **names))
    assert same(TokenCache(storage)["k"], video)


def test_a_large_shard_is_uploaded_in_parts(remote, tmp_path):
    path = tmp_path / "part"
    content = bytes(range(256)) * (20 << 12)
    path.write_bytes(content)
    remote.storage().adopt("shards/big.x", path)
    assert remote.proxy.count("PUT", "partNumber=") == 3
    assert remote.get("cache/shards/big.x") == content


def test_the_shard_is_confirmed_before_its_delta_is_written(remote):
    write(remote.storage(), {"a": tiny()})
    steps = [
        (seen.method, seen.path.split("/")[3])
        for seen in remote.proxy.seen
        if seen.method in ("PUT", "HEAD") and ("/shards/" in seen.path or "/deltas/" in seen.path)
    ]
    assert steps[-3:] == [("PUT", "shards"), ("HEAD", "shards"), ("PUT", "deltas")]


def test_a_cache_that_was_pickled_shows_the_same_records(remote):
    write(remote.storage(), {"a": tiny(seed=1, assign=None)})
    cache = TokenCache(remote.storage())
    write(remote.storage(), {"b": tiny(seed=2)})
    copy = pickle.loads(pickle.dumps(cache))
    assert copy.keys() == ["a"]
    assert same(copy["a"], tiny(seed=1, assign=None))


FOLDERS = ["plain", "deep/er/one", "a b", "ü/日本", "50%25", "a+b&c=d", "q?x#y", "dots..in.it"]


@pytest.mark.parametrize("folder", FOLDERS)
def test_any_folder_name_is_taken_as_it_is_written(remote, folder):
    url = f"s3://{remote.bucket}/{folder}"
    write(remote.storage(url), {"a": tiny(seed=1, assign=None)})
    assert same(TokenCache(remote.storage(url + "/"))["a"], tiny(seed=1, assign=None))
    assert f"{folder}/store.json" in remote.objects()
    assert all(key.startswith(folder + "/") for key in remote.objects())


def test_a_store_may_be_the_whole_bucket_and_its_scheme_in_capitals(remote):
    write(remote.storage(f"S3://{remote.bucket}"), {"a": tiny()})
    assert "store.json" in remote.objects()
    assert len(TokenCache(remote.storage(f"s3://{remote.bucket}/"))) == 1


@pytest.mark.parametrize("url", ["s3://b//x", "s3://b/../x", "s3://b/x/./y", "no-url"])
def test_urls_that_name_no_folder_are_refused(url):
    with pytest.raises(ConfigError, match="URL"):
        ObjectStorage(url)


def test_options_that_nobody_knows_are_refused(remote):
    with pytest.raises(ConfigError, match="endpint"):
        TokenCache(remote.storage(client_options={"endpint": "x"}))
    with pytest.raises(ConfigError, match="local_cache_bytes"):
        ObjectStorage("s3://b/x", local_cache_bytes=0)
    with pytest.raises(ConfigError, match="cache_size"):
        open_storage("s3://b/x", cache_size=5)


def test_urls_open_an_object_storage_and_secrets_are_not_shown():
    storage = open_storage("s3://bucket/x/", client_options={"secret_access_key": "hidden"})
    assert isinstance(storage, ObjectStorage)
    assert storage.path == "s3://bucket/x"
    assert "hidden" not in repr(storage)


def test_only_one_of_many_that_begin_a_store_wins(remote):
    storage = remote.storage()
    start = threading.Barrier(12)
    won, texts = [], [f"content {i}".encode() for i in range(12)]

    def begin(text):
        start.wait()
        won.append((storage.create("store.json", text), text))

    threads = [threading.Thread(target=begin, args=(text,)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    winners = [text for made, text in won if made]
    assert len(winners) == 1
    assert remote.get("cache/store.json") == winners[0]


def test_several_writers_at_once_lose_nothing(remote):
    failures = []

    def job(number):
        try:
            videos = {f"{number}/{i}": tiny(seed=100 * number + i) for i in range(5)}
            videos["shared"] = tiny(seed=number)
            write(remote.storage(), videos, seal_bytes=4000)
        except VidcompError as error:
            failures.append(error)

    threads = [threading.Thread(target=job, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    cache = TokenCache(remote.storage())
    assert len(cache) == 21
    assert verify(remote.storage()).ok


def test_more_than_one_page_of_names(remote):
    storage = remote.storage()
    storage.names("deltas", "")
    names = [f"{i:05d}" for i in range(1010)]
    for name in names:
        remote.put(f"cache/deltas/{name}.x", b"1")
    assert storage.names("deltas", ".x") == names
    assert remote.proxy.count("GET", "list-type=2") >= 2
