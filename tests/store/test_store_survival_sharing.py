"""Many processes and threads on one store while it is written and compacted."""

import gc
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import store_survival_child as child
from store_builders import IDENTITY, bits
from store_limited import limited

from vidcomp.store import CacheWriter, open_cache, verify


def fill(path, count=40):
    with CacheWriter(path, identity=IDENTITY, seal_bytes=30_000) as writer:
        for seed in range(count):
            writer.add(f"k{seed}", child.video(seed), {"seed": seed})
    return path


@pytest.fixture
def together():
    """Starts processes, which do not outlive the test."""
    with child.together() as start:
        yield start


@pytest.fixture
def remembered(monkeypatch):
    """Tells processes which seeds they may meet."""

    def call(seeds):
        monkeypatch.setattr(child, "REMEMBERED", seeds)
        child.remember(seeds)

    return call


def test_two_writers_replace_the_same_keys_again_and_again(tmp_path, remembered, together):
    """Every key ends with the value of one of the last rounds, the same for every reader."""
    remembered([])
    rounds, keys = 8, 6
    arguments = [(tmp_path, who, rounds, keys) for who in (1, 2)]
    together(child.write_same_keys, arguments)()
    found = child.seeds(open_cache(tmp_path))
    assert found == child.seeds(open_cache(tmp_path))
    for k in range(keys):
        who, number = divmod(found[f"k{k}"] // 100, 100)
        assert who in (1, 2)
        assert found[f"k{k}"] % 100 == k
        assert number >= rounds // 2, "an old value came back"
    report = verify(tmp_path)
    assert (report.problems, report.pending) == ([], [])
    assert open_cache(tmp_path).info("k0").generation >= rounds


def test_a_reader_stays_right_while_another_process_compacts(tmp_path, remembered, together):
    """With a grace period, what a reader opened before stays as it was."""
    remembered(range(40))
    fill(tmp_path)
    stop = tmp_path / "stop"
    cache, before = open_cache(tmp_path), child.seeds(open_cache(tmp_path))
    wait = together(child.compact_until, [(tmp_path, stop, 3600.0)])
    child.begun(stop, 1)
    ends = time.monotonic() + 1.5
    reads = 0
    while time.monotonic() < ends:
        for key, seed in before.items():
            assert bits(cache[key].tokens) == child.value(seed)
            reads += 1
        with CacheWriter(tmp_path, identity=IDENTITY) as writer:
            writer.add("k0", child.video(0), {"seed": 0})
            writer.add("k1", child.video(1), {"seed": 1})
    stop.touch()
    (rounds,) = wait()
    assert rounds > 1
    assert reads > 40
    assert child.seeds(cache) == before
    assert len({info.shard for info in open_cache(tmp_path).entries()}) < 40
    assert verify(tmp_path).ok


@pytest.mark.parametrize(
    ("processes", "threads", "seconds"),
    [(2, 6, 1.0), pytest.param(20, 10, 8.0, marks=pytest.mark.slow)],
)
def test_many_readers_during_writing_compaction_and_refresh(
    tmp_path, remembered, together, processes, threads, seconds
):
    store, stop = tmp_path / "store", tmp_path / "stop"
    remembered(range(900))
    fill(store)
    sent = open_cache(store)
    readers = [(store, stop, threads, sent if i % 2 else None) for i in range(processes)]
    wait_writer = together(child.write_until, [(store, stop, 100), (store, stop, 500)])
    wait_tidier = together(child.compact_until, [(store, stop, 3600.0)])
    wait_readers = together(child.read_in_threads, readers)
    child.begun(stop, processes + 3)
    time.sleep(seconds)
    stop.touch()
    answers = wait_readers()
    wait_writer()
    wait_tidier()
    assert [problems for _, problems in answers if problems] == []
    assert all(count for count, _ in answers)
    report = verify(store)
    assert (report.problems, report.pending) == ([], [])
    for key in open_cache(store):
        child.known(open_cache(store)[key].tokens)


def test_a_fork_in_the_middle_of_reading_by_threads(tmp_path):
    with CacheWriter(tmp_path, identity=IDENTITY, seal_bytes=8_000) as writer:
        for seed in range(30):
            writer.add(f"v{seed}", child.video(seed))
    limited(child.fork_while_reading, tmp_path, preload=["store_survival_child"])


END = {
    "open reader and writer": """
        cache = open_cache(path)
        cache.get_many(cache.keys())
        writer = CacheWriter(path, identity=IDENTITY)
        writer.add("new", tiny())
        """,
    "threads that read on when the program has ended": """
        import threading
        cache = open_cache(path)
        main = threading.main_thread()
        def read():
            while main.is_alive():
                cache.get_many(cache.keys() * 10)
            for _ in range(10):
                cache.get_many(cache.keys() * 10)
        for _ in range(3):
            threading.Thread(target=read).start()
        """,
    "an exception with a batch alive": """
        cache = open_cache(path)
        batch = cache.select().batch(range(10))
        raise SystemExit(0)
        """,
    "a writer in a with, left by an exit": """
        with CacheWriter(path, identity=IDENTITY) as writer:
            writer.add("new", tiny())
            raise SystemExit(0)
        """,
    "globals in cycles": """
        class Holder: pass
        holder = Holder()
        holder.cache, holder.self = open_cache(path), holder
        holder.videos = [holder.cache[key] for key in holder.cache.keys()]
        holder.file = holder.cache._fetcher._pool.get(holder.cache.info("k1").shard)
        """,
}


@pytest.mark.parametrize("what", END)
def test_a_program_ends_in_silence_whatever_it_has_open(tmp_path, what):
    fill(tmp_path)
    body = "from store_builders import IDENTITY, tiny\n"
    body += "from vidcomp.store import CacheWriter, open_cache\n"
    body += f"path = {str(tmp_path)!r}\n" + textwrap.dedent(END[what])
    here = Path(__file__).resolve().parents[1]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-X", "dev", "-W", "ignore::ResourceWarning", "-c", body],
        env={"PYTHONPATH": f"{here}:{here.parent}", "PATH": "/usr/bin:/bin"},
        capture_output=True, timeout=60, check=False, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    with CacheWriter(tmp_path, identity=IDENTITY):
        pass
    assert len(open_cache(tmp_path)) in (40, 41)
    assert verify(tmp_path).ok


def open_files():
    return len(list(Path("/proc/self/fd").iterdir()))


def test_no_descriptor_is_left_open(tmp_path):
    fill(tmp_path / "a")
    cache = open_cache(tmp_path / "a")
    one = [cache.get_many(cache.keys()), cache["k1"], cache.rows("k2", 0, 3)]
    cache.close()
    gc.collect()  # what other tests left
    before = open_files()
    for number in range(1000):
        cache = open_cache(tmp_path / "a")
        cache[f"k{number % 40}"]
        if number % 50 == 0:
            cache.get_many(cache.keys())
            verify(tmp_path / "a")
        if number % 3 == 0:
            cache.close()
        del cache
    gc.collect()
    assert open_files() <= before
    for number in range(30):
        with CacheWriter(tmp_path / "a", identity=IDENTITY) as writer:
            writer.add("k0", child.video(number))
        with pytest.raises(Exception, match=r".*"):
            CacheWriter(tmp_path / "a", identity={"other": 1})
        with pytest.raises(Exception, match=r".*"):
            open_cache(tmp_path / "nothing")
    assert open_files() == before
    assert len(one) == 3


def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def read_much(path, count):
    """Grown memory of so many reads by all doors, after as many to warm up."""
    import random

    cache = open_cache(path)
    selection = cache.select()
    rng = random.Random(0)

    def some(number):
        for _ in range(number):
            i = rng.randrange(len(selection))
            key, n = selection.keys[i], int(selection.num_tokens[i])
            cache[key]
            cache.rows(key, n // 3, n // 2)
            cache.window(key, 0.2, 0.6)
            selection.batch([rng.randrange(len(selection)) for _ in range(rng.randint(1, 9))])
            cache.meta(key)

    some(count // 2)
    before = resident()
    some(count)
    return resident() - before


@pytest.mark.parametrize("count", [400, pytest.param(10_000, marks=pytest.mark.slow)])
def test_memory_does_not_grow_with_reads(tmp_path, count):
    fill(tmp_path)
    assert limited(read_much, tmp_path, count, seconds=300, preload=["store_limited"]) < 8 << 20
