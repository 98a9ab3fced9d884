"""The commands that look into a cache."""

import pytest

from vidcomp.store import open_cache


@pytest.fixture
def cache(extract, clips, tmp_path):
    extract(clips, "--out", tmp_path / "cache")
    return tmp_path / "cache"


def test_ls_lists_every_record(vidcomp, cache):
    result = vidcomp("cache", "ls", cache)
    assert result.code == 0
    assert "5 records, 100 tokens" in result.out
    rows = vidcomp("cache", "ls", cache, "--json").json
    assert [row["key"] for row in rows] == sorted(open_cache(cache).keys())
    assert all(row["tokens"] == 20 for row in rows)


def test_show_tells_the_recipe_and_a_record(vidcomp, cache):
    result = vidcomp("cache", "show", cache)
    assert "recipe.sample.name: uniform" in result.out
    record = vidcomp("cache", "show", cache, "clip0.mp4", "--json").json
    assert record["meta"]["num_frames"] == 4
    missing = vidcomp("cache", "show", cache, "clip9.mp4")
    assert missing.code == 5
    assert "clip9.mp4" in missing.err


def test_verify_finds_a_flipped_bit(vidcomp, cache):
    assert vidcomp("cache", "verify", cache).code == 0
    (shard,) = (cache / "shards").glob("*.safetensors")
    data = bytearray(shard.read_bytes())
    entry = open_cache(cache).info("clip3.mp4")
    data[entry.offset + 8] ^= 1
    shard.write_bytes(data)
    result = vidcomp("cache", "verify", cache)
    assert result.code == 5
    assert "clip3.mp4" in result.out
    assert "4 records ok" in result.out


@pytest.mark.parametrize("command", [("cache", "ls"), ("cache", "verify"), ("errors",)])
def test_a_folder_that_is_no_cache_is_one_sentence(vidcomp, tmp_path, command):
    result = vidcomp(*command, tmp_path / "gone")
    assert result.code == 5
    assert "gone" in result.err
    assert len(result.err.strip().splitlines()) == 1
