"""Sources without an end: each window holds what a range of the finished video would."""

import contextlib
import os
import time
from pathlib import Path

import pytest
import torch
from clips import moving_square, write_clip
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from live_sources import broadcast, grows, piped, sends
from rtsp_camera import camera, coded

from vidcomp.errors import ConfigError, DecodeError
from vidcomp.functional.resize import Resize
from vidcomp.sample.decode import (
    DecodeRequest,
    Live,
    check_sampler,
    is_address,
    read_frames,
    shown_address,
    stream_frames,
)
from vidcomp.sample.decode.isolate import DecodeWorker
from vidcomp.sample.fps import Fps
from vidcomp.sample.uniform import Uniform
from vidcomp.types import Frames

GAPS = [0, 100, 150, 900, 1000, 3100, *range(3200, 6400, 137)]


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("live")
    pixels = moving_square(95, height=48, width=64)
    write_clip(folder / "steady.ts", pixels, g=12, bf=2)
    write_clip(folder / "steady.mkv", pixels, g=12, bf=2)
    fragments = {"movflags": "frag_keyframe+empty_moov"}
    write_clip(folder / "steady.mp4", pixels, g=12, bf=2, container=fragments)
    write_clip(folder / "uneven.mkv", pixels[: len(GAPS)], pts_ms=GAPS)
    write_clip(folder / "whole.mp4", pixels[:20])
    return folder


def request_of(path, window_s=2.0, fps=3.0, point="start", **more):
    live = {k: more.pop(k) for k in [*more] if k in Live.__dataclass_fields__}
    return DecodeRequest(
        path=str(path),
        sampler=Fps(fps=fps, point=point),
        live=Live(**{"window_s": window_s, "idle_s": 0.4, "patience_s": 5.0, **live}),
        **more,
    )


def windows_of(chunks):
    """Chunks by window, however the reading ends."""
    windows, error = [], None
    try:
        for frames in chunks:
            if frames.first_index == 0:
                windows.append([])
            assert frames.first_index == sum(map(len, windows[-1]))
            windows[-1].append(frames)
    except DecodeError as problem:
        error = problem
    return windows, error


def assert_same_as_ranges(windows, path, request):
    length_s, sampler = request.live.window_s, request.sampler
    for number, chunks in enumerate(windows):
        start_s, end_s = number * length_s, (number + 1) * length_s
        there = read_frames(path, sampler, size=request.resize, start_s=start_s, end_s=end_s)
        frames = Frames.cat(chunks)
        assert torch.equal(frames.data, there.data), number
        torch.testing.assert_close(frames.pts_s, there.pts_s, atol=1e-6, rtol=0)
        torch.testing.assert_close(frames.duration_s, there.duration_s, atol=2e-3, rtol=0)
        assert chunks[-1].source.damage == ""
    assert windows[-1][-1].source.duration_s > (len(windows) - 1) * length_s


@settings(
    deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    name=st.sampled_from(["steady.ts", "steady.mkv", "steady.mp4", "uneven.mkv"]),
    window_s=st.sampled_from([0.7, 1.0, 2.0, 4.5, 60.0]),
    fps=st.sampled_from([0.5, 2.0, 3.0, 30.0]),
    point=st.sampled_from(["start", "middle"]),
    chunk_frames=st.sampled_from([1, 4, 32]),
)
def test_windows_are_ranges_of_the_finished_file(clips, name, window_s, fps, point, chunk_frames):
    if point == "middle" and fps * window_s < 1:
        return  # a range without a point takes its middle frame, a window its last one
    request = request_of(
        clips / name,
        window_s,
        fps,
        point,
        chunk_frames=chunk_frames,
        resize=Resize(height=28, width=42),
        idle_s=0.05,
    )
    windows, error = windows_of(stream_frames(request))
    assert error is None
    assert all(len(chunk) <= chunk_frames for window in windows for chunk in window)
    if point == "middle" and fps * (windows[-1][-1].source.duration_s % window_s) < 1:
        windows.pop()
    if windows:
        assert_same_as_ranges(windows, clips / name, request)


