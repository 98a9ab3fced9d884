"""Killed at any moment and started again, a run ends with the records of an undisturbed one."""

import os
import random
import time

import pytest
import torch
from warm_command import is_reading, until

from vidcomp.store import open_cache, verify

QUICK = [
    *("-q", "--workers", "2", "--budget", "20"),
    *("--set", "encode.resize={mode: stretch, height: 56, width: 56}"),
]


@pytest.fixture(scope="module")
def whole(warm, many_clips, tmp_path_factory):
    """The cache of a run that nobody disturbs, and how long that took."""
    folder = tmp_path_factory.mktemp("whole")
    started = time.monotonic()
    run = warm.run(["extract", many_clips, "--out", folder / "cache", *QUICK], folder / "tmp")
    assert run.code == 0, run.err
    return folder / "cache", time.monotonic() - started


def kinds_of_files(store):
    """Top folder and suffix of all that lies there; every run has a folder in ``runs``."""
    files = [path.relative_to(store) for path in store.rglob("*") if path.is_file()]
    return {(path.parts[0] if path.parent.name else "", path.suffix) for path in files}


def shared_memory():
    return set(os.listdir("/dev/shm"))  # noqa: PTH208  # names only


def assert_same_records(store, other):
    ours, theirs = open_cache(store), open_cache(other)
    assert sorted(ours.keys()) == sorted(theirs.keys())
    for key in theirs.keys():  # noqa: SIM118
        torch.testing.assert_close(ours[key].tokens, theirs[key].tokens, atol=1e-5, rtol=1e-2)
        torch.testing.assert_close(ours[key].positions, theirs[key].positions)


def kill_at_random(run, clips, rng, seconds):
    """At any time of a run, or while it reads its first clips and writes their records."""
    if rng.random() < 0.5:
        time.sleep(rng.uniform(0, seconds))
    else:
        first = [clips / "00.mp4", clips / "01.mp4"]
        until(lambda: any(is_reading(run, clip) for clip in first) or run.is_over)
        time.sleep(rng.uniform(0, 0.5))
    run.kill()
    run.wait()


@pytest.mark.parametrize(("kills", "seed"), [(3, 0), pytest.param(20, 1, marks=pytest.mark.slow)])
def test_killed_runs_lose_nothing_and_leave_nothing(warm, many_clips, whole, tmp_path, kills, seed):
    undisturbed, seconds = whole
    rng, out, scratch = random.Random(seed), tmp_path / "cut", tmp_path / "scratch"
    args = ["extract", many_clips, "--out", out, *QUICK]
    shared_before = shared_memory()
    for _ in range(kills):
        run = warm.start(args, scratch)
        kill_at_random(run, many_clips, rng, seconds)
        until(lambda run=run: not run.children(), 30)  # decoders end with who started them
    last = warm.run(args, scratch)
    assert last.code == 0, last.err
    assert not last.children()
    report = verify(out)
    assert report.ok, report.problems
    assert_same_records(out, undisturbed)
    assert kinds_of_files(out) <= kinds_of_files(undisturbed)
    assert list(scratch.iterdir()) == []
    assert not [name for name in shared_memory() - shared_before if "vidcomp" in name]
