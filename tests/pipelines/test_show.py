"""The picture shows the tokens that were asked for, over the frames that they came from."""

import shutil

import pytest
import torch
from click.testing import CliRunner
from clips import moving_square, write_clip
from PIL import Image
from tiny_models import save_tiny

from vidcomp.config import load_recipe
from vidcomp.errors import ConfigError, StoreError, StoreMissError, StoreStaleError
from vidcomp.pipelines import show as module
from vidcomp.pipelines.cli import main
from vidcomp.pipelines.extraction.extract import extract
from vidcomp.pipelines.extraction.run_options import Options
from vidcomp.pipelines.inputs import expand
from vidcomp.pipelines.show import show
from vidcomp.sample.base import Timeline

SMALL = ("sample.num_frames=6", "encode.size=56", "compress.budget.tokens=20")


def recipe(*overrides):
    return load_recipe("embedded", (*SMALL, *overrides))


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("show") / "clip.mp4"
    return write_clip(path, moving_square(24, 72, 128), fps=8)


@pytest.fixture
def drawn(monkeypatch):
    """What the picture was drawn from, call by call."""
    calls = []
    real = module.token_map

    def record(frames, video, **options):
        calls.append((frames, video, options))
        return real(frames, video, **options)

    monkeypatch.setattr(module, "token_map", record)
    return calls


def cached(clip, folder, made_with):
    options = Options(isolation="thread", workers=1)
    summary = extract(expand([str(clip)]), folder, made_with, options=options)
    assert summary.exit_code == 0
    return f"{folder}#{clip.name}"


def test_a_video_becomes_a_picture(clip, tmp_path, drawn):
    out = show(str(clip), tmp_path / "new" / "map.png", recipe=recipe())
    with Image.open(out) as picture:
        assert picture.mode == "RGB"
    ((frames, video, options),) = drawn
    assert len(video) == options["budget"] == 20
    assert video.grid == (6, 4, 4)
    assert options["num_before"] == 96
    assert options["title"] == "clip.mp4"
    assert options["aspect"] == pytest.approx(128 / 72)
    assert list(options["rows"]) == list(range(6))
    # The frames are those that were sampled: 0 and every (24 - 1) / 5th, rounded down.
    assert torch.allclose(frames.pts_s * 8, torch.tensor([0, 4, 9, 13, 18, 23.0]).double())
    assert min(frames.data.shape[2:]) > 56, "frames are decoded larger for the picture"


def test_a_record_gives_the_picture_of_its_video(clip, tmp_path, drawn):
    kept = recipe("store.assign=true")
    show(str(clip), tmp_path / "a.png", recipe=kept)
    show(cached(clip, tmp_path / "cache", kept), tmp_path / "b.png", recipe=load_recipe("embedded"))
    (frames, video, options), (other_frames, other_video, other_options) = drawn
    assert torch.equal(frames.data, other_frames.data)
    assert torch.equal(video.assign, other_video.assign)
    for name in ("rows", "aspect", "num_before"):
        assert options[name] == other_options[name]
    assert other_options["title"].endswith("cache#clip.mp4")


def test_a_range_shows_frames_of_the_range(clip, tmp_path, drawn):
    made_with = recipe("store.assign=true")
    show(str(clip), tmp_path / "a.png", recipe=made_with, start_s=1, end_s=2)
    frames = drawn[0][0]
    assert frames.pts_s.tolist() == [1 + i / 8 for i in (0, 1, 2, 4, 5, 7)]
    ranged = expand([str(clip)], start_s=1, end_s=2)
    extract(ranged, tmp_path / "cache", made_with, options=Options(isolation="thread"))
    show(f"{tmp_path / 'cache'}#{ranged[0].key}", tmp_path / "b.png", recipe=made_with)
    assert torch.equal(drawn[1][0].data, frames.data)


def test_long_videos_show_some_frames_evenly(clip, tmp_path, drawn):
    show(str(clip), tmp_path / "a.png", recipe=recipe("sample.num_frames=24"), max_frames=4)
    frames, _, options = drawn[0]
    assert options["rows"] == [3, 9, 15, 21]
    assert (frames.pts_s * 8).tolist() == [3, 9, 15, 21]


def test_the_middle_frame_stands_for_a_tubelet(tmp_path):
    picked = module._Picked(inner=recipe().sample, rows=(0, 1), num_rows=2)
    pts = torch.arange(30, dtype=torch.float64)
    timeline = Timeline(pts_s=pts, end_s=30.0, is_key=pts == 0)
    wanted = recipe().sample(timeline).indices
    assert picked(timeline).indices.tolist() == [int(wanted[1]), int(wanted[4])]


