"""Broken files: an error that names file, backend and frame, or the part that is whole."""

import random
from importlib.util import find_spec

import numpy as np
import pytest
from clips import moving_square, write_clip
from decode_oracle import Every, Rows, Spread, rows_of

from vidcomp.errors import DecodeError
from vidcomp.sample.decode import DecodeRequest, read_frames, stream_frames
from vidcomp.sample.decode.isolate import DecodeWorker

NO_VIDEO = {
    "audio_only.mp4": "no video stream, only audio",
    "audio_with_cover.mp4": "only a cover picture",
    "corrupt_moov.mp4": "no video stream",
    "png_renamed.mp4": "not a video but a PNG picture",
    "random_bytes.mp4": "cannot be opened as a video",
    "text_renamed.mp4": "not a video but text",
    "truncated_no_moov.mp4": "the file is cut, [0-9]+ bytes are missing",
    "wav_renamed.mp4": "no video stream, only audio",
    "zero_bytes.mp4": "is empty",
    "zero_frames.mp4": "no video stream",
}
# name: (frames that PyAV gives whole, words of the error)
PARTLY = {
    "truncated_faststart_60pct.mp4": (87, "the file is cut: 385968 bytes are missing"),
    "corrupt_middle.mp4": (119, "frame 55 at 1.84 s cannot be decoded by .*, after .* of 150"),
    "decord_corrupted.mp4": (48, "frame 30 at 3.00 s cannot be decoded by .*, after .* of 50"),
}


@pytest.fixture(scope="module")
def worker():
    with DecodeWorker(stall_s=120) as worker:
        yield worker


@pytest.mark.parametrize("backend", ["auto", "pyav"])
@pytest.mark.parametrize("name", NO_VIDEO)
def test_what_holds_no_video_is_refused_with_its_reason(videos, worker, name, backend):
    path = videos / "bad" / name
    for on_damage in ("raise", "keep"):
        with pytest.raises(DecodeError, match=NO_VIDEO[name]) as caught:
            read_frames(path, Spread(), on_damage=on_damage, backend=backend)
        assert name in str(caught.value)
    request = DecodeRequest(path=str(path), sampler=Spread(), backend=backend)
    with pytest.raises(DecodeError, match=NO_VIDEO[name]):
        list(worker.frames(request))


@pytest.mark.parametrize("backend", ["auto", "pyav"])
@pytest.mark.parametrize("name", PARTLY)
def test_a_broken_file_is_an_error_or_its_whole_frames(videos, worker, name, backend):
    path = videos / "bad" / name
    count, words = PARTLY[name]
    with pytest.raises(DecodeError, match=words) as caught:
        read_frames(path, Every(), backend=backend, size=64)
    assert name in str(caught.value)
    kept = read_frames(path, Every(), backend=backend, size=64, on_damage="keep")
    assert len(kept) == count
    assert kept.source.damage
    assert (kept.pts_s.diff() > 0).all()
    request = DecodeRequest(
        path=str(path), sampler=Every(), backend=backend, on_damage="keep", chunk_frames=16
    )
    chunks = list(worker.frames(request))
    assert [len(c) for c in chunks[:-1]] == [16] * (len(chunks) - 1)
    assert [c.first_index for c in chunks] == list(range(0, count, 16))
    assert sum(map(len, chunks)) == count
    assert chunks[-1].source.damage == kept.source.damage


def test_frames_before_the_damage_are_whole(videos):
    rows = Rows(rows=(0, 10, 20))
    broken = read_frames(videos / "bad" / "corrupt_middle.mp4", rows)
    whole = read_frames(videos / "flower_h264_bframes.mp4", rows)
    assert np.array_equal(rows_of(broken), rows_of(whole))
    assert not broken.source.damage


