"""Tokens of a video language model's own encoder through extract and recompress."""

import pytest
import torch
from clips import moving_square, write_clip
from llm.tiny_folders import save_folder

from vidcomp import compressor
from vidcomp.store import open_cache

pytestmark = pytest.mark.filterwarnings("ignore")  # of transformers, about its own classes
OWN = ["--recipe", "video-llm", "--set", "encode.dtype=float32", "--set", "store.dtype=float32"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_folder("qwen3_vl", tmp_path_factory.mktemp("vlm") / "model")


@pytest.mark.parametrize("isolation", ["thread", "process"])
def test_tokens_of_many_sizes_are_cached_with_what_the_model_needs(
    vidcomp, clips, folder, tmp_path, isolation
):
    out = tmp_path / "cache"
    model = f"encode.model={folder}"
    made = vidcomp(
        "extract", clips, "--out", out, *OWN, "--set", model, "--isolation", isolation, "-q"
    )
    assert made.code == 0, made.err
    cache = open_cache(out)
    sizes = set()
    for key in cache.keys():  # noqa: SIM118
        video, meta = cache[key], cache.meta(key)
        assert video.tokens.shape == (video.grid.num_patches, 32)
        assert set(video.extras) == {"deepstack.0", "deepstack.1"}
        assert video.frame_extras["pts_s"].shape == (video.grid.t, 2)
        assert video.frame_extras["pts_s"].dtype == torch.float64
        assert video.grid[1:] == (meta["resize"]["height"] // 8, meta["resize"]["width"] // 8)
        sizes.add(video.grid[1:])
    assert len(sizes) > 2
    assert (
        "5 are already cached" in vidcomp("extract", clips, "--out", out, *OWN, "--set", model).out
    )
    small = tmp_path / "small"
    stages = "compress={budget: 20, stages: [partition]}"
    assert vidcomp("recompress", out, "--out", small, "--set", stages, "-q").code == 0
    first = sorted(cache.keys())[0]
    expected = compressor("partition")(cache[first], 20)
    found = open_cache(small)[first]
    assert torch.equal(found.assign, expected.assign)
    torch.testing.assert_close(found.extras["deepstack.1"], expected.extras["deepstack.1"])
    assert torch.equal(found.frame_extras["pts_s"], expected.frame_extras["pts_s"])


def test_a_map_is_drawn_of_pictures_whose_size_follows_the_video(vidcomp, folder, tmp_path):
    clip = write_clip(tmp_path / "a.mp4", moving_square(12, 90, 120))
    out, picture = tmp_path / "cache", tmp_path / "map.png"
    own = [*OWN, "--set", f"encode.model={folder}"]
    small = ["--set", "compress={budget: 20, stages: [partition]}"]
    assert vidcomp("show", clip, "--out", picture, *own, *small).code == 0
    assert picture.stat().st_size > 1000
    vidcomp("extract", clip, "--out", out, *own, *small, "-q")
    assert vidcomp("show", f"{out}#a.mp4", "--out", tmp_path / "b.png").code == 0
