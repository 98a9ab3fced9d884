"""Full disks, folders that cannot be written, too few open files."""

import errno
import os
import resource
import subprocess
from pathlib import Path

import pytest
from store_builders import IDENTITY, bits, tiny, write
from store_crash_child import OPERATIONS, state_after

from vidcomp.errors import StoreCorruptError, StoreError, StoreMissError
from vidcomp.store import CacheWriter, TokenCache, open_cache, verify


@pytest.fixture
def full_after(monkeypatch):
    """Lets so many more bytes be written, then the disk is full (the last write is short)."""

    def call(num_bytes):
        left = num_bytes

        def pwritev(fd, parts, offset):
            nonlocal left
            data = b"".join(bytes(part) for part in parts)[:left]
            if not data:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            left -= len(data)
            return os.pwrite(fd, data, offset)

        monkeypatch.setattr("os.pwritev", pwritev)

    yield call
    monkeypatch.undo()


@pytest.mark.parametrize("room", [0, 1, 100, 5_000, 16_384, 16_400, 18_000, 20_000, 21_000, 30_000])
def test_a_full_disk_is_one_sentence_and_leaves_nothing_half(tmp_path, full_after, room):
    write(tmp_path, {"old": tiny(seed=7)})
    full_after(room)
    added = []

    def fill():
        with CacheWriter(tmp_path, identity=IDENTITY) as writer:
            for i in range(100):
                writer.add(f"v{i}", tiny(20, 30, seed=i))
                added.append(f"v{i}")

    with pytest.raises(StoreError, match=r"No space left.*free some space and run again") as failed:
        fill()
    assert "\n" not in str(failed.value)
    assert verify(tmp_path).ok
    assert set(open_cache(tmp_path).keys()) in ({"old"}, {"old", *added})
    full_after(10**9)  # space again: the next writer finds what was journalled
    with CacheWriter(tmp_path, identity=IDENTITY) as writer:
        assert set(writer.committed()) == {"old", *added}
        writer.add("last", tiny())
    cache = open_cache(tmp_path)
    assert set(cache.keys()) == {"old", "last", *added}
    assert all(
        bits(cache[f"v{i}"].tokens) == bits(tiny(20, 30, seed=i).tokens) for i in range(len(added))
    )
    report = verify(tmp_path)
    assert (report.problems, report.pending) == ([], [])


def test_after_space_is_freed_the_same_writer_goes_on(tmp_path, full_after):
    with CacheWriter(tmp_path, identity={}) as writer:
        writer.add("a", tiny())
        full_after(100)
        with pytest.raises(StoreError, match="No space left"):
            writer.add("b", tiny())
        full_after(10**9)
        writer.add("b", tiny(seed=1))
        full_after(10)
        with pytest.raises(StoreError, match=r"cannot commit .*No space left"):
            writer.seal()
        full_after(10**9)
        writer.add("c", tiny(seed=2))
    assert open_cache(tmp_path).keys() == ["a", "b", "c"]
    assert verify(tmp_path).ok


def test_any_step_may_fail_once_and_the_same_writer_goes_on(tmp_path, monkeypatch):
    """Each system call in turn says that the disk is full; then there is space again."""
    count, deadly, told = 0, 0, []

    def failing(real):
        def call(*args, **kwargs):
            nonlocal count
            count += 1
            if count == deadly:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(*args, **kwargs)

        return call

    for name in ("pwritev", "fsync", "rename", "replace", "ftruncate"):
        monkeypatch.setattr(os, name, failing(getattr(os, name)))
    while deadly == 0 or count >= deadly:
        count, deadly = 0, deadly + 1
        path = tmp_path / str(deadly)
        writer = None
        for operation, *args in (("open",), *OPERATIONS, ("close",)):
            for _ in range(1 if operation == "seal" else 2):  # the next one seals as well
                try:
                    if operation == "open":
                        writer = CacheWriter(path, identity={}, sync_every=2)
                    elif operation == "add":
                        writer.add(args[0], tiny(seed=args[1]))
                    else:
                        getattr(writer, operation)(*args)
                    break
                except StoreMissError:  # the first try removed it before it failed
                    break
                except StoreError as error:
                    told.append(str(error))
        CacheWriter(path, identity={}).close()  # finishes what a failed close left
        cache = open_cache(path)
        wanted = {key: bits(tiny(seed=seed).tokens) for key, seed in state_after(99).items()}
        assert {key: bits(cache[key].tokens) for key in cache.keys()} == wanted  # noqa: SIM118
        report = verify(path)
        assert (report.problems, report.pending) == ([], [])
    assert deadly > 30
    assert len(told) > 30
    assert all("No space left" in message for message in told)


def test_a_store_cannot_be_made_on_a_full_disk(tmp_path, full_after):
    full_after(10)
    with pytest.raises(StoreError, match=r"cannot write a token cache at .*No space left"):
        CacheWriter(tmp_path / "cache", identity={})
    assert not (tmp_path / "cache" / "store.json").exists()
    full_after(10**9)
    CacheWriter(tmp_path / "cache", identity={}).close()