def test_a_record_is_drawn_without_its_encoder(clip, tmp_path, drawn):
    """V-JEPA 2's tubelets of two frames; its weights are gone by the time of drawing."""
    save_tiny("vjepa2", tmp_path / "model")
    encode = f"encode={{name: hf_clip, model: {tmp_path / 'model'}}}"
    made_with = load_recipe(
        "embedded",
        ["sample.num_frames=8", encode, "compress.budget.tokens=6", "store.assign=true"],
    )
    source = cached(clip, tmp_path / "cache", made_with)
    shutil.rmtree(tmp_path / "model")
    show(source, tmp_path / "a.png", recipe=recipe())
    frames, video, options = drawn[0]
    assert len(frames) == video.grid.t == len(options["rows"]) == 4


def test_frames_that_only_fill_up_are_not_drawn(tmp_path, drawn):
    short = write_clip(tmp_path / "short.mp4", moving_square(3, 72, 128), fps=8)
    show(str(short), tmp_path / "a.png", recipe=recipe("sample.short=pad"))
    assert list(drawn[0][2]["rows"]) == [0, 1, 2]
    show(str(short), tmp_path / "b.png", recipe=recipe("sample.short=repeat"))
    assert list(drawn[1][2]["rows"]) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("mode", ["crop", "letterbox"])
def test_frames_are_framed_as_the_encoder_saw_them(clip, tmp_path, drawn, mode):
    policy = f"encode.resize={{mode: {mode}, height: 56, width: 56}}"
    show(str(clip), tmp_path / "a.png", recipe=recipe(policy))
    frames, _, options = drawn[0]
    assert options["aspect"] is None
    assert frames.data.shape[2] == frames.data.shape[3] > 56
    assert (frames.content is not None) == (mode == "letterbox")


def test_soft_provenance_is_drawn_too(clip, tmp_path, drawn):
    soft = recipe("compress.stages=[bilinear_pool]", "store.assign=true")
    show(str(clip), tmp_path / "a.png", recipe=soft)
    assert drawn[0][1].weights is not None
    show(cached(clip, tmp_path / "cache", soft), tmp_path / "b.png", recipe=soft)
    assert torch.equal(drawn[0][1].weights.to_dense(), drawn[1][1].weights.to_dense())


def test_a_record_without_provenance_says_how_to_get_it(clip, tmp_path):
    source = cached(clip, tmp_path / "cache", recipe())
    with pytest.raises(StoreMissError, match=r"--set store\.assign=true"):
        show(source, tmp_path / "a.png", recipe=recipe())


def test_a_source_that_is_gone_or_changed_is_said(tmp_path):
    clip = write_clip(tmp_path / "clip.mp4", moving_square(12, 72, 128), fps=8)
    source = cached(clip, tmp_path / "cache", recipe("store.assign=true"))
    write_clip(clip, moving_square(16, 72, 128, seed=1), fps=8)
    with pytest.raises(StoreStaleError, match="has changed"):
        show(source, tmp_path / "a.png", recipe=recipe())
    clip.unlink()
    with pytest.raises(StoreMissError, match="is not there"):
        show(source, tmp_path / "a.png", recipe=recipe())


def test_unknown_records_and_folders_are_said(clip, tmp_path):
    source = cached(clip, tmp_path / "cache", recipe("store.assign=true"))
    with pytest.raises(StoreMissError, match="other"):
        show(source.replace("clip.mp4", "other.mp4"), tmp_path / "a.png", recipe=recipe())
    with pytest.raises(StoreError):
        show(f"{tmp_path}#clip.mp4", tmp_path / "a.png", recipe=recipe())


def test_a_file_with_a_hash_in_its_name_is_a_video(clip, tmp_path, drawn):
    named = tmp_path / "take #2.mp4"
    named.write_bytes(clip.read_bytes())
    show(str(named), tmp_path / "a.png", recipe=recipe())
    assert drawn[0][2]["title"] == "take #2.mp4"


def test_pictures_that_cannot_be_written_are_said(clip, tmp_path):
    with pytest.raises(ConfigError, match=r"ends in \.png"):
        show("nowhere.mp4", tmp_path / "map.gif", recipe=recipe())
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="cannot be written"):
        show(str(clip), tmp_path / "file" / "map.png", recipe=recipe())


def test_the_command_says_where_the_picture_is(clip, tmp_path):
    settings = [word for text in SMALL[:2] for word in ("--set", text)]
    out = tmp_path / "map.jpg"
    run = CliRunner().invoke(
        main, ["show", str(clip), "--out", str(out), "--budget", "9", *settings]
    )
    assert run.exit_code == 0, run.output
    assert run.output == f"wrote {out}\n"
    with Image.open(out) as picture:
        assert picture.format == "JPEG"
    bad = CliRunner().invoke(main, ["show", str(clip), "--out", str(out), "--budget", "0"])
    assert bad.exit_code == 2
