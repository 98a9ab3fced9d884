"""The log file: one JSON object a line, whatever happens, and never a reason to stop."""

import json
import logging
import os
import socket
import threading
import warnings
from pathlib import Path

import pytest
from fake_runner import FakeRunner, failed, ok

from vidcomp.config import load_recipe
from vidcomp.errors import ConfigError, StoreError
from vidcomp.pipelines.extraction.extract import extract
from vidcomp.pipelines.extraction.logfile import EventLog
from vidcomp.pipelines.extraction.run_options import Options
from vidcomp.pipelines.extraction.shards import Shard
from vidcomp.pipelines.inputs import Item

RECIPE = load_recipe("embedded", [])
ITEMS = [Item(key=str(i), path=f"/nowhere/{i}") for i in range(3)]


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Runs ``tell`` as the worker with a log."""

    def call(tell, path, items=ITEMS):
        monkeypatch.setattr("vidcomp.pipelines.extraction.extract.Worker", FakeRunner(tell))
        with EventLog(str(path), run="one") as log:
            options = Options(run_id="one")
            return extract(items, tmp_path / "cache", RECIPE, options=options, watchers=[log])

    return call


def events(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_each_event_is_a_line_of_json(start, tmp_path):
    def tell(items):
        yield ok(items[0])
        logging.getLogger("vidcomp.somewhere").warning("the %s is hot", "device")
        logging.getLogger("vidcomp.somewhere").info("not told")
        yield failed(items[1], "has two\nlines \udcff")
        yield ok(items[2])

    start(tell, tmp_path / "log.jsonl")
    told = events(tmp_path / "log.jsonl")
    assert [e["event"] for e in told] == [
        "run_started",
        "work_started",
        "item",
        "log",
        "item",
        "item",
        "run_finished",
    ]
    assert {e["run"] for e in told} == {"one"}
    assert [e["time"] for e in told] == sorted(e["time"] for e in told)
    first, work, item, log, bad, _, last = told
    assert first["planned"]["rows"] == 3
    assert {"argv", "store", "versions", "host", "pid"} <= set(first)
    assert work["fingerprint"] == "f" * 16
    assert {k: item[k] for k in ("key", "path", "status", "frames", "seconds")} == {
        "key": "0",
        "path": "/nowhere/0",
        "status": "ok",
        "frames": 8,
        "seconds": 0.1,
    }
    assert {k: log[k] for k in ("level", "logger", "message")} == {
        "level": "warning",
        "logger": "vidcomp.somewhere",
        "message": "the device is hot",
    }
    assert (bad["status"], bad["stage"], bad["error"]) == ("failed", "decode", "DecodeError")
    assert bad["message"].endswith("lines \udcff")
    assert (last["exit_code"], last["done"], last["failed"], last["lost"]) == (3, 2, 1, 0)


def test_a_run_that_fails_says_why(start, tmp_path):
    def tell(items):
        yield ok(items[0])
        raise StoreError("no space is left")

    with pytest.raises(StoreError):
        start(tell, tmp_path / "log.jsonl")
    last = events(tmp_path / "log.jsonl")[-1]
    assert (last["event"], last["error"], last["exit_code"]) == ("run_failed", "StoreError", 5)
    assert "no space is left" in last["message"]
    assert "Traceback" in last["details"]
    assert last["done"] == 1


def test_runs_append_and_nothing_to_do_is_told_as_well(start, tmp_path):
    for _ in range(2):
        start(lambda items: iter(()), tmp_path / "log.jsonl", items=[])
    assert [e["event"] for e in events(tmp_path / "log.jsonl")] == [
        "run_started",
        "run_finished",
    ] * 2


def test_a_name_has_places_for_what_differs(tmp_path):
    shard = Shard(index=2, count=8)
    path = str(tmp_path / "{shard}-of-{shards}" / "{host}.{pid}.{run}.{{x}}.jsonl")
    with EventLog(path, run="r7", shard=shard) as log:
        log.write("hello")
    wanted = tmp_path / "2-of-8" / f"{socket.gethostname()}.{os.getpid()}.r7.{{x}}.jsonl"
    assert log.path == wanted
    assert events(wanted)[0]["event"] == "hello"


@pytest.mark.parametrize("name", ["{rank}.jsonl", "{}.jsonl", "{0}", "{run", "{run.x}"])
def test_unknown_places_are_one_sentence(tmp_path, name):
    with pytest.raises(ConfigError, match=r"\{run\}, \{shard\}, \{shards\}, \{host\}, \{pid\}"):
        EventLog(str(tmp_path / name), run="r")


def test_a_log_that_cannot_be_written_is_an_error_before_the_work(start, tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "file" / "log"):
        with pytest.raises(ConfigError, match="cannot be written"):
            EventLog(str(path), run="r")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no full device here")
def test_a_log_on_a_full_disk_is_an_error_before_the_work(start):
    begun = []

    def tell(items):
        begun.append(items)
        yield from map(ok, items)

    with pytest.raises(ConfigError, match="is its disk full"):
        start(tell, "/dev/full")
    assert not begun


def test_a_disk_that_becomes_full_is_told_once_and_ends_nothing(
    start, tmp_path, monkeypatch, caplog
):
    real, is_full = os.write, []

    def write(fd, data):
        if is_full and data.startswith((b"{", b"\n{")):
            real(fd, bytes(data)[:7]) if len(is_full) == 1 else None
            is_full.append(1)
            if len(is_full) == 2:
                return 7
            raise OSError(28, "No space left on device")
        return real(fd, data)

    monkeypatch.setattr("vidcomp.pipelines.extraction.logfile.os.write", write)

    def tell(items):
        yield ok(items[0])
        is_full.append(1)
        yield ok(items[1])
        yield ok(items[2])
        is_full.clear()

    assert start(tell, tmp_path / "log.jsonl").done == 3
    assert caplog.text.count("has gaps from here on") == 1
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    torn = [line for line in lines if not line.endswith("}")]
    assert torn == ['{"time"']
    assert json.loads(lines[-1])["event"] == "run_finished"


def test_threads_and_runs_share_a_file_line_by_line(tmp_path):
    path = str(tmp_path / "log.jsonl")

    def speak(name):
        with EventLog(path, run=name) as log:
            for i in range(200):
                log.write("item", number=i, text="x" * 300)

    threads = [threading.Thread(target=speak, args=(f"r{i}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    told = events(tmp_path / "log.jsonl")
    for name in ("r0", "r1", "r2", "r3"):
        assert [e["number"] for e in told if e["run"] == name] == list(range(200))


def test_logging_is_left_as_it_was(tmp_path):
    before = list(logging.getLogger().handlers)
    with EventLog(str(tmp_path / "log"), run="r"):
        pass
    assert logging.getLogger().handlers == before


def test_warnings_of_python_are_told(tmp_path):
    with EventLog(str(tmp_path / "log"), run="r"), warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("an old call", stacklevel=1)
    (event,) = events(tmp_path / "log")
    assert "an old call" in event["message"]
    assert event["logger"] == "py.warnings"
