"""The recipe ``perceiver-64``: complete, and the same tokens in every run."""

from pathlib import Path

import pytest
import torch
from tiny_models import save_tiny

from vidcomp.api import prepare
from vidcomp.config import Recipe, fingerprint, load_recipe
from vidcomp.types import Frames, VideoTokens


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """With a tiny random SigLIP in place of the published one."""
    folder: Path = tmp_path_factory.mktemp("siglip")
    save_tiny("siglip", folder)
    small = [f"encode.model={folder}", "project.dim_in=32", "project.dim_out=24"]
    return load_recipe("perceiver-64", [*small, "project.depth=2"])


def tokens(recipe: Recipe) -> VideoTokens:
    data = torch.arange(4 * 3 * 32 * 32).view(4, 3, 32, 32).mul(7).remainder(256).to(torch.uint8)
    times = torch.arange(4, dtype=torch.float64)
    ready = prepare(recipe)
    (dense,) = ready.encode([Frames(data=data, pts_s=times, duration_s=torch.ones_like(times))])
    return ready.reduce(dense, 4, 4.0)


def test_the_sizes_are_those_of_the_encoder() -> None:
    recipe = load_recipe("perceiver-64")
    assert recipe.project.dump() == {
        "name": "perceiver",
        "dim_in": 768,
        "dim_out": 896,
        "weights_prefix": "",
        "seed": 0,
        "num_latents": 64,
        "depth": 6,
        "heads": 8,
        "dim_head": 64,
        "ff_mult": 4,
        "max_frames": recipe.sample.num_frames,
        "max_clips": 0,
    }


def test_a_video_becomes_64_tokens_the_same_in_every_run(recipe: Recipe) -> None:
    torch.manual_seed(1)
    first = tokens(recipe)
    torch.manual_seed(2)
    second = tokens(recipe)
    assert first.tokens.shape == (64, 24)
    assert torch.equal(first.tokens, second.tokens)
    assert not torch.equal(first.tokens[0], first.tokens[1])


def test_another_seed_is_another_cache(recipe: Recipe) -> None:
    other = Recipe.parse(recipe.dump(), ["project.seed=1"])
    assert fingerprint(recipe, {}, 1) != fingerprint(other, {}, 1)
    assert not torch.equal(tokens(recipe).tokens, tokens(other).tokens)
