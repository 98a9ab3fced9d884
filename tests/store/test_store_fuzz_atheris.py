"""Coverage-guided fuzzing of every parser for a short while; by hand, for as long as wanted."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from fuzz.store_targets import TARGETS

pytest.importorskip("atheris")

SCRIPT = Path(__file__).resolve().parents[1] / "fuzz" / "fuzz_store.py"


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_twenty_seconds_find_nothing(target, tmp_path):
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    done = subprocess.run(
        [sys.executable, SCRIPT, target, "-max_total_time=20", "-seed=1", corpus],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Done" in done.stderr
    assert len(list(corpus.iterdir())) > 1  # it saw more than the seeds
