"""The page on asking names every family, and its Python runs."""

import re
from pathlib import Path

import pytest
from clips import moving_square, write_clip
from llm.tiny_folders import save_folder

from vidcomp.encode.vlm.families import FAMILIES
from vidcomp.pipelines.cli import main

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "asking.md").read_text()


def test_every_family_and_option_is_named():
    rows = PAGE.partition("## Models")[2].partition("\n## ")[0]
    assert set(re.findall(r"`(\w+)`", rows)) >= set(FAMILIES)
    named = set(re.findall(r"`(--[a-z-]+)`", PAGE))
    has = {name for option in main.commands["ask"].params for name in option.opts}
    assert {name for name in has if name.startswith("--")} - {"--debug", "--quiet"} == named


@pytest.mark.filterwarnings("ignore")  # of transformers, about its own classes
def test_the_python_runs(tmp_path, monkeypatch):
    write_clip(tmp_path / "clip.mp4", moving_square(24, 64, 96), fps=10)
    folder = save_folder("qwen3_vl", tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    scope = {}
    exec(code.replace("Qwen/Qwen3-VL-2B-Instruct", str(folder)), scope)
    assert scope["answer"].num_video == 64
    assert len(scope["scores"]) == 2
