"""The page on questions says what is true: its code runs as it stands."""

import re
from pathlib import Path

import pytest
from store_builders import tiny, write

from vidcomp.data.annotations import _KNOWN

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "qa-data.md").read_text()


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The folder that the page speaks of."""
    monkeypatch.chdir(tmp_path)
    (annotations,) = re.findall(r"^```json\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
    (tmp_path / "qa.jsonl").write_text(annotations)
    videos = {}
    for i, key in enumerate(("a.mp4", "b.mp4")):
        video = tiny(8, 6, i, assign=None)
        video.spans[:, 0] = video.spans.new_tensor(range(8)) / 4
        video.spans[:, 1] = video.spans[:, 0] + 0.25
        videos[key] = video
    write(tmp_path / "cache", videos)


def test_the_code_runs(place):
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
    assert len(blocks) == 6
    scope = {}
    for block in blocks:
        exec(compile(block, "docs/qa-data.md", "exec"), scope)


def test_the_names_of_columns_are_those_that_are_looked_for():
    rows = dict(re.findall(r"^\| `(\w+)=`.*?\| (.*) \|$", PAGE, flags=re.MULTILINE))
    told = {role: tuple(re.findall(r"`([^`]+)`", names)) for role, names in rows.items()}
    assert told == _KNOWN
