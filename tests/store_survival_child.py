"""What other processes do to a store while a test looks on; every value is told by its seed."""

import os
import random
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path

import store_crash_child
from store_builders import IDENTITY, bits, tiny

from vidcomp.config import StoreSettings
from vidcomp.errors import StoreError
from vidcomp.store import CacheWriter, compact, open_cache
from vidcomp.store.commit import snapshot
from vidcomp.store.disk.precision import decode_int8, encode_int8
from vidcomp.store.local import LocalStorage

FORMS = {
    "bfloat16": StoreSettings(),
    "int8": StoreSettings(dtype="int8"),
    "zstd": StoreSettings(codec="zstd"),
    "int8 zstd": StoreSettings(dtype="int8", codec="zstd", assign=True),
}


@lru_cache(maxsize=4096)
def value(seed, form="bfloat16"):
    """The bits of the tokens of a seed as they are read."""
    tokens = tiny(20 + seed % 100, 12, seed).tokens
    if FORMS[form].dtype == "int8":
        tokens = decode_int8(*encode_int8(tokens, "x"))
    return bits(tokens)


def video(seed):
    return tiny(20 + seed % 100, 12, seed)


def seeds(cache, form="bfloat16"):
    """Key to seed of all that a cache shows; meta and tokens must agree."""
    found = {}
    for key in cache.keys():  # noqa: SIM118
        seed = cache.meta(key)["seed"]
        assert bits(cache[key].tokens) == value(seed, form), key
        found[key] = seed
    return found


def churn(path, acks, seed, form):
    """Add, replace, remove, seal and snapshot until killed; each step is announced, then told."""
    rng, storage = random.Random(seed), LocalStorage(Path(path))
    with Path(acks).open("a") as file:
        writer = None
        live = {line.split()[2] for line in Path(acks).read_text().splitlines()[:0]}
        for number in range(seed * 100_000, (seed + 1) * 100_000):
            if writer is None:
                writer = CacheWriter(
                    path, identity=IDENTITY, settings=FORMS[form],
                    seal_bytes=rng.choice([4_000, 30_000]), sync_every=5,
                )  # fmt: skip
                live = set(writer.committed())
            roll = rng.random()
            key = f"k{rng.randrange(30)}"
            if roll < 0.7 or not live:
                file.write(f"try add {key} {number}\n")
                file.flush()
                writer.add(key, video(number), {"seed": number})
                live.add(key)
                file.write(f"did add {key} {number}\n")
            elif roll < 0.85:
                key = rng.choice(sorted(live))
                file.write(f"try remove {key} 0\n")
                file.flush()
                writer.remove(key)
                live.discard(key)
                file.write(f"did remove {key} 0\n")
            elif roll < 0.93:
                writer.seal()
                file.write("did seal - 0\n")
            elif roll < 0.97:
                snapshot(storage, writer.manifest.id)
            else:
                writer.close()
                file.write("did seal - 0\n")
                writer = None
            file.flush()


def compact_for_ever(path, form):
    """Compact again and again, with no grace for readers, until killed."""
    while True:
        try:
            compact(path, grace_s=0, min_live=0.9, seal_bytes=50_000)
        except StoreError:
            time.sleep(0.001)  # before the store is made


def story(path):
    """What a file of acks says: sealed state, state of all that was done, and the open step."""
    done, sealed, step = {}, {}, None
    lines = Path(path).read_text().split("\n")[:-1] if Path(path).exists() else []
    for line in lines:
        word, what, key, seed = line.split()
        if word == "try":
            step = what, key, int(seed)
            continue
        step = None
        done = told(done, (what, key, int(seed)))
        if what == "seal":
            sealed = dict(done)
    return sealed, done, step


def told(state, step):
    """The state after a step."""
    what, key, seed = step
    out = {k: v for k, v in state.items() if k != key}
    return out | {key: seed} if what == "add" else out


def all_steps(path, form, deadly_step):
    """Every kind of step once, dying before the one of that number."""
    store_crash_child._die_at(deadly_step)
    storage = LocalStorage(Path(path))
    with CacheWriter(path, identity=IDENTITY, settings=FORMS[form]) as writer:
        writer.add("a", video(1), {"seed": 1})
        writer.add("b", video(2), {"seed": 2})
        writer.seal()
        writer.add("a", video(3), {"seed": 3})
        writer.remove("b")
        writer.seal()
        snapshot(storage, writer.manifest.id)
        writer.add("c", video(4), {"seed": 4})
    compact(path, grace_s=0, min_live=1.0)
    compact(path, grace_s=0, min_live=1.0)


def write_same_keys(path, who, rounds, keys):
    """Replace the same keys again and again, beside others that do."""
    for number in range(rounds):
        with CacheWriter(path, identity=IDENTITY, seal_bytes=20_000) as writer:
            for k in range(keys):
                seed = who * 10_000 + number * 100 + k
                writer.add(f"k{k}", video(seed), {"seed": seed})


def ready(stop):
    """Say that this process has begun."""
    Path(f"{stop}.{os.getpid()}").touch()


