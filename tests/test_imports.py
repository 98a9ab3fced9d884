"""Starting is quick because nothing heavy is imported; recipes parse; the wheel is complete."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
import yaml

from vidcomp.config import Recipe, load_recipe, recipe_names

ROOT = Path(__file__).resolve().parents[1]
HEAVY = ("torch", "transformers", "av", "decord", "pytorchvideo", "numpy", "matplotlib", "PIL")
REPORT = f"import sys; print(sorted(set({HEAVY}) & set(sys.modules)))"


def run_python(code, cwd):
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=True).stdout


def test_import_vidcomp_imports_nothing_heavy(tmp_path):
    assert run_python(f"import vidcomp; {REPORT}", tmp_path).strip() == "[]"


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["extract", "--help"]])
def test_help_imports_nothing_heavy(arguments, tmp_path):
    code = (
        f"import sys; sys.argv = ['vidcomp', *{arguments}]\n"
        "from vidcomp.pipelines.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n" + REPORT
    )
    lines = run_python(code, tmp_path).splitlines()
    assert len(lines) > 1, "the command printed nothing"
    assert lines[-1] == "[]"


def test_an_editable_checkout_adds_no_name_but_vidcomp(tmp_path):
    code = (
        "from importlib.util import find_spec\n"
        "print([find_spec(name) for name in ('pipelines', 'configs', 'scripts')])"
    )
    assert run_python(code, tmp_path).strip() == "[None, None, None]"


def test_all_recipes_are_found():
    assert recipe_names() == sorted(path.stem for path in (ROOT / "configs").glob("*.yaml"))
    assert "embedded" in recipe_names()


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_parses_and_says_what_it_is(name):
    assert (ROOT / "configs" / f"{name}.yaml").read_text().startswith("# ")
    recipe = load_recipe(name)
    assert Recipe.parse(yaml.safe_load(recipe.to_yaml())) == recipe


@pytest.mark.slow
def test_the_wheel_works_alone_and_brings_nothing_but_vidcomp(tmp_path):
    wheel = build_wheel(tmp_path)
    home = tmp_path / "home"
    venv.create(home, with_pip=False)
    scheme = {"base": str(home), "platbase": str(home)}
    site = Path(sysconfig.get_path("purelib", "venv", scheme))
    python = Path(sysconfig.get_path("scripts", "venv", scheme)) / "python"
    # What vidcomp needs is taken from here; the .pth of an editable vidcomp is not followed.
    (site / "others.pth").write_text(sysconfig.get_path("purelib"))
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps"]
    subprocess.run([*install, "--no-index", "-q", str(wheel)], check=True)

    assert sorted(path.name for path in site.iterdir() if path.suffix != ".dist-info") == [
        "others.pth",
        "vidcomp",
    ]
    assert [path.name.split("-")[0] for path in site.glob("*.dist-info")] == ["vidcomp"]
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shown = run_here(python, elsewhere, "-c", "import vidcomp.pipelines; print(vidcomp.__file__)")
    assert Path(shown.strip()).is_relative_to(site)
    assert "extract" in run_here(python.with_name("vidcomp"), elsewhere, "--help")
    listed = run_here(python.with_name("vidcomp"), elsewhere, "list", "recipes")
    assert [line.split()[0] for line in listed.splitlines()] == recipe_names()


def build_wheel(folder):
    """The wheel of a copy of the sources: building writes beside them."""
    source = folder / "source"
    for name in ("vidcomp", "pipelines", "configs"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder)]
    subprocess.run([*command, str(source)], check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


def run_here(program, cwd, *arguments):
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    command = [str(program), *arguments]
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, check=True
    ).stdout
