"""The recipes that come along, each run from a file to tokens on tiny random weights."""

from pathlib import Path

import pytest
import torch
from clips import moving_square, write_clip

from vidcomp.api import compress
from vidcomp.config import load_recipe, recipe_names

RECIPES = {  # recipe: tiny model, further overrides, tokens of a clip of 24 frames
    "siglip2-196": ("siglip", [], 196),
    "clip-576-to-144-deco": (
        "clip",
        ["project.dim_in=32", "project.dim_out=16", "project.tokens_per_frame=9"],
        24 * 9,
    ),
    "dvae-ids": ("dvae", [], 24 * 16),
    "dinov2-tome": ("dinov2", [], 24 * 16 // 8),
    "vjepa2": ("vjepa2", ["compress.budget.tokens=100"], 100),
    "pytorchvideo-mvit": ("mvit", ["sample.fps=10"], 24 // 2 * 16 // 4),
    "video-llm": ("vlm/qwen3_vl", ["encode.dtype=float32"], 2 * 10 * 14),
    "perceiver-64": ("siglip", ["project.dim_in=32", "project.dim_out=16"], 64),
}


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clips") / "clip.mp4"
    return write_clip(path, moving_square(24, 90, 120), fps=10)


@pytest.mark.filterwarnings("ignore::UserWarning:transformers.*")
@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_runs_on_tiny_weights(name: str, tiny, clip: Path):
    model, overrides, num_tokens = RECIPES[name]
    recipe = load_recipe(name, [f"encode.model={tiny(model)}", *overrides])
    video = compress(clip, recipe=recipe)
    assert len(video) == num_tokens
    assert torch.isfinite(video.tokens).all()
    assert video.spans[:, 1].max() == pytest.approx(2.4, abs=0.01)
    again = compress(clip, recipe=recipe)
    assert torch.equal(video.tokens, again.tokens)


def test_every_recipe_that_needs_weights_is_run_here():
    needy = {name for name in recipe_names() if hasattr(load_recipe(name).encode, "model")}
    assert needy == set(RECIPES)


def test_the_numbers_in_the_recipes_are_those_of_the_models():
    """A projector's width must be the encoder's, whose weights are not here to ask."""
    assert load_recipe("clip-576-to-144-deco").project.dim_in == 1024
    assert load_recipe("clip-576-to-144-deco").encode.layer == -2
    assert load_recipe("vjepa2").sample.num_frames == 64
