"""Generated files: containers, codecs and kinds of keyframes, each against a full decode."""

import random
from importlib.util import find_spec

import av
import numpy as np
import pytest
import torch
from clips import moving_square, write_clip
from decode_oracle import Every, Rows, all_frames, rows_of
from hypothesis import given, settings
from hypothesis import strategies as st

from vidcomp.errors import DecodeError
from vidcomp.sample.decode import DecodeRequest, read_frames, stream_frames
from vidcomp.sample.decode.probe import probe

NUM_FRAMES = 48
X264 = {"g": 12, "bf": 3, "preset": "medium"}
OPEN = {**X264, "x264-params": "open-gop=1:b-pyramid=strict:scenecut=0:b-adapt=0"}
REFRESH = {"g": 12, "preset": "medium", "x264-params": "intra-refresh=1"}
X265 = "keyint=8:bframes=3:scenecut=0:log-level=none:pools=1"

CLIPS = {
    "closed.mp4": ("libx264", X264),
    "closed.mkv": ("libx264", X264),
    "closed.ts": ("libx264", X264),
    "closed.flv": ("libx264", {"g": 12, "bf": 2}),
    "closed.avi": ("libx264", {"g": 12, "bf": 2}),
    "closed.h264": ("libx264", {"g": 12, "bf": 2}),
    "fragmented.mp4": ("libx264", {**X264, "container": {"movflags": "frag_keyframe+empty_moov"}}),
    "open.mp4": ("libx264", OPEN),
    "open.mkv": ("libx264", OPEN),
    "open.ts": ("libx264", OPEN),
    "refresh.mp4": ("libx264", REFRESH),
    "refresh.mkv": ("libx264", REFRESH),
    "intra.mp4": ("libx264", {"g": 1}),
    "hevc_closed.mp4": ("libx265", {"x265-params": X265 + ":open-gop=0"}),
    "hevc_open.mp4": ("libx265", {"x265-params": X265 + ":open-gop=1"}),
    "hevc_layers.mp4": ("libx265", {"x265-params": X265 + ":temporal-layers=3"}),
    "mpeg4.mp4": ("mpeg4", {"g": 12, "bf": 2}),
    "mpeg4.avi": ("mpeg4", {"g": 12, "bf": 2}),
    "mpeg2.mkv": ("mpeg2video", {"g": 12, "bf": 2, "fps": 25}),
    "mpeg2.mpg": ("mpeg2video", {"g": 12, "bf": 2, "fps": 25}),
    "vp8.webm": ("libvpx", {"g": 12, "auto-alt-ref": 1, "lag-in-frames": 16}),
    "vp9.webm": ("libvpx-vp9", {"g": 12, "lag-in-frames": 16}),
    "mjpeg.mov": ("mjpeg", {"pix_fmt": "yuvj420p"}),
    "lossless.mkv": ("ffv1", {}),
    "interlaced.mp4": ("libx264", {**X264, "flags": "+ildct+ilme"}),
    "ten_bit.mp4": ("libx264", {"pix_fmt": "yuv422p10le"}),
    "moving.gif": ("gif", {"pix_fmt": "rgb8"}),
}


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Path of a generated clip, written once."""
    folder = tmp_path_factory.mktemp("formats")
    frames = moving_square(NUM_FRAMES, 64, 96, seed=3)

    def make(name):
        codec, options = CLIPS[name]
        path = folder / name
        return path if path.exists() else write_clip(path, frames, codec=codec, **options)

    return make


@pytest.mark.parametrize("name", CLIPS)
def test_any_frames_in_any_order_are_those_of_a_full_decode(clip, name):
    path = clip(name)
    reference = list(all_frames(path))
    assert len(reference) == probe(path).source.num_frames == NUM_FRAMES
    dice = random.Random(name)
    wanted = [(i,) for i in dice.sample(range(NUM_FRAMES), 6)]
    wanted += [tuple(dice.choices(range(NUM_FRAMES), k=12)) for _ in range(2)]
    wanted.append(tuple(sorted(dice.sample(range(NUM_FRAMES), 10))))
    for rows in wanted:
        frames = read_frames(path, Rows(rows=rows), backend="pyav")
        for i, pixels in zip(rows, rows_of(frames), strict=True):
            assert np.array_equal(pixels, reference[i]), (rows, i)


@pytest.mark.skipif(find_spec("decord") is None, reason="decord has no wheel here")
@pytest.mark.parametrize("name", [n for n in CLIPS if n.endswith(("mp4", "mkv", "webm", "mov"))])
def test_it_does_not_show_in_the_pixels_which_backend_read(clip, name):
    """Decord alone gives neighbours after seeks into open groups and with intra refresh."""
    path = clip(name)
    for i in range(2, NUM_FRAMES, 7):
        try:
            chosen = read_frames(path, Rows(rows=(i,)), backend="decord")
        except DecodeError:  # better no frame than a neighbour
            assert name not in ("closed.mp4", "closed.mkv", "vp8.webm")
            continue
        assert chosen.source.backend == "decord"
        assert torch.equal(chosen.data, read_frames(path, Rows(rows=(i,))).data)


@settings(deadline=None, max_examples=25)
@given(
    rows=st.lists(st.integers(0, NUM_FRAMES - 1), min_size=1, max_size=20),
    chunk=st.integers(1, 9),
    backend=st.sampled_from(["auto", "pyav"]),
)
def test_chunks_are_the_rows_asked_for_whatever_their_size(clip, rows, chunk, backend):
    path = clip("open.mp4")
    whole = read_frames(path, Every(), backend="pyav")
    request = DecodeRequest(
        path=str(path), sampler=Rows(rows=tuple(rows)), chunk_frames=chunk, backend=backend
    )
    done = 0
    for frames in stream_frames(request):
        part = rows[done : done + chunk]
        assert frames.first_index == done
        assert torch.equal(frames.data, whole.data[part])
        assert torch.equal(frames.pts_s, whole.pts_s[part])
        assert torch.equal(frames.duration_s, whole.duration_s[part])
        done += len(frames)
    assert done == len(rows)


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        ((0, False, False), lambda a: a),
        ((90, False, False), lambda a: np.rot90(a, 1)),
        ((180, False, False), lambda a: a[::-1, ::-1]),
        ((-90, False, False), lambda a: np.rot90(a, -1)),
        ((0, True, False), lambda a: a[:, ::-1]),
        ((0, False, True), lambda a: a[::-1]),
    ],
)
def test_all_ways_to_lay_a_picture_are_turned_upright(clip, tmp_path, suffix, matrix, expected):
    path = tmp_path / f"turned.{suffix}"
    degrees, hflip, vflip = matrix
    with av.open(str(clip("closed.mp4"))) as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        stream.set_display_rotation(degrees, hflip=hflip, vflip=vflip)
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    (stored,) = rows_of(read_frames(clip("closed.mp4"), Rows(rows=(20,)), backend="pyav"))
    for backend in ("pyav", "auto"):
        frames = read_frames(path, Rows(rows=(20,)), backend=backend)
        assert np.array_equal(rows_of(frames)[0], expected(stored))
        assert (frames.source.height, frames.source.width) == frames.data.shape[2:]


def cut_copy(source, target, *, skip=0, earlier=0.0):
    """The packets of ``source`` from number ``skip`` on, all times moved."""
    options = {"avoid_negative_ts": "disabled"}
    with av.open(str(source)) as old, av.open(str(target), "w", container_options=options) as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for number, packet in enumerate(old.demux(video=0)):
            if packet.dts is None or number < skip:
                continue
            ticks = round(earlier / packet.time_base)
            packet.pts, packet.dts, packet.stream = packet.pts - ticks, packet.dts - ticks, stream
            new.mux(packet)
    return target


@pytest.mark.parametrize("backend", ["pyav", "auto"])
@pytest.mark.parametrize(
    ("name", "copy", "change"),
    [
        ("closed.ts", "no_key_at_start.ts", {"skip": 5}),
        ("open.ts", "no_key_at_start.ts", {"skip": 5}),
        ("closed.mp4", "no_key_at_start.mkv", {"skip": 5}),
        ("mpeg2.mkv", "no_key_at_start.ts", {"skip": 5}),
        ("closed.mp4", "edit_list.mp4", {"earlier": 1.55}),
    ],
)
def test_a_file_cut_in_a_group_of_pictures_counts_what_decodes(
    clip, tmp_path, name, copy, change, backend
):
    path = cut_copy(clip(name), tmp_path / copy, **change)
    reference = list(all_frames(path))
    assert 0 < len(reference) < NUM_FRAMES
    frames = read_frames(path, Every(step=5), backend=backend)
    assert frames.source.num_frames == len(reference)
    assert frames.pts_s[0] == 0
    for pixels, expected in zip(rows_of(frames), reference[::5], strict=True):
        assert np.array_equal(pixels, expected)


def test_variable_rate_times_survive(tmp_path):
    times_ms = [0, 40, 55, 300, 301, 900, 1000]
    path = write_clip(tmp_path / "vfr.mkv", moving_square(7), pts_ms=times_ms)
    frames = read_frames(path, Every())
    assert (frames.pts_s * 1000).round().tolist() == times_ms
    assert (frames.duration_s[:-1] * 1000).round().tolist() == [40, 15, 245, 1, 599, 100]
    assert frames.duration_s[-1] > 0


def test_pictures_that_change_size_come_in_the_first_one(tmp_path):
    large = write_clip(tmp_path / "large.h264", moving_square(6, 64, 96), g=3)
    small = write_clip(tmp_path / "small.h264", moving_square(6, 32, 48), g=3)
    both = tmp_path / "both.h264"
    both.write_bytes(large.read_bytes() + small.read_bytes())
    assert read_frames(both, Every()).data.shape == (12, 3, 64, 96)


def test_the_sample_aspect_ratio_is_left_alone(tmp_path):
    path = write_clip(tmp_path / "wide.mp4", moving_square(4), **{"x264-params": "sar=2/1"})
    with av.open(str(path)) as container:
        assert container.streams.video[0].sample_aspect_ratio == 2
    assert read_frames(path, Every()).data.shape == (4, 3, 64, 96)


@pytest.mark.parametrize("size", [(33, 47), (2, 2), (1, 3)])
def test_odd_and_tiny_sizes(tmp_path, size):
    path = write_clip(tmp_path / "odd.mkv", moving_square(3, *size), codec="ffv1", pix_fmt="bgr0")
    for backend in ("pyav", "auto"):
        frames = read_frames(path, Every(), backend=backend)
        assert np.array_equal(np.stack(rows_of(frames)), moving_square(3, *size))


def test_a_still_gif_is_a_picture(tmp_path):
    path = write_clip(tmp_path / "still.gif", moving_square(1), codec="gif", pix_fmt="rgb8")
    with pytest.raises(DecodeError, match="still GIF picture"):
        read_frames(path, Every())


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuvj420p", "yuv444p", "yuv420p10le", "rgb24"])
def test_colours_come_back(tmp_path, pix_fmt):
    pixels = moving_square(3, 64, 96)
    codec = "libx264rgb" if pix_fmt == "rgb24" else "libx264"
    path = write_clip(tmp_path / "colour.mp4", pixels, codec=codec, pix_fmt=pix_fmt, crf=1)
    frames = read_frames(path, Every(), backend="pyav")
    assert np.abs(np.stack(rows_of(frames)).astype(int) - pixels).mean() < 4
    assert torch.equal(frames.data, read_frames(path, Every(), backend="auto").data)