def begun(stop, count):
    """Wait until so many processes have begun."""
    deadline = time.monotonic() + 90
    while len(list(stop.parent.glob(f"{stop.name}.*"))) < count:
        assert time.monotonic() < deadline, "processes do not start"
        time.sleep(0.01)


def write_until(path, stop, first):
    """Add and replace records until the file ``stop`` is there."""
    ready(stop)
    with CacheWriter(path, identity=IDENTITY, seal_bytes=30_000) as writer:
        for number in range(1_000_000):
            if Path(stop).exists():
                return
            seed = first + number % 400
            writer.add(f"k{number % 40}", video(seed), {"seed": seed})
            time.sleep(0.002)


def compact_until(path, stop, grace_s):
    """Compact until the file ``stop`` is there; how often."""
    count = 0
    ready(stop)
    while not Path(stop).exists():
        compact(path, grace_s=grace_s, min_live=0.9, seal_bytes=60_000)
        count += 1
    return count


def read_in_threads(path, stop, threads, sent):
    """Read and refresh by so many threads until ``stop``; how many reads, and what failed."""
    cache = sent if sent is not None else open_cache(path)
    counts, problems = [0] * threads, []
    ready(stop)

    def read(number):
        rng = random.Random(number * 1000 + os.getpid())
        while not Path(stop).exists() and not problems:
            try:
                one_read(cache, rng)
                counts[number] += 1
                time.sleep(0.002)  # so many threads without a pause starve who should stop them
            except Exception as error:  # noqa: BLE001  # told to the test
                problems.append(repr(error)[:500])

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(read, range(threads)))
    return sum(counts), problems


def one_read(cache, rng):
    """One read by a random door; what it gives must be what was written."""
    keys = cache.keys()
    if not keys:
        cache.refresh()
        return
    key, roll = rng.choice(keys), rng.random()
    if roll < 0.1:
        cache.refresh()
    elif roll < 0.4:
        selection = cache.select()  # one moment, so that meta and tokens agree
        i = rng.randrange(len(selection))
        found = selection[i]
        known(found.tokens)
    elif roll < 0.6:
        selection = cache.select()
        chosen = [rng.randrange(len(selection)) for _ in range(4)]
        batch = selection.batch(chosen)
        for i in range(4):
            known(batch[i].tokens)
    elif roll < 0.8:
        selection = cache.select()
        i = rng.randrange(len(selection))
        n = int(selection.num_tokens[i])
        assert len(selection.rows(i, n // 3, n // 2)) == n // 2 - n // 3
    elif key in cache:
        known(cache[key].tokens)


FIRST_ROWS = {}
"""First row of the tokens of each seed that a test may write, to its seed."""


def remember(some_seeds):
    for seed in some_seeds:
        FIRST_ROWS[bits(video(seed).tokens[:1])] = seed


def known(tokens):
    """The seed of tokens that were written as a whole; AssertionError for any others."""
    seed = FIRST_ROWS.get(bits(tokens[:1]))
    assert seed is not None, "tokens that nobody wrote"
    assert bits(tokens) == value(seed), "tokens that are torn"
    return seed


def fork_while_reading(path):
    """Fork while threads read through one cache; each child reads through it and exits."""
    cache, stop, problems = open_cache(path), threading.Event(), []

    def read():
        rng = random.Random(threading.get_ident())
        while not stop.is_set():
            key = rng.choice(cache.keys())
            if bits(cache[key].tokens) != value(int(key[1:])):
                problems.append(key)

    def read_batches():
        while not stop.is_set():
            cache.get_many(cache.keys())

    readers = [threading.Thread(target=t) for t in (read, read, read_batches)]
    for thread in readers:
        thread.start()
    try:
        for _ in range(20):
            time.sleep(0.005)
            pid = os.fork()
            if pid == 0:
                signal.alarm(30)
                code = 1
                try:
                    right = all(
                        bits(cache[key].tokens) == value(int(key[1:]))
                        for key in cache.keys()  # noqa: SIM118
                    )
                    batch = cache.get_many(cache.keys())
                    code = 0 if right and len(batch.keys) == len(cache) else 2
                finally:
                    os._exit(code)
            _, status = os.waitpid(pid, 0)
            assert status == 0, status
    finally:
        stop.set()
        for thread in readers:
            thread.join()
    assert problems == []


@contextmanager
def together():
    """Starts processes that all end with the block, whatever happens in it.

    Yields:
        A function that starts a process for each tuple of arguments of a function; it returns one
        that waits for their answers.
    """
    with ExitStack() as stack:

        def start(function, arguments):
            pool = get_context("forkserver").Pool(
                len(arguments), initializer=remember, initargs=(REMEMBERED,)
            )
            stack.enter_context(pool)  # is terminated at the end
            results = [pool.apply_async(function, args) for args in arguments]
            return lambda: [result.get(120) for result in results]

        yield start


REMEMBERED = []
"""Seeds that processes started by ``together`` may meet."""
