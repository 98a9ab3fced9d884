"""The commands that look into a cache and look after it."""

import json

import pytest
from safetensors import safe_open
from store_builders import IDENTITY, content, tiny, write

from vidcomp.store import CacheWriter, open_cache, open_storage, verify


@pytest.fixture
def cache(tmp_path):
    """Two commits of three records each, one of them replaced."""
    path = tmp_path / "cache"
    write(path, {f"clip{i}.mp4": tiny(20, seed=i) for i in range(3)})
    write(path, {f"clip{i}.mp4": tiny(20, seed=10 + i) for i in range(2, 5)})
    return path


def values(path):
    opened = open_cache(path)
    return {key: content(opened[key]) for key in opened}


def damage(path, key):
    info = open_cache(path).info(key)
    shard = path / "shards" / f"{info.shard}.safetensors"
    data = bytearray(shard.read_bytes())
    data[info.offset + 8] ^= 1
    shard.write_bytes(data)


def test_ls_lists_every_record_of_a_run(vidcomp, extract, clips, tmp_path):
    extract(clips, "--out", tmp_path / "cache")
    result = vidcomp("cache", "ls", tmp_path / "cache")
    assert result.code == 0
    assert "5 records, 100 tokens" in result.out
    rows = vidcomp("cache", "ls", tmp_path / "cache", "--json").json
    assert [row["key"] for row in rows] == sorted(open_cache(tmp_path / "cache").keys())
    assert all(row["tokens"] == 20 for row in rows)
    result = vidcomp("cache", "show", tmp_path / "cache")
    assert "recipe.sample.name: uniform" in result.out
    record = vidcomp("cache", "show", tmp_path / "cache", "clip0.mp4", "--json").json
    assert record["meta"]["num_frames"] == 4


def test_ls_takes_keys_of_all_sorts(vidcomp, tmp_path):
    keys = ["ü", "a\nb", "\udcff", "x" * 200]
    write(tmp_path / "cache", {key: tiny(seed=i) for i, key in enumerate(keys)})
    lines = vidcomp("cache", "ls", tmp_path / "cache").out.splitlines()
    assert len(lines) == 2 + len(keys) + 1
    assert any(line.startswith("a\\nb ") for line in lines)
    rows = vidcomp("cache", "ls", tmp_path / "cache", "--json").json
    assert sorted(row["key"] for row in rows) == sorted(keys)


def test_ls_of_an_empty_and_of_a_large_cache(vidcomp, tmp_path, monkeypatch):
    CacheWriter(tmp_path / "empty", identity=IDENTITY).close()
    assert vidcomp("cache", "ls", tmp_path / "empty", "--json").json == []
    assert "0 records" in vidcomp("cache", "ls", tmp_path / "empty").out
    write(tmp_path / "cache", {f"v{i}": tiny(seed=i) for i in range(20)})
    monkeypatch.setattr("vidcomp.pipelines.cache._SORTED", 5)
    monkeypatch.setattr("vidcomp.pipelines.cache._MEASURED", 3)
    rows = vidcomp("cache", "ls", tmp_path / "cache", "--json").json
    assert sorted(row["key"] for row in rows) == sorted(f"v{i}" for i in range(20))
    assert "20 records" in vidcomp("cache", "ls", tmp_path / "cache").out


def test_show_of_what_is_not_there(vidcomp, cache):
    missing = vidcomp("cache", "show", cache, "clip9.mp4")
    assert missing.code == 5
    assert "clip9.mp4" in missing.err


def test_verify_finds_a_flipped_bit_unless_it_is_quick(vidcomp, cache):
    assert vidcomp("cache", "verify", cache).code == 0
    damage(cache, "clip3.mp4")
    result = vidcomp("cache", "verify", cache)
    assert result.code == 5
    assert "clip3.mp4" in result.out
    assert "4 records ok" in result.out
    assert vidcomp("cache", "verify", cache, "--quick", "-q").code == 0
    assert list(vidcomp("cache", "verify", cache, "--json").json["bad"]) == ["clip3.mp4"]


def test_rm_says_what_it_removed_and_what_it_does_not_know(vidcomp, cache, tmp_path):
    result = vidcomp("cache", "rm", cache, "clip0.mp4", "gone.mp4", "--dry-run")
    assert result.code == 3
    assert "would remove clip0.mp4" in result.out
    assert "unknown: gone.mp4" in result.out
    assert len(open_cache(cache)) == 5
    (tmp_path / "list.txt").write_text("clip0.mp4\n\nclip1.mp4\n")
    result = vidcomp("cache", "rm", cache, f"@{tmp_path / 'list.txt'}", "--glob", "*4.mp4")
    assert result.code == 0
    assert result.out.splitlines()[:3] == [f"removed clip{i}.mp4" for i in (0, 1, 4)]
    assert open_cache(cache).keys() == ["clip2.mp4", "clip3.mp4"]
    result = vidcomp("cache", "rm", cache, "clip2.mp4", "--glob", "x*", "--json")
    assert result.code == 3
    assert (result.json["removed"], result.json["missing"]) == (["clip2.mp4"], ["x*"])
    assert vidcomp("cache", "rm", cache).code == 2
    assert vidcomp("cache", "rm", cache, "@nowhere.txt").code == 2


