"""The main job on small clips: everything is done once, nothing is lost, errors stay apart."""

import os
import shutil
import sys

import pytest
import torch
from clips import moving_square, write_clip

from vidcomp.store import open_cache


def test_every_clip_becomes_an_exact_record(extract, clips, tmp_path):
    result = extract(clips, "--out", tmp_path / "cache", "--json", isolation="process")
    assert result.code == 0
    assert (result.json["done"], result.json["failed"]) == (5, 0)
    cache = open_cache(tmp_path / "cache")
    assert sorted(cache.keys()) == [f"clip{i}.mp4" for i in range(5)]
    for key in cache.keys():  # noqa: SIM118
        video, meta = cache[key], cache.meta(key)
        assert len(video) == 20
        assert torch.isfinite(video.tokens).all()
        assert video.mass.sum() == video.grid.num_patches == meta["tokens_in"]
        assert meta["num_frames"] == video.grid.t
        assert meta["source"]["backend"] in ("decord", "pyav")
        assert {"vidcomp", "torch", "av"} <= set(meta["versions"])
        assert 0 <= float(video.spans.min()) < float(video.spans.max()) <= meta["seconds"] + 1e-3


def test_a_second_run_does_no_work_again(extract, clips, tmp_path, monkeypatch):
    extract(clips, "--out", tmp_path / "cache")
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "cache").rglob("*") if p.is_file()}

    def refuse(*args, **kwargs):
        raise AssertionError("nothing may be loaded or decoded")

    monkeypatch.setattr("vidcomp.pipelines.extraction.worker.prepare", refuse)
    monkeypatch.setattr("vidcomp.pipelines.extraction.worker.Engine", refuse)
    result = extract(clips, "--out", tmp_path / "cache")
    assert result.code == 0
    assert "nothing to do: all 5 are already cached" in result.out
    assert result.out.count("cached") >= 6
    after = {p: p.stat().st_mtime_ns for p in (tmp_path / "cache").rglob("*") if p.is_file()}
    assert after == before


def test_a_bad_file_fails_alone_and_is_not_tried_again_unasked(extract, vidcomp, clips, tmp_path):
    folder = tmp_path / "in"
    shutil.copytree(clips, folder)
    (folder / "bad.mp4").write_bytes(b"no video at all" * 100)
    out = tmp_path / "cache"
    first = extract(folder, "--out", out)
    assert first.code == 3
    assert "5 done" in first.out
    assert "failed: bad.mp4:" in first.out
    listed = vidcomp("errors", out)
    assert "bad.mp4: decode:" in listed.out
    second = extract(folder, "--out", out)
    assert second.code == 3
    assert "1 failed before (--retry-failed tries them again)" in second.out
    third = extract(folder, "--out", out, "--retry-failed")
    assert third.code == 3
    assert "(2 attempts)" in vidcomp("errors", out).out
    shutil.copy(clips / "clip0.mp4", folder / "bad.mp4")  # another file is tried unasked
    assert extract(folder, "--out", out).code == 0
    assert "0 failed items" in vidcomp("errors", out).out


def test_a_changed_source_is_stale_and_made_anew(extract, tmp_path):
    path = write_clip(tmp_path / "a.mp4", moving_square(6))
    out = tmp_path / "cache"
    extract(path, "--out", out)
    before = open_cache(out)["a.mp4"]
    write_clip(path, moving_square(12, seed=5))
    assert "1 done" in extract(path, "--out", out).out
    after = open_cache(out)["a.mp4"]
    assert after.grid.t == 12
    assert before.grid.t == 6


def test_a_file_that_changes_while_it_is_read_is_stale(extract, tmp_path, monkeypatch):
    from vidcomp.pipelines.extraction import engine

    path = write_clip(tmp_path / "a.mp4", moving_square(6))
    original = engine.stream_frames

    def change_then_read(request):
        chunks = list(original(request))
        write_clip(path, moving_square(12, seed=5))
        yield from chunks

    monkeypatch.setattr(engine, "stream_frames", change_then_read)
    extract(path, "--out", tmp_path / "cache")
    monkeypatch.undo()
    assert "1 done" in extract(path, "--out", tmp_path / "cache").out
    assert open_cache(tmp_path / "cache")["a.mp4"].grid.t == 12


