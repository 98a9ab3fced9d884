"""The page of methods is what its script writes, and every method says enough of itself for it."""

import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from vidcomp.compress.base import About, Compressor, Scaling
from vidcomp.registry import COMPRESSORS

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "methods.md").read_text()
NEEDS = {"features", "saliency", "keys", "query"}


@pytest.fixture(scope="module")
def script():
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        import make_methods_page

        yield make_methods_page
    finally:
        sys.path.remove(str(ROOT / "scripts"))


def test_the_pages_are_current():
    command = [sys.executable, str(ROOT / "scripts" / "make_methods_page.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", COMPRESSORS.names())
def test_every_method_says_what_it_is(name):
    cls = COMPRESSORS[name]
    own = next(base for base in cls.__mro__ if "about" in vars(base))
    assert own is not Compressor, "it says nothing of itself: give it an About"
    about = cls.about
    assert isinstance(about, About)
    assert about.cost
    assert about.scaling in get_args(Scaling)
    assert set(about.needs) <= NEEDS
    assert not about.paper or re.search(r"\((\w[\w\- ]*, )?20\d\d\)$", about.paper), about.paper
    assert not about.accuracy or re.search(r"\d", about.accuracy), "a figure is missing"
    has_stream = cls._stream is not Compressor._stream
    assert has_stream == cls.streaming, "streaming is not what it says"


def test_every_method_has_a_row_in_both_tables():
    first, second = PAGE.split("## Where they come from")
    for part in (first.split("## What they need")[1], second):
        assert sorted(re.findall(r"^\| `(\w+)` \|", part, re.MULTILINE)) == COMPRESSORS.names()


def test_the_answers_name_methods_that_fit():
    answers = PAGE.split("## Choose in two minutes")[1].split("## What they need")[0]
    named = {
        line.split("**")[1]: re.findall(r"`(\w+)`", line.split("**: ")[1])
        for line in answers.splitlines()
        if line.startswith("* ")
    }
    assert len(named) >= 6
    known = set(COMPRESSORS.names())
    for wish, names in named.items():
        assert names, wish
        assert set(names) <= known, wish
        for cls in map(COMPRESSORS.__getitem__, names):
            if "stream" in wish:
                assert cls.streaming, cls.name
            if "(t, h, w)" in wish:
                assert cls.kind == "prune", cls.name
            if "question" in wish:
                assert "query" in cls.about.needs, cls.name
            if "looks at" in wish:
                assert "saliency" in cls.about.needs, cls.name


def test_measured_numbers_come_from_the_tables(script, monkeypatch):
    tables = {
        "compress_quality_distortion": {
            "header": ["method", "vit 2%", "vit 10%", "vit 25%"],
            "rows": [["tome", 0.5, 0.123, 0.01], ["random", 0.9, "-", 0.4]],
            "details": [{"clips": 7}],
        },
        "compress_time": {"header": ["method", "% of the encoder"], "rows": [["tome", 4.25]]},
    }
    monkeypatch.setattr(script, "_read", lambda name: tables[name])
    text = script.page()
    row = next(line for line in text.splitlines() if line.startswith("| `tome` | merge"))
    assert row.endswith("| 0.5 | 0.12 | 0.01 | 4.2 % |")
    row = next(line for line in text.splitlines() if line.startswith("| `random` | prune"))
    assert row.endswith("| 0.9 | - | 0.4 | - |")
    assert "mean over 7 clips" in text
    assert "least distortion `tome`" in text


def test_an_old_page_is_noticed(script, tmp_path, monkeypatch, capsys):
    old = tmp_path / "methods.md"
    old.write_text("old")
    monkeypatch.setattr(script, "PAGE", old)
    monkeypatch.setattr(sys, "argv", ["make_methods_page.py", "--check"])
    with pytest.raises(SystemExit) as end:
        script.main()
    assert "not current" in str(end.value)
    assert old.read_text() == "old"
