"""Writers that are killed, readers that were forked or spawned."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from s3_server import KEYS
from store_builders import IDENTITY, same, tiny, write
from store_remote_child import video

from vidcomp.errors import StoreMissError
from vidcomp.store import CacheWriter, TokenCache, verify

TESTS = Path(__file__).resolve().parents[1]
VIDEOS = {f"v{i}": tiny(n=20, seed=i, assign=None) for i in range(8)}

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
ignored = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")


def start_writer(remote, count, rows):
    options = {**KEYS, "endpoint": remote.proxy.endpoint}
    given = [remote.url, options, str(remote.folder / "staging"), count, rows]
    return subprocess.Popen(
        [sys.executable, str(TESTS / "store_remote_child.py"), json.dumps(given)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1"},
    )


DEATHS = {
    "before the shard": ("hang", "PUT", "/shards/", 2, 50),
    "shard sent, not told": ("lose answer", "PUT", "/shards/", 2, 50),
    "between shard and delta": ("hang", "PUT", "/deltas/", 2, 50),
    "in the midst of the parts": ("hang", "PUT", "partNumber=2", 3, 60_000),
    "before the parts are joined": ("hang", "POST", "uploadId=", 3, 60_000),
}


QUICK = ("between shard and delta", "in the midst of the parts")


@pytest.mark.parametrize(
    "death", [d if d in QUICK else pytest.param(d, marks=pytest.mark.slow) for d in DEATHS]
)
def test_a_writer_killed_on_the_way_loses_nothing(remote, death):
    kind, method, part, count, rows = DEATHS[death]
    fault = remote.proxy.spoil(kind, method, part, seconds=60)
    if kind == "lose answer":  # and keep it from trying again
        remote.proxy.spoil("hang", method, part, times=10**6, seconds=60)
    child = start_writer(remote, count, rows)
    try:
        assert child.stdout.readline() == b"sealing\n"
        while not fault.hits or (kind == "lose answer" and not fault.done.wait(0.01)):
            assert child.poll() is None
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
    remote.proxy.clear()
    assert not any("/deltas/" in key for key in remote.objects())
    with pytest.raises(StoreMissError):
        TokenCache(remote.storage())["v0"]
    with CacheWriter(remote.storage(), identity=IDENTITY) as writer:
        assert len(writer.recovered) == 1
        assert sorted(writer.committed()) == [f"v{i}" for i in range(count)]
    cache = TokenCache(remote.storage())
    assert all(same(cache[f"v{i}"], video(i, rows)) for i in range(count))
    assert verify(remote.storage()).ok
    assert list(remote.storage().wal.iterdir()) == []


def read_all(cache, videos, answers, deeper):
    good = all(same(cache[key], one) for key, one in videos.items())
    batch = cache.get_many(list(videos))
    good = good and all(same(a, b) for a, b in zip(batch, videos.values(), strict=True))
    if deeper:
        context = multiprocessing.get_context("fork")
        child = context.Process(target=read_all, args=(cache, videos, answers, False))
        child.start()
        child.join()
        good = good and child.exitcode == 0
    answers.put(good)


@forks
@ignored
def test_forked_readers_and_their_children_read_what_the_parent_opened(remote):
    remote.fill(VIDEOS)
    cache = TokenCache(remote.storage())
    assert same(cache["v0"], VIDEOS["v0"])  # the parent's connections are in use
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    children = [
        context.Process(target=read_all, args=(cache, VIDEOS, answers, i == 0)) for i in range(3)
    ]
    for child in children:
        child.start()
    for key, one in VIDEOS.items():
        assert same(cache[key], one)  # and not disturbed
    for child in children:
        child.join(30)
        assert child.exitcode == 0
    assert [answers.get() for _ in range(4)] == [True] * 4
    assert same(cache["v1"], VIDEOS["v1"])


@forks
@ignored
def test_a_forked_process_may_write(remote):
    storage = remote.storage()
    write(storage, {"parent": VIDEOS["v0"]})
    context = multiprocessing.get_context("fork")
    child = context.Process(target=write, args=(storage, {"child": VIDEOS["v1"]}))
    child.start()
    child.join(30)
    assert child.exitcode == 0
    cache = TokenCache(storage)
    assert same(cache["parent"], VIDEOS["v0"])
    assert same(cache["child"], VIDEOS["v1"])


def test_a_spawned_process_reads_the_cache_it_is_sent(remote):
    remote.fill(VIDEOS)
    context = multiprocessing.get_context("spawn")
    answers = context.SimpleQueue()
    child = context.Process(
        target=read_all, args=(TokenCache(remote.storage()), VIDEOS, answers, False)
    )
    child.start()
    child.join(60)
    assert child.exitcode == 0
    assert answers.get()
