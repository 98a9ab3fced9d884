"""A server that fails, is slow or cut off: the work is done all the same, or unseen."""

import errno
import threading
import time

import pytest
from store_builders import IDENTITY, same, tiny, write

from vidcomp.errors import StoreCorruptError, StoreError, StoreMissError
from vidcomp.store import CacheWriter, TokenCache, verify
from vidcomp.store.remote import RemoteDeniedError, RemoteError, TransientError

VIDEO = tiny(n=300, dim=64, seed=1, assign=None)
slow = pytest.mark.slow
FAULTS = ["status", "hang", "lose answer", "cut request"]


@pytest.fixture
def quick(remote):
    """A storage that takes a second of silence for a lost connection."""
    return remote.storage(client_options={"read_timeout": "700ms"})


@pytest.mark.parametrize("kind", FAULTS)
@pytest.mark.parametrize("deed", ["create", pytest.param("replace", marks=slow), "adopt"])
def test_a_write_that_fails_once_is_done_once(remote, quick, tmp_path, kind, deed):
    data = bytes(range(256)) * 200
    fault = remote.proxy.spoil(kind, "PUT", "/x.y", after=1000)
    if deed == "adopt":
        (tmp_path / "part").write_bytes(data)
        quick.adopt("shards/x.y", tmp_path / "part")
    elif deed == "create":
        assert quick.create("shards/x.y", data)  # it is ours, though an answer may have been lost
    else:
        quick.replace("shards/x.y", data)
    assert fault.hits == 1
    assert remote.get("cache/shards/x.y") == data
    assert not (tmp_path / "part").exists()


def test_a_create_whose_answer_was_lost_is_not_taken_for_another_writers(remote, quick):
    remote.put("cache/store.json", b"of another")
    remote.proxy.spoil("lose answer", "PUT", "store.json")
    assert not quick.create("store.json", b"mine")
    assert remote.get("cache/store.json") == b"of another"


@pytest.mark.parametrize("kind", ["status", "hang", "lose answer", "cut answer"])
@pytest.mark.parametrize(
    "what",
    [
        "/shards/",
        pytest.param("store.json", marks=slow),
        pytest.param("/deltas/", marks=slow),
        pytest.param("prefix=", marks=slow),
    ],
)
def test_a_read_that_fails_once_is_done_again(remote, quick, kind, what):
    remote.fill({"a": VIDEO})
    fault = remote.proxy.spoil(kind, "GET", what, after=40)
    assert same(TokenCache(quick)["a"], VIDEO)
    assert fault.hits == 1


@pytest.mark.parametrize(("status", "code"), [(503, "SlowDown"), (429, "TooManyRequests")])
def test_a_server_that_asks_for_patience_gets_it(remote, status, code):
    remote.fill({"a": VIDEO})
    cache = TokenCache(remote.storage())
    remote.proxy.spoil("status", "GET", "/shards/", times=3, status=status, code=code)
    assert same(cache["a"], VIDEO)
    assert remote.proxy.count("GET", "/shards/") == 4


def test_patience_ends_at_the_deadline(remote):
    storage = remote.storage(retry_s=1.5)
    remote.proxy.spoil("status", "PUT", "", times=10**6, status=503, code="SlowDown")
    begin = time.monotonic()
    with pytest.raises(TransientError, match="503: SlowDown"):
        storage.replace("deltas/x.y", b"1")
    assert time.monotonic() - begin < 8
    assert remote.proxy.count("PUT") > 2


def test_an_upload_that_is_cut_off_for_good_leaves_nothing_to_be_seen(remote, tmp_path):
    storage = remote.storage(retry_s=1.0)
    (tmp_path / "part").write_bytes(b"x" * 100_000)
    remote.proxy.spoil("cut request", "PUT", "/x.y", times=10**6, after=50_000)
    with pytest.raises(OSError, match="connection"):
        storage.adopt("shards/x.y", tmp_path / "part")
    assert remote.objects() == []
    assert (tmp_path / "part").stat().st_size == 100_000


def test_parts_of_an_upload_are_sent_again_alone(remote, quick, tmp_path):
    data = bytes(range(256)) * (20 << 12)
    (tmp_path / "part").write_bytes(data)
    torn = remote.proxy.spoil("cut request", "PUT", "partNumber=2", after=100_000)
    failed = remote.proxy.spoil("status", "PUT", "partNumber=3", status=500)
    silent = remote.proxy.spoil("lose answer", "POST", "uploadId=")
    quick.adopt("shards/x.y", tmp_path / "part")
    assert torn.hits == failed.hits == silent.hits == 1
    assert remote.get("cache/shards/x.y") == data


def test_a_delta_is_not_written_before_its_shard_is_seen_to_be_whole(remote):
    writer = CacheWriter(remote.storage(retry_s=0.5), identity=IDENTITY)
    writer.add("a", VIDEO)
    remote.proxy.spoil("status", "HEAD", "/shards/", times=10**6)
    with pytest.raises(StoreError, match="500"):
        writer.close()
    assert not any("/deltas/" in key for key in remote.objects())
    remote.proxy.clear()
    with pytest.raises(StoreMissError):
        TokenCache(remote.storage())["a"]
    with CacheWriter(remote.storage(), identity=IDENTITY) as other:
        assert len(other.recovered) == 1
    assert same(TokenCache(remote.storage())["a"], VIDEO)


