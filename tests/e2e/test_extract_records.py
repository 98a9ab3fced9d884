"""What extract leaves beside the tokens, and how it is looked at; shares of tasks; odd inputs."""

import json
import shutil

import pytest

from vidcomp.pipelines.extraction.runs import read_runs
from vidcomp.store import open_cache
from vidcomp.store.storage import open_storage

SLURM = ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_PROCID", "SLURM_NTASKS")


@pytest.fixture
def mixed(clips, tmp_path):
    """The clips, two files that are no videos and an empty one."""
    folder = shutil.copytree(clips, tmp_path / "in")
    (folder / "bad0.mp4").write_bytes(b"no video at all" * 10)
    (folder / "bad1.mp4").write_bytes(b"no video at all" * 99)
    (folder / "empty.mp4").write_bytes(b"")
    return folder


def test_a_row_is_counted_as_often_as_it_is_written(extract, clips, mixed, tmp_path):
    names = ["clip0.mp4", "clip1.mp4", "clip0.mp4", "bad0.mp4", "clip0.mp4", "bad0.mp4"]
    (tmp_path / "list.txt").write_text("".join(f"{mixed}/{name}\n" for name in names))
    out = tmp_path / "cache"
    plan = extract(f"@{tmp_path}/list.txt", "--out", out, "--dry-run", "--json").json
    assert {k: plan[k] for k in ("rows", "todo", "duplicates")} == {
        "rows": 6,
        "todo": 6,
        "duplicates": 3,
    }
    first = extract(f"@{tmp_path}/list.txt", "--out", out, "--json")
    assert first.code == 3
    counts = ("planned", "done", "cached", "failed", "failed_before", "lost")
    assert [first.json[name] for name in counts] == [6, 4, 0, 2, 0, 0]
    assert len(open_cache(out)) == 2
    second = extract(f"@{tmp_path}/list.txt", "--out", out, "--json")
    assert [second.json[name] for name in counts] == [6, 0, 4, 0, 2, 0]


def test_a_limit_is_of_rows_whether_they_are_done_or_not(extract, clips, tmp_path):
    for _ in range(2):
        extract(clips, "--out", tmp_path / "c", "--limit", 2)
    assert sorted(open_cache(tmp_path / "c").keys()) == ["clip0.mp4", "clip1.mp4"]


def test_tasks_of_slurm_share_the_videos_and_say_so(vidcomp, extract, clips, tmp_path, monkeypatch):
    out = tmp_path / "cache"
    for i in range(2):
        for name, value in zip(SLURM, ("7", "0", str(i), "2"), strict=True):
            monkeypatch.setenv(name, value)
        log = tmp_path / "log-{shard}-of-{shards}.jsonl"
        small = ("--set", "encode.resize={mode: stretch, height: 56, width: 56}", "--budget", 20)
        result = vidcomp(
            "extract", clips, "--out", out, *small, "--isolation", "thread", "--log-file", log
        )
        assert f"this is part {i}/2 of the videos, by SLURM_PROCID and SLURM_NTASKS" in result.err
        assert f"{3 - i} done" in result.out
    assert len(open_cache(out)) == 5
    shards = [run["shard"] for run in read_runs(open_storage(out))]
    assert [(s["index"], s["count"], s["origin"]) for s in shards] == [
        (1, 2, "SLURM_PROCID and SLURM_NTASKS"),
        (0, 2, "SLURM_PROCID and SLURM_NTASKS"),
    ]
    told = json.loads((tmp_path / "log-1-of-2.jsonl").read_text().splitlines()[0])
    assert told["shard"] == "1/2"
    whole = extract(clips, "--out", tmp_path / "whole", "--shard", "none", "--limit", 3)
    assert "3 done" in whole.out
    monkeypatch.setenv("SLURM_PROCID", "nine")
    wrong = extract(clips, "--out", out)
    assert wrong.code == 2
    assert "SLURM_PROCID should be a whole number" in wrong.err


def test_failures_are_told_by_reason(extract, vidcomp, mixed, tmp_path):
    out = tmp_path / "cache"
    assert extract(mixed, "--out", out).code == 3
    shown = vidcomp("errors", out).out
    assert "2 x decode: FILE is not a video but text" in shown
    assert "    bad0.mp4\n    bad1.mp4\n" in shown
    assert f"empty.mp4: decode: {mixed}/empty.mp4 is empty" in shown
    assert "3 failed items, 2 reasons" in shown
    (run,) = read_runs(open_storage(out))
    records = {record["key"]: record for record in vidcomp("errors", out, "--json").json}
    assert sorted(records) == ["bad0.mp4", "bad1.mp4", "empty.mp4"]
    for record in records.values():
        assert record["run"] == run["id"]
        assert record["host"] == run["machine"]["host"]
        assert record["time"] >= run["started"]
        assert record["error"] == "DecodeError"
        assert "Traceback" in record["details"]
        assert "torch" in record["versions"]
    assert "forgot 3 failed items" in vidcomp("errors", out, "--clear").out
    assert "0 failed items" in vidcomp("errors", out).out
    again = extract(mixed, "--out", out)
    assert "0 done, 5 already cached, 3 failed" in again.out


