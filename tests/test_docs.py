"""What the documents say is true: their code runs, their names and paths exist."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from clips import moving_square, write_clip

from vidcomp.config import Recipe, recipe_names
from vidcomp.pipelines.cli import main
from vidcomp.registry import REGISTRIES

ROOT = Path(__file__).resolve().parents[1]
DOCS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
README, GUIDE = DOCS[0].read_text(), (ROOT / "docs" / "guide.md").read_text()


def blocks(text, language):
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def commands(text):
    lines = [line for block in blocks(text, "console") for line in block.splitlines()]
    return [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The current folder, with a clip and a folder of clips, as the documents assume."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clips").mkdir()
    for name in ("clip.mp4", "clips/clip.mp4", "clips/other.mp4"):
        write_clip(tmp_path / name, moving_square(40, 72, 96, seed=len(name)), fps=10)
    return tmp_path


def run_python(code):
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{code}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def vidcomp_command(line):
    """Runs a command line in this process, which spares the imports; returns what it prints."""
    program, *words = shlex.split(line, comments=True)
    assert program == "vidcomp"
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, f"{line}\n{done.output}\n{done.exception!r}"
    return done.stdout


def test_the_python_of_the_readme_runs(place):
    (code,) = blocks(README, "python")
    lines = [line for line in code.splitlines() if line.strip() and not line.startswith("#")]
    assert len(lines) <= 20
    vidcomp_command("vidcomp extract clips/ --out cache/ --workers 1")
    assert "torch.Size([196, 48])" in run_python(code)


def test_the_commands_of_the_readme_run(place):
    lines = commands(README)
    assert len(lines) > 10
    printed = [vidcomp_command(line) for line in lines]
    assert "already cached" in printed[1]
    assert (place / "map.png").stat().st_size > 1000
    assert (place / "part.png").stat().st_size > 1000


@pytest.mark.parametrize("code", blocks(GUIDE, "python"), ids=lambda code: code.split("@")[-1][:9])
def test_the_python_of_the_guide_runs(place, code):
    run_python(code)


def test_the_recipe_of_the_guide_parses():
    (text,) = blocks(GUIDE, "yaml")
    assert text.startswith("# ")
    recipe = Recipe.parse(yaml.safe_load(text))
    assert len(recipe.compress.stages) == 2


@pytest.mark.parametrize("kind", [*REGISTRIES, "recipes"])
def test_the_readme_and_the_changelog_name_everything_there_is(kind):
    names = recipe_names() if kind == "recipes" else REGISTRIES[kind].names()
    for path in DOCS[:2]:
        assert [name for name in names if f"`{name}`" not in path.read_text()] == [], path.name


def test_the_readme_names_nothing_that_is_not_there():
    known = {name for registry in REGISTRIES.values() for name in registry.names()}
    table = README.split("## What is supported")[1].split("## More")[0]
    kinds = r"Samplers|Selectors|Encoders|Compressors|Projectors|Recipes"
    rows = re.findall(rf"^\| (?:{kinds}) \|(.*)\|$", table, flags=re.MULTILINE)
    assert len(rows) == 6
    named = {name for row in rows for name in re.findall(r"`([^`]+)`", row)}
    assert named <= known | set(recipe_names())


def test_the_tree_of_the_readme_is_the_tree():
    lines = blocks(README.split("## The folders")[1], "")[0].splitlines()
    parents, paths = [], set()
    for line in lines:
        name, phrase = line.split(maxsplit=1)
        depth = (len(line) - len(line.lstrip())) // 2
        parents = [*parents[:depth], name]
        paths.add(Path(*parents))
        assert phrase
    assert [path for path in paths if not (ROOT / path).exists()] == []
    packages = {path.parent.relative_to(ROOT) for path in (ROOT / "vidcomp").rglob("__init__.py")}
    assert packages <= paths


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", path.read_text()):
        assert target.startswith("https://") or (path.parent / target).exists(), target
