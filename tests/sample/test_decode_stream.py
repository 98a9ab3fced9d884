"""Ranges, chunks, thumbnails, resizing and bounded memory of reading."""

import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from clips import moving_square, write_clip
from decode_oracle import Every, Rows, Spread, rows_of
from hypothesis import given, settings
from hypothesis import strategies as st

from vidcomp.errors import ConfigError, DecodeError
from vidcomp.functional.resize import Resize, resize_frames
from vidcomp.sample.base import Sampler, Selection
from vidcomp.sample.decode import DecodeRequest, read_frames, stream_frames
from vidcomp.sample.decode.probe import probe

FPS = 10
NUM_FRAMES = 40


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("stream") / "clip.mp4"
    return write_clip(path, moving_square(NUM_FRAMES, 64, 96), fps=FPS, g=9, bf=2)


@pytest.fixture(scope="module")
def whole(clip):
    return read_frames(clip, Every())


@settings(deadline=None, max_examples=40)
@given(start=st.integers(0, 45), length=st.integers(1, 45), nudge=st.sampled_from([0, 3, 5]))
def test_a_range_holds_the_frames_that_are_shown_in_it(clip, whole, start, length, nudge):
    """Bounds in hundredths of a second; a frame lasts ten."""
    begin, end = 10 * start + nudge, 10 * (start + length)
    shown = [i for i in range(NUM_FRAMES) if 10 * i < end and 10 * i + 10 > begin]
    if not shown:
        with pytest.raises(DecodeError, match=r"lasts 4\.000 s and shows no frame from"):
            read_frames(clip, Every(), start_s=begin / 100, end_s=end / 100)
        return
    frames = read_frames(clip, Every(), start_s=begin / 100, end_s=end / 100)
    assert torch.equal(frames.pts_s, whole.pts_s[shown])  # times stay those of the file
    assert torch.equal(frames.data, whole.data[shown])
    assert frames.first_index == 0


def test_samplers_see_the_range(clip):
    seen = []

    class Looks(Sampler):
        def __call__(self, timeline):
            seen.append(timeline)
            return Selection(torch.tensor([0]))

    read_frames(clip, Looks(), start_s=1.05, end_s=2.5)
    (timeline,) = seen
    assert timeline.pts_s.tolist() == pytest.approx([i / 10 for i in range(10, 25)])
    assert (timeline.start_s, timeline.end_s) == (1.05, 2.5)
    assert timeline.is_key.nonzero().flatten().tolist() == [8]
    read_frames(clip, Looks(), end_s=100.0)
    assert seen[1].end_s == pytest.approx(4.0)
    assert seen[1].start_s is None


@pytest.mark.parametrize("size", [(90, 160), (160, 90), (40, 50)])
def test_thumbnails_are_the_frames_made_small(tmp_path, size):
    height, width = size
    pixels = moving_square(20, height, width)
    path = write_clip(tmp_path / "small.mp4", pixels, g=5, crf=5)
    thumbnails = probe(path).timeline.thumbnails()
    longest = max(size)
    assert thumbnails.shape == (
        20, 3, round(height * min(64, longest) / longest), round(width * min(64, longest) / longest)
    )  # fmt: skip
    data = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    h, w = thumbnails.shape[2:]
    small, _ = resize_frames(data, Resize(height=h, width=w))
    assert (thumbnails.float() - small.float()).abs().mean() < 6
    part = []

    class Looks(Sampler):
        def __call__(self, timeline):
            part.append(timeline.thumbnails())
            return Selection(torch.tensor([0]))

    read_frames(path, Looks(), start_s=0.5, end_s=1.2)
    assert torch.equal(part[0], thumbnails[5:12])


def test_thumbnails_are_upright(videos):
    timeline = probe(videos / "rot90_3frames.mov").timeline
    assert timeline.thumbnails().shape == (3, 3, 64, 36)


def test_thumbnails_of_a_broken_file(videos):
    path = videos / "bad" / "decord_corrupted.mp4"

    class Looks(Sampler):
        def __call__(self, timeline):
            small = timeline.thumbnails()
            assert len(small) == len(timeline) == 50
            assert torch.equal(small[30], small[29])  # the one that is missing
            return Selection(torch.tensor([0]))

    with pytest.raises(DecodeError, match="of 50 frames cannot be decoded"):
        read_frames(path, Looks())
    assert len(read_frames(path, Looks(), on_damage="keep")) == 1


@pytest.mark.parametrize(
    "resize", [Resize(height=32, width=48), Resize(mode="letterbox", height=56, width=56)]
)
def test_resizing_while_decoding_equals_resizing_after(clip, whole, resize):
    expected, content = resize_frames(whole.data, resize)
    frames = read_frames(clip, Every(), size=resize)
    assert torch.equal(frames.data, expected)
    assert frames.content == content
    assert read_frames(clip, Rows(rows=(0,)), size=28).data.shape == (1, 3, 28, 28)


