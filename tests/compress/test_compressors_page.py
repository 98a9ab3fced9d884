"""The page on compressors: its code runs, the modules that it names are all there are."""

import re
from pathlib import Path

import torch

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "compressors.md").read_text()
TABLE = PAGE.split("<!-- modules -->")[1].split("<!-- end modules -->")[0]


def test_the_code_runs():
    scope = {"__name__": "docs"}
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 4
    with torch.random.fork_rng(devices=[]):
        for block in blocks:
            exec(compile(block, "docs/compressors.md", "exec"), scope)


def test_every_module_is_named():
    folder = Path(__file__).resolve().parents[2] / "vidcomp" / "functional"
    modules = {path.stem for path in folder.glob("[!_]*.py")}
    assert set(re.findall(r"^\| `(\w+)` \| .", TABLE, re.MULTILINE)) == modules
