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
PAPER = r"\S.* \([A-Z][\w\-]+, (19|20)\d\d\)(, arXiv (\d\d)\d\d\.\d{5})?"


@pytest.fixture(scope="module")
def script():
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        import make_methods_page

        yield make_methods_page
    finally:
        sys.path.remove(str(ROOT / "scripts"))


@pytest.fixture
def tables(script, monkeypatch):
    """Measured tables in place of those in the docs."""
    made = {
        "compress_quality_distortion": {
            "header": ["method", "vit 2%", "dct 2%", "vit 10%", "dct 10%", "vit 25%"],
            "rows": [
                ["tome", 0.5, 0.5, 0.123, 0.4, 0.01],
                ["random", 0.9, 0.1, "-", "-", 0.4],
                ["dpc_knn", 0.6, 0.6, 0.2, 0.1, 0.02],
            ],
            "details": [{"clips": 7}],
        },
        "compress_time": {"header": ["method", "% of the encoder"], "rows": [["tome", 4.25]]},
        "compress_scale": {"header": ["method", "exponent"], "rows": [["tome", 1.04]]},
    }
    for module in ("method", "sections"):
        monkeypatch.setattr(f"methods_page.{module}.read_table", made.__getitem__)


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
    for paper in filter(None, about.paper.split("; ")):
        found = re.fullmatch(PAPER, paper)
        assert found, paper
        # The year is that of the first version, which the number tells.
        assert found[3] is None or f"20{found[3]}" == paper.split(")")[-2][-4:], paper
    assert not about.accuracy or re.search(r"\d", about.accuracy), "a figure is missing"
    for one in about.published:
        assert 0 < one.share <= 50 < one.score < 110, one
    has_stream = cls._stream is not Compressor._stream
    assert has_stream == cls.streaming, "streaming is not what it says"


def test_every_method_has_a_row_in_both_tables():
    first, second = PAGE.split("## Where they come from")
    for part in (first.split("## What they need")[1].split("## Before the")[0], second):
        assert sorted(re.findall(r"^\| `(\w+)` \|", part, re.MULTILINE)) == COMPRESSORS.names()


def test_the_answers_name_methods_that_fit():
    part = PAGE.split("## Choose in two minutes")[1].split("## What they need")[0]
    rows = [line.strip("| ").split(" | ") for line in part.splitlines() if line.startswith("| ")]
    named = {row[0]: re.findall(r"`(\w+)`", " ".join(row[1:])) for row in rows[2:]}
    assert len(named) >= 8
    for wish, names in named.items():
        assert names, wish
        for cls in map(COMPRESSORS.__getitem__, names):
            if "stream" in wish:
                assert cls.streaming, cls.name
            if "(t, h, w)" in wish:
                assert cls.kind == "prune", cls.name
            if "no more" in wish:
                assert set(cls.about.needs) <= {"features"}, cls.name
            if "question" in wish:
                assert "query" in cls.about.needs, cls.name
            if "attention" in wish:
                assert "saliency" in cls.about.needs, cls.name
            if "drop nothing" in wish:
                assert cls.kind == "merge", cls.name
    default = re.search(r"In doubt take `(\w+)`", part)
    assert default[1] in COMPRESSORS.names()


def test_measured_numbers_come_from_the_tables(script, tables):
    text = script.page()
    row = next(line for line in text.splitlines() if line.startswith("| `tome` | merge"))
    assert "| N | 1 |" in row
    assert row.endswith("| 0.5 / 0.5 | 0.12 / 0.4 | 0.01 / - | 4.2 % |")
    row = next(line for line in text.splitlines() if line.startswith("| `random` | prune"))
    assert row.endswith("| 0.9 / 0.1 | - | 0.4 / - | - |")
    assert "mean over 7 clips" in text
    row = next(line for line in text.splitlines() if "an encoder's tokens, no more" in line)
    # Geometric means of both kinds of features, without those that were not measured.
    wanted = ["`random`, `tome`", "`dpc_knn`, `tome`", "`tome`, `dpc_knn`"]
    assert row.strip("| ").split(" | ")[1:4] == wanted


def test_what_was_never_measured_is_said_so(script, monkeypatch):
    empty = {"header": [], "rows": []}
    for module in ("method", "sections"):
        monkeypatch.setattr(f"methods_page.{module}.read_table", lambda _: empty)
    assert script.page().count("not measured yet") == 2


def test_every_published_figure_has_its_row_and_its_source(script):
    part = PAGE.split("## Published answers")[1].split("## Where they come from")[0]
    rows = {}
    for line in part.splitlines():
        if line.startswith("| ") and not line.startswith(("| model", "| ---")):
            model, share, source, scores = line.strip("| ").split(" | ")
            rows[model, share, source] = re.findall(r"`(\w+)` ([\d.]+)", scores)
    for scores in rows.values():
        assert [float(score) for _, score in scores] == sorted(
            (float(score) for _, score in scores), reverse=True
        )
    wanted = {
        (one.model, f"{one.share:g} %", one.source.partition(":")[0], name, f"{one.score:g}")
        for name in COMPRESSORS.names()
        for one in COMPRESSORS[name].about.published
    }
    assert {(*at, *score) for at, scores in rows.items() for score in scores} == wanted
    assert {source for _, _, source in rows} == set(script.SOURCES)


def test_an_old_page_is_noticed(script, tmp_path, monkeypatch, capsys):
    old = tmp_path / "methods.md"
    old.write_text("old")
    monkeypatch.setattr(script, "PAGE", old)
    monkeypatch.setattr(sys, "argv", ["make_methods_page.py", "--check"])
    with pytest.raises(SystemExit) as end:
        script.main()
    assert "not current" in str(end.value)
    assert old.read_text() == "old"
