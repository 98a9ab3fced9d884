"""The job on real clips of every awkward kind, with each kind of encoder."""

import json
import shutil

import pytest
import torch
from click.testing import CliRunner
from tiny_models import save_tiny

from vidcomp.pipelines.cli import main
from vidcomp.store import open_cache

# encoder and the tiny model it loads
ENCODERS = [
    pytest.param(("dct", None), id="embedded"),
    pytest.param(("hf", "siglip"), id="siglip", marks=pytest.mark.slow),
    pytest.param(("hf_clip", "vjepa2"), id="vjepa2", marks=pytest.mark.slow),
    pytest.param(("pytorchvideo", "mvit"), id="mvit", marks=pytest.mark.slow),
]


@pytest.fixture(scope="module", params=ENCODERS)
def corpus_run(request, videos, tmp_path_factory):
    """The whole corpus, good and bad, extracted with one encoder."""
    name, model = request.param
    out = tmp_path_factory.mktemp("cache")
    override = f"encode={{name: {name}}}"
    if model is not None:
        folder = save_tiny(model, tmp_path_factory.mktemp("model"))
        override = f"encode={{name: {name}, model: '{folder}'}}"
    args = ["extract", str(videos), "--out", str(out), "--json", "-q", "--set", override]
    result = CliRunner().invoke(main, [*args, "--budget", "64"])
    return json.loads(result.stdout), open_cache(out)


def test_every_good_file_has_its_tokens_and_every_bad_one_its_reason(corpus_run, videos):
    summary, cache = corpus_run
    good = {p.name for p in videos.iterdir() if p.is_file() and p.suffix != ".md"}
    bad = {f"bad/{p.name}" for p in (videos / "bad").iterdir() if p.suffix == ".mp4"}
    assert set(cache.keys()) == good
    assert {f["key"] for f in summary["failures"]} == bad
    assert all(f["stage"] == "decode" for f in summary["failures"])
    assert summary["exit_code"] == 3


def test_tokens_are_exact_finite_and_in_time(corpus_run):
    _, cache = corpus_run
    for key in cache.keys():  # noqa: SIM118
        video, meta = cache[key], cache.meta(key)
        assert len(video) == min(64, meta["tokens_in"]), key
        assert torch.isfinite(video.tokens).all(), key
        assert float(video.tokens.float().std()) > 0, key
        assert float(video.spans.min()) >= 0, key
        assert float(video.spans.max()) <= meta["source"]["duration_s"] + 1e-3, key
        assert float(video.mass.sum()) == meta["tokens_in"], key


def test_damaged_files_give_their_decodable_part_on_request(videos, vidcomp, tmp_path):
    files = [videos / "bad" / name for name in ("corrupt_middle.mp4", "decord_corrupted.mp4")]
    out = tmp_path / "cache"
    result = vidcomp(
        "extract", *files, "--out", out, "-q", "--json", "--set", "encode.on_damage=keep"
    )
    assert result.code == 0
    assert {row["status"] for row in result.json["rows"]} == {"damaged"}
    cache = open_cache(out)
    for file in files:
        assert cache.meta(file.name)["source"]["damage"]


def test_a_folder_with_a_name_like_a_video_is_searched(videos, vidcomp, tmp_path):
    folder = tmp_path / "directory_named.mp4"
    folder.mkdir()
    shutil.copy(videos / "hevc_128.mp4", folder / "inner.mp4")
    result = vidcomp("extract", folder, "--out", tmp_path / "cache", "-q", "--json")
    assert [row["key"] for row in result.json["rows"]] == ["inner.mp4"]
