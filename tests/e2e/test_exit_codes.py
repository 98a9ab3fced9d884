"""Every exit code that is promised, from real processes, with what the run's record says of it."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from vidcomp.pipelines.extraction.runs import read_runs
from vidcomp.store.storage import open_storage

SMALL = ("--set", "encode.resize={mode: stretch, height: 56, width: 56}", "--budget", "20")
MAIN = "from vidcomp.pipelines.cli import main; main(prog_name='vidcomp')"
LOSES_ONE = f"""
from vidcomp.pipelines.extraction.worker import Worker
run = Worker.run
Worker.run = lambda self, items: run(self, [i for i in items if i.key != "clip1.mp4"])
{MAIN}
"""
"""A run with a fault of its own: one item vanishes."""


def command(*args, program=MAIN):
    return [sys.executable, "-c", program, "extract", *map(str, args), *SMALL, "--workers", "1"]


@pytest.fixture
def inputs(clips, tmp_path):
    return shutil.copytree(clips, tmp_path / "in")


@pytest.fixture
def run(tmp_path):
    """Runs the command as people do."""

    def call(*args, program=MAIN):
        out = ("--out", tmp_path / "cache", "--isolation", "thread")
        done = subprocess.run(
            command(*args, *out, program=program),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert "Traceback" not in done.stderr
        return SimpleNamespace(code=done.returncode, out=done.stdout, err=done.stderr)

    return call


def states(tmp_path):
    return [run["state"] for run in read_runs(open_storage(tmp_path / "cache"))]


def test_0_all_done(run, inputs, tmp_path):
    assert run(inputs).code == 0
    assert states(tmp_path) == ["done"]


def test_1_an_item_was_lost_and_is_named(run, extract, inputs, tmp_path):
    result = run(inputs, program=LOSES_ONE)
    assert result.code == 1
    assert "lost: clip1.mp4" in result.out
    assert "4 done, 0 already cached, 0 failed; 1 lost" in result.out
    (record,) = read_runs(open_storage(tmp_path / "cache"))
    assert record["summary"]["missing"] == ["clip1.mp4"]
    assert record["state"] == "failed"
    assert extract(inputs, "--out", tmp_path / "cache").code == 0


def test_2_wrong_options(run, inputs):
    wrong = run(inputs, "--max-failures", "many")
    assert wrong.code == 2
    assert wrong.err.splitlines()[-1].startswith("vidcomp: --max-failures is a number")


def test_3_some_failed_and_4_too_many(run, extract, inputs, tmp_path):
    for i in range(3):
        (inputs / f"bad{i}.mp4").write_bytes(b"no video")
    some = run(inputs)
    assert some.code == 3
    assert some.err.count("vidcomp: failed: ") == 3
    assert "5 done, 0 already cached, 3 failed" in some.out
    again = extract(inputs, "--out", tmp_path / "cache")
    assert again.code == 3
    assert "3 failed before" in again.out
    assert states(tmp_path) == ["done"]  # the last one had nothing to do
    many = run(inputs, "--retry-failed", "--max-failures", "10%")
    assert many.code == 4
    assert "stopped by --max-failures" in many.out
    assert states(tmp_path) == ["stopped", "done"]


def test_5_no_store(run, inputs, tmp_path):
    (tmp_path / "cache").write_text("in the way")
    assert run(inputs).code == 5


def test_a_failure_that_ends_the_run_is_1_and_told_in_its_record(extract, inputs, tmp_path):
    (inputs / "aaa.mp4").write_bytes(b"no video")
    result = extract(inputs, "--out", tmp_path / "cache", "--on-error", "raise")
    assert result.code == 1
    assert "aaa.mp4" in result.err.splitlines()[-1]
    (record,) = read_runs(open_storage(tmp_path / "cache"))
    assert record["state"] == "failed"
    assert "aaa.mp4" in record["summary"]["error"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_lets_finish_what_has_begun(clips, tmp_path, number, code):
    rows = "".join(f"{clips}/clip1.mp4,v{i}\n" for i in range(600))
    (tmp_path / "m.csv").write_text(f"path,id\n{rows}")
    log, out = tmp_path / "log.jsonl", tmp_path / "cache"
    args = ("--manifest", tmp_path / "m.csv", "--id-column", "id", "--out", out, "--json")
    process = subprocess.Popen(
        command(*args, "--log-file", log, "--isolation", "thread"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    deadline = time.time() + 60
    while '"item"' not in (log.read_text() if log.exists() else "") and time.time() < deadline:
        time.sleep(0.01)
    process.send_signal(number)
    out_text, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert b"finishing what has begun" in err
    report = json.loads(out_text)
    assert report["exit_code"] == code
    assert report["lost"] == 600 - report["done"] > 0
    assert report["missing"] == []  # they were not begun
    (record,) = read_runs(open_storage(out))
    assert record["state"] == "interrupted"
    assert record["summary"]["done"] == report["done"]
    events = [json.loads(line) for line in log.read_text().splitlines()]
    assert [e["event"] for e in events if e["event"] not in ("item", "log")] == [
        "run_started",
        "work_started",
        "stopping",
        "run_finished",
    ]
    assert len([e for e in events if e["event"] == "item"]) == report["done"]


def test_a_killed_run_is_told_as_cut(clips, tmp_path):
    if not Path("/proc/self").is_dir():
        pytest.skip("this system does not tell when a process began")
    rows = "".join(f"{clips}/clip1.mp4,v{i}\n" for i in range(600))
    (tmp_path / "m.csv").write_text(f"path,id\n{rows}")
    out = tmp_path / "cache"
    args = ("--manifest", tmp_path / "m.csv", "--id-column", "id", "--out", out, "-q")
    process = subprocess.Popen(command(*args, "--isolation", "thread"), stdout=subprocess.DEVNULL)
    deadline = time.time() + 60
    while not list(out.glob("runs/*/run.json")) and time.time() < deadline:
        time.sleep(0.01)
    (record,) = read_runs(open_storage(out))
    assert record["state"] == "running"
    process.kill()
    process.wait()
    (record,) = read_runs(open_storage(out))
    assert record["state"] == "cut"
    assert record["planned"]["todo"] == 600
