"""Names lead to classes, and a wrong one to the known ones."""

import pytest

from vidcomp.errors import ConfigError
from vidcomp.registry import COMPRESSORS, REGISTRIES, Registry


@pytest.mark.parametrize("kind", sorted(REGISTRIES))
def test_every_registered_class_knows_its_name(kind):
    registry = REGISTRIES[kind]
    assert registry.names()
    assert all(registry[name].name == name for name in registry.names())
    assert all(registry[name].__doc__ for name in registry.names())


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ConfigError, match=r"no compressor is called 'tom': did you mean 'tome'\?"):
        COMPRESSORS.make("tom")


def test_a_name_is_given_once():
    registry = Registry("thing", "vidcomp.functional")
    registry.add("a")(type("First", (), {}))
    with pytest.raises(ConfigError, match="'a' is taken by"):
        registry.add("a")(type("Second", (), {}))


def test_parse_takes_names_mappings_and_made_settings():
    made = COMPRESSORS.parse("random")
    assert COMPRESSORS.parse(made) is made
    assert COMPRESSORS.parse({"name": "random", "seed": 0}) == made
    with pytest.raises(ConfigError, match="needs a name"):
        COMPRESSORS.parse({"seed": 0})
