"""Files and functions stay small enough to be read in one go."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted(
    path for folder in ("vidcomp", "pipelines", "scripts") for path in (ROOT / folder).rglob("*.py")
)


def function_lengths(path):
    """Lines of each function or method of a file by name, docstrings not counted."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        length = node.end_lineno - node.lineno + 1
        if ast.get_docstring(node, clean=False) is not None:
            length -= node.body[0].end_lineno - node.body[0].lineno + 1
        yield f"{path.relative_to(ROOT)}:{node.name}", length


def test_the_watch_sees_the_code():
    assert len(FILES) > 40
    assert dict(function_lengths(Path(__file__)))["tests/test_size_watch.py:function_lengths"] == 8


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_is_over_400_lines_and_no_function_over_60(path):
    assert len(path.read_text().splitlines()) <= 400
    assert [item for item in function_lengths(path) if item[1] > 60] == []


def test_three_functions_in_four_fit_in_20_lines():
    lengths = [length for path in FILES for _, length in function_lengths(path)]
    assert sum(length <= 20 for length in lengths) >= 0.75 * len(lengths)
