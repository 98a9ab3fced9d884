"""The benchmark of projectors knows every projector's original, and notices a wrong one."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from vidcomp.registry import PROJECTORS

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.fixture(scope="module", autouse=True)
def _scripts_on_the_path():
    sys.path.insert(0, str(SCRIPTS))
    yield
    sys.path.remove(str(SCRIPTS))


def run(*words):
    command = [sys.executable, str(SCRIPTS / "bench_projectors.py"), "--quick", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_every_projector_has_its_original():
    from bench_projectors_parts.cases import CASES, without_case

    assert without_case() == []
    assert set(CASES) == set(PROJECTORS.names())


def test_answers_agree_and_are_timed():
    names = ["spatial_pool", "lfq", "llama_vid", "set_transformer"]
    done = run("--projectors", *names)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = {line.split()[0]: line.split() for line in done.stdout.splitlines() if " to " in line}
    assert list(rows) == names
    assert rows["spatial_pool"][1:3] == ["1152", "288"]
    assert all(float(ratio) > 0 for row in rows.values() for ratio in (row[8], row[11]))


@pytest.mark.slow
def test_all_answers_agree():
    done = run()
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("what", ["answers", "gradients", "rows"])
def test_a_wrong_original_is_not_timed(what):
    from bench_projectors_parts.cases import CASES
    from bench_projectors_parts.measuring import WrongOracleError, measure

    case = CASES["spatial_pool"]

    def wrong(task):
        rows = case.oracle(task)
        if what == "answers":
            return torch.cat([rows[1:], rows[:1]])
        return rows[1:] if what == "rows" else rows.detach() + 0 * rows

    with pytest.raises(WrongOracleError, match="spatial_pool"):
        measure("spatial_pool", replace(case, oracle=wrong), "cpu", rounds=1, quick=True)


def test_a_projector_without_an_original_is_listed(monkeypatch):
    from bench_projectors_parts import cases

    monkeypatch.delitem(cases.CASES, "linear")
    assert "linear" in cases.without_case()
