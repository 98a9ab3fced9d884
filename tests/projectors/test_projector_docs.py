"""The page on projectors is true: its code runs, and its tables say what the projectors say."""

import re
from pathlib import Path
from types import ModuleType

import pytest

from vidcomp.registry import PROJECTORS

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "projectors.md").read_text()
CODE = re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)


def test_the_code_runs_from_top_to_bottom() -> None:
    scope: dict[str, object] = {"__name__": "docs"}
    known = dict(PROJECTORS._classes) if PROJECTORS.names() else {}
    try:
        for block in CODE:
            exec(compile(block, "docs/projectors.md", "exec"), scope)
    finally:
        PROJECTORS._classes = known


@pytest.fixture(scope="module")
def script() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "scripts")
        import make_projectors_page

        return make_projectors_page


def rows(columns: int) -> list[list[str]]:
    """The cells of the table with so many columns, below its head."""
    made = PAGE.partition("<!-- projectors -->")[2].partition("<!-- end projectors -->")[0]
    lines = [line.strip("| ").split(" | ") for line in made.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line] for line in lines if len(line) == columns][2:]


def test_the_tables_are_current(script: ModuleType) -> None:
    names = PROJECTORS.names()
    assert [row[:-1] for row in rows(len(script.HEADER))] == [script.facts(n) for n in names]
    assert rows(3) == [script.source(name) for name in names]
    assert f"of {script.GRID.num_patches:,}" in script.HEADER


@pytest.mark.parametrize("name", PROJECTORS.names())
def test_every_projector_says_what_it_is(name: str) -> None:
    config = PROJECTORS[name]
    assert set(config.model_fields) >= {"dim_in", "dim_out", "weights", "seed"}
    assert config.__doc__
    assert config.about.tokens
    assert re.fullmatch(r"(\S.* \([^()]+, (19|20)\d\d\)(; )?)*", config.about.paper)
