"""The page on compressors: its code runs, its table is complete."""

import re
from pathlib import Path

import torch

from vidcomp.registry import COMPRESSORS

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "compressors.md").read_text()


def test_the_code_runs():
    scope = {"__name__": "docs"}
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 3
    with torch.random.fork_rng(devices=[]):
        for block in blocks:
            exec(compile(block, "docs/compressors.md", "exec"), scope)


def test_the_table_is_complete():
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \|[^|]*\| ([^|]*)\|", PAGE, re.MULTILINE)
    table = {name: (kind, set(re.findall(r"`(\w+)`", settings))) for name, kind, settings in rows}
    assert sorted(table) == COMPRESSORS.names()
    for name, (kind, settings) in table.items():
        assert kind == COMPRESSORS[name].kind
        assert settings == set(COMPRESSORS[name].model_fields)


def test_every_module_is_named():
    folder = Path(__file__).resolve().parents[2] / "vidcomp" / "functional"
    modules = {p.stem for p in folder.glob("*.py")} - {"__init__", "resize", "assignment"}
    for module in modules:
        assert f"`{module}`" in PAGE
