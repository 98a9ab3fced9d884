"""Killed at any moment and started again, a run ends with the records of an undisturbed one."""

import random
import signal
import subprocess
import sys
import time

import pytest
import torch
from clips import moving_square, write_clip

from vidcomp.store import open_cache, verify

CLIPS = 12


@pytest.fixture(scope="module")
def many_clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("many")
    for i in range(CLIPS):
        write_clip(folder / f"{i:02}.mp4", moving_square(8 + i, seed=i))
    return folder


@pytest.fixture(scope="module")
def whole(many_clips, tmp_path_factory):
    """The cache of a run that nobody disturbs."""
    out = tmp_path_factory.mktemp("whole") / "cache"
    done = subprocess.run(command(many_clips, out), capture_output=True, check=True)
    assert f"{CLIPS} done" in done.stdout.decode()
    return open_cache(out)


def command(folder, out):
    return [
        *(sys.executable, "-m", "vidcomp.pipelines.cli", "extract", str(folder), "--out", str(out)),
        *("-q", "--workers", "2", "--budget", "20"),
        *("--set", "encode.resize={mode: stretch, height: 56, width: 56}"),
    ]


def no_later_than(path, seconds):
    """Wait for the file: a command imports for some seconds before it does anything."""
    deadline = time.time() + seconds
    while not path.exists() and time.time() < deadline:
        time.sleep(0.05)


@pytest.mark.parametrize("seed", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2))])
def test_killed_runs_lose_nothing_and_leave_no_children(many_clips, whole, tmp_path, seed):
    rng = random.Random(seed)
    for _ in range(2):
        process = subprocess.Popen(
            command(many_clips, tmp_path / "cut"),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        no_later_than(tmp_path / "cut" / "store.json", 60)
        time.sleep(rng.uniform(0, 3))
        process.send_signal(signal.SIGKILL)
        process.wait()
    last = subprocess.run(command(many_clips, tmp_path / "cut"), capture_output=True, check=False)
    assert last.returncode == 0, last.stderr.decode()
    assert not verify(tmp_path / "cut").problems
    cut = open_cache(tmp_path / "cut")
    assert sorted(whole.keys()) == sorted(cut.keys()) == [f"{i:02}.mp4" for i in range(CLIPS)]
    for key in whole.keys():  # noqa: SIM118
        torch.testing.assert_close(whole[key].tokens, cut[key].tokens)


def test_an_interrupt_keeps_what_was_written(many_clips, tmp_path):
    process = subprocess.Popen(
        command(many_clips, tmp_path / "cut"), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    # A command that is still being imported dies as Python does.
    no_later_than(tmp_path / "cut" / "store.json", 60)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    if process.returncode != 0:  # it may have been done before the signal came
        assert process.returncode == 130
        assert b"interrupted" in err
    again = subprocess.run(command(many_clips, tmp_path / "cut"), capture_output=True, check=False)
    assert again.returncode == 0
    assert len(open_cache(tmp_path / "cut")) == CLIPS
