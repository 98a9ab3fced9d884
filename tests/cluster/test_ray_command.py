"""``vidcomp extract --engine ray`` as users run it, and end it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ray_helpers import assert_end, children_of

from vidcomp.store import open_cache, verify

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("default")]

QUICK = [
    *("--budget", "20", "--set", "encode.resize={mode: stretch, height: 56, width: 56}"),
    *("--workers", "1", "-q", "--json"),
]


def command(folder, out, address, *more):
    return [
        *(sys.executable, "-m", "vidcomp.pipelines.cli", "extract", str(folder)),
        *("--out", str(out), "--engine", "ray", "--ray-address", address, *QUICK, *more),
    ]


def start(*args):
    return subprocess.Popen(
        command(*args), stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )


def finish(process, seconds=120):
    out, err = process.communicate(timeout=seconds)
    return json.loads(out) if out else None, err.decode()


def wait_for_records(out, seconds=90):
    """Until something has been written."""
    until = time.monotonic() + seconds
    while not list(out.glob("wal/*.journal")):
        assert time.monotonic() < until
        time.sleep(0.05)


def words_of(pid):
    """What a process calls itself."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def actors():
    """Processes of actors on this machine, and their decode processes."""
    found = [pid for pid in children_of(os.getpid()) if b"ray::Host" in words_of(pid)]
    return [other for pid in found for other in (pid, *children_of(pid))]


def test_a_driver_that_is_killed_takes_its_actors_along_and_is_begun_anew(toy, many, tmp_path):
    first = start(many, tmp_path / "cut", toy.address)
    wait_for_records(tmp_path / "cut")
    running = actors()
    assert len(running) >= 2
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    assert_end(running)
    told, err = finish(start(many, tmp_path / "cut", toy.address))
    assert (told["exit_code"], told["failed"], told["lost"]) == (0, 0, 0), err
    assert told["done"] + told["cached"] == told["planned"] == 24
    assert len(open_cache(tmp_path / "cut")) == 24
    assert not verify(tmp_path / "cut").problems


def test_a_ray_of_ones_own_ends_with_its_driver(many, tmp_path):
    process = start(many, tmp_path / "cut", "local")
    wait_for_records(tmp_path / "cut")
    # Ray's agents, which hold nothing of ours, look for their raylet once a minute or so.
    below = [pid for pid in children_of(process.pid) if b"Agent" not in words_of(pid)]
    assert any(b"ray::Host" in words_of(pid) for pid in below)
    assert len(below) > 3
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert_end(below, 40)


def test_ctrl_c_of_the_whole_group_drains_and_commits(toy, many, tmp_path):
    process = start(many, tmp_path / "cut", "local")
    wait_for_records(tmp_path / "cut")
    below = children_of(process.pid)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    told, err = finish(process)
    assert "finishing what has begun" in err
    assert "Traceback" not in err
    if told["lost"]:  # it may have been done before the signal came
        assert (process.returncode, told["interrupted"]) == (130, "SIGINT")
    assert told["done"] == len(open_cache(tmp_path / "cut")) > 0
    assert_end(below, 40)  # all of Ray's, as it is ended in order


def test_rows_that_repeat_a_video_are_counted_and_two_drivers_do_no_harm(toy, many, tmp_path):
    listed = tmp_path / "list.txt"
    paths = [str(path) for path in sorted(many.iterdir())]
    listed.write_text("\n".join([*paths, *paths[:5]]))
    both = [start(f"@{listed}", tmp_path / "cache", toy.address) for _ in range(2)]
    for process in both:
        told, err = finish(process)
        assert (told["exit_code"], told["planned"], told["lost"]) == (0, 29, 0), err
        assert told["done"] + told["cached"] == 29
    assert len(open_cache(tmp_path / "cache")) == 24
    assert not verify(tmp_path / "cache").problems


def test_too_many_failures_end_the_run_and_what_is_written_stays(toy, mixed, tmp_path):
    process = start(mixed, tmp_path / "cut", toy.address, "--max-failures", "0", "--stall", "30")
    told, err = finish(process)
    assert process.returncode == 4, err
    assert (told["stopped"], told["failed"]) == (True, 1)
    assert told["done"] <= len(open_cache(tmp_path / "cut"))