def test_a_crash_tells_signal_and_stack(extract, vidcomp, tmp_path, monkeypatch):
    from vidcomp.errors import DecodeError
    from vidcomp.pipelines.extraction import engine

    def crash(request):
        error = DecodeError(f"{request.path} cannot be decoded, the process died")
        error.exit_code = -11
        error.add_note("Fatal Python error: Segmentation fault")
        raise error

    (tmp_path / "a.mp4").write_bytes(b"x")
    monkeypatch.setattr(engine, "stream_frames", crash)
    assert extract(tmp_path / "a.mp4", "--out", tmp_path / "c").code == 3
    (record,) = vidcomp("errors", tmp_path / "c", "--json").json
    assert (record["exit_code"], record["signal"]) == (-11, "SIGSEGV")
    assert "Segmentation fault" in record["details"]


def test_runs_are_listed(extract, vidcomp, mixed, tmp_path):
    out = tmp_path / "cache"
    for command in (["cache", "runs"], ["errors"]):
        for wrong in (out, mixed):  # nothing, and no cache
            missing = vidcomp(*command, wrong)
            assert missing.code == 5
            assert str(wrong) in missing.err
    extract(mixed, "--out", out)
    extract(mixed, "--out", out, "--retry-failed", "--max-failures", 0, "--workers", 1)
    shown = vidcomp("cache", "runs", out).out
    lines = shown.splitlines()
    assert lines[0].split() == [
        *("run", "state", "part", "rows", "done", "cached", "failed", "lost", "time", "host"),
    ]
    assert lines[2].split()[1:8] == ["stopped", "all", "8", "0", "5", "1", "2"]
    assert lines[3].split()[1:8] == ["done", "all", "8", "5", "0", "3", "0"]
    assert lines[-1] == "2 runs"
    assert (
        "(the newest; --limit N for more than 1)" in vidcomp("cache", "runs", out, "--limit", 1).out
    )
    found = vidcomp("cache", "runs", out, "--json").json
    assert [run["state"] for run in found] == ["stopped", "done"]


def test_a_dry_run_tells_what_the_work_will_take(extract, mixed, tmp_path):
    out = tmp_path / "cache"
    before = extract(mixed, "--out", out, "--dry-run", "--json").json
    assert before["estimated_bytes"] is before["estimated_seconds"] is None
    size = sum(path.stat().st_size for path in mixed.iterdir())
    assert before["input_bytes"] == size
    extract(mixed, "--out", out, "--limit", 4)
    after = extract(mixed, "--out", out, "--dry-run", "--json").json
    assert (after["todo"], after["cached"], after["failed_before"]) == (4, 2, 2)
    (entry, _) = open_cache(out).entries()
    assert after["estimated_bytes"] == pytest.approx(4 * entry.nbytes, rel=0.5)
    (run,) = read_runs(open_storage(out))
    assert after["estimated_seconds"] == pytest.approx(run["summary"]["work_seconds"], abs=0.1)
    shown = extract(mixed, "--out", out, "--dry-run").out
    assert "to write: about" in shown
    assert "time: about" in shown
    assert not (tmp_path / "log").exists()


def test_the_cache_and_its_care_leave_the_records_alone(extract, vidcomp, mixed, tmp_path):
    out, other = tmp_path / "cache", tmp_path / "other"
    extract(mixed, "--out", out)
    extract(mixed, "--out", out, "--retry-failed")
    kept = {p: p.read_bytes() for name in ("runs", "errors") for p in out.glob(f"{name}/**/*.json")}
    assert len(kept) == 5
    for args in (
        ["ls", out],
        ["verify", out],
        ["rm", out, "clip0.mp4"],
        ["compact", out, "--min-live", 1, "--grace", 0],
        ["repair", out],
        ["verify", out],
        ["merge", out, "--out", other],
        ["verify", other],
        ["export", out, "--out", tmp_path / "files"],
    ):
        assert vidcomp("cache", *args, "-q").code == 0, args
    assert {path: path.read_bytes() for path in kept} == kept
    assert sorted(open_cache(other).keys()) == [f"clip{i}.mp4" for i in range(1, 5)]
    assert not (other / "runs").exists()
    assert not list((tmp_path / "files").glob("**/run.json"))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--max-failures", "-1"], "--max-failures is a number of videos or a percentage"),
        (["--max-failures", "120%"], "--max-failures is a number of videos or a percentage"),
        (["--max-failures", "%"], "--max-failures is a number of videos or a percentage"),
        (["--shard", "2/2"], "a shard is i/n with i from 0 to n-1, or none, got '2/2'"),
        (["--grace", "soon"], "a time is a number with s, m, h, d or w, got 'soon'"),
        (["--log-file", "/dev/null/x"], "the log file /dev/null/x cannot be written"),
        (["--log-file", "{rank}.jsonl"], "a log file's name may have {run}, {shard}"),
        (["--limit", "0"], "--limit"),
        (["--recycle-after", "0"], "--recycle-after"),
    ],
)
def test_wrong_arguments_are_one_clear_sentence(extract, clips, tmp_path, args, message):
    result = extract(clips, "--out", tmp_path / "cache", *args)
    assert result.code == 2
    assert message in result.err
    assert "Traceback" not in result.err
    assert not (tmp_path / "cache").exists()


def test_the_help_tells_the_exit_codes(vidcomp):
    text = " ".join(vidcomp("extract", "--help").out.split())
    for words in (
        "0 all done",
        "1 the run failed",
        "3 done, but some",
        "130 Ctrl-C",
        "143 SIGTERM",
    ):
        assert words in text