@pytest.mark.parametrize(
    ("name", "isolation"),
    [
        ("steady.ts", "process"),
        ("steady.ts", "thread"),
        ("steady.mkv", "thread"),
        ("steady.mp4", "thread"),
    ],
)
def test_a_file_is_followed_while_it_grows(clips, tmp_path, name, isolation):
    request = request_of(tmp_path / name, idle_s=1.0)
    data = (clips / name).read_bytes()
    with DecodeWorker(stall_s=30) as worker, contextlib.ExitStack() as stack:
        if isolation == "process":
            next(worker.frames(request_of(clips / name)))  # it has started
        stack.enter_context(grows(tmp_path / name, data, 1.5, first=2000))
        read = worker.frames if isolation == "process" else stream_frames
        seen, windows = [], []
        for frames in read(request):
            seen.append((tmp_path / name).stat().st_size)
            if frames.first_index == 0:
                windows.append([])
            windows[-1].append(
                Frames(
                    **{n: getattr(frames, n) for n in ("pts_s", "duration_s")},
                    data=frames.data.clone(),
                    source=frames.source,
                )
            )
    assert seen[0] < len(data)  # the first window came before the file was complete
    assert_same_as_ranges(windows, clips / name, request)


def test_reading_goes_on_behind_what_is_known(clips):
    windows, error = windows_of(stream_frames(request_of(clips / "steady.ts", start_s=5.3)))
    assert error is None
    assert [float(w[0].pts_s[0]) for w in windows] == pytest.approx([5.3, 6.0, 8.0])
    there = read_frames(clips / "steady.ts", Fps(fps=3.0), start_s=5.3, end_s=6.0)
    assert torch.equal(Frames.cat(windows[0]).data, there.data)


def test_a_pipe_is_read_to_its_end(clips, tmp_path):
    data = (clips / "steady.ts").read_bytes()
    with piped(tmp_path / "pipe", data):
        windows, error = windows_of(stream_frames(request_of(tmp_path / "pipe")))
    assert error is None
    assert_same_as_ranges(windows, clips / "steady.ts", request_of(tmp_path / "pipe"))


