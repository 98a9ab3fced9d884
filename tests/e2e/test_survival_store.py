"""A store without room, and one that several runs write to at once."""

import os
import subprocess
import sys

import pytest
import torch
from warm_command import is_reading, until

from vidcomp.errors import StoreMissError
from vidcomp.store import open_cache, verify

LARGE = [
    *("-q", "--json", "--workers", "2", "--budget", "200", "--set", "store.dtype=float32"),
    *("--set", "encode.resize={mode: stretch, height: 112, width: 112}"),
]
"""Records of some 45 kB."""


@pytest.fixture(scope="module")
def whole(warm, many_clips, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    run = warm.run(["extract", many_clips, "--out", folder / "cache", *LARGE], folder / "tmp")
    assert run.code == 0, run.err
    assert sum(p.stat().st_size for p in (folder / "cache").rglob("*.safetensors")) > 400_000
    return open_cache(folder / "cache")


@pytest.fixture
def small_disk(tmp_path):
    """Mounts a file system of so many bytes, and gives it more room later."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(num_bytes, *, again=False):
        options = f"{'remount,' if again else ''}size={num_bytes}"
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("this user may not mount a small disk")
        return folder

    yield mount
    subprocess.run(["umount", "-l", str(folder)], capture_output=True, check=False)


def readable(store):
    """Keys of records that can be read, wholly."""
    try:
        cache = open_cache(store)
    except StoreMissError:
        return set()
    assert verify(store).ok
    return {key for key in cache.keys() if torch.isfinite(cache[key].tokens).all()}  # noqa: SIM118


def assert_whole(store, whole):
    cache = open_cache(store)
    assert sorted(cache.keys()) == sorted(whole.keys())
    assert len(list(cache.keys())) == len(set(cache.keys()))
    for key in whole.keys():  # noqa: SIM118
        torch.testing.assert_close(cache[key].tokens, whole[key].tokens, atol=1e-5, rtol=1e-3)
    assert verify(store).ok


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="mounts a small disk")
@pytest.mark.parametrize(
    ("num_bytes", "least"),
    [
        (250_000, 1),
        *(pytest.param(*p, marks=pytest.mark.slow) for p in [(16 << 10, 0), (450_000, 4)]),
    ],
)
def test_a_full_disk_ends_the_run_and_room_finishes_it(
    warm, many_clips, whole, small_disk, tmp_path, num_bytes, least
):
    out = small_disk(num_bytes) / "cache"
    args = ["extract", many_clips, "--out", out, *LARGE]
    run = warm.run(args, tmp_path / "scratch")
    assert run.code == 5, run.err
    assert "no space" in run.err.lower() or "full" in run.err.lower()
    assert len(run.err.strip().splitlines()) == 1
    before = readable(out)
    assert len(before) < 12
    assert not run.children()
    again = warm.run(args, tmp_path / "scratch")  # still full: no harm
    assert again.code == 5
    assert before <= readable(out)
    small_disk(10 << 20, again=True)
    last = warm.run(args, tmp_path / "scratch")
    assert last.code == 0, last.err
    assert last.json["done"] + last.json["cached"] == 12
    assert last.json["cached"] >= max(least, len(before))  # what was written is not made again
    assert_whole(out, whole)


@pytest.mark.parametrize("num_bytes", [300_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_files_that_may_not_grow_are_a_full_disk(warm, many_clips, whole, tmp_path, num_bytes):
    out = tmp_path / "cache"
    args = ["extract", many_clips, "--out", out, *LARGE]
    run = warm.run(args, tmp_path / "scratch", file_bytes=num_bytes)
    assert run.code == 5, run.err
    assert len(run.err.strip().splitlines()) == 1
    before = readable(out)
    assert not run.children()
    last = warm.run(args, tmp_path / "scratch")
    assert last.code == 0, last.err
    assert last.json["cached"] >= max(1, len(before))  # what was written is not made again
    assert_whole(out, whole)


def test_two_runs_at_once_make_one_whole(warm, many_clips, whole, tmp_path):
    args = ["extract", many_clips, "--out", tmp_path / "cache", *LARGE]
    runs = [warm.start(args, tmp_path / f"scratch{i}") for i in range(2)]
    for run in runs:
        assert run.wait() == 0, run.err
        assert run.json["done"] + run.json["cached"] == 12
        assert run.json["lost"] == run.json["failed"] == 0
    assert_whole(tmp_path / "cache", whole)


@pytest.mark.slow
def test_of_two_runs_one_is_killed_and_the_other_goes_on(warm, many_clips, whole, tmp_path):
    args = ["extract", many_clips, "--out", tmp_path / "cache", *LARGE]
    first, second = (warm.start(args, tmp_path / "scratch") for _ in range(2))
    clips = sorted(many_clips.iterdir())
    until(lambda: any(is_reading(first, clip) for clip in clips) or first.is_over)
    first.kill()
    assert second.wait() == 0, second.err
    assert second.json["done"] + second.json["cached"] == 12
    assert warm.run(args, tmp_path / "scratch").code == 0
    assert_whole(tmp_path / "cache", whole)
