"""The page about extract names every option, every code and every field; its commands run."""

import re
import shlex
from pathlib import Path

import pytest
from clips import moving_square, write_clip

from vidcomp.pipelines.extraction.command import extract as command

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "extract.md").read_text()


def section(title):
    return PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]


def lines_of(text):
    blocks = re.findall(r"^```console\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    return [line.removeprefix("$ ") for block in blocks for line in block.splitlines()]


def test_the_options_of_the_page_are_those_of_the_command():
    table = section("Options").split("\nFiles that alone")[0]
    cells = re.findall(r"^\| ([^|]+) \|", table, re.MULTILINE)
    named = {name for cell in cells for name in re.findall(r"`(--[a-z-]+)`", cell)}
    known = {max(p.opts, key=len) for p in command.params if p.opts[0].startswith("-")}
    assert named == known


@pytest.mark.parametrize("options", [(), ("--dry-run",)])
def test_the_fields_of_the_page_are_those_of_the_result(extract, clips, tmp_path, options):
    report = extract(clips, "--out", tmp_path / "c", "--json", *options).json
    text = section("While it runs").split("`--json` prints")[1]
    whole, dry = text.split("With `--dry-run` it prints")
    named = set(re.findall(r"`([a-z_]+)`", dry if options else whole))
    assert set(report) == named - {"null"}


def test_the_commands_of_the_page_run(vidcomp, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clips").mkdir()
    for name in ("clip.mp4", "other.mp4"):
        write_clip(tmp_path / "clips" / name, moving_square(12, 72, 96, seed=len(name)))
    lines = lines_of(PAGE)
    assert len(lines) == 7
    results = [vidcomp(*shlex.split(line, comments=True)[1:]) for line in lines]
    assert [result.code for result in results] == [0] * 7
    assert "2 to do" in results[0].out
    assert "2 done" in results[1].out
    (log,) = (tmp_path / "logs").iterdir()
    assert log.name.removesuffix(".jsonl") in results[3].out
    assert "nothing to do" in results[4].out