def test_a_pipe_that_nobody_writes_to_ends_the_wait(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    started = time.monotonic()
    with pytest.raises(DecodeError, match="cannot be followed"):
        next(stream_frames(request_of(tmp_path / "pipe", patience_s=0.5)))
    assert time.monotonic() - started < 5


def test_a_closed_connection_is_an_error_after_all_that_came(clips):
    data = (clips / "steady.ts").read_bytes()
    with sends(data) as address:
        request = request_of(address)
        windows, error = windows_of(stream_frames(request))
    assert "connection was closed after 9.5 s" in str(error)
    assert_same_as_ranges(windows, clips / "steady.ts", request)


def test_times_go_on_from_the_origin_of_an_address(clips):
    with sends((clips / "steady.ts").read_bytes()) as address:
        windows, _ = windows_of(stream_frames(request_of(address, origin_s=101.5)))
    firsts = [float(w[0].pts_s[0]) for w in windows]
    assert firsts == pytest.approx([101.5, 102, 104, 106, 108, 110])
    assert windows[-1][-1].source.duration_s == pytest.approx(111)


def test_a_connection_that_goes_quiet_is_lost(clips):
    data = (clips / "steady.ts").read_bytes()
    with sends(data, linger_s=9.0) as address:
        windows, error = windows_of(stream_frames(request_of(address, patience_s=1.0)))
    assert "after 9.5 s" in str(error)
    assert sum(len(w) for window in windows for w in window) == 29


@pytest.mark.parametrize("chunked", [True, False])
def test_a_web_server_that_says_the_length_ends_with_it(clips, chunked):
    with broadcast((clips / "steady.ts").read_bytes(), chunked=chunked) as address:
        windows, error = windows_of(stream_frames(request_of(address)))
    assert (error is not None) == chunked
    assert_same_as_ranges(windows, clips / "steady.ts", request_of(address))


def test_a_camera_is_followed(clips):
    """RTSP over one connection, with a password; what it sends is what a file would hold."""
    pixels = moving_square(45, height=48, width=64)
    with camera(coded(pixels)) as (address, asked):
        windows, error = windows_of(stream_frames(request_of(address, fps=100)))
    assert [sum(map(len, window)) for window in windows] == [20, 20, 5]
    assert "connection was closed after 4.5 s" in str(error)
    assert "secret" not in str(error)
    assert [line.split()[0] for line in asked] == ["OPTIONS", "DESCRIBE", "SETUP", "PLAY"]
    frames = [Frames.cat(window) for window in windows]
    assert not any(window[-1].source.damage for window in windows)
    assert torch.cat([f.pts_s for f in frames]).tolist() == pytest.approx(
        [i / 10 for i in range(45)], abs=1e-6
    )
    shown = torch.cat([f.data for f in frames]).float()
    assert (shown - torch.from_numpy(pixels).permute(0, 3, 1, 2).float()).abs().mean() < 12


def test_times_never_go_back(clips, tmp_path):
    """A camera that starts anew in the same stream: its clock begins at 0 again."""
    data = (clips / "steady.ts").read_bytes()
    (tmp_path / "twice.ts").write_bytes(data + data)
    windows, error = windows_of(stream_frames(request_of(tmp_path / "twice.ts", fps=100)))
    assert error is None
    pts_s = torch.cat([Frames.cat(window).pts_s for window in windows])
    assert len(pts_s.unique()) == 190
    assert (pts_s.diff() >= 0).all()
    assert pts_s.diff().max() < 0.2
    damage = [window[-1].source.damage for window in windows]
    assert sum("times jump" in text for text in damage) == 1


def test_what_is_damaged_is_told_in_its_window(clips, tmp_path):
    data = bytearray((clips / "steady.ts").read_bytes())
    middle = len(data) // 2
    data[middle : middle + 4000] = os.urandom(4000)
    (tmp_path / "broken.ts").write_bytes(data)
    windows, error = windows_of(stream_frames(request_of(tmp_path / "broken.ts", fps=100)))
    assert error is None
    damage = [window[-1].source.damage for window in windows]
    assert any(damage)
    assert not damage[0]
    assert not damage[-1]


def test_a_slow_source_is_handed_on_in_time(clips, tmp_path):
    data = (clips / "steady.ts").read_bytes()
    request = request_of(tmp_path / "slow.ts", 60.0, chunk_s=0.3, multiple=4, idle_s=1.0)
    with grows(tmp_path / "slow.ts", data, 2.0):
        chunks = list(stream_frames(request))
    assert len(chunks) > 2
    assert all(len(chunk) % 4 == 0 for chunk in chunks[:-1])
    assert sum(map(len, chunks)) == 29


def test_an_ordinary_mp4_needs_its_end_first(clips, tmp_path):
    data = (clips / "whole.mp4").read_bytes()
    whole = tmp_path / "whole.mp4"
    whole.write_bytes(data[: len(data) // 2])
    with pytest.raises(DecodeError, match="fragmented MP4"):
        list(stream_frames(request_of(whole)))


def test_nothing_but_what_is_named_is_opened(tmp_path):
    (tmp_path / "list.m3u8").write_text(f"#EXTM3U\n#EXTINF:1,\nfile://{tmp_path}/secret.ts\n")
    with pytest.raises(DecodeError, match="cannot be followed"):
        list(stream_frames(request_of(tmp_path / "list.m3u8")))
    for address in ("file:///etc/passwd", "concat://a|b", "subfile://x", "gopher://host/"):
        with pytest.raises(DecodeError, match="cannot be followed"):
            is_address(address)
    assert not is_address(str(tmp_path / "a.ts"))


def test_passwords_are_not_shown():
    assert shown_address("rtsp://user:p%40ss@cam:554/1?x=2") == "rtsp://cam:554/1?x=2"
    assert shown_address("udp://@239.0.0.1:1234") == "udp://239.0.0.1:1234"
    assert shown_address("/videos/a@b.ts") == "/videos/a@b.ts"
    with pytest.raises(DecodeError) as caught:
        list(stream_frames(request_of("rtsp://me:secret@127.0.0.1:1/x")))
    assert "secret" not in str(caught.value)


def test_samplers_that_need_the_end_are_refused(clips):
    for sampler in (Uniform(), Fps(fps=2, max_frames=8), Fps(fps=2, by_length=((60, 1),))):
        with pytest.raises(ConfigError, match="live source is sampled by 'fps'"):
            check_sampler(sampler)
    with pytest.raises(ConfigError, match="window_s"):
        request_of(clips / "steady.ts", 0.0)


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="no list of open files")
def test_closing_early_gives_the_source_back(clips):
    before = len(list(Path("/proc/self/fd").iterdir()))
    chunks = stream_frames(request_of(clips / "steady.ts"))
    next(chunks)
    chunks.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == before