def test_overwrite_makes_records_anew(extract, clips, tmp_path):
    out = tmp_path / "cache"
    extract(clips / "clip0.mp4", "--out", out)
    before = open_cache(out)["clip0.mp4"]
    assert "1 done" in extract(clips / "clip0.mp4", "--out", out, "--overwrite").out
    after = open_cache(out)["clip0.mp4"]
    assert torch.equal(before.tokens, after.tokens)


def test_another_recipe_is_refused_and_the_difference_named(vidcomp, extract, clips, tmp_path):
    out = tmp_path / "cache"
    extract(clips / "clip0.mp4", "--out", out)
    result = vidcomp("extract", clips, "--out", out, "-q")
    assert result.code == 5
    assert "another recipe" in result.err
    assert "compress.budget.tokens: 20 != 196" in result.err


def test_time_ranges_are_records_of_their_own(extract, tmp_path):
    path = write_clip(tmp_path / "a.mp4", moving_square(20))  # 2 s
    manifest = tmp_path / "m.csv"
    manifest.write_text("path,id,start,end\na.mp4,first,0,1\na.mp4,second,1,2\na.mp4,third,5,6\n")
    out = tmp_path / "cache"
    result = extract("--manifest", manifest, "--id-column", "id", "--out", out, "--json")
    assert result.code == 3
    assert "third@5-6" in str(result.json["failures"])
    cache = open_cache(out)
    assert sorted(cache.keys()) == ["first@0-1", "second@1-2"]
    first, second = cache["first@0-1"], cache["second@1-2"]
    assert first.grid.t == second.grid.t == 10
    assert float(first.spans.max()) <= 1.0 + 1e-6 <= float(second.spans.min()) + 2e-6
    assert path.exists()


def test_shards_together_make_the_whole(extract, clips, tmp_path):
    out = tmp_path / "cache"
    assert "3 done" in extract(clips, "--out", out, "--shard", "0/2").out
    assert "2 done" in extract(clips, "--out", out, "--shard", "1/2").out
    assert "nothing to do" in extract(clips, "--out", out).out


def test_a_dry_run_says_what_would_be_done(extract, clips, tmp_path):
    result = extract(clips, "--out", tmp_path / "cache", "--dry-run", "--limit", 2)
    assert result.code == 0
    assert "would make  clip0.mp4" in result.out
    assert "2 to do" in result.out
    assert not (tmp_path / "cache").exists()


def test_max_failures_stops_the_run(extract, tmp_path):
    for i in range(6):
        (tmp_path / f"{i}.mp4").write_bytes(b"nothing")
    result = extract(tmp_path, "--out", tmp_path / "cache", "--max-failures", 1)
    assert result.code == 4
    assert "stopped by --max-failures" in result.out


def test_on_error_raise_ends_with_the_reason(extract, tmp_path):
    (tmp_path / "bad.mp4").write_bytes(b"nothing")
    result = extract(tmp_path, "--out", tmp_path / "cache", "--on-error", "raise")
    assert result.code == 1
    assert "bad.mp4" in result.err


