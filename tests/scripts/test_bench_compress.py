"""The benchmark of compressors runs, keeps what a failing method sent, and lists what failed."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from vidcomp.errors import BudgetError
from vidcomp.types import Grid

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.fixture(scope="module", autouse=True)
def _scripts_on_the_path():
    sys.path.insert(0, str(SCRIPTS))
    yield
    sys.path.remove(str(SCRIPTS))


def work(label, seconds):
    yield 1
    if label == "slow":
        time.sleep(seconds)
    if label == "impossible":
        raise BudgetError("not with that budget")
    if label == "broken":
        raise ZeroDivisionError("a bug")
    if label == "killed":
        import os

        os._exit(1)
    yield 2


def test_methods_that_fail_do_not_take_others_with_them():
    from bench_compress_parts.isolated import run_isolated

    labels = ["slow", "fine", "impossible", "broken", "killed"]
    outcomes = run_isolated(work, labels, (60,), timeout_s=6, workers=3, threads=1)
    assert [outcome.label for outcome in outcomes] == labels
    assert {o.label: o.values for o in outcomes} == dict.fromkeys(labels, (1,)) | {"fine": (1, 2)}
    reasons = {o.label: o.reason for o in outcomes}
    assert reasons["fine"] == ""
    assert reasons["slow"] == "more than 6 s"
    assert reasons["impossible"] == "not with that budget"
    assert reasons["broken"] == "ZeroDivisionError: a bug"
    assert "died" in reasons["killed"]


def test_growth_is_measured_and_what_cannot_run_is_listed():
    words = ["scale", "--quick", "--methods", "uniform,max_pool:axes=space"]
    command = [sys.executable, str(SCRIPTS / "bench_compress.py"), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "linear" in done.stdout
    assert "max_pool:axes=space: " in done.stdout or "max_pool:axes=space  linear" in done.stdout


def test_exponents_are_those_of_powers():
    from bench_compress_parts.scaling import _exponent

    assert _exponent([(10, 3.0), (100, 3000.0)]) == pytest.approx(3)
    points = [(count, 0.5 * count**1.25) for count in (256, 900, 3600)]
    assert _exponent(points) == pytest.approx(1.25)
    assert 1.25 < _exponent([*points[:2], (3600, 2 * points[2][1])]) < 1.25 + 0.5


def test_an_hour_is_for_methods_that_take_whole_videos():
    names = ["partition", "tome", "stride", "divprune", "dpc_knn"]
    words = ["hour", "--quick", "--methods", *names]
    command = [sys.executable, str(SCRIPTS / "bench_compress.py"), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = {line.split()[0]: line for line in done.stdout.splitlines() if "  linear" in line}
    assert list(rows) == ["partition", "stride", "tome"]
    assert "3 GB or more: none" in done.stdout


def test_the_peak_is_what_a_block_takes_even_of_memory_freed_before():
    from _memory import Peak

    kept = [torch.ones(1 << 18) for _ in range(64)]  # 64 MiB in blocks that the heap keeps
    del kept
    with Peak("cpu") as peak:
        held = torch.ones(1 << 24)
        del held
    assert 60 < peak.mib < 80


def test_tables_have_a_section_for_each_device(tmp_path, monkeypatch, capsys):
    import _bench
    from bench_compress_parts import report

    monkeypatch.setattr(_bench, "DOCS", tmp_path)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "a card")
    table = report.Table("time", "Title", ("method", "s"), [["tome", None]], "Notes.", [{"x": 1}])
    for device in ("cpu", "cuda"):
        options = type("Options", (), {"device": device, "trial": False})
        report.publish_table(options, table)
    page = (tmp_path / "benchmarks.md").read_text()
    assert "<!-- compress_time -->" in page
    assert "## Title (a card)" in page
    record = json.loads((tmp_path / "benchmarks" / "compress_time_cuda.json").read_text())
    assert record["rows"] == [["tome", "-"]]
    assert record["details"] == [{"x": 1}]


@pytest.mark.parametrize("budget", [30, 60])
def test_transcriptions_give_about_the_budget(budget):
    from bench_compress_parts.features import drifting_video
    from bench_compress_parts.published import PUBLISHED

    from vidcomp.registry import COMPRESSORS

    assert set(PUBLISHED) <= set(COMPRESSORS.names())
    video = drifting_video(Grid(5, 4, 4), 16, ("saliency", "keys"))
    for name, algorithm in PUBLISHED.items():
        out = algorithm(video, budget)
        assert out.shape[1] == 16, name
        assert out.isfinite().all(), name
        assert budget / 3 <= len(out) <= budget * 1.3, name


def test_made_up_videos_are_the_same_every_time():
    from bench_compress_parts.features import drifting_video

    one, two = (drifting_video(Grid(3, 2, 2), 4, ("saliency",)) for _ in range(2))
    assert torch.equal(one.tokens, two.tokens)
    assert set(one.extras) == {"saliency"}
    first, second, _ = one.tokens.view(3, -1)
    assert torch.cosine_similarity(first, second, dim=0) > 0.5
