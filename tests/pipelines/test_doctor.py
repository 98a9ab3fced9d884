"""The doctor tells the truth about this machine, and about machines that are broken."""

import json
import subprocess
import sys

import pytest
from click.testing import CliRunner

from vidcomp.pipelines import checks, doctor, probe
from vidcomp.pipelines.cli import main
from vidcomp.pipelines.doctor import Check, diagnose, format_checks


@pytest.fixture(scope="module")
def findings():
    return {(check.group, check.name): check for check in diagnose()}


def test_everything_that_is_needed_works_here(findings):
    assert [check for check in findings.values() if check.status == "problem"] == []
    assert {group for group, _ in findings} == {"system", "torch", "packages", "video", "models"}


def test_every_codec_is_tried_with_every_reader(findings):
    for codec in probe.CODECS:
        assert "pyav" in findings["video", codec].found


def test_advice_is_one_line_and_only_where_something_is_missing(findings):
    for check in findings.values():
        assert "\n" not in check.found + check.advice
        assert check.status != "ok" or not check.advice


def test_the_command_prints_the_findings(monkeypatch, findings):
    monkeypatch.setattr(doctor, "diagnose", lambda: list(findings.values()))
    text = CliRunner().invoke(main, ["doctor"])
    assert text.exit_code == 0
    assert "everything that is needed works" in text.output
    shown = json.loads(CliRunner().invoke(main, ["doctor", "--json"]).output)
    assert [(row["group"], row["name"]) for row in shown] == list(findings)


def test_a_problem_is_said_and_ends_with_1(monkeypatch):
    bad = Check(group="video", name="h264", found="read by nothing", status="problem", advice="do")
    monkeypatch.setattr(doctor, "diagnose", lambda: [bad])
    run = CliRunner().invoke(main, ["doctor"])
    assert run.exit_code == 1
    assert run.output.splitlines() == [
        "video",
        "  problem  h264  read by nothing",
        "                 -> do",
        "",
        "problems: 1, see the advice above; optional things missing: 0",
    ]


def test_packages_that_fail_on_import_are_told_from_those_that_lack(monkeypatch):
    def broken(name):
        raise RuntimeError("libavutil.so.60: cannot open\nand a hundred lines more")

    monkeypatch.setattr(checks, "_version", lambda name: "1.0" if name == "torchcodec" else "")
    monkeypatch.setattr(checks.importlib, "import_module", broken)
    found = {check.name: check for check in checks.packages()}
    assert found["torchcodec"].found == "RuntimeError: libavutil.so.60: cannot open"
    assert found["pyarrow"].found == "not installed"
    assert found["torchcodec"].status == found["pyarrow"].status == "missing"
    assert found["numpy"].status == "problem"
    assert found["numpy"].advice == "pip install numpy"


def test_a_broken_torch_is_a_problem(monkeypatch):
    monkeypatch.setattr(checks, "_import", lambda name: (None, "OSError: no libtorch"))
    (check,) = checks.torch_and_devices()
    assert (check.status, check.found) == ("problem", "OSError: no libtorch")


def test_a_folder_that_cannot_be_written_is_a_problem(monkeypatch):
    def refuse(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(checks.tempfile, "TemporaryFile", refuse)
    found = {check.name: check for check in checks.system()}["this folder"]
    assert (found.status, found.found) == ("problem", "not writable (Permission denied)")


@pytest.mark.parametrize(
    ("code", "outcome"),
    [
        ("import os; os.kill(os.getpid(), 11)", "ended with code -11: no message"),
        ("raise SystemExit('gone wrong')", "ended with code 1: gone wrong"),
        ("import time; time.sleep(60)", "no answer within 0.5 s"),
    ],
)
def test_a_reader_that_crashes_or_hangs_is_a_finding(monkeypatch, code, outcome):
    real_run = subprocess.run

    def run(command, **options):
        return real_run([sys.executable, "-c", code], **options)

    monkeypatch.setattr(checks, "_PROBE_LIMIT_S", 0.5 if "sleep" in code else 30)
    monkeypatch.setattr(checks.subprocess, "run", run)
    assert checks._probe("pyav", "nowhere") == dict.fromkeys(probe.CODECS, outcome)


def test_wrong_frames_are_not_ok(tmp_path):
    assert probe.main("write", tmp_path)["h264"] == "ok"
    greys = probe._greys()
    for means, complaint in [
        (greys[1:], "7 of 8 frames"),
        ([*greys[1:], greys[0]], "frame 0 has brightness"),
    ]:
        outcome = probe._outcome(probe._check, lambda path, m=means: m, tmp_path / "h264.mp4")
        assert complaint in outcome
    assert probe.main("pyav", tmp_path)["h264"] == "ok"


def test_a_codec_that_no_reader_reads_is_a_problem():
    check = checks._codec("h264", "ok", {"pyav": "ValueError: bad", "decord": "ended"})
    assert check.status == "problem"
    assert "pyav: ValueError: bad; decord: ended" in check.advice
    assert checks._codec("h264", "ok", {"pyav": "ok", "decord": "x"}).found == (
        "read by pyav, not by decord"
    )
    assert checks._codec("av1", "LookupError: no encoder", {}).status == "missing"
    assert "ok" not in format_checks([check]).split()
