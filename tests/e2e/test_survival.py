"""Files that crash, hang or confuse their readers cost no other file its record."""

import json
import os
import random
import shutil
import signal

import pytest
import torch
from bad_clips import Ended, promising, unending
from clips import moving_square, write_clip
from warm_command import is_reading, until

from vidcomp.store import open_cache, verify

pytest.importorskip("decord")  # which one of the files crashes

QUICK = [
    *("-q", "--json", "--budget", "20", "--backend", "decord"),
    *("--set", "encode.resize={mode: stretch, height: 56, width: 56}"),
]
BLAME = {
    "crash0.mp4": "SIGABRT",
    "crash1.mp4": "SIGABRT",
    "corrupt.mp4": "corrupt.mp4",
    "hangs.mkv": "no progress for 2 s",
}


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """Twenty good clips, two that crash decord, one that is none, one that is never read."""
    folder = tmp_path_factory.mktemp("mixed")
    for i in range(20):
        write_clip(folder / f"good{i:02}.mp4", moving_square(6 + i % 5, seed=i))
    for name in ("crash0.mp4", "crash1.mp4"):
        promising(folder / name)
    bytes_of_one = bytearray((folder / "good00.mp4").read_bytes())
    header = bytes_of_one.index(b"moov")
    bytes_of_one[header + 8 : header + 600] = random.Random(0).randbytes(592)
    (folder / "corrupt.mp4").write_bytes(bytes_of_one)
    try:
        unending(folder / "hangs.mkv")
    except OSError:
        pytest.skip("files cannot be as large here as the one that hangs")
    return folder


def in_any_order(folder, where, seed):
    names = sorted(path.name for path in folder.iterdir())
    random.Random(seed).shuffle(names)
    where.write_text("".join(f"{folder / name}\n" for name in names))
    return names


def errors_of(store):
    records = [json.loads(path.read_text()) for path in (store / "errors").iterdir()]
    return {os.path.basename(record["key"]): record for record in records}  # noqa: PTH119


@pytest.mark.parametrize(
    ("workers", "seed"),
    [(2, 0), (3, 1), *(pytest.param(1 + n % 4, n, marks=pytest.mark.slow) for n in range(2, 8))],
)
def test_poison_costs_no_other_file_its_record(warm, mixed, tmp_path, workers, seed):
    in_any_order(mixed, tmp_path / "list.txt", seed)
    out, scratch = tmp_path / "cache", tmp_path / "scratch"
    args = ["extract", f"@{tmp_path / 'list.txt'}", "--out", out, *QUICK, "--stall", "2"]
    run = warm.run([*args, "--workers", workers], scratch)
    assert run.code == 3, run.err
    assert (run.json["done"], run.json["failed"], run.json["lost"]) == (20, 4, 0)
    cache, errors = open_cache(out), errors_of(out)
    good = {os.path.basename(key) for key in cache.keys()}  # noqa: PTH119, SIM118
    assert good == {f"good{i:02}.mp4" for i in range(20)}
    for key in cache.keys():  # noqa: SIM118
        assert torch.isfinite(cache[key].tokens).all()
    assert set(errors) == set(BLAME)
    for name, words in BLAME.items():
        assert errors[name]["stage"] == "decode"
        assert words in errors[name]["message"]
        assert name in errors[name]["message"]
    assert not any("SIG" in errors[name]["message"] for name in ("corrupt.mp4", "hangs.mkv"))
    assert verify(out).ok
    assert not run.children()
    assert list(scratch.iterdir()) == []


def test_poison_is_not_tried_again_unasked_and_a_mended_file_is(warm, mixed, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("good00.mp4", "crash0.mp4"):
        shutil.copy(mixed / name, folder)
    args = ["extract", folder, "--out", tmp_path / "cache", *QUICK, "--workers", "1"]
    first, second = (warm.run(args, tmp_path / "scratch") for _ in range(2))
    assert (first.code, first.json["done"], first.json["failed"]) == (3, 1, 1)
    assert (second.code, second.json["cached"], second.json["failed_before"]) == (3, 1, 1)
    shutil.copy(mixed / "good01.mp4", folder / "crash0.mp4")
    third = warm.run(args, tmp_path / "scratch")
    assert (third.code, third.json["done"], third.json["failed_before"]) == (0, 1, 0)


def test_a_reader_that_the_system_kills_is_the_error_of_its_file_alone(warm, mixed, tmp_path):
    """As the kernel does when memory runs out; the file was the first that the process read."""
    order = ["hangs.mkv", "good00.mp4", "good01.mp4"]
    (tmp_path / "list.txt").write_text("".join(f"{mixed / name}\n" for name in order))
    args = ["extract", f"@{tmp_path / 'list.txt'}", "--out", tmp_path / "cache", *QUICK]
    run = warm.start([*args, "--workers", "1"], tmp_path / "scratch")
    until(lambda: is_reading(run, mixed / "hangs.mkv"))
    (reader,) = run.children()
    os.kill(reader, signal.SIGKILL)
    assert run.wait() == 3
    assert (run.json["done"], run.json["failed"]) == (2, 1)
    assert "SIGKILL" in errors_of(tmp_path / "cache")["hangs.mkv"]["message"]


def test_a_file_whose_worn_reader_is_killed_is_read_once_more_by_a_fresh_one(warm, mixed, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    shutil.copy(mixed / "good00.mp4", folder)
    first, second = unending(folder / "0.mkv"), unending(folder / "1.mkv", 1 << 39)
    args = ["extract", folder, "--out", tmp_path / "cache", *QUICK, "--workers", "1"]
    run = warm.start([*args, "--backend", "auto"], tmp_path / "scratch")
    until(lambda: is_reading(run, first))  # the largest comes first
    with Ended(first):
        until(lambda: is_reading(run, second))
    (worn,) = run.children()
    write_clip(tmp_path / "good.mkv", moving_square(7)).rename(second)
    os.kill(worn, signal.SIGKILL)
    assert run.wait() == 0, run.out
    assert (run.json["done"], run.json["failed"]) == (3, 0)
    assert open_cache(tmp_path / "cache")["1.mkv"].grid.t == 7
