"""Settings are strict, recipes are complete, fingerprints change when tokens may change."""

import pytest
from pydantic import Field

from vidcomp.budget import Budget
from vidcomp.config import (
    Config,
    Recipe,
    Stage,
    differences,
    fingerprint,
    identity,
    load_recipe,
    recipe_names,
    with_overrides,
)
from vidcomp.errors import ConfigError

EMBEDDED = {
    "sample": {"name": "uniform", "num_frames": 8},
    "encode": {"name": "dct"},
    "compress": {"budget": {"tokens": 64}, "stages": [{"name": "tome"}]},
}


class Toy(Config):
    """Settings for these tests."""

    size: int = Field(7, ge=1)
    """A size."""


def test_settings_are_frozen_and_strict():
    toy = Toy()
    with pytest.raises(Exception, match="frozen"):
        toy.size = 3
    with pytest.raises(ConfigError, match=r"no setting 'sise': did you mean 'size'\?"):
        Toy(sise=3)
    with pytest.raises(ConfigError, match=r"'size' is 0, but .*greater than or equal to 1"):
        Toy(size=0)


def test_every_recipe_that_comes_along_parses_and_survives_yaml(tmp_path):
    assert "embedded" in recipe_names()
    for name in recipe_names():
        recipe = load_recipe(name)
        path = tmp_path / f"{name}.yaml"
        path.write_text(recipe.to_yaml())
        assert load_recipe(path) == recipe


def test_unknown_recipe_names_the_known_ones():
    with pytest.raises(ConfigError, match=r"'embeded'.*did you mean 'embedded'\?.*known are"):
        load_recipe("embeded")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sample: [", "not YAML"),
        ("- a\n", "must be a mapping"),
        ("sample: uniform\n", "needs the setting 'encode'"),
        ("sample: {name: unifrom}\nencode: dct\n", "no sampler is called 'unifrom'"),
        ("sample: {num_frames: 3}\nencode: dct\n", "needs a name"),
        ("sample: uniform\nencode: dct\nextra: 1\n", "no setting 'extra'"),
        ("sample: {name: uniform, frames: 3}\nencode: dct\n", "no setting 'frames'"),
    ],
)
def test_a_wrong_recipe_is_one_sentence(tmp_path, text, message):
    path = tmp_path / "wrong.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        load_recipe(path)
    assert "\n" not in str(caught.value)


def test_overrides_reach_nested_places_and_lists():
    recipe = Recipe.parse(
        EMBEDDED, ["sample.num_frames=4", "compress.stages.0.name=random", "store.assign=true"]
    )
    assert recipe.sample.num_frames == 4
    assert recipe.compress.stages[0].compressor.name == "random"
    assert recipe.store.assign is True
    assert EMBEDDED["sample"]["num_frames"] == 8


def test_a_budget_override_replaces_the_old_way_of_saying_it():
    recipe = Recipe.parse(EMBEDDED, ["compress.budget.retention=0.5"])
    assert recipe.compress.budget == Budget(retention=0.5)
    assert Recipe.parse(EMBEDDED, ["compress.budget=10%"]).compress.budget.retention == 0.1


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("sample.num_frames", "looks like a.b=value"),
        ("=3", "looks like a.b=value"),
        ("compress.stages.7.name=tome", "list of 1"),
        ("sample.num_frames.x=1", "is the value 8"),
        ("sample.num_frames=[", "not YAML"),
        ("sample.num_frame=3", "did you mean 'num_frames'"),
        ("compress.budget.tokens=0", "must be more than 0"),
    ],
)
def test_a_wrong_override_is_one_sentence(override, message):
    with pytest.raises((ConfigError, ValueError), match=message):
        Recipe.parse(EMBEDDED, [override])


def test_stages_are_flat_in_yaml():
    stage = Stage(name="random", seed=3, retention=0.5)
    assert (stage.retention, stage.compressor.seed) == (0.5, 3)
    assert stage.dump() == {"name": "random", "seed": 3, "retention": 0.5}
    assert Stage(**stage.dump()) == stage
    assert Stage(stage.compressor, retention=0.5) == stage


def test_fingerprint_follows_whatever_decides_the_tokens():
    base = Recipe.parse(EMBEDDED)
    same = Recipe.parse(EMBEDDED, ["store.dtype=float32"])
    prints = {
        fingerprint(base, {}, 1),
        fingerprint(Recipe.parse(EMBEDDED, ["sample.num_frames=9"]), {}, 1),
        fingerprint(base.with_budget(Budget(tokens=65)), {}, 1),
        fingerprint(base, {"encode": "ab"}, 1),
        fingerprint(base, {}, 2),
    }
    assert len(prints) == 5
    assert fingerprint(same, {}, 1) in prints
    assert all(len(p) == 16 for p in prints)


def test_where_weights_lie_is_not_part_of_the_identity():
    here, there = (
        Recipe.parse(EMBEDDED | {"encode": {"name": "hf", "model": m}}) for m in ("a/b", "/tmp/c")
    )
    assert identity(here) == identity(there)


def test_a_budget_needs_compressors():
    dense = Recipe.parse({k: v for k, v in EMBEDDED.items() if k != "compress"})
    with pytest.raises(ConfigError, match="no compress section"):
        dense.with_budget(Budget(tokens=3))


def test_differences_names_the_leaf():
    a, b = {"x": {"y": [1, {"z": 2}]}, "same": 1}, {"x": {"y": [1, {"z": 3}]}, "same": 1}
    assert differences(a, b) == ["x.y[1].z: 2 != 3"]
    assert differences(a, a) == []
    assert differences({"a": 1}, {}) == ["a: 1 != None"]


def test_overrides_leave_the_input_alone():
    data = {"a": {"b": 1}}
    assert with_overrides(data, ["a.b=2", "c.d=3"]) == {"a": {"b": 2}, "c": {"d": 3}}
    assert data == {"a": {"b": 1}}
