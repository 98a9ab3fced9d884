"""Many writers, readers and threads on one store at once."""

import multiprocessing
import pickle
import random
import sys
import threading

import pytest
import store_sharing_child as child
from store_builders import IDENTITY, bits, tiny, write

from vidcomp.store import CacheWriter, TokenCache, open_cache, verify
from vidcomp.store.commit import snapshot
from vidcomp.store.local import LocalStorage


@pytest.fixture
def run():
    """Runs a function of ``store_sharing_child`` in several processes and gives their answers."""

    def call(method, function, *arguments):
        context = multiprocessing.get_context(method)
        with context.Pool(len(arguments)) as pool:
            return pool.starmap(function, arguments)

    return call


def test_writers_in_several_processes_make_one_store(run, tmp_path):
    path = tmp_path / "cache"
    run("spawn", child.write_range, *[(path, who, 40) for who in range(2)])
    cache = open_cache(path)
    assert len(cache) == 2 * 40 + 10  # ten keys were written by both
    for who in range(2):
        for i in range(40):
            seed = who * 1000 + i
            assert bits(cache[f"{who}/{i}"].tokens) == bits(tiny(seed=seed).tokens)
    report = verify(path)
    assert (report.problems, report.pending) == ([], [])


def test_of_two_writers_on_one_key_every_reader_sees_the_same(tmp_path):
    for order in range(2):
        path = tmp_path / str(order)
        first, second = (CacheWriter(path, identity={}) for _ in range(2))
        first._id, second._id = "a" * 32, "b" * 32
        first.add("v", tiny(seed=1))
        second.add("v", tiny(seed=2))
        for writer in (first, second) if order else (second, first):
            writer.close()
        cache = open_cache(path)
        assert cache.info("v").generation == 1
        assert bits(cache["v"].tokens) == bits(tiny(seed=2).tokens)  # of the larger id
        assert verify(path).ok


def test_a_reader_beside_a_writer_sees_only_whole_records(tmp_path):
    stop = threading.Event()
    problems, seen = [], [0]
    CacheWriter(tmp_path, identity={}).close()

    def read():
        cache = open_cache(tmp_path)
        while not stop.is_set():
            cache.refresh()
            for key in random.sample(cache.keys(), min(5, len(cache))):
                if bits(cache[key].tokens) != bits(tiny(30, 20, seed=int(key)).tokens):
                    problems.append(key)
            seen[0] = max(seen[0], len(cache))

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    with CacheWriter(tmp_path, identity={}, seal_bytes=8_000) as writer:
        for i in range(150):
            writer.add(str(i), tiny(30, 20, seed=i))
    stop.set()
    for reader in readers:
        reader.join()
    assert problems == []
    assert seen[0] > 10


def test_threads_read_through_one_cache_with_few_files(tmp_path):
    write(tmp_path, {f"v{i}": tiny(seed=i) for i in range(40)}, seal_s=0.0)
    cache = TokenCache(tmp_path, max_open_files=3)
    problems = []

    def read(seed):
        rng = random.Random(seed)
        try:
            for _ in range(150):
                i = rng.randrange(40)
                if bits(cache[f"v{i}"].tokens) != bits(tiny(seed=i).tokens):
                    problems.append(i)
        except Exception as error:  # noqa: BLE001  # shown below
            problems.append(error)

    switch = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=read, args=(i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(switch)
    assert problems == []


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_cache_goes_to_other_processes(run, tmp_path, method):
    path = write(tmp_path, {f"v{i}": tiny(seed=i) for i in range(6)})
    cache = open_cache(path)
    cache["v0"]  # has a file open when it is sent
    answers = run(method, child.read_all, *[(cache,)] * 2)
    assert all(bits == {f"v{i}": child.bits_of(i) for i in range(6)} for bits in answers)
    assert bits(cache["v5"].tokens) == bits(tiny(seed=5).tokens)


def test_a_fork_reads_with_files_of_its_own(tmp_path):
    path = write(tmp_path, {f"v{i}": tiny(seed=i) for i in range(6)})
    child.CACHE = open_cache(path)
    child.CACHE["v0"]
    with multiprocessing.get_context("fork").Pool(2) as pool:
        answers = pool.map(child.read_inherited, range(6))
    assert [answer for answer, _ in answers] == [child.bits_of(i) for i in range(6)]
    assert all(own for _, own in answers)


def test_a_pickled_cache_shows_the_records_of_its_time(tmp_path):
    write(tmp_path, {"v": tiny(seed=1)})
    snapshot(LocalStorage(tmp_path), open_cache(tmp_path).manifest.id)
    write(tmp_path, {"w": tiny(seed=2)})
    cache = open_cache(tmp_path)
    sent = pickle.dumps(cache)
    assert len(sent) < 1000
    write(tmp_path, {"v": tiny(seed=3), "x": tiny(seed=4)})
    snapshot(LocalStorage(tmp_path), cache.manifest.id)
    copy = pickle.loads(sent)
    assert copy.keys() == ["v", "w"]
    assert bits(copy["v"].tokens) == bits(tiny(seed=1).tokens)
    assert copy.refresh()
    assert copy.keys() == ["v", "w", "x"]
    assert bits(copy["v"].tokens) == bits(tiny(seed=3).tokens)


def test_several_may_make_the_same_store_at_once(tmp_path):
    for attempt in range(10):
        path, ids = tmp_path / str(attempt), []
        barrier = threading.Barrier(4)

        def make(path=path, ids=ids, barrier=barrier):
            barrier.wait()
            with CacheWriter(path, identity=IDENTITY) as writer:
                ids.append(writer.manifest.id)

        threads = [threading.Thread(target=make) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(ids) == 4
        assert len(set(ids)) == 1
        assert verify(path).ok