def test_compact_frees_the_room_of_what_was_replaced(vidcomp, cache):
    before = values(cache)
    said = vidcomp("cache", "compact", cache, "--dry-run", "--json").json
    assert len(said["rewritten"]) == 2
    result = vidcomp("cache", "compact", cache)
    assert result.code == 0
    assert "rewrote 2 of 2 shards into 1, 5 records" in result.out
    assert "removed 0 files" in result.out
    assert len(list((cache / "shards").iterdir())) == 3
    assert "removed 4 files" in vidcomp("cache", "compact", cache, "--grace", "0").out
    assert len(list((cache / "shards").iterdir())) == 1
    assert values(cache) == before
    assert vidcomp("cache", "compact", cache, "--grace", "soon").code == 2
    assert vidcomp("cache", "compact", cache, "--seal-bytes", "much").code == 2
    assert vidcomp("cache", "compact", cache, "--min-live", "2").code == 2


def test_compact_names_damaged_records_and_repair_takes_them_out(vidcomp, cache):
    damage(cache, "clip3.mp4")
    result = vidcomp("cache", "compact", cache, "--min-live", "1")
    assert result.code == 3
    assert "clip3.mp4" in result.out
    said = vidcomp("cache", "repair", cache, "--dry-run")
    assert said.code == 3
    assert len(open_cache(cache)) == 5
    result = vidcomp("cache", "repair", cache)
    assert result.code == 3
    assert "missing, extract it again: clip3.mp4" in result.out
    assert "4 records can be read, 1 are missing" in result.out
    assert verify(cache).ok
    result = vidcomp("cache", "repair", cache)
    assert result.code == 0
    assert "nothing to repair" in result.out
    assert vidcomp("cache", "repair", cache, "--json").json["actions"] == []


def test_merge_joins_caches_of_one_recipe(vidcomp, cache, tmp_path):
    write(tmp_path / "b", {"other.mp4": tiny(20, seed=50), "clip0.mp4": tiny(20, seed=51)})
    out = tmp_path / "out"
    result = vidcomp("cache", "merge", cache, tmp_path / "b", "--out", out)
    assert result.code == 5
    assert "'clip0.mp4'" in result.err
    result = vidcomp("cache", "merge", cache, tmp_path / "b", "--out", out, "--on-conflict", "last")
    assert result.code == 0
    assert "copied 6 records" in result.out
    assert "1 conflicts" in result.out
    assert values(out) == {**values(cache), **values(tmp_path / "b")}
    with CacheWriter(tmp_path / "c", identity={"other": 1}) as writer:
        writer.add("x", tiny())
    result = vidcomp("cache", "merge", tmp_path / "c", "--out", out, "--json")
    assert result.code == 5
    assert "different settings" in result.err


@pytest.mark.parametrize("form", ["safetensors", "npy", "webdataset", "parquet"])
def test_export_writes_files_and_finishes_what_was_begun(vidcomp, cache, tmp_path, form):
    if form == "parquet":
        pytest.importorskip("pyarrow")
    call = ("cache", "export", cache, "--out", tmp_path / "out", "--format", form)
    result = vidcomp(*call)
    assert result.code == 0
    assert "5 records" in result.out
    assert "(5 written" in result.out
    assert vidcomp(*call, "--json").json["num_written"] == 0
    lines = (tmp_path / "out" / "index.jsonl").read_text().splitlines()
    assert sorted(json.loads(line)["key"] for line in lines) == open_cache(cache).keys()


def test_export_of_chosen_keys(vidcomp, cache, tmp_path):
    result = vidcomp(
        "cache", "export", cache, "clip0.mp4", "--glob", "*3*", "--out", tmp_path / "o"
    )
    assert "2 records" in result.out
    files = sorted((tmp_path / "o").glob("*.safetensors"))
    with safe_open(files[0], "pt") as file:
        assert file.metadata()["key"] == "clip0.mp4"
    assert vidcomp("cache", "export", cache, "gone", "--out", tmp_path / "o").code == 5
    assert vidcomp("cache", "export", cache, "--glob", "gone", "--out", tmp_path / "o").code == 2


def test_a_store_behind_a_url(vidcomp, cache, tmp_path):
    url = cache.as_uri()
    assert open_storage(url).is_local
    assert "5 records" in vidcomp("cache", "ls", url).out
    assert vidcomp("cache", "verify", url, "-q").code == 0
    assert vidcomp("cache", "rm", url, "clip0.mp4").code == 0
    assert vidcomp("cache", "compact", url, "-q").code == 0
    assert vidcomp("cache", "repair", url, "-q").code == 0
    merged = (tmp_path / "merged").as_uri()
    assert vidcomp("cache", "merge", url, "--out", merged).code == 0
    assert vidcomp("cache", "export", merged, "--out", tmp_path / "files").code == 0
    assert len(open_cache(tmp_path / "merged")) == 4


@pytest.mark.parametrize(
    "command",
    [
        ("cache", "ls"),
        ("cache", "show"),
        ("cache", "verify"),
        ("cache", "rm", "x"),
        ("cache", "compact"),
        ("cache", "repair"),
        ("cache", "merge", "--out", "other"),
        ("cache", "export", "--out", "other"),
        ("errors",),
    ],
)
def test_a_folder_that_is_no_cache_is_one_sentence(vidcomp, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    words = list(command)
    words.insert(2 if words[0] == "cache" else 1, tmp_path / "gone")
    result = vidcomp(*words)
    assert result.code == 5
    assert "gone" in result.err
    assert len(result.err.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