@pytest.fixture(scope="module")
def scattered(tmp_path_factory):
    """A clip with flipped bits in its pictures, and its whole original."""
    folder = tmp_path_factory.mktemp("scattered")
    pixels = np.repeat(np.repeat(moving_square(60, 60, 80, seed=5), 4, 1), 4, 2)
    noise = np.random.default_rng(0).integers(0, 40, pixels.shape, dtype=np.uint8)
    whole = write_clip(folder / "whole.mp4", pixels // 2 + noise, g=20, bf=2, preset="medium")
    data = bytearray(whole.read_bytes())
    dice = random.Random(1)
    for _ in range(25):
        place = dice.randrange(len(data) // 3, len(data) * 9 // 10)
        data[place] ^= 1 << dice.randrange(8)
    broken = folder / "broken.mp4"
    broken.write_bytes(data)
    return broken, whole


@pytest.mark.parametrize("backend", ["auto", "pyav"])
def test_concealed_damage_is_not_silent(scattered, backend):
    broken, whole = scattered
    assert read_frames(whole, Every(), backend=backend).source.damage == ""
    with pytest.raises(DecodeError, match=r"frame \d+ at .* by .*pyav"):
        read_frames(broken, Every(), backend=backend)
    kept = read_frames(broken, Every(), backend=backend, on_damage="keep")
    assert "cannot be decoded" in kept.source.damage
    assert 0 < len(kept) < 60


@pytest.mark.skipif(find_spec("decord") is None, reason="decord has no wheel here")
def test_decord_is_not_believed_when_it_conceals(scattered):
    broken, _ = scattered
    with pytest.raises(DecodeError, match=r"by decord .*use backend='auto'"):
        read_frames(broken, Every(), backend="decord")


def test_frames_after_an_error_are_doubted_until_the_next_keyframe(scattered):
    broken, whole = scattered
    kept = read_frames(broken, Every(), backend="pyav", on_damage="keep")
    assert "follow an error and may show artefacts" in kept.source.damage
    original = read_frames(whole, Every(), backend="pyav")
    number = {t: i for i, t in enumerate(original.pts_s.tolist())}
    bad = []
    for time_s, pixels in zip(kept.pts_s.tolist(), rows_of(kept), strict=True):
        if not np.array_equal(pixels, rows_of(original)[number[time_s]]):
            bad.append(number[time_s])
    assert bad  # some that came are not right ...
    for index in bad:  # ... and none of them is given by default
        with pytest.raises(DecodeError, match=f"frame {index} .*follows an error"):
            read_frames(broken, Rows(rows=(index,)), backend="pyav")


@pytest.mark.parametrize("name", ["cut.mp4", "cut.mkv", "cut.avi"])
@pytest.mark.parametrize("backend", ["auto", "pyav"])
def test_a_cut_download_is_noticed(tmp_path, name, backend):
    codec = "mpeg4" if name.endswith("avi") else "libx264"
    index_first = {"movflags": "faststart"} if name.endswith("mp4") else {}
    frames = moving_square(40, 128, 192)
    whole = write_clip(tmp_path / name, frames, g=10, codec=codec, container=index_first)
    data = whole.read_bytes()
    whole.write_bytes(data[: len(data) * 6 // 10])
    with pytest.raises(DecodeError, match=r"the file is cut: \d+ bytes are missing"):
        read_frames(whole, Spread(), backend=backend)
    kept = read_frames(whole, Every(), backend=backend, on_damage="keep")
    assert 5 < len(kept) < 40
    assert "the file is cut" in kept.source.damage


def test_padding_follows_the_frame_it_repeats(videos):
    path = videos / "bad" / "truncated_faststart_60pct.mp4"
    kept = read_frames(
        path, Rows(rows=(3, 5, 5, 5), num_padded=2), on_damage="keep", backend="pyav"
    )
    assert kept.num_padded == 2
    broken = videos / "bad" / "corrupt_middle.mp4"
    kept = read_frames(broken, Rows(rows=(3, 63, 63), num_padded=1), on_damage="keep")
    assert (len(kept), kept.num_padded) == (1, 0)


def test_nothing_to_keep_is_an_error(videos):
    request = DecodeRequest(
        path=str(videos / "bad" / "corrupt_middle.mp4"),
        sampler=Rows(rows=(63,)),
        on_damage="keep",
    )
    with pytest.raises(DecodeError, match="leave the file out"):
        list(stream_frames(request))
