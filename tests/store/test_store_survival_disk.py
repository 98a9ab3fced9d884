"""Maintenance on disks that are full or read-only: one sentence, and nothing is lost."""

import errno
import os
import shutil
import subprocess
from contextlib import suppress

import pytest
import torch
from store_builders import IDENTITY, bits, tiny

from vidcomp.errors import StoreError
from vidcomp.store import CacheWriter, compact, export, merge, open_cache, recover, repair, verify
from vidcomp.store.commit import snapshot

SIZE = 2 << 20


@pytest.fixture
def small_disk(tmp_path):
    """A real file system of 2 MB, where that is allowed."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this user may not mount a small file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def fill(path, count=20, **options):
    """Records of 20 KB in shards of five, each written twice."""
    for turn in range(2):
        with CacheWriter(path, identity=IDENTITY, seal_bytes=100_000, **options) as writer:
            for i in range(count):
                writer.add(f"v{i}", tiny(100, 100, seed=turn * 100 + i))
    return {f"v{i}": bits(tiny(100, 100, seed=100 + i).tokens) for i in range(count)}


def ballast(folder, leave):
    """Fill the disk but for so many bytes."""
    path = folder / "ballast"
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(4096)):
            pass
    os.truncate(path, max(0, path.stat().st_size - leave))


def values(path):
    cache = open_cache(path)
    return {key: bits(cache[key].tokens) for key in cache.keys()}  # noqa: SIM118


ROOMS = [0, 4096, 30_000, 150_000]


@pytest.mark.parametrize("leave", ROOMS)
def test_a_compaction_without_room_loses_nothing(small_disk, leave):
    path = small_disk / "cache"
    wanted = fill(path)
    ballast(small_disk, leave)
    with pytest.raises(StoreError, match=r"No space left.*free some space and run again") as failed:
        compact(path, grace_s=0, min_live=1.0)
    assert "\n" not in str(failed.value)
    assert values(path) == wanted
    assert verify(path).ok
    (small_disk / "ballast").unlink()
    compact(path, grace_s=0, min_live=1.0)
    assert values(path) == wanted
    report = verify(path)
    assert (report.problems, report.pending) == ([], [])


@pytest.mark.parametrize("leave", ROOMS)
def test_a_repair_without_room_loses_nothing(small_disk, leave):
    path = small_disk / "cache"
    wanted = fill(path)
    shard = open_cache(path).info("v3").shard
    for name in (f"deltas/{shard}.safetensors", "store.json"):
        data = bytearray((path / name).read_bytes())
        data[300] ^= 1
        (path / name).write_bytes(data)
    ballast(small_disk, leave)
    full = pytest.raises(StoreError, match="No space left")
    with full if leave < 4096 else suppress(StoreError):
        repair(path)
    (small_disk / "ballast").unlink()
    repair(path)
    assert values(path) == wanted
    assert verify(path).ok


@pytest.mark.parametrize("leave", ROOMS)
def test_a_merge_without_room_is_finished_by_the_next_one(small_disk, tmp_path, leave):
    wanted = fill(tmp_path / "source")
    ballast(small_disk, leave)
    with pytest.raises(StoreError, match="No space left"):
        merge([tmp_path / "source"], small_disk / "out")
    assert values(tmp_path / "source") == wanted
    if (small_disk / "out" / "store.json").exists():
        assert values(small_disk / "out").items() <= wanted.items()
        assert verify(small_disk / "out").ok
    (small_disk / "ballast").unlink()
    merge([tmp_path / "source"], small_disk / "out")
    assert values(small_disk / "out") == wanted
    assert verify(small_disk / "out").ok


@pytest.mark.parametrize("form", ["safetensors", "npy", "webdataset"])
@pytest.mark.parametrize("leave", ROOMS[::2])
def test_an_export_without_room_says_so(small_disk, tmp_path, form, leave):
    wanted = fill(tmp_path / "source")
    ballast(small_disk, leave)
    with pytest.raises(StoreError, match="No space left"):
        export(tmp_path / "source", small_disk / "out", format=form)
    assert values(tmp_path / "source") == wanted
    (small_disk / "ballast").unlink()
    export(tmp_path / "source", small_disk / "out", format=form, overwrite=True)


def test_a_snapshot_without_room_is_left_out(small_disk, caplog):
    path = small_disk / "cache"
    fill(path, 2)
    with CacheWriter(path, identity=IDENTITY, seal_bytes=1) as writer:
        for i in range(70):
            writer.add(f"w{i}", tiny(1, 1, seed=i))
        ballast(small_disk, 0)
    assert "no snapshot was written" in caplog.text or list((path / "index").iterdir())
    assert len(open_cache(path)) == 72
    assert verify(path).ok


def test_nothing_is_written_to_a_read_only_disk_and_all_can_be_read(small_disk, tmp_path):
    path = small_disk / "cache"
    wanted = fill(path)
    other = fill(tmp_path / "other")
    left = CacheWriter(path, identity=IDENTITY)
    left.add("open", tiny())
    left._part.close()  # as if its process had died
    left._closed = True
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert values(path) == wanted
    assert len(verify(path).pending) == 1
    manifest = open_cache(path).manifest
    for act in (
        recover,
        compact,
        lambda p: compact(p, grace_s=0, min_live=1.0),
        lambda p: CacheWriter(p, identity=IDENTITY),
        lambda p: merge([tmp_path / "other"], p),
        lambda p: merge([tmp_path / "other"], p.parent / "new"),
        lambda p: export(tmp_path / "other", p.parent / "new"),
    ):
        with pytest.raises(StoreError, match="Read-only file system") as failed:
            act(path)
        assert "\n" not in str(failed.value)
    with pytest.raises((StoreError, OSError), match="Read-only file system"):
        snapshot(open_cache(path)._storage, manifest.id)
    compact(path, dry_run=True, grace_s=0, min_live=1.0)
    export(path, tmp_path / "exported", format="safetensors")
    merge([path], tmp_path / "merged")
    assert values(tmp_path / "merged") == wanted
    assert values(tmp_path / "other") == other
    out = torch.empty(100, 100, dtype=torch.bfloat16)
    open_cache(path).read_into("v1", out)
    assert bits(out) == wanted["v1"]
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    assert len(recover(path)) == 1
    assert values(path).keys() == wanted.keys() | {"open"}


STEPS = ("pwritev", "fsync", "rename", "replace", "ftruncate", "link", "mkdir")


@pytest.fixture
def failing(monkeypatch):
    """Makes one system call say that the disk is full; returns how many there were."""
    count, deadly = 0, -1

    def broken(real):
        def call(*args, **kwargs):
            nonlocal count
            count += 1
            if count - 1 == deadly:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(*args, **kwargs)

        return call

    for name in STEPS:
        monkeypatch.setattr(os, name, broken(getattr(os, name)))

    def choose(number):
        nonlocal count, deadly
        before, count, deadly = count, 0, number
        return before

    return choose


def merge_beside(path):
    merge([path], path.parent / "merged")
    return path.parent / "merged"


def repair_in_place(path):
    repair(path)
    return path


@pytest.mark.parametrize("act", [merge_beside, repair_in_place])
def test_any_step_may_find_the_disk_full_once(tmp_path, failing, act):
    """Where no small disk can be mounted, too."""
    wanted = fill(tmp_path / "good", 4)
    (delta, *_) = sorted((tmp_path / "good" / "deltas").iterdir())
    flipped = bytearray(delta.read_bytes())
    flipped[400] ^= 1
    delta.write_bytes(flipped)
    deadly = told = 0
    while True:
        path = tmp_path / str(deadly) / "store"
        shutil.copytree(tmp_path / "good", path)
        failing(deadly)
        try:
            act(path)
        except StoreError as error:
            told += "No space left" in str(error)
        count = failing(-1)
        assert values(path) == wanted
        assert values(act(path)) == wanted
        if count <= deadly:
            break
        deadly += 1
    assert told >= 10
    assert deadly >= 15