def test_a_writer_outlives_an_outage(remote):
    writer = CacheWriter(remote.storage(retry_s=0.5), identity=IDENTITY)
    writer.add("a", VIDEO)
    outage = remote.proxy.spoil("status", "PUT", "", times=10**6, status=503)
    with pytest.raises(StoreError, match="nothing committed is lost"):
        writer.seal()
    outage.times = 0
    writer.add("b", tiny(n=4, seed=2, assign=None))
    writer.close()
    cache = TokenCache(remote.storage())
    assert same(cache["a"], VIDEO)
    assert same(cache["b"], tiny(n=4, seed=2, assign=None))
    assert verify(remote.storage()).ok


def test_a_connection_that_always_breaks_is_not_called_damage(remote):
    remote.fill({"a": VIDEO})
    cache = TokenCache(remote.storage(retry_s=1.0))
    remote.proxy.spoil("cut answer", "GET", "/shards/", times=10**6, after=100)
    with pytest.raises(StoreError, match="network") as caught:
        cache["a"]
    assert not isinstance(caught.value, StoreCorruptError)


def test_a_shard_that_became_shorter_is_damage(remote):
    remote.fill({"a": VIDEO})
    cache = TokenCache(remote.storage())
    key = remote.only("shards")
    data = remote.get(key)
    for length in (len(data) - 100, 10):  # one cuts the record, one ends before it begins
        remote.put(key, data[:length])
        with pytest.raises(StoreCorruptError, match=f"ends at {length}"):
            cache["a"]
        with pytest.raises(StoreCorruptError, match="it was cut"):
            TokenCache(remote.storage())["a"]


def test_a_changed_byte_is_damage_and_is_asked_for_twice(remote):
    remote.fill({"a": VIDEO})
    cache = TokenCache(remote.storage())
    key = remote.only("shards")
    data = bytearray(remote.get(key))
    data[-500] ^= 1
    remote.put(key, bytes(data))
    with pytest.raises(StoreCorruptError, match="hash"):
        cache["a"]
    assert remote.proxy.count("GET", "/shards/") >= 2


def test_a_shard_that_is_gone_says_so(remote):
    remote.fill({"a": VIDEO})
    cache = TokenCache(remote.storage())
    remote.storage().remove(remote.only("shards").removeprefix("cache/"))
    with pytest.raises(StoreCorruptError, match="gone"):
        cache["a"]
    with pytest.raises(StoreCorruptError, match="gone"):
        cache.get_many(["a", "a"])


def test_no_bucket_is_one_sentence(remote):
    storage = remote.storage("s3://no-such-bucket/x")
    for job in (lambda: TokenCache(storage), lambda: write(storage, {"a": tiny()})):
        with pytest.raises(StoreError, match="there is no bucket 'no-such-bucket'"):
            job()


def test_wrong_credentials_are_one_sentence_for_readers_and_writers(remote):
    remote.fill({"a": VIDEO})
    with remote.server.strict():
        for job in (
            lambda: TokenCache(remote.storage()),
            lambda: CacheWriter(remote.storage(), identity=IDENTITY),
        ):
            with pytest.raises(StoreError, match="access denied: InvalidAccessKeyId"):
                job()
        with pytest.raises(PermissionError) as caught:
            remote.storage().read("store.json")
    assert caught.value.errno == errno.EACCES
    assert isinstance(caught.value, RemoteDeniedError)


def test_a_writer_that_may_not_write_knows_before_its_work(remote):
    remote.fill({"a": VIDEO})
    remote.proxy.spoil("status", "PUT", "", times=10**6, status=403, code="AccessDenied")
    with pytest.raises(StoreError, match="access denied: AccessDenied"):
        CacheWriter(remote.storage(), identity=IDENTITY)
    assert len(TokenCache(remote.storage())) == 1


def test_asking_for_permission_changes_nothing(remote):
    remote.fill({"a": VIDEO})
    before = {key: remote.get(key) for key in remote.objects()}
    remote.storage().prepare()
    assert {key: remote.get(key) for key in remote.objects()} == before


def test_a_server_that_is_not_there_is_one_sentence(remote):
    for endpoint, reason in (
        ("http://127.0.0.1:9", "cannot connect to 127.0.0.1:9"),
        ("http://nowhere.invalid", "its name is not known"),
    ):
        storage = remote.storage(client_options={"endpoint": endpoint}, retry_s=0.2)
        with pytest.raises(RemoteError, match=reason):
            storage.read("store.json")


def test_records_are_fetched_at_once(remote):
    videos = {f"v{i:02d}": tiny(n=4, seed=i, assign=None) for i in range(32)}
    remote.fill(videos)
    cache = TokenCache(remote.storage())
    cache["v00"]
    remote.proxy.clear()
    remote.proxy.delay_s = 0.05
    batch = cache.get_many(list(videos))
    assert all(same(one, video) for one, video in zip(batch, videos.values(), strict=True))
    assert remote.proxy.count() == 32  # one request a record
    assert remote.proxy.most_at_once >= 8


def test_a_fault_hits_one_of_many_threads_only(remote):
    videos = {f"v{i}": tiny(n=50, seed=i, assign=None) for i in range(8)}
    remote.fill(videos)
    cache = TokenCache(remote.storage())
    remote.proxy.spoil("cut answer", "GET", "/shards/", times=5, after=30)
    results = {}
    threads = [
        threading.Thread(target=lambda k: results.__setitem__(k, cache[k]), args=(key,))
        for key in videos
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(same(results[key], video) for key, video in videos.items())


def test_a_server_that_ignores_conditions_is_noticed(remote, monkeypatch, caplog):
    remote.fill({"a": VIDEO})
    before = remote.get("cache/store.json")
    storage = remote.storage()
    client = storage._live().client
    monkeypatch.setattr(client, "create", lambda name, data: client.put(name, data) or True)
    storage.prepare()
    assert "ignores conditions" in caplog.text
    assert remote.get("cache/store.json") == before
