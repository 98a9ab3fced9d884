"""Codebook ids from pixels to a cache and back."""

import pytest
import torch
from tiny_models import save_tiny

import vidcomp as vc


@pytest.fixture(scope="module")
def dvae(tmp_path_factory):
    return save_tiny("dvae", tmp_path_factory.mktemp("models") / "dvae")


@pytest.fixture
def extract_ids(vidcomp, dvae):
    def call(*args, recipe="dvae-ids"):
        own = ["--recipe", recipe, "--set", f"encode.model={dvae}", "--isolation", "thread"]
        return vidcomp("extract", *args, *own, "-q")

    return call


@pytest.mark.parametrize("codec", ["zstd", "none"])
def test_a_cache_gives_the_ids_back(codec, extract_ids, vidcomp, clips, dvae, tmp_path):
    out = tmp_path / "cache"
    ran = extract_ids(clips, "--out", out, "--set", f"store.codec={codec}")
    assert ran.code == 0, ran.err
    assert vidcomp("cache", "verify", out).code == 0
    cache = vc.open_cache(out)
    recipe = vc.load_recipe("dvae-ids", [f"encode.model={dvae}"])
    for key in cache:
        stored, made = cache[key], vc.compress(clips / key, recipe=recipe)
        assert stored.tokens.dtype == torch.int64
        assert len(stored.tokens.unique()) > 3
        for name in ("tokens", "positions", "spans", "mass"):
            assert torch.equal(getattr(stored, name), getattr(made, name))
        assert stored.grid == made.grid
        assert len(stored) == stored.grid.num_patches == stored.grid.t * 16


def test_stored_ids_are_thinned_out_and_never_averaged(extract_ids, vidcomp, clips, tmp_path):
    out, small = tmp_path / "cache", tmp_path / "small"
    assert extract_ids(clips / "clip0.mp4", clips / "clip2.mp4", "--out", out).code == 0

    def recompress(stage, to):
        settings = f"compress={{budget: {{tokens: 10}}, stages: [{{name: {stage}}}]}}"
        return vidcomp("recompress", out, "--out", to, "--set", settings, "-q")

    assert recompress("uniform", small).code == 0
    before, after = vc.open_cache(out), vc.open_cache(small)
    for key in before:
        dense, kept = before[key], after[key]
        assert len(kept) == 10
        rows = [dense.positions.tolist().index(place) for place in kept.positions.tolist()]
        assert rows == sorted(rows)
        assert torch.equal(kept.tokens, dense.tokens[rows])
        assert torch.equal(kept.spans, dense.spans[rows])
        assert torch.equal(kept.mass, torch.ones(10))
    batch = vc.TokenBatch.pack([after[key] for key in after])
    assert batch.tokens.dtype == torch.int64
    refused = recompress("tome", tmp_path / "none")
    assert refused.code == 3
    assert "'tome' computes with features, got torch.int64 ids" in refused.err + refused.out


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            "compress={budget: {tokens: 9}, stages: [{name: divprune}]}",
            "would have to compare or average",
        ),
        ("project={name: linear, dim_in: 4, dim_out: 3}", "leave project out"),
    ],
)
def test_a_recipe_that_computes_with_ids_is_refused(
    settings, message, extract_ids, clips, tmp_path
):
    ran = extract_ids(clips, "--out", tmp_path / "cache", "--set", settings)
    assert ran.code == 2
    assert message in ran.err
    assert not (tmp_path / "cache" / "shards").exists()
