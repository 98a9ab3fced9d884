"""The record of a run: there before the work, complete after it, and honest about what was cut."""

import json
import os
import subprocess
import sys
import time
import uuid
from datetime import UTC, datetime, timedelta

import pytest
from fake_runner import FakeRunner, failed, ok

from vidcomp.config import load_recipe
from vidcomp.errors import ConfigError, StoreError
from vidcomp.pipelines.extraction import provenance, runs
from vidcomp.pipelines.extraction.extract import extract
from vidcomp.pipelines.extraction.provenance import git_commit, process_started, without_secrets
from vidcomp.pipelines.extraction.run_options import Options
from vidcomp.pipelines.extraction.runs import new_run_id, read_runs, seconds_per_item
from vidcomp.pipelines.extraction.shards import Shard
from vidcomp.pipelines.extraction.watching import Watcher, Watchers
from vidcomp.pipelines.inputs import Item
from vidcomp.store.remote import ObjectStorage
from vidcomp.store.storage import open_storage

RECIPE = load_recipe("embedded", ["sample.num_frames=4"])
ITEMS = [Item(key=str(i), path=f"/nowhere/{i}", rows=1 + i) for i in range(3)]


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Runs ``tell`` as the worker; gives the summary."""

    def call(tell, items=ITEMS, **more):
        monkeypatch.setattr("vidcomp.pipelines.extraction.extract.Worker", FakeRunner(tell))
        return extract(items, tmp_path, RECIPE, recipe_name="mine", **more)

    return call


def all_ok(items):
    yield from map(ok, items)


def records(folder):
    return list(read_runs(open_storage(folder)))


def test_it_is_there_before_the_first_item_and_complete_after_the_last(start, tmp_path):
    seen = []

    def tell(items):
        seen.extend(records(tmp_path))
        yield failed(items[0])
        yield from map(ok, items[1:])

    options = Options(workers=3, run_id="20260101T000000-x")
    summary = start(tell, options=options, shard=Shard(index=1, count=4, origin="RANK"))
    (before,), (after,) = seen, records(tmp_path)
    assert before["state"] == "running"
    assert "summary" not in before
    assert after["state"] == "done"
    assert after["id"] == summary.run == "20260101T000000-x"
    assert (tmp_path / "runs" / summary.run / "run.json").is_file()
    for record in (before, after):
        assert record["planned"] == {
            "rows": 6,
            "todo": 6,
            "cached": 0,
            "failed_before": 0,
            "duplicates": 3,
        }
        assert record["argv"]
        assert record["options"]["workers"] == 3
        assert record["shard"] == {"index": 1, "count": 4, "origin": "RANK"}
        assert record["recipe"]["name"] == "mine"
        assert record["recipe"]["settings"] == RECIPE.dump()
        assert record["recipe"]["fingerprint"] == "f" * 16
        assert record["weights"] == {"encode": "w" * 16}
        assert {"python", "vidcomp", "torch", "av"} <= set(record["versions"])
        assert {"host", "pid", "platform", "device", "cuda", "driver"} <= set(record["machine"])
        assert "libavcodec" in record["machine"]["ffmpeg"]
    assert after["started"] <= after["ended"]
    assert {k: after["summary"][k] for k in ("planned", "done", "failed", "lost")} == {
        "planned": 6,
        "done": 5,
        "failed": 1,
        "lost": 0,
    }
    assert after["summary"]["exit_code"] == 3


def test_a_run_that_has_nothing_to_do_leaves_none(start, tmp_path):
    start(all_ok, items=[])
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("error", "state", "code"),
    [
        (StoreError("no space"), "failed", 5),
        (ConfigError("no such thing"), "failed", 2),
        (RuntimeError("a bug"), "failed", 1),
        (KeyboardInterrupt(), "interrupted", 130),
        (SystemExit(143), "interrupted", 143),
    ],
)
def test_it_tells_how_a_run_failed(start, tmp_path, error, state, code):
    def tell(items):
        yield ok(items[0])
        raise error

    with pytest.raises(type(error)):
        start(tell)
    (record,) = records(tmp_path)
    assert record["state"] == state
    assert record["summary"]["exit_code"] == code
    assert (str(error) or type(error).__name__) in record["summary"]["error"] or code == 143
    assert record["summary"]["done"] == 1
    assert record["summary"]["lost"] == 5


def test_a_store_that_takes_no_record_ends_the_run_before_any_work(start, tmp_path):
    (tmp_path / "runs").write_text("in the way")
    begun = []

    def tell(items):
        begun.append(items)
        yield from map(ok, items)

    with pytest.raises(StoreError, match="cannot write the record of this run"):
        start(tell)
    assert not begun


def test_a_record_that_can_no_longer_be_written_ends_nothing(start, monkeypatch, caplog):
    def tell(items):
        def full(*args):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(runs, "put", full)
        yield from map(ok, items)

    summary = start(tell)
    assert summary.done == 6
    assert "the record of this run is not complete" in caplog.text


def test_each_beat_tells_how_far_it_is(start, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "vidcomp.pipelines.extraction.extract.Watchers", lambda w: Watchers(w, beat_s=0.01)
    )

    def tell(items):
        yield ok(items[0])
        for _ in range(500):
            (record,) = records(tmp_path)
            if record.get("so_far", {}).get("done"):
                break
            time.sleep(0.01)
        assert record["so_far"]["done"] == 1
        assert record["updated"] > record["started"]
        assert record["state"] == "running"
        yield from map(ok, items[1:])

    start(tell)
    (record,) = records(tmp_path)
    assert "so_far" not in record


def test_beats_end_with_the_run():
    class Counting(Watcher):
        count = 0

        def beat(self):
            self.count += 1
            raised.set() if self.count > 2 else None

    import threading

    raised, one = threading.Event(), Counting()
    watchers = Watchers([one], beat_s=0.001)
    watchers.begun(FakeRunner(all_ok))
    assert raised.wait(10)
    watchers.ended(None)
    count = one.count
    assert not [t for t in threading.enumerate() if t.name == "vidcomp-beat"]
    assert one.count == count


def written(folder, **machine):
    """A record without a summary, as a run leaves that was cut."""
    name = new_run_id()
    now = datetime.now(UTC)
    path = folder / "runs" / name / "run.json"
    path.parent.mkdir(parents=True)
    age = timedelta(seconds=machine.pop("silent_s", 0))
    path.write_text(
        json.dumps({"id": name, "updated": (now - age).isoformat(), "machine": machine})
    )
    return name


def test_a_run_that_ended_without_a_word_was_cut(tmp_path):
    import socket

    here = socket.gethostname()
    gone = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True
    )
    me = process_started(os.getpid())
    if me is None:
        pytest.skip("this system does not tell when a process began")
    cases = [
        ("cut", {"host": here, "pid": int(gone.stdout), "process_started": me}),
        ("cut", {"host": here, "pid": os.getpid(), "process_started": me - 1}),  # another process
        ("running", {"host": here, "pid": os.getpid(), "process_started": me, "silent_s": 9999}),
        ("running", {"host": "elsewhere", "pid": 1, "process_started": 1, "silent_s": 60}),
        ("cut", {"host": "elsewhere", "pid": 1, "process_started": 1, "silent_s": 3600}),
    ]
    names = {written(tmp_path, **machine): state for state, machine in cases}
    assert {record["id"]: record["state"] for record in records(tmp_path)} == names


def test_the_newest_come_first_and_what_is_no_record_is_left_out(tmp_path):
    names = [written(tmp_path) for _ in range(5)]
    assert names == sorted(names)
    assert len(set(names)) == 5
    (tmp_path / "runs" / "zzz").mkdir()
    (tmp_path / "runs" / "notes.txt").write_text("mine")
    (tmp_path / "runs" / names[0] / "run.json").write_text('{"torn')
    assert [r["id"] for r in records(tmp_path)] == names[:0:-1]
    assert [r["id"] for r in read_runs(open_storage(tmp_path), newest=3)] == names[:2:-1]


def test_records_lie_on_object_stores_too(monkeypatch, tmp_path):
    pytest.importorskip("obstore")
    storage = ObjectStorage(f"memory://{uuid.uuid4().hex}", staging=tmp_path)
    monkeypatch.setattr("vidcomp.pipelines.extraction.extract.Worker", FakeRunner(all_ok))
    for _ in range(2):
        extract(ITEMS, storage, RECIPE)
    assert [record["state"] for record in read_runs(storage)] == ["done", "done"]


def test_the_speed_of_earlier_runs_is_that_of_their_items():
    done = {"summary": {"done": 8, "failed": 2, "work_seconds": 5.0}}
    assert seconds_per_item(iter([done, {}, {"summary": {"done": 0, "work_seconds": 9}}])) == 0.5
    assert seconds_per_item(iter([{}])) is None


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://me:secret@host/a.mp4", "https://...@host/a.mp4"),
        ("s3://bucket/a.mp4?X-Amz-Signature=abc&x=1", "s3://bucket/a.mp4?..."),
        ("rtsp://u:p@cam:554/1?token=t", "rtsp://...@cam:554/1?..."),
        ("clips/what?.mp4", "clips/what?.mp4"),
        ("--set a.b=c", "--set a.b=c"),
    ],
)
def test_no_secret_of_a_url_is_kept(text, shown):
    assert without_secrets(text) == shown


def test_the_commit_of_a_checkout_is_known(tmp_path, monkeypatch):
    sha, other = "a" * 40, "b" * 40
    monkeypatch.setattr("vidcomp.__file__", str(tmp_path / "vidcomp" / "__init__.py"))
    git = tmp_path / ".git"
    assert git_commit() is None
    git.mkdir()
    (git / "HEAD").write_text(f"{sha}\n")
    assert git_commit() == sha
    (git / "HEAD").write_text("ref: refs/heads/main\n")
    assert git_commit() is None
    (git / "packed-refs").write_text(f"# pack-refs\n{other} refs/heads/main\n")
    assert git_commit() == other
    (git / "refs" / "heads").mkdir(parents=True)
    (git / "refs" / "heads" / "main").write_text(f"{sha}\n")
    assert git_commit() == sha
    tree = tmp_path / "tree"
    (git / "worktrees" / "t").mkdir(parents=True)
    (git / "worktrees" / "t" / "HEAD").write_text("ref: refs/heads/main\n")
    (git / "worktrees" / "t" / "commondir").write_text("../..\n")
    (tree / "vidcomp").mkdir(parents=True)
    (tree / ".git").write_text(f"gitdir: {git}/worktrees/t\n")
    monkeypatch.setattr("vidcomp.__file__", str(tree / "vidcomp" / "__init__.py"))
    assert git_commit() == sha


@pytest.mark.parametrize(
    ("text", "version"),
    [
        (
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue\nGCC 12.2.0 ",
            "550.54.15",
        ),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  560.35  Release", "560.35"),
        ("something else", None),
        (None, None),
    ],
)
def test_the_driver_is_told_where_there_is_one(tmp_path, monkeypatch, text, version):
    monkeypatch.setattr(provenance, "_DRIVER", tmp_path / "version")
    if text is not None:
        (tmp_path / "version").write_text(text)
    found = provenance.machine("cpu")
    assert found["driver"] == version
    assert found["device_name"] is None