def test_padded_rows_are_counted_in_their_chunks(clip):
    request = DecodeRequest(
        path=str(clip), sampler=Rows(rows=(0, 5, 9, 9, 9, 9), num_padded=3), chunk_frames=4
    )
    assert [(len(c), c.num_padded) for c in stream_frames(request)] == [(4, 1), (2, 2)]


@pytest.mark.parametrize(
    ("indices", "match"),
    [
        (torch.tensor([-1]), "picked frame -1 of 40"),
        (torch.tensor([0, 40]), "picked frame 40 of 40"),
        (torch.tensor([], dtype=torch.long), "at least one"),
        (torch.tensor([[1]]), r"got \[1, 1\]"),
        (torch.tensor([1.0]), "float32"),
    ],
)
def test_samplers_that_pick_what_is_not_there(clip, indices, match):
    class Wrong(Sampler):
        def __call__(self, timeline):
            return Selection(indices)

    with pytest.raises(ConfigError, match=match):
        read_frames(clip, Wrong())


def test_overlapping_clips_decode_each_frame_once(clip, monkeypatch):
    from vidcomp.sample.decode._pyav import PyAVReader

    read = []
    original = PyAVReader.read

    def spy(self, wanted):
        read.extend(wanted)
        return original(self, wanted)

    monkeypatch.setattr(PyAVReader, "read", spy)
    rows = tuple(i for start in range(0, 32, 4) for i in range(start, start + 8))
    request = DecodeRequest(path=str(clip), sampler=Rows(rows=rows), chunk_frames=8, backend="pyav")
    frames = list(stream_frames(request))
    assert sorted(read) == sorted(set(rows))
    assert [round(t * FPS) for c in frames for t in c.pts_s.tolist()] == list(rows)


def test_a_changed_file_is_scanned_again(tmp_path):
    path = write_clip(tmp_path / "clip.mp4", moving_square(5))
    assert len(read_frames(path, Every())) == 5
    write_clip(path, moving_square(9))
    assert len(read_frames(path, Every())) == 9


@pytest.mark.skipif(sys.platform != "linux", reason="counts the open files of Linux")
def test_files_are_closed(clip):
    read_frames(clip, Every())
    before = len(list(Path("/proc/self/fd").iterdir()))
    for backend in ("pyav", "auto"):
        for _ in range(5):
            stream = stream_frames(
                DecodeRequest(path=str(clip), sampler=Every(), chunk_frames=4, backend=backend)
            )
            next(stream)
            stream.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_frames_that_packets_announce_wrongly_are_counted_again(clip, monkeypatch):
    """As if each picture came in two packets, as interlaced streams have it."""
    from vidcomp.sample.decode import _scan, _timeline

    original = _scan._expected_frames

    def twice(packets):
        ticks, is_key = original(packets)
        step = int(ticks[1] - ticks[0])
        both = np.stack([ticks, ticks + step // 2], axis=1).ravel()
        return both, np.repeat(is_key, 2)

    monkeypatch.setattr(_scan, "_expected_frames", twice)
    _timeline._scans.clear()
    frames = read_frames(clip, Spread(), backend="pyav")
    _timeline._scans.clear()
    assert frames.source.num_frames == NUM_FRAMES
    monkeypatch.undo()
    assert np.array_equal(rows_of(frames), rows_of(read_frames(clip, Spread(), backend="pyav")))


MEASURE = """
import resource, sys, torch
from decode_oracle import Every
from vidcomp.functional.resize import Resize
from vidcomp.sample.decode import DecodeRequest, stream_frames
torch.set_num_threads(1)
request = DecodeRequest(
    path=sys.argv[1], sampler=Every(step=int(sys.argv[2])), resize=Resize(height=64, width=64)
)
count = sum(len(chunk) for chunk in stream_frames(request))
print(count, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def repeated_clip(path, num_frames):
    pictures = [av.VideoFrame.from_ndarray(p, format="rgb24") for p in moving_square(25, 96, 128)]
    pictures = [p.reformat(format="yuv420p") for p in pictures]
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=25, options={"preset": "ultrafast", "g": "250"})
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        for number in range(num_frames):
            picture = pictures[number % 25]
            picture.pts, picture.time_base = number, Fraction(1, 25)
            output.mux(stream.encode(picture))
        output.mux(stream.encode(None))
    return path


@pytest.mark.skipif(sys.platform != "linux", reason="measures kilobytes of Linux")
@pytest.mark.parametrize("step", [1, 13])
def test_memory_does_not_grow_with_the_video(tmp_path, step):
    tests = str(Path(__file__).parents[1])
    peaks = []
    for num_frames in (500, 15_000):
        path = repeated_clip(tmp_path / f"{num_frames}.mp4", num_frames)
        done = subprocess.run(
            [sys.executable, "-c", MEASURE, str(path), str(step)],
            capture_output=True, text=True, check=True, cwd=tests,
        )  # fmt: skip
        count, peak = map(int, done.stdout.split())
        assert count == len(range(0, num_frames, step))
        peaks.append(peak)
    assert peaks[1] < 1.2 * peaks[0]