def test_the_result_does_not_depend_on_how_it_was_run(extract, clips, tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    extract(clips, "--out", one, "--workers", 1, "--batch-frames", 1)
    extract(clips, "--out", other, "--workers", 3, "--batch-frames", 100, isolation="process")
    a, b = open_cache(one), open_cache(other)
    assert sorted(a.keys()) == sorted(b.keys())
    for key in a.keys():  # noqa: SIM118
        torch.testing.assert_close(a[key].tokens, b[key].tokens, atol=1e-5, rtol=1e-2)
        assert torch.equal(a[key].positions, b[key].positions)


def test_recompress_needs_no_video(extract, vidcomp, clips, tmp_path):
    inputs, dense, small = tmp_path / "in", tmp_path / "dense", tmp_path / "small"
    shutil.copytree(clips, inputs)
    whole = ("--set", "compress.budget.retention=1", "--set", "store.dtype=float32")
    resize = ("--set", "encode.resize={mode: stretch, height: 56, width: 56}")
    code = vidcomp("extract", inputs, "--out", dense, *whole, *resize, "-q").code
    assert code == 0
    direct = tmp_path / "direct"
    vidcomp("extract", inputs, "--out", direct, "--budget", 20, *whole[2:], *resize, "-q")
    shutil.rmtree(inputs)
    result = vidcomp("recompress", dense, "--out", small, "--budget", "20", "--json", "-q")
    assert result.code == 0
    assert result.json["done"] == 5
    a, b = open_cache(small), open_cache(direct)
    for key in b.keys():  # noqa: SIM118
        torch.testing.assert_close(a[key].tokens, b[key].tokens)
        assert torch.equal(a[key].mass, b[key].mass)
    again = vidcomp("recompress", dense, "--out", small, "--budget", "20", "-q")
    assert "nothing to do" in again.out


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["--set", "sample.num_frames=0"], 2, "num_frames"),
        (["--set", "sample.frames=3"], 2, "no setting 'frames'"),
        (["--recipe", "embeded"], 2, "did you mean 'embedded'"),
        (["--budget", "0"], 2, "must be more than 0"),
        (["--budget", "many"], 2, "must be a number"),
        (["--budget", "120%"], 2, r"in (0, 1]"),
        (["--set", "compress.stages=[{name: avg_pool, axes: space}]", "--budget", "3"], 2, "3"),
        (["--start", "3", "--end", "2"], 2, "must end after it starts"),
        (["--workers", "-1"], 2, "workers"),
        (["--device", "cuda:99"], 2, "cuda"),
        (["--nonsense"], 2, "No such option"),
        (["--recipe", "vjepa2", "--set", "encode.model=nowhere"], 2, "nowhere"),
    ],
)
def test_wrong_arguments_are_one_clear_sentence(vidcomp, clips, tmp_path, args, code, message):
    result = vidcomp("extract", clips, "--out", tmp_path / "cache", "-q", *args)
    assert result.code == code
    assert message in result.err
    assert "Traceback" not in result.err
    assert not (tmp_path / "cache").exists()


def test_a_missing_package_ends_the_run_and_blames_no_video(extract, clips, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchcodec", None)
    result = extract(clips, "--out", tmp_path / "cache", "--backend", "torchcodec")
    assert result.code == 2
    assert "pip install 'vidcomp[torchcodec]'" in result.err
    assert not list((tmp_path / "cache").glob("errors/*"))


@pytest.mark.parametrize("inputs", [["/nowhere/*.mp4"], []])
def test_no_inputs_is_a_usage_error(vidcomp, tmp_path, inputs):
    result = vidcomp("extract", *inputs, "--out", tmp_path / "cache")
    assert result.code == 2
    assert "no videos found" in result.err


def test_a_folder_that_cannot_be_made_is_a_storage_error(extract, clips, tmp_path):
    (tmp_path / "file").write_text("in the way")
    result = extract(clips, "--out", tmp_path / "file" / "cache")
    assert result.code == 5
    assert str(tmp_path / "file") in result.err
    assert len(result.err.strip().splitlines()) == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_an_unwritable_folder_is_a_storage_error(extract, clips, tmp_path):
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o555)
    result = extract(clips, "--out", folder / "cache")
    assert result.code == 5


def test_a_full_disk_stops_the_run_and_keeps_what_was_written(
    extract, clips, tmp_path, monkeypatch
):
    from vidcomp.errors import StoreError
    from vidcomp.store import CacheWriter

    original, count = CacheWriter.add, []

    def add(self, *args, **kwargs):
        count.append(1)
        if len(count) > 2:
            raise StoreError("no space is left on the disk: free some and run again")
        return original(self, *args, **kwargs)

    monkeypatch.setattr(CacheWriter, "add", add)
    result = extract(clips, "--out", tmp_path / "cache")
    assert result.code == 5
    assert "no space" in result.err
    assert len(open_cache(tmp_path / "cache")) == 2
    monkeypatch.undo()
    assert "3 done, 2 already cached" in extract(clips, "--out", tmp_path / "cache").out
