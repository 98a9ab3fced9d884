"""Patches that did not change are never encoded: in one call, and in the main job."""

import pytest
import torch
import yaml
from clips import moving_square, write_clip
from tiny_models import save_tiny

import vidcomp as vc
from vidcomp.config import fingerprint, identity
from vidcomp.store import open_cache

SELECT = {"name": "dtd_pixels", "threshold": 0.03}
DATA = {
    "sample": {"name": "uniform", "num_frames": 40},
    "encode": {"name": "dct", "size": 56},
    "select": SELECT,
    "compress": {"budget": {"tokens": 20}, "stages": [{"name": "uniform"}]},
}


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Forty frames: more than a chunk."""
    folder = tmp_path_factory.mktemp("still")
    return write_clip(folder / "square.mp4", moving_square(40, 64, 64, seed=1))


def dense(recipe, clip):
    return vc.compress(clip, recipe=recipe, budget="100%")


def test_one_call_encodes_what_changed(clip):
    recipe = vc.Recipe.parse(DATA)
    everything = dense(vc.Recipe.parse({**DATA, "select": None}), clip)
    chosen = dense(recipe, clip)
    assert everything.grid == chosen.grid == (40, 4, 4)
    assert 16 <= len(chosen) < len(everything) == 640
    assert bool((chosen.assign[:16] >= 0).all())  # the first frame is whole
    kept = (chosen.assign >= 0).nonzero().squeeze(1)
    # Each token of this encoder is its own patch's, whoever else is encoded.
    torch.testing.assert_close(chosen.tokens, everything.tokens[kept], atol=1e-5, rtol=1e-5)
    assert torch.equal(chosen.positions, everything.positions[kept])
    assert len(vc.compress(clip, recipe=recipe)) == 20
    share = vc.compress(clip, recipe=recipe, budget="25%")
    assert len(share) == len(chosen) // 4  # budgets count what is left


def test_the_choice_is_that_of_the_whole_video(clip):
    """The job reads chunks of 32 frames; the selector carries on."""
    recipe = vc.Recipe.parse(DATA)
    frames = vc.read_frames(clip, recipe.sample, size=56)
    encoder = vc.encoder("dct", size=56)
    grid = encoder.grid(40, 56, 56)
    mask = vc.selector(**SELECT)(frames, grid, patch=encoder.patch)
    assert torch.equal(mask.flatten(), dense(recipe, clip).assign >= 0)


def test_an_exact_share_of_the_video(clip):
    for share in (0.1, 0.37):
        recipe = vc.Recipe.parse({**DATA, "select": {"name": "difffp", "retention": share}})
        assert len(dense(recipe, clip)) == int(share * 640)


def test_transformers_run_on_what_is_left(clip, tmp_path, monkeypatch):
    model = str(save_tiny("siglip", tmp_path / "siglip"))
    recipe = vc.Recipe.parse({**DATA, "encode": {"name": "hf", "model": model}})

    def never(self, clips):
        raise AssertionError("a whole picture was encoded")

    monkeypatch.setattr("vidcomp.encode.hf.HfEncoder.features", never)
    kept = dense(recipe, clip)
    assert 16 <= len(kept) < 640
    assert bool(torch.isfinite(kept.tokens).all())


def test_the_job_does_the_same(vidcomp, clip, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(DATA))
    (tmp_path / "in").mkdir()
    write_clip(tmp_path / "in" / "b.mp4", moving_square(9, 64, 64, seed=2))
    (tmp_path / "in" / "a.mp4").write_bytes(clip.read_bytes())
    out = tmp_path / "cache"
    run = vidcomp("extract", tmp_path / "in", "--out", out, "--recipe", recipe, "-q", "--json")
    assert (run.code, run.json["done"]) == (0, 2)
    cache = open_cache(out)
    loaded = vc.Recipe.parse(DATA)
    for key in ("a.mp4", "b.mp4"):
        path = tmp_path / "in" / key
        expected = vc.compress(path, recipe=loaded)
        assert len(cache[key]) == 20
        assert torch.equal(cache[key].positions, expected.positions)
        tokens_in = cache.meta(key)["tokens_in"]
        assert tokens_in == len(dense(loaded, path)) < cache[key].grid.num_patches
    again = vidcomp("extract", tmp_path / "in", "--out", out, "--recipe", recipe, "-q", "--json")
    assert (again.code, again.json["done"]) == (0, 0)
    other = vidcomp(
        "extract", tmp_path / "in", "--out", out, "--recipe", recipe, "-q",
        "--set", "select.threshold=0.04",
    )  # fmt: skip
    assert other.code != 0
    assert "select.threshold" in other.out + other.err


def test_recipes_say_it_and_fingerprints_know_it():
    with_select = vc.Recipe.parse(DATA)
    without = vc.Recipe.parse({k: v for k, v in DATA.items() if k != "select"})
    assert with_select.select.threshold == 0.03
    assert vc.Recipe.parse(yaml.safe_load(with_select.to_yaml())) == with_select
    assert "select" not in identity(without)
    assert fingerprint(with_select, {}, 1) != fingerprint(without, {}, 1)
    set_later = vc.Recipe.parse(without.dump(), ["select={name: dtd_pixels, threshold: 0.03}"])
    assert fingerprint(set_later, {}, 1) == fingerprint(with_select, {}, 1)


def test_a_choice_that_cannot_be_made_fails_alone(vidcomp, clip, tmp_path):
    """Three of each frame do not fit a share of a hundredth of sixteen."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.mp4").write_bytes(clip.read_bytes())
    recipe = tmp_path / "recipe.yaml"
    select = {"name": "difffp", "retention": 0.01, "min_tokens": 3}
    recipe.write_text(yaml.safe_dump({**DATA, "select": select}))
    run = vidcomp("extract", tmp_path / "in", "--out", tmp_path / "cache", "--recipe", recipe, "-q")
    assert run.code == 3
    assert "min_tokens=3" in run.out + run.err


def test_selectors_are_listed(vidcomp):
    assert [line.split()[0] for line in vidcomp("list", "selectors").out.splitlines()] == [
        "difffp",
        "dtd_pixels",
    ]
