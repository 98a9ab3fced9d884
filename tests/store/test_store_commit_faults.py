"""A commit that fails at any of its steps: readers see all of it or nothing, nothing is lost."""

import errno
import os
import uuid
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest
from store_builders import IDENTITY, bits, tiny, write

from vidcomp.errors import StoreError
from vidcomp.store import CacheWriter, compact, open_cache, recover, verify
from vidcomp.store.commit import seal, snapshot
from vidcomp.store.local import LocalStorage

CALLS = ("pwritev", "fsync", "rename", "replace", "link", "unlink", "ftruncate")
"""System calls that change what is on the disk."""

FREEING = ("unlink", "ftruncate")
"""Those that a full disk does not refuse."""

OLD = {"old": 7, "b": 8}
DEEDS = (("add", "a", 1), ("add", "b", 2), ("seal",), ("add", "a", 3), ("remove", "b"), ("seal",))


def full():
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class Faults:
    """Counts system calls from ``begin`` on and lets those of some numbers fail.

    ``how``: ``once``, ``on`` (that one and all after it, as on a full disk), or ``late`` (it is
    done, and answered with an error, as a network may).
    """

    def __init__(self, monkeypatch):
        self.number = self.count = -1
        self.how, self.hits = "once", Counter()
        for name in CALLS:
            monkeypatch.setattr(os, name, self._failing(name, getattr(os, name)))

    def begin(self, number, how):
        self.count, self.number, self.how = 0, number, how

    def end(self):
        """Whether the call of that number was made."""
        was_made, self.number = self.count > self.number >= 0, -1
        return was_made

    def _failing(self, name, real):
        def call(*args, **kwargs):
            number, self.count = self.count, self.count + 1
            hit = self.number >= 0 and (
                number == self.number or (self.how == "on" and number > self.number)
            )
            if not hit or (self.how == "on" and name in FREEING):
                return real(*args, **kwargs)
            self.hits[name] += 1
            if self.how == "late":
                real(*args, **kwargs)
            elif name == "pwritev":  # half of it, as far as the disk goes
                fd, parts, offset = args
                data = b"".join(bytes(part) for part in parts)
                os.pwrite(fd, data[: len(data) // 2], offset)
            raise full()

        return call


@pytest.fixture
def faults(monkeypatch):
    return Faults(monkeypatch)


def values(path):
    cache = open_cache(path)
    return {key: bits(cache[key].tokens) for key in cache.keys()}  # noqa: SIM118


def wanted(state):
    return {key: bits(tiny(seed=seed).tokens) for key, seed in state.items()}


def states(deeds):
    """What is visible after each commit, and last what was taken; from the old records on."""
    state, seen = dict(OLD), [dict(OLD)]
    for deed, *args in deeds:
        if deed == "add":
            state[args[0]] = args[1]
        elif deed == "remove":
            del state[args[0]]
        else:
            seen.append(dict(state))
    return [*seen, state]


def work(path):
    """Do them until one fails; those that were done."""
    done = []
    with (
        suppress(StoreError),
        CacheWriter(path, identity=IDENTITY, sync_every=2) as writer,
    ):
        for deed in DEEDS:
            name, *args = deed
            getattr(writer, name)(*([args[0], tiny(seed=args[1])] if name == "add" else args))
            done.append(deed)
    return done


def assert_clean(path, *allowed):
    """All that was taken is there, and no trace of what failed."""
    assert values(path) in [wanted(state) for state in allowed]
    report = verify(path)
    assert (report.problems, report.pending) == ([], [])
    shards, deltas, wal = (
        {p.stem for p in (path / name).iterdir() if p.name[0] != "."}
        for name in ("shards", "deltas", "wal")
    )
    assert (shards, wal) == (deltas, set())


@pytest.mark.parametrize("how", ["once", "on", "late"])
def test_any_step_may_fail_and_the_next_writer_ends_it(tmp_path, faults, how):
    number, was_made, pending = 0, True, 0
    while was_made:
        path = write(tmp_path / str(number), {k: tiny(seed=s) for k, s in OLD.items()})
        faults.begin(number, how)
        done = work(path)
        was_made = faults.end()
        seen = states(done)
        tried = states(DEEDS[: len(done) + 1])  # a record may be taken though its sync failed
        assert values(path) in [wanted(state) for state in (*seen, *tried)]
        report = verify(path)
        assert report.ok, (number, report.problems)
        pending += bool(report.pending)
        if number % 2:
            recover(path)
        else:
            CacheWriter(path, identity=IDENTITY).close()
        assert_clean(path, *(state[-1] for state in (seen, tried)))
        number += 1
    assert number > 25
    assert pending > (5 if how == "on" else -1)  # else the close, which tries again, ended it
    assert set(faults.hits) >= {"pwritev", "fsync", "rename", "replace"}


@pytest.mark.parametrize("how", ["once", "on", "late"])
@pytest.mark.parametrize("empty", [False, True])
def test_a_recovery_that_fails_at_any_step_is_ended_by_the_next(tmp_path, faults, how, empty):
    number, was_made = 0, True
    while was_made:
        path = write(tmp_path / str(number), {k: tiny(seed=s) for k, s in OLD.items()})
        leave(path, empty=empty)
        faults.begin(number, how)
        with suppress(StoreError):
            recover(path)
        was_made = faults.end()
        state = OLD | ({} if empty else {"sealed": 1, "part": 1})
        assert set(values(path)) - set(OLD) <= set(state)
        assert verify(path).ok
        recover(path)
        assert_clean(path, state)
        number += 1
    assert number > (2 if empty else 8)


def leave(path, *, empty):
    """What writers that died leave: an open part, and a shard that has no delta yet."""
    writers = {key: CacheWriter(path, identity=IDENTITY) for key in ("part", "sealed")}
    for key, writer in writers.items():
        writer.add(key, tiny(seed=1))
        part = writer._part
        if empty:  # as if the first record had found no room
            part.rows.clear()
            journal = path / "wal" / f"{part.name}.journal"
            os.truncate(journal, journal.read_bytes().index(b"\n") + 1)
            os.truncate(path / "wal" / f"{part.name}.part", part.room)
            part.end = part.room
        if key == "sealed":
            rows, data = part.in_order(), (part.room, part.end)
            seal(LocalStorage(path), part.name, writer.manifest.to_json(), rows, data)
            assert (path / "shards" / f"{part.name}.safetensors").exists()
        part.close()


@pytest.mark.parametrize("number", range(4))  # journal, its name, room for the header, record
def test_a_first_record_without_room_leaves_no_shard(tmp_path, faults, number):
    write(tmp_path, {k: tiny(seed=s) for k, s in OLD.items()})
    before = sorted(p.name for p in tmp_path.rglob("*"))
    with CacheWriter(tmp_path, identity=IDENTITY) as writer:
        faults.begin(number, "on")
        with pytest.raises(StoreError, match="No space left"):
            writer.add("a", tiny(seed=1))
        assert faults.end()
    assert sorted(p.name for p in tmp_path.rglob("*")) == before
    assert_clean(tmp_path, OLD)


def test_an_empty_part_that_is_half_thrown_away_takes_no_records(tmp_path, faults, monkeypatch):
    writer = CacheWriter(write(tmp_path, {}), identity=IDENTITY)
    faults.begin(3, "on")  # the record, after all else that a part begins with
    with pytest.raises(StoreError, match="No space left"):
        writer.add("a", tiny(seed=1))
    faults.end()
    with monkeypatch.context() as patched:
        patched.setattr("vidcomp.store.part.drop", half_dropped)
        with pytest.raises(StoreError, match="No space left"):
            writer.seal()
    writer.add("a", tiny(seed=2))
    writer.close()
    assert_clean(tmp_path, {"a": 2})


def half_dropped(wal, name):
    (wal / f"{name}.part").unlink()
    raise full()


def test_copies_whose_commit_failed_late_leave_no_trace(tmp_path, faults):
    """A renamed shard of copies that is answered with an error must not come up as a lost one."""
    number, was_made = 0, True
    while was_made:
        path = tmp_path / str(number)
        for seed in (1, 2):
            write(path, {k: tiny(seed=seed) for k in ("a", "b")}, seal_s=0.0)
        faults.begin(number, "late")
        with suppress(StoreError):
            compact(path, grace_s=0, min_live=1.0)
        was_made = faults.end()
        assert verify(path).ok
        recover(path)
        report = verify(path)
        assert (report.problems, report.pending) == ([], [])
        assert values(path) == wanted({"a": 2, "b": 2})
        number += 1
    assert number > 10


def test_an_index_that_fails_leaves_the_commits(tmp_path, faults):
    number, was_made = 0, True
    path = write(tmp_path, {k: tiny(seed=s) for k, s in OLD.items()}, seal_s=0.0)
    storage, store = LocalStorage(path), open_cache(path).manifest.id
    while was_made:
        faults.begin(number, "on")
        with suppress(OSError):
            snapshot(storage, store)
        was_made = faults.end()
        assert_clean(path, OLD)
        number += 1
    assert number > 2


@pytest.mark.parametrize("step", ["adopt before", "adopt after", "delta before", "delta after"])
@pytest.mark.parametrize("ends", ["closed", "dead", "goes on"])
def test_a_remote_commit_that_fails_is_ended_with_all_its_records(tmp_path, step, ends):
    pytest.importorskip("obstore")
    from vidcomp.store.remote import ObjectStorage

    class Failing(ObjectStorage):
        """Fails once, before or after it has done what was asked."""

        left = 1

        def _fail(self, what):
            if step == what and self.left:
                self.left = 0
                raise full()

        def adopt(self, name, path):
            self._fail("adopt before")
            kept = path.with_name("kept")
            os.link(path, kept)
            super().adopt(name, path)
            if step == "adopt after" and self.left:
                kept.rename(path)  # as if the answer had been lost
            kept.unlink(missing_ok=True)
            self._fail("adopt after")

        def replace(self, name, data):
            self._fail("delta before")
            super().replace(name, data)
            self._fail("delta after")

    folder = tmp_path / "objects"
    folder.mkdir()
    url = f"local://{folder}/{uuid.uuid4().hex}"
    options = {"staging": tmp_path / "staging"}
    plain = ObjectStorage(url, **options)
    write(plain, {"old": tiny(seed=7)})
    storage = Failing(url, **options)
    writer = CacheWriter(storage, identity=IDENTITY)
    writer.add("a", tiny(seed=1))
    with pytest.raises(StoreError, match="No space left"):
        writer.seal()
    assert values(plain) in [wanted({"old": 7}), wanted({"old": 7, "a": 1})]
    assert verify(plain).ok
    writer.add("b", tiny(seed=2))
    if ends == "goes on":
        writer.seal()
    if ends == "dead":
        writer._part.close()
    else:
        writer.close()
    recover(plain)
    assert values(plain) == wanted({"old": 7, "a": 1, "b": 2})
    report = verify(plain)
    assert (report.problems, report.pending) == ([], [])
    assert plain.names("shards", "") == plain.names("deltas", "")
    assert not list(Path(plain.wal).glob("*-*"))
