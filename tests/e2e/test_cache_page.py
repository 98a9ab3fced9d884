"""The page on looking after a cache is true: its commands and its code run."""

import re
import shlex
from pathlib import Path

import pytest
from clips import moving_square, write_clip

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "cache.md").read_text()


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clips").mkdir()
    for name in ("clip.mp4", "other.mp4", "third.mp4"):
        write_clip(tmp_path / "clips" / name, moving_square(12, 64, 96, seed=len(name)), fps=10)
    return tmp_path


def test_the_commands_and_the_code_of_the_page_run(vidcomp, place):
    pytest.importorskip("pyarrow")
    lines = [line for block in blocks("console") for line in block.splitlines()]
    assert len(lines) > 12
    printed = []
    for line in lines:
        program, *words = shlex.split(line.removeprefix("$ "))
        assert program == "vidcomp"
        result = vidcomp(*words)
        assert result.code == 0, f"{line}\n{result.out}{result.err}"
        printed.append(result.out)
    assert "would remove clip.mp4" in printed[1]
    assert "rewrote" in printed[4]
    assert "removed 4 files" in printed[5]
    assert "nothing to repair" in printed[8]
    assert "copied 0 records" in printed[11]
    assert len(blocks("python")) == 2
    for code in blocks("python"):
        exec(compile(code, "docs/cache.md", "exec"), {})
    assert (place / "more" / "index.jsonl").exists()


def test_the_page_names_every_command_and_option(vidcomp):
    for command in re.findall(r"^\| `([a-z`, ]+)` \|", PAGE.split("--json")[0], re.MULTILINE):
        for name in command.replace("`", "").split(", "):
            assert vidcomp("cache", name, "--help").code == 0
    for command, option in (
        ("compact", "--min-live"),
        ("compact", "--seal-bytes"),
        ("repair", "--force-recover"),
        ("merge", "--on-conflict"),
        ("export", "--dtype"),
        ("rm", "--glob"),
    ):
        assert option in PAGE
        assert option in vidcomp("cache", command, "--help").out
