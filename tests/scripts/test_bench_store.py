"""The benchmark of the cache runs, its control holds the records, its ratios are per round."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.fixture(scope="module", autouse=True)
def _scripts_on_the_path():
    sys.path.insert(0, str(SCRIPTS))
    yield
    sys.path.remove(str(SCRIPTS))


def run(tmp_path, *arguments):
    """The output of a trial run, which publishes nothing."""
    script = str(SCRIPTS / "bench_store.py")
    options = ["--trial", "--rounds", "1", "--large", "3", "--small", "20", "--dir", str(tmp_path)]
    command = [sys.executable, script, *arguments, *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done


def test_every_part_runs_and_leaves_nothing(tmp_path):
    parts = ("read", "write", "loader", "open", "precision")
    done = run(tmp_path, *parts, "--records", "3000", "--passes", "1")
    assert done.stdout.count("The token cache: ") == len(parts)
    assert list(tmp_path.iterdir()) == []


def test_peers_without_an_environment_are_named_and_left_out(tmp_path):
    done = run(tmp_path, "peers", "--size", "small", "--passes", "1")
    for name in ("LitData", "WebDataset", "MosaicML streaming"):
        assert f"left out {name}" in done.stderr


def test_the_control_holds_the_records_bit_for_bit(tmp_path):
    from bench_store_parts.raw import RawStore, write_raw
    from bench_store_parts.synthetic import Size, records

    size = Size("any", 7, 1, 9, 8)
    write_raw(tmp_path / "raw", records(size), size.dim)
    raw = RawStore(tmp_path / "raw")
    for i, (key, *tensors) in reversed(list(enumerate(records(size)))):
        for found in (raw.read(key), raw.record(i)):
            assert all(map(torch.equal, found[:4], tensors))
            assert key in bytes(found.meta.tolist()).decode()


def test_cases_take_turns_and_ratios_are_of_one_round():
    from bench_store_parts.timing import rounds_of, speeds

    began = []

    def case(name):
        return lambda: lambda: began.append(name)

    seconds = rounds_of({name: case(name) for name in "abc"}, rounds=3, warm=1)
    assert ["".join(began[i : i + 3]) for i in range(0, 12, 3)] == ["abc", "bca", "cab", "abc"]
    assert all(len(values) == 3 for values in seconds.values())
    ratios = speeds({"raw": [1.0, 2.0, 4.0], "half": [2.0, 4.0, 4.0]}, "raw")
    assert ratios == {"raw": (1.0, 1.0, 1.0), "half": (0.5, 0.5, 0.75)}
