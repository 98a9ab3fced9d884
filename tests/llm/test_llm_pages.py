"""The pages on plain language models and on questions: their code runs."""

import re
from pathlib import Path

import pytest
import torch
from clips import moving_square, write_clip
from llm.tiny_plain import letters, plain_model
from llm.tiny_towers import save_tower, trained

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.mark.parametrize(("page", "count"), [("plain-llms", 4), ("queries", 5)])
def test_the_code_runs(page, count, tmp_path, monkeypatch):
    plain_model("llama").save_pretrained(tmp_path / "llm")
    letters().save_pretrained(tmp_path / "llm")
    save_tower(trained("siglip"), tmp_path / "tower")
    write_clip(tmp_path / "clip.mp4", moving_square(24))
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / f"{page}.md").read_text(), re.DOTALL)
    assert len(blocks) == count
    scope = {"__name__": "docs"}
    with torch.random.fork_rng(devices=[]):
        for block in blocks:
            exec(compile(block, f"docs/{page}.md", "exec"), scope)
