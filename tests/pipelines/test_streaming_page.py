"""What the page on long videos says works as it says."""

import re
from pathlib import Path

import yaml
from click.testing import CliRunner
from clips import moving_square, write_clip

from vidcomp.compress.base import Compressor
from vidcomp.config import Recipe
from vidcomp.pipelines.cli import main
from vidcomp.pipelines.extraction.live import _base_now
from vidcomp.registry import COMPRESSORS
from vidcomp.sample.decode import LIVE_SCHEMES
from vidcomp.store import TokenCache

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "streaming.md").read_text()


def block(language):
    return re.search(rf"^```{language}\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)[1]


def test_its_recipe_and_its_commands_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clips").mkdir()
    write_clip("clips/clip.mp4", moving_square(25, 32, 48), fps=10)
    recipe = Recipe.parse(yaml.safe_load(block("yaml")))
    assert recipe.compress is not None
    assert recipe.compress.stream
    (tmp_path / "live.yaml").write_text(block("yaml"))
    for line in block("console").splitlines():
        words = [word.strip("'") for word in line.removeprefix("$ vidcomp ").split()]
        done = CliRunner().invoke(main, words)
        assert done.exit_code == 0, done.output
    assert sorted(TokenCache("windows")) == ["clip.mp4@0-1", "clip.mp4@1-2", "clip.mp4@2-2.5"]
    assert {len(TokenCache("windows")[key]) for key in TokenCache("windows")} == {64}

    write_clip("recording.ts", moving_square(25, 32, 48), fps=10)
    words = ["extract", "--live", "recording.ts", "--window", "1", "--recipe", "live.yaml"]
    done = CliRunner().invoke(main, [*words, "--out", "cache", "--stall", "1"])
    assert done.exit_code == 0, done.output
    assert sorted(TokenCache("cache"))[-1] == "recording.ts@2-2.5"
    for wrong in (["--start", "2"], ["--limit", "1"], ["--window", "0"]):
        done = CliRunner().invoke(main, [*words, "--out", "cache", *wrong])
        assert done.exit_code == 2, done.output


def test_it_names_the_methods_and_the_addresses_that_there_are():
    table = PAGE.split("| last stage |")[1].split("`vidcomp list")[0]
    named = {name for row in table.splitlines() for name in re.findall(r"`(\w+)`", row[:60])}
    streaming = {
        name
        for name in COMPRESSORS.names()
        if issubclass(COMPRESSORS[name], Compressor) and COMPRESSORS[name].streaming
    }
    assert streaming <= named
    for scheme in LIVE_SCHEMES:
        plain = scheme.removesuffix("s")
        assert f"`{scheme}`" in PAGE or f"`{plain}(s)`" in PAGE
    assert re.fullmatch(r"cam/1/\d{8}T\d{6}\.\d{3}Z", _base_now("cam/1"))