@pytest.fixture
def small_disk(tmp_path):
    """A real file system of 1 MB, where that is allowed."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this user may not mount a small file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_is_really_full(small_disk):
    added = []

    def fill():
        with CacheWriter(small_disk / "cache", identity={}, seal_bytes=200_000) as writer:
            for i in range(1000):
                writer.add(f"v{i}", tiny(100, 100, seed=i))
                added.append(f"v{i}")

    with pytest.raises(StoreError, match="No space left"):
        fill()
    assert 20 < len(added) < 60
    path = small_disk / "cache"
    assert verify(path).ok
    cache = open_cache(path)
    assert set(cache.keys()) <= set(added)
    assert len(cache) >= 20
    for key in cache.keys():  # noqa: SIM118
        assert bits(cache[key].tokens) == bits(tiny(100, 100, seed=int(key[1:])).tokens)


def test_a_read_only_disk_can_be_read_and_says_why_it_cannot_be_written(small_disk):
    write(small_disk / "cache", {"v": tiny()})
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert open_cache(small_disk / "cache").keys() == ["v"]
    assert verify(small_disk / "cache").ok
    with pytest.raises(StoreError, match="Read-only file system"):
        CacheWriter(small_disk / "cache", identity=IDENTITY)
    with pytest.raises(StoreError, match="Read-only file system"):
        CacheWriter(small_disk / "other", identity={})


@pytest.mark.parametrize("inside", ["", "cache", "a/b"])
def test_a_file_where_a_folder_is_needed(tmp_path, inside):
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match=r"a file stands where a folder is needed"):
        CacheWriter(tmp_path / "file" / inside, identity={})
    assert (tmp_path / "file").read_text() == "x"


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_a_folder_that_may_not_be_written(tmp_path):
    write(tmp_path / "cache", {"v": tiny()})
    tmp_path.chmod(0o500)
    (tmp_path / "cache" / "wal").chmod(0o500)
    try:
        with pytest.raises(StoreError, match="Permission denied"):
            CacheWriter(tmp_path / "new", identity={})
        with pytest.raises(StoreError, match="Permission denied"):
            CacheWriter(tmp_path / "cache", identity=IDENTITY)
    finally:
        tmp_path.chmod(0o700)
        (tmp_path / "cache" / "wal").chmod(0o700)


def test_permission_denied_is_one_sentence(tmp_path, monkeypatch):
    """As the folder of another user answers, told to root too."""

    def forbidden(self, *args, **kwargs):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))

    monkeypatch.setattr(Path, "mkdir", forbidden)
    with pytest.raises(StoreError, match=r"Permission denied.*choose a folder you may use"):
        CacheWriter(tmp_path / "cache", identity={})


def num_open(path):
    """Files below ``path`` that this process holds open."""
    fds = Path("/proc/self/fd")
    links = [os.readlink(fd) for fd in fds.iterdir() if fd.is_symlink()]  # noqa: PTH115
    return sum(link.startswith(str(path)) for link in links)


def test_few_shards_are_open_at_a_time(tmp_path):
    write(tmp_path, {f"v{i}": tiny(seed=i) for i in range(30)}, seal_s=0.0)
    cache = TokenCache(tmp_path, max_open_files=5)
    for _ in range(2):
        for i in range(30):
            assert bits(cache[f"v{i}"].tokens) == bits(tiny(seed=i).tokens)
            assert num_open(tmp_path) <= 5
    cache.close()
    assert num_open(tmp_path) == 0
    assert bits(cache["v3"].tokens) == bits(tiny(seed=3).tokens)


def test_a_low_limit_of_open_files_is_lived_with(tmp_path):
    write(tmp_path, {f"v{i}": tiny(seed=i) for i in range(30)}, seal_s=0.0)
    cache = TokenCache(tmp_path, max_open_files=1000)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(list(Path("/proc/self/fd").iterdir()))
    highest = max(int(fd.name) for fd in Path("/proc/self/fd").iterdir())
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 10, hard))
    try:
        for i in range(30):
            assert bits(cache[f"v{i}"].tokens) == bits(tiny(seed=i).tokens)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert used <= highest + 1


def test_a_disk_that_fails_while_reading_is_one_sentence(tmp_path, monkeypatch):
    write(tmp_path, {"v": tiny()})
    cache = open_cache(tmp_path)

    def preadv(*args):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("os.preadv", preadv)
    with pytest.raises(StoreError, match=r"cannot read shard .*Input/output error") as failed:
        cache["v"]
    assert not isinstance(failed.value, StoreCorruptError)


def test_systems_without_vectored_io_read_and_write_the_same(tmp_path, monkeypatch):
    monkeypatch.delattr("os.pwritev")
    write(tmp_path / "a", {f"v{i}": tiny(seed=i) for i in range(5)})
    monkeypatch.undo()
    cache = open_cache(tmp_path / "a")
    monkeypatch.delattr("os.preadv")
    for i in range(5):
        assert bits(cache[f"v{i}"].tokens) == bits(tiny(seed=i).tokens)
