"""The page on sampling names everything there is, and its examples run."""

import re
from pathlib import Path

import pytest
import yaml
from clips import moving_square, write_clip

from vidcomp.config import load_recipe
from vidcomp.functional.resize import Resize
from vidcomp.registry import ENCODERS, SAMPLERS, SELECTORS

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "sampling.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.mark.parametrize("name", SAMPLERS.names())
def test_every_sampler_and_all_its_settings_are_described(name):
    assert re.search(rf"^\| `{name}` \|", PAGE, flags=re.MULTILINE)
    (text,) = re.findall(rf"^\*\*`{name}`\*\*: ([^.]*)\.", PAGE, flags=re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", text)) == set(SAMPLERS[name].model_fields)


def test_every_policy_and_all_its_settings_are_described():
    text = PAGE.partition("## Resolution policies")[2]
    modes = re.findall(r"^\| `(\w+)` \|", text, flags=re.MULTILINE)
    assert modes[1:] == list(Resize.model_fields["mode"].annotation.__args__)
    assert set(Resize.model_fields) <= set(re.findall(r"`(\w+)`", text))


def test_the_python_examples_run(tmp_path, monkeypatch):
    write_clip(tmp_path / "clip.mp4", moving_square(40))
    monkeypatch.chdir(tmp_path)
    scope = {}
    counts = []
    for block in blocks("python"):
        exec(block, scope)
        counts.append(len(scope["frames"]))
    assert counts == [4, 2, 8]


def test_the_yaml_example_is_part_of_a_recipe():
    part = yaml.safe_load(blocks("yaml")[0])
    assert SAMPLERS.parse(part["sample"]).max_frames == 64
    assert ENCODERS.parse(part["encode"]).resize.mode == "letterbox"
    overrides = [f"sample={part['sample']}", f"encode={part['encode']}"]
    assert load_recipe("embedded", overrides).sample.fps == 2.0


def test_every_selector_and_all_their_settings_are_described():
    text = PAGE.partition("## Selectors")[2].partition("\n## ")[0]
    words = set(re.findall(r"^\| `(\w+)` \|", text, flags=re.MULTILINE))
    fields = {name for s in SELECTORS.names() for name in SELECTORS[s].model_fields}
    assert words == {*SELECTORS.names(), *fields}
    part = yaml.safe_load(blocks("yaml")[1])
    assert load_recipe("embedded", [f"select={part['select']}"]).select.threshold == 2.0
