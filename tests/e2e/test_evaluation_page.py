"""The page on evaluation says what is true: its command and its code run as they stand."""

import re
import shlex
from pathlib import Path

import pytest

pytest.importorskip("transformers")
pytest.importorskip("matplotlib")

from clips import moving_square, write_clip
from llm.tiny_folders import save_folder

from vidcomp.data.benchmarks import BENCHMARKS

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "evaluation.md").read_text()


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)


def test_the_example_runs_and_prints_such_a_table(vidcomp, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.jsonl").write_text(blocks("json")[0])
    (tmp_path / "clips").mkdir()
    for i, name in enumerate("ab"):
        write_clip(f"clips/{name}.mp4", moving_square(20 + 10 * i, 64, 96, seed=i))
    save_folder("qwen3_vl", tmp_path / "model")
    (command,) = blocks("console")
    run = vidcomp(*shlex.split(command.removeprefix("$ vidcomp ")))
    assert run.code == 0, run.err
    shown = blocks("text")[0].splitlines()
    printed = run.out.splitlines()
    assert printed[0].split() == shown[0].split()
    for line, wanted in zip(printed[2:10], shown[2:10], strict=True):
        assert line.split()[:6] == wanted.split()[:6]
    for name in ("answers.jsonl", "evaluate.json", "accuracy.png", "run.json"):
        assert f"`{name}`" in PAGE
        assert (tmp_path / "run" / name).stat().st_size > 100
    (code,) = blocks("python")
    exec(compile(code, "docs/evaluation.md", "exec"), {})


def test_every_format_has_its_row():
    named = re.findall(r"^\| `(\w+)` \|", PAGE, flags=re.MULTILINE)
    assert set(BENCHMARKS) <= set(named)
