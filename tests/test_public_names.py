"""What is public is said in ``__all__``, can be imported, and is packaged."""

import ast
import importlib
import tomllib
from pathlib import Path

import pytest

import vidcomp

ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted(
    path
    for folder in ("vidcomp", "pipelines")
    for path in (ROOT / folder).rglob("*.py")
    if not path.name.startswith("_")
)
PACKAGES = sorted(
    path.parent.relative_to(ROOT)
    for folder in ("vidcomp", "pipelines", "configs")
    for path in (ROOT / folder).rglob("__init__.py")
)


def dotted(path):
    """``vidcomp.a.b`` of a file or folder; the outer folders are installed inside vidcomp."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts if parts[0] == "vidcomp" else ("vidcomp", *parts))


def declared_names(path):
    """(names in ``__all__``, public functions and classes of the module's top level)."""
    exported, defined = None, set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            exported = ast.literal_eval(node.value)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            defined |= {node.name} - {name for name in [node.name] if name.startswith("_")}
    return exported, defined


def sort_key(name):
    """CONSTANTS, then Classes, then functions."""
    return (0 if name.isupper() else 1 if name[0].isupper() else 2, name)


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_all_is_sorted_complete_and_true(path):
    exported, defined = declared_names(path)
    assert exported is not None, "say what is public in __all__"
    assert exported == sorted(set(exported), key=sort_key)
    # The functions of the command line belong to click, which finds them by decorator.
    if not path.match("pipelines/cli*.py"):
        assert defined <= set(exported)
    module = importlib.import_module(dotted(path))
    assert [name for name in exported if not hasattr(module, name)] == []


@pytest.mark.parametrize("package", PACKAGES, ids=str)
def test_what_a_package_exports_is_there(package):
    module = importlib.import_module(dotted(ROOT / package))
    names = getattr(module, "__all__", [])
    assert names == sorted(set(names), key=sort_key) or module is vidcomp
    assert [name for name in names if not hasattr(module, name)] == []


@pytest.mark.parametrize("name", vidcomp.__all__)
def test_every_name_of_vidcomp_can_be_imported_and_is_documented(name):
    value = getattr(vidcomp, name)
    assert name in dir(vidcomp)
    assert name == "__version__" or (value.__doc__ or "").strip()


def test_names_of_vidcomp_are_typed_as_they_are_found():
    """The lazy table and the imports that type checkers read say the same."""
    tree = ast.parse((ROOT / "vidcomp" / "__init__.py").read_text())
    typed = {
        alias.asname or alias.name: node.module
        for block in tree.body
        if isinstance(block, ast.If)
        for node in ast.walk(block)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    # The package compress can be called, which type checkers would not understand.
    assert typed == vidcomp._PLACES | {"compress": "vidcomp.api"}


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'compres'"):
        vidcomp.compres  # noqa: B018


def test_the_package_list_is_what_the_folders_hold():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert settings["packages"] == sorted(dotted(ROOT / package) for package in PACKAGES)
    with_code = {p.parent for f in ("vidcomp", "pipelines") for p in (ROOT / f).rglob("*.py")}
    assert with_code <= {ROOT / package for package in PACKAGES}, "a folder lacks its __init__.py"
