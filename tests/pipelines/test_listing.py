"""What there is can be listed, and what the list says is true."""

import json
from typing import Literal

import pytest
from click.testing import CliRunner
from pydantic import Field

from vidcomp.config import Config, load_recipe, recipe_names
from vidcomp.errors import ConfigError
from vidcomp.pipelines import listing
from vidcomp.pipelines.cli import main
from vidcomp.pipelines.listing import KINDS, describe
from vidcomp.registry import REGISTRIES

ENTRIES = [
    pytest.param(kind, entry, id=f"{kind}-{entry['name']}")
    for kind in REGISTRIES
    for entry in describe(kind)
]


class Inner(Config):
    size: int = 3


class Example(Config):
    """A class that shows ``every`` kind of setting. This is not in the summary.

    Nor is this.
    """

    mode: Literal["a", "b"] = "a"
    """How it
    is done with ``care``."""
    share: float | None = Field(None, gt=0, le=1)
    count: int
    names: tuple[str, ...] = ("x", "y")
    inner: Inner = Inner()


@pytest.mark.parametrize("kind", KINDS)
def test_entries_are_sorted_and_named_once(kind):
    names = [entry["name"] for entry in describe(kind)]
    assert names
    assert names == sorted(set(names))


@pytest.mark.parametrize(("kind", "entry"), ENTRIES)
def test_everything_registered_says_what_it_is_and_documents_its_settings(kind, entry):
    assert 10 <= len(entry["summary"]) <= 120
    assert [setting["name"] for setting in entry["settings"] if not setting["doc"]] == []


@pytest.mark.parametrize(("kind", "entry"), ENTRIES)
def test_listed_defaults_are_the_defaults(kind, entry):
    """Given back as YAML would give them, they make the same settings."""
    example = {"int": 8, "str": "x", "float": 1.0}
    required = {
        s["name"]: example.get(s["type"].split()[0]) for s in entry["settings"] if s["required"]
    }
    registry = REGISTRIES[kind]
    try:
        made = registry.make(entry["name"], **required)
    except ConfigError:
        assert required  # made-up values need not fit together
        return
    defaults = {s["name"]: s["default"] for s in entry["settings"] if not s["required"]}
    assert registry.make(entry["name"], **required, **json.loads(json.dumps(defaults))) == made


def test_settings_are_put_into_words():
    entry = listing._entry("example", Example)
    assert entry["summary"] == "A class that shows every kind of setting"
    rows = {s["name"]: (s["type"], s["default"], s["required"]) for s in entry["settings"]}
    assert rows == {
        "mode": ("a or b", "a", False),
        "share": ("float or none > 0, <= 1", None, False),
        "count": ("int", None, True),
        "names": ("list of str", ["x", "y"], False),
        "inner": ("settings", {"size": 3}, False),
    }
    assert entry["settings"][0]["doc"] == "How it is done with care."


def test_recipes_show_what_they_set():
    for entry in describe("recipes"):
        assert entry["summary"]
        sections = {s["name"]: s["default"] for s in entry["settings"]}
        assert sections == load_recipe(entry["name"]).dump()
    assert [entry["name"] for entry in describe("recipes")] == recipe_names()


def test_the_command_prints_lines_or_json():
    run = CliRunner().invoke(main, ["list", "compressors"])
    assert run.exit_code == 0
    assert [line.split()[0] for line in run.output.splitlines()] == REGISTRIES[
        "compressors"
    ].names()
    online = [line.split()[0] for line in run.output.splitlines() if line.endswith("[streaming]")]
    assert {"partition", "evs"} <= set(online)
    assert all(REGISTRIES["compressors"][name].streaming for name in online)
    assert "tome" not in online
    verbose = CliRunner().invoke(main, ["list", "samplers", "-v"]).output
    assert "    num_frames = 32 (int >= 1)" in verbose
    as_json = CliRunner().invoke(main, ["list", "encoders", "--json"]).output
    assert json.loads(as_json) == describe("encoders")


def test_unknown_kinds_name_the_known_ones():
    with pytest.raises(ConfigError, match="known are recipes, compressors, encoders"):
        describe("codecs")
