"""Real files: every backend gives the frames of an independent full decode, at the right times."""

from functools import cache
from importlib.util import find_spec

import numpy as np
import pytest
from decode_oracle import Every, Rows, Spread, all_frames, digest, rows_of

from vidcomp.errors import DecodeError
from vidcomp.sample.decode import read_frames
from vidcomp.sample.decode.probe import probe

needs_decord = pytest.mark.skipif(find_spec("decord") is None, reason="decord has no wheel here")

# name: (frames, seconds, backends that read it: decord means PyAV too)
FILES = {
    "av1_360p.mkv": (125, 5.0, "pyav"),
    "bbb_720p_30s_vp8.webm": (720, 30.0, "decord"),
    "bikes_cuts.mp4": (250, 10.0, "decord"),
    "counter_burned_in.mp4": (30, 3.0, "decord"),
    "delayed_start_mpeg4.mp4": (24, 0.96, "pyav"),
    "flower_h264_bframes.mp4": (150, 5.005, "decord"),
    "flower_vp8.webm": (150, 5.005, "decord"),
    "gen_av1_flower.mp4": (150, 5.005, "pyav"),
    "gen_fragmented.mp4": (60, 2.002, "decord"),
    "gen_long_60s.mp4": (1501, 60.04, "decord"),
    "gen_no_keyframe_start.ts": (100, 3.337, "pyav"),
    "gen_odd_321x181_vp9.webm": (90, 3.003, "pyav"),
    "gen_odd_333x187_444.mp4": (150, 5.005, "decord"),
    "gen_one_frame.mp4": (1, 0.0334, "decord"),
    "gen_vfr_bframes.mp4": (64, 5.005, "decord"),
    "hevc_10bit.mp4": (30, 1.0, "pyav"),
    "hevc_128.mp4": (10, 1.0, "pyav"),
    "mpeg4_pool.avi": (164, 6.56, "pyav"),
    "nasa_two_video_streams.mp4": (390, 13.013, "decord"),
    "rot90_3frames.mov": (3, 0.1, "decord"),
    "unordered_4frames.mov": (4, 0.125, "decord"),
    "vfr_rot180_phone.mp4": (25, 2.380, "decord"),
    "vp9_alpha.webm": (150, 5.0, "decord"),
    "vp9_no_duration.webm": (74, 4.938, "pyav"),
}
# Slow to decode in full, so compared at a few frames only.
LONG = {"slides_1080p_122s.mp4": (3678, 122.6, "decord")}


@cache
def reference(path):
    """Digest of every frame."""
    return [digest(pixels) for pixels in all_frames(path)]


def picks(num_frames):
    last = num_frames - 1
    spread = np.linspace(0, last, 8).astype(int).tolist()
    middle = [i for i in range(num_frames // 2, num_frames // 2 + 5) if i < num_frames]
    return [tuple(spread), tuple(middle), (last, 0, last // 2, 0), (last,)]


@pytest.mark.parametrize("backend", ["auto", pytest.param("decord", marks=needs_decord)])
@pytest.mark.parametrize("name", FILES)
def test_the_very_pixels_of_a_full_decode(videos, name, backend):
    """Also through decord: it may be used only where no pixel depends on the backend."""
    digests = reference(videos / name)
    if backend == "decord" and FILES[name][2] != "decord":
        with pytest.raises(DecodeError, match="use backend='auto'"):
            read_frames(videos / name, Rows(rows=(0,)), backend=backend)
        return
    assert len(digests) == FILES[name][0]
    for rows in picks(len(digests)):
        frames = read_frames(videos / name, Rows(rows=rows), backend=backend)
        assert [digest(p) for p in rows_of(frames)] == [digests[i] for i in rows]
        assert frames.source.backend == ("pyav" if backend == "auto" else backend)


@pytest.mark.parametrize("name", FILES | LONG)
def test_times_are_real_and_start_at_zero(videos, name):
    count, seconds, _ = (FILES | LONG)[name]
    found = probe(videos / name)
    pts_s = found.timeline.pts_s
    assert len(pts_s) == found.source.num_frames == count
    assert pts_s[0] == 0
    assert (pts_s.diff() > 0).all()
    assert found.timeline.end_s == pytest.approx(seconds, abs=2e-3)
    assert found.source.duration_s == found.timeline.end_s
    assert found.source.fps == pytest.approx(count / seconds, rel=2e-3)
    assert not found.source.damage
    assert found.timeline.is_key.any()


def test_times_of_a_variable_rate_are_those_of_the_file(videos):
    pts_s = probe(videos / "gen_vfr_bframes.mp4").timeline.pts_s
    assert pts_s[1] == pytest.approx(7 * 1001 / 30000)
    frames = read_frames(videos / "gen_vfr_bframes.mp4", Spread(count=9))
    ends_s = [*pts_s.tolist()[1:], 5.005]
    for time_s, length_s in zip(frames.pts_s.tolist(), frames.duration_s.tolist(), strict=True):
        row = pts_s.tolist().index(time_s)
        assert time_s + length_s == pytest.approx(ends_s[row], abs=1e-6)


def test_a_long_file_is_read_exactly_by_seeking(videos):
    path = videos / "slides_1080p_122s.mp4"
    rows = (0, 1, 150, 400)
    wanted = {}
    for i, pixels in enumerate(all_frames(path)):
        if i in rows:
            wanted[i] = digest(pixels)
        if i == max(rows):
            break
    for backend in ("pyav", "auto"):
        frames = read_frames(path, Rows(rows=rows), backend=backend)
        assert [digest(p) for p in rows_of(frames)] == [wanted[i] for i in rows]


@needs_decord
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("av1_360p.mkv", "its pictures of av1 differ"),
        ("delayed_start_mpeg4.mp4", "its pictures of mpeg4 differ"),
        ("hevc_10bit.mp4", "its colours"),
        ("gen_odd_321x181_vp9.webm", "its colours"),
        ("vp9_no_duration.webm", "duration"),
        ("gen_no_keyframe_start.ts", "numbers frames wrongly"),
        ("mpeg4_pool.avi", "numbers frames wrongly"),
        ("hevc_128.mp4", "open group"),
    ],
)
def test_decord_is_refused_where_it_is_wrong(videos, name, reason):
    with pytest.raises(DecodeError, match=reason):
        read_frames(videos / name, Spread(), backend="decord")


def test_the_best_of_two_streams_is_read(videos):
    frames = read_frames(videos / "nasa_two_video_streams.mp4", Every(step=100))
    assert frames.data.shape == (4, 3, 270, 480)
    assert frames.source.num_frames == 390


@pytest.mark.parametrize(
    ("name", "size"), [("rot90_3frames.mov", (568, 320)), ("vfr_rot180_phone.mp4", (720, 1280))]
)
@pytest.mark.parametrize("backend", ["auto", "pyav"])
def test_rotation_is_applied(videos, name, size, backend):
    frames = read_frames(videos / name, Rows(rows=(0,)), backend=backend)
    assert tuple(frames.data.shape[2:]) == size
    assert (frames.source.height, frames.source.width) == size
