"""Killed at any moment, a writer leaves a store that loses at most the video being written."""

import errno
import fcntl
import json
import os
import random
import shutil
import signal
import time
from pathlib import Path

import forkserver_children
import pytest
import store_crash_child as child
from store_builders import IDENTITY, bits, tiny

from vidcomp.errors import StoreError
from vidcomp.store import CacheWriter, SourceId, open_cache, recover, verify
from vidcomp.store.commit import journal_path


@pytest.fixture
def start():
    """Starts a function of ``store_crash_child`` in a process of its own."""
    return forkserver_children.start


@pytest.fixture
def die(start):
    """Runs such a function to its end; whether it was killed."""

    def call(function, *args):
        process = start(function, *args)
        process.join(60)
        assert process.exitcode in (0, -signal.SIGKILL)
        return process.exitcode != 0

    return call


def state(path):
    """Key to seed, from meta and tokens, which must agree."""
    cache = open_cache(path)
    seeds = {key: cache.meta(key)["seed"] for key in cache.keys()}  # noqa: SIM118
    for key, seed in seeds.items():
        assert bits(cache[key].tokens) == bits(tiny(seed=seed).tokens)
    return seeds


def assert_recovered(path, acks):
    """The store is what it was after the last finished operation, or the one under way."""
    done = int(acks.read_text()) if acks.exists() else 0
    assert state(path) in (child.state_after(done), child.state_after(done + 1))
    report = verify(path)
    assert report.problems == []
    assert report.pending == []


def test_killed_before_every_step_nothing_finished_is_lost(die, tmp_path):
    deaths = 0
    while True:
        path, acks = tmp_path / str(deaths), tmp_path / f"{deaths}.acks"
        killed = die(child.write_until_step, path, acks, deaths)
        if (path / "store.json").exists():
            # A reader in between sees whole commits and nothing else.
            between = state(path)
            assert between in [child.state_after(n) for n in (0, 3, 8, len(child.OPERATIONS))]
        CacheWriter(path, identity=IDENTITY).close()
        assert_recovered(path, acks)
        shutil.rmtree(path)
        if not killed:
            break
        deaths += 1
    assert deaths > 50  # the script takes that many steps, and each of them was the last once


def test_killed_in_recovery_the_next_one_ends_it(die, tmp_path):
    broken = tmp_path / "broken"
    die(child.leave_open, broken, 5)
    assert state(broken) == {}
    deaths = 0
    while True:
        path = tmp_path / str(deaths)
        shutil.copytree(broken, path)
        killed = die(child.recover_until_step, path, deaths)
        recover(path)
        assert state(path) == {f"v{i}": i for i in range(5)}
        assert verify(path).problems == []
        assert not killed or deaths < 40
        if not killed:
            break
        deaths += 1
    assert deaths >= 8


@pytest.mark.parametrize("seed", range(4))
def test_killed_at_random_moments_again_and_again(start, tmp_path, seed):
    rng = random.Random(seed)
    path, acks = tmp_path / "store", tmp_path / "acks"
    acks.touch()
    for round_ in range(3):
        process = start(child.write_for_ever, path, acks, round_ * 100_000)
        wanted = len(acks.read_text().split()) + rng.randint(1, 40)
        deadline = time.monotonic() + 60
        while len(acks.read_text().split()) < wanted and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(rng.random() * 0.01)
        process.kill()
        process.join()
    acked = {int(line) for line in acks.read_text().split("\n")[:-1]}
    with CacheWriter(path, identity=IDENTITY) as writer:
        committed = writer.committed()
    cache = open_cache(path)
    found = {int(key[1:]) for key in cache.keys()}  # noqa: SIM118
    assert acked <= found
    assert len(found - acked) <= 3  # written, and killed before it could be said
    for i in found:
        assert bits(cache[f"v{i}"].tokens) == bits(tiny(40, 30, seed=i).tokens)
        assert committed[f"v{i}"] == SourceId(size=i, mtime_ns=i)
    report = verify(path)
    assert (report.problems, report.pending) == ([], [])


def test_a_living_writer_is_left_alone(tmp_path):
    with CacheWriter(tmp_path, identity={}) as writer:
        writer.add("v", tiny())
        assert recover(tmp_path) == []
        with CacheWriter(tmp_path, identity={}) as other:
            assert other.recovered == ()
            other.add("w", tiny())
        assert len(verify(tmp_path).pending) == 1
        assert verify(tmp_path).ok
        writer.add("x", tiny())
    assert open_cache(tmp_path).keys() == ["v", "w", "x"]


@pytest.fixture
def abandoned(die, tmp_path):
    """A store whose writer died with five records in its journal; its folder and commit."""
    path = tmp_path / "store"
    assert die(child.leave_open, path, 5)
    (journal,) = (path / "wal").glob("*.journal")
    return path, journal.stem


def rewrite_first_line(path, name, **changes):
    from vidcomp.store.journal import line

    journal = journal_path(path / "wal", name)
    first, rest = journal.read_bytes().split(b"\n", 1)
    journal.write_bytes(line({**json.loads(first.split(b" ", 1)[1]), **changes}) + rest)


