"""What arrives from a decode process, through shared memory and over the pipe."""

import os
import signal
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from clips import moving_square, write_clip
from decode_oracle import Every, Rows, Spread
from hypothesis import given, settings
from hypothesis import strategies as st
from isolate_samplers import HangsAt, SlowFrom

from vidcomp.errors import ConfigError, DecodeError, VidcompError
from vidcomp.functional.resize import Resize
from vidcomp.sample.decode import DecodeRequest, _process, _wire, stream_frames
from vidcomp.sample.decode._slots import open_slots
from vidcomp.sample.decode.isolate import DecodeWorker

NUM_FRAMES = 40
linux = pytest.mark.skipif(sys.platform != "linux", reason="shared memory is for Linux")
TRANSPORTS = [pytest.param("slots", marks=linux), "pipe"]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("transport") / "clip.mp4"
    return str(write_clip(path, moving_square(NUM_FRAMES), g=10))


@pytest.fixture(scope="module", params=TRANSPORTS)
def transport(request):
    """Slots where the system has them, or a pipe everywhere."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "pipe":
            patch.setattr(_process, "open_slots", lambda: None)
        yield request.param


@pytest.fixture(scope="module")
def worker(transport):
    with DecodeWorker(recycle_after=10**6) as worker:
        yield worker
        assert (worker._process._slots is None) == (transport == "pipe")


@pytest.fixture
def slots(monkeypatch):
    """Shared memory, whatever the tests before had."""
    monkeypatch.setattr(_process, "open_slots", open_slots)


@pytest.fixture(scope="module")
def expected_of():
    """What decoding in this process gives, made once for both transports."""
    known = {}

    def expected(request):
        if request.path not in known:
            known[request.path] = outcome(stream_frames(request))
        return known[request.path]

    return expected


def same(ours, theirs):
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a.data, b.data)
        assert a.data.stride() == b.data.stride()
        assert torch.equal(a.pts_s, b.pts_s)
        assert torch.equal(a.duration_s, b.duration_s)
        for name in ("first_index", "source", "content", "num_padded"):
            assert getattr(a, name) == getattr(b, name)


def outcome(frames):
    """All chunks, or the words of the error."""
    try:
        return list(frames)
    except VidcompError as error:
        return (type(error), str(error))


def test_every_clip_gives_the_same_bits(worker, videos, expected_of):
    paths = [p for p in sorted(videos.rglob("*")) if p.suffix in (".mp4", ".mkv", ".webm", ".mov")]
    assert len(paths) > 20
    for number, path in enumerate(paths):
        request = DecodeRequest(
            path=str(path),
            sampler=Spread(count=4),
            chunk_frames=(1, 4, 32)[number % 3],
            on_damage="keep" if number % 2 else "raise",
        )
        expected, got = expected_of(request), outcome(worker.frames(request))
        if isinstance(expected, tuple):
            assert got == expected
        else:
            same(expected, got)


@settings(deadline=None, max_examples=20)
@given(
    rows=st.lists(st.integers(0, NUM_FRAMES - 1), min_size=1, max_size=60),
    chunk_frames=st.integers(1, 70),
    resize=st.sampled_from([None, Resize(height=17, width=33), Resize(mode="letterbox")]),
    keep=st.booleans(),
)
def test_any_rows_in_any_chunks_give_the_same_bits(worker, clip, rows, chunk_frames, resize, keep):
    request = DecodeRequest(
        path=clip,
        sampler=Rows(rows=tuple(rows)),
        chunk_frames=chunk_frames,
        resize=resize,
        on_damage="keep" if keep else "raise",
    )
    same(list(stream_frames(request)), list(worker.frames(request)))


def test_who_keeps_all_frames_gets_all_frames(worker, clip):
    request = DecodeRequest(path=clip, sampler=Every(), chunk_frames=1)
    kept = [list(worker.frames(request)) for _ in range(2)]
    for chunks in kept:
        same(list(stream_frames(request)), chunks)


def test_frames_outlive_their_process_and_its_memory(transport, clip):
    request = DecodeRequest(path=clip, sampler=Every(), chunk_frames=4)
    worker = DecodeWorker()
    frames = worker.frames(request)
    first, second = next(frames), next(frames)
    if os.name == "posix":
        os.kill(worker._process._process.pid, signal.SIGKILL)
        with pytest.raises(DecodeError):
            list(frames)
    worker.close()
    third = next(worker.frames(request))
    del worker, frames
    same(list(stream_frames(request))[:2], [first, second])
    same([first], [third])


def test_frames_may_be_written_to(worker, clip):
    request = DecodeRequest(path=clip, sampler=Every(), chunk_frames=8)
    expected = list(stream_frames(request))
    for _ in range(3):
        for frames, theirs in zip(worker.frames(request), expected, strict=True):
            assert torch.equal(frames.data, theirs.data)
            frames.data.zero_()


def test_a_slow_receiver_is_no_hang(transport, clip):
    request = DecodeRequest(path=clip, sampler=Every(), chunk_frames=2)
    with DecodeWorker(stall_s=0.5) as worker:
        kept = []
        for frames in worker.frames(request):
            kept.append(frames)
            if len(kept) in (1, 9):
                time.sleep(1.1)
        same(list(stream_frames(request)), kept)


def test_leaving_in_the_middle_of_work_is_prompt(transport, clip):
    with DecodeWorker() as worker:
        quick = DecodeRequest(path=clip, sampler=Rows(rows=(0, 1)))
        frames = worker.frames(replace(quick, sampler=SlowFrom(picture=20), chunk_frames=20))
        assert len(next(frames)) == 20
        before = worker._process._process.pid
        time.sleep(0.3)  # it works on 20 s of pictures
        begin_s = time.monotonic()
        frames.close()
        assert time.monotonic() - begin_s < 1
        assert sum(map(len, worker.frames(quick))) == 2
        assert time.monotonic() - begin_s < 8
        assert worker._process._process.pid == before


def test_a_worker_may_be_handed_to_another_thread(worker, clip):
    request = DecodeRequest(path=clip, sampler=Every(), chunk_frames=3)
    expected = list(stream_frames(request))
    got = []
    for _ in range(6):
        thread = threading.Thread(target=lambda: got.append(list(worker.frames(request))))
        thread.start()
        thread.join()
    assert len(got) == 6
    for chunks in got:
        same(expected, chunks)


def test_closing_a_worker_ends_who_waits_for_it(transport, clip):
    request = DecodeRequest(path=clip, sampler=HangsAt(picture=4), chunk_frames=4)
    caught = []

    def read():
        try:
            list(worker.frames(request))
        except VidcompError as error:
            caught.append(error)

    with DecodeWorker() as worker:
        thread = threading.Thread(target=read)
        thread.start()
        while worker._process is None or not worker._process._is_ready:
            time.sleep(0.01)
        time.sleep(0.2)
        worker.close()
        thread.join(10)
        assert not thread.is_alive()
    assert type(caught[0]) is ConfigError  # not the file's fault
    assert "closed" in str(caught[0])


def test_two_workers_do_not_mix(transport, worker, clip):
    one, two = (
        DecodeRequest(path=clip, sampler=Every(step=step), chunk_frames=2) for step in (1, 2)
    )
    with DecodeWorker() as other:
        pairs = list(zip(worker.frames(one), other.frames(two), strict=False))
    same([a for a, _ in pairs], list(stream_frames(one))[: len(pairs)])
    same([b for _, b in pairs], list(stream_frames(two))[: len(pairs)])


@linux
@pytest.mark.parametrize("num_requests", [60, pytest.param(3000, marks=pytest.mark.slow)])
def test_nothing_piles_up(worker, clip, num_requests):
    request = DecodeRequest(path=clip, sampler=Spread(count=4), chunk_frames=2)
    large = replace(request, sampler=Every(), chunk_frames=40, resize=Resize(height=480, width=480))

    def state():
        pids = (os.getpid(), worker._process._process.pid)
        files = [len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in pids]
        own = worker._process._slots
        return (
            files,
            0 if own is None else os.fstat(own.file).st_blocks * 512,
            threading.active_count(),
        )

    def work(count):
        kept = []
        for number in range(count):
            frames = worker.frames(request)
            kept += [next(frames)] if number % 3 else list(frames)
            del frames
            kept = kept[-number % 9 :]

    work(30)
    files, _, num_threads = state()
    list(worker.frames(large))
    work(num_requests)
    list(worker.frames(request))
    list(worker.frames(request))
    now_files, now_bytes, now_threads = state()
    assert all(now <= before + 8 for now, before in zip(now_files, files, strict=True))
    assert now_bytes < 8 << 20
    assert now_threads == num_threads


@linux
def test_the_process_works_ahead_as_far_as_there_is_room(slots, clip):
    request = DecodeRequest(path=clip, sampler=Every(), chunk_frames=1)
    with DecodeWorker() as worker:
        frames = worker.frames(request)
        next(frames)
        own, inbox = worker._process._slots, worker._process._inbox
        announced = [inbox.get(20)["slot"] for _ in range(7)]  # without being asked for
        assert {*announced, *own._lent} == set(range(8))
        with pytest.raises(_wire.SilenceError):  # and no sign of life while it waits
            inbox.get(1.5)


@linux
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # other threads are running
def test_a_forked_copy_sees_its_frames_for_ever(slots, clip):
    request = DecodeRequest(path=clip, sampler=Every(), chunk_frames=4)
    expected = next(stream_frames(request)).data
    with DecodeWorker() as worker:
        frames = worker.frames(request)
        first = next(frames)
        go_on, say = os.pipe()
        child = os.fork()
        if child == 0:
            os.read(go_on, 1)
            os._exit(0 if torch.equal(first.data, expected) else 3)
        before = worker._process._process.pid
        del first
        assert sum(map(len, frames)) == NUM_FRAMES - 4
        for _ in range(3):  # whatever the process writes to
            assert sum(map(len, worker.frames(replace(request, sampler=Every(step=3))))) == 14
        assert worker._process._process.pid != before  # the next request has all slots again
        os.write(say, b"x")
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        os.close(go_on)
        os.close(say)


def test_pipes_that_cannot_be_polled_are_watched(monkeypatch, clip):
    monkeypatch.setattr(_wire, "_HAS_POLL", False)
    monkeypatch.setattr(_process, "open_slots", lambda: None)
    request = DecodeRequest(path=clip, sampler=Every(), chunk_frames=3)
    with DecodeWorker(stall_s=0.8) as worker:
        same(list(stream_frames(request)), list(worker.frames(request)))
        slow = replace(request, sampler=HangsAt(picture=2))
        with pytest.raises(DecodeError, match=r"no progress for 0\.8 s"):
            list(worker.frames(slow))
        assert len(list(worker.frames(request))) == 14
