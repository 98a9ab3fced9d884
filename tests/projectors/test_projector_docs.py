"""The page on projectors is true: its code runs, and it names every projector."""

import re
from pathlib import Path

from vidcomp.registry import PROJECTORS

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "projectors.md").read_text()
CODE = re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)


def test_the_code_runs_from_top_to_bottom() -> None:
    scope: dict[str, object] = {"__name__": "docs"}
    known = dict(PROJECTORS._classes) if PROJECTORS.names() else {}
    try:
        for block in CODE:
            exec(compile(block, "docs/projectors.md", "exec"), scope)
    finally:
        PROJECTORS._classes = known


def test_every_projector_is_named() -> None:
    assert len(CODE) == 6
    for name in PROJECTORS.names():
        assert f"| `{name}` |" in PAGE
        assert set(PROJECTORS[name].model_fields) >= {"dim_in", "dim_out", "weights", "seed"}