def test_the_dead_of_this_machine_are_recovered(abandoned):
    path, name = abandoned
    assert verify(path).pending == [name]
    assert recover(path) == [name]
    assert state(path) == {f"v{i}": i for i in range(5)}
    assert list((path / "wal").iterdir()) == []


def test_a_delta_that_outlived_its_shard_costs_nothing(abandoned, tmp_path):
    """As after a power cut that undid the renaming of the shard."""
    path, name = abandoned
    copy = tmp_path / "copy"
    shutil.copytree(path, copy)
    recover(copy)
    shutil.copy(copy / "deltas" / f"{name}.safetensors", path / "deltas")
    assert recover(path) == [name]
    assert state(path) == {f"v{i}": i for i in range(5)}
    assert verify(path).ok


@pytest.mark.parametrize("changes", [{"host": "elsewhere"}, {"machine": "other"}])
def test_writers_of_other_machines_are_left_alone(abandoned, changes):
    path, name = abandoned
    rewrite_first_line(path, name, **changes)
    assert recover(path) == []
    assert state(path) == {}


@pytest.mark.parametrize("changes", [{"pid": 2**22 + 1}, {"boot": "of another machine's twin"}])
def test_a_held_lock_is_respected_whatever_the_journal_says(abandoned, changes):
    path, name = abandoned
    rewrite_first_line(path, name, **changes)
    with journal_path(path / "wal", name).open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert recover(path) == []
    assert recover(path) == [name]


def test_a_sealed_shard_is_invisible_until_its_delta_is_there(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with CacheWriter(tmp_path, identity={}) as writer:
        writer.add("v", tiny())
        monkeypatch.setattr("vidcomp.store.part.publish", full)
        with pytest.raises(StoreError, match="No space left"):
            writer.seal()
        assert len(list((tmp_path / "shards").iterdir())) == 1
        assert open_cache(tmp_path).keys() == []
        report = verify(tmp_path)
        assert (report.problems, len(report.pending)) == ([], 1)
        monkeypatch.undo()
    assert open_cache(tmp_path).keys() == ["v"]


def test_a_writer_from_before_a_reboot_is_dead(abandoned):
    path, name = abandoned
    rewrite_first_line(path, name, boot="an earlier one")
    assert recover(path) == [name]


def test_without_locks_only_a_process_that_is_gone_is_dead(abandoned, monkeypatch):
    path, name = abandoned
    monkeypatch.setattr("vidcomp.store.journal.fcntl", None)
    rewrite_first_line(path, name, pid=os.getpid())
    assert recover(path) == []
    rewrite_first_line(path, name, pids="another container's")
    assert recover(path) == []
    here = str(Path("/proc/self/ns/pid").readlink())
    rewrite_first_line(path, name, pid=2**22 + 1, pids=here)  # above the largest pid of Linux
    assert recover(path) == [name]


def test_a_damaged_line_costs_its_record_only(abandoned):
    path, name = abandoned
    journal = journal_path(path / "wal", name)
    lines = journal.read_bytes().split(b"\n")
    lines[2] = lines[2].replace(b"v1", b"v9")
    journal.write_bytes(b"\n".join(lines))
    assert f"journal {name} has 1 damaged lines" in verify(path).problems
    assert recover(path) == [name]
    assert state(path) == {f"v{i}": i for i in (0, 2, 3, 4)}
    assert verify(path).ok


def test_a_damaged_record_of_a_part_is_not_recovered(abandoned):
    path, name = abandoned
    part = path / "wal" / f"{name}.part"
    data = bytearray(part.read_bytes())
    data[16384 + 3] ^= 1
    part.write_bytes(data)
    recover(path)
    assert state(path) == {f"v{i}": i for i in (1, 2, 3, 4)}
    assert verify(path).ok


def test_a_cut_part_gives_what_is_whole(abandoned):
    path, name = abandoned
    part = path / "wal" / f"{name}.part"
    os.truncate(part, part.stat().st_size - 100)
    recover(path)
    assert state(path) == {f"v{i}": i for i in range(4)}
    assert verify(path).ok


@pytest.mark.parametrize("content", [b"", b"garbage\n", b"\x00" * 500])
def test_a_journal_that_is_nothing_is_reported_and_stops_nobody(abandoned, content):
    path, name = abandoned
    journal_path(path / "wal", name).write_bytes(content)
    assert recover(path) == []
    assert any(name in problem for problem in verify(path).problems)
    with CacheWriter(path, identity=IDENTITY) as writer:
        writer.add("w", tiny(), {"seed": 0})
    assert state(path) == {"w": 0}


def test_old_temporary_files_are_swept_and_young_ones_kept(tmp_path):
    CacheWriter(tmp_path, identity={}).close()
    old, young = tmp_path / "deltas" / ".tmp-old", tmp_path / "deltas" / ".tmp-young"
    old.touch()
    young.touch()
    os.utime(old, (0, time.time() - 7200))
    recover(tmp_path)
    assert not old.exists()
    assert young.exists()
