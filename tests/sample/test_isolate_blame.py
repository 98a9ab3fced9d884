"""Who is blamed for what: crashes, hangs, memory, and a process that says what it likes."""

import io
import json
import math
import os
import pickle
import signal
import struct
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from clips import moving_square, write_clip
from decode_oracle import Dies, Every, Spread
from isolate_samplers import Bloats, CrashesAt, Grumbles, HangsAt

from vidcomp.errors import ConfigError, CrashError, DecodeError, VidcompError
from vidcomp.sample.decode import DecodeRequest, _process
from vidcomp.sample.decode._slots import open_slots
from vidcomp.sample.decode._wire import Inbox, WireError
from vidcomp.sample.decode.isolate import DecodeWorker
from vidcomp.types import Source

MIB = 1 << 20
posix = pytest.mark.skipif(os.name != "posix", reason="needs signals")
linux = pytest.mark.skipif(sys.platform != "linux", reason="shared memory is for Linux")


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("blame") / "clip.mp4"
    return str(write_clip(path, moving_square(40), g=10))


@pytest.fixture
def request_for(clip):
    base = DecodeRequest(path=clip, sampler=Spread(), chunk_frames=4)
    return lambda **changes: replace(base, **changes)


@pytest.fixture(scope="module")
def worker():
    with DecodeWorker() as worker:
        yield worker


def caught_over(worker, request):
    with pytest.raises(CrashError) as caught:
        list(worker.frames(request))
    return caught.value


@posix
@pytest.mark.parametrize("pipe", [False, True])
def test_a_native_crash_in_the_middle_of_a_chunk(worker, request_for, pipe, monkeypatch):
    if pipe:
        monkeypatch.setattr(_process, "open_slots", lambda: None)
        worker.close()
    assert len(list(worker.frames(request_for()))) == 2
    frames = worker.frames(request_for(sampler=CrashesAt(picture=10)))
    kept = [next(frames), next(frames)]
    before = [frames.data.clone() for frames in kept]
    with pytest.raises(CrashError, match=r"clip.mp4 .*exit -11, SIGSEGV") as caught:
        list(frames)
    error = caught.value
    assert (error.exit_code, error.is_stalled, error.was_fresh) == (-11, False, False)
    assert "isolate_samplers.py" in "".join(error.__notes__)  # where it was
    for frames, pixels in zip(kept, before, strict=True):
        assert frames.data.equal(pixels)
    again = caught_over(worker, request_for(sampler=CrashesAt(picture=0)))
    assert again.was_fresh
    worker.close()


def test_a_hang_while_every_slot_is_lent(request_for):
    kept = []
    request = request_for(sampler=HangsAt(picture=30), chunk_frames=2)
    with DecodeWorker(stall_s=0.7) as worker:
        with pytest.raises(CrashError, match=r"no progress for 0\.7 s") as caught:
            kept.extend(worker.frames(request))
        assert (len(kept), caught.value.is_stalled, caught.value.was_fresh) == (15, True, True)
        again = list(worker.frames(request_for(sampler=Every(), chunk_frames=2)))
    for ours, theirs in zip(kept, again, strict=False):
        assert ours.data.equal(theirs.data)


@posix
def test_a_kill_from_outside_is_said_to_be_the_systems(worker, request_for):
    list(worker.frames(request_for(sampler=Grumbles())))
    error = caught_over(worker, request_for(sampler=Dies(number=int(signal.SIGKILL))))
    assert "killed by the system (exit -9, SIGKILL), as happens when memory runs out" in str(error)
    assert "clip.mp4" in str(error)
    assert (error.exit_code, error.is_stalled, error.was_fresh) == (-9, False, False)
    assert "grumble" not in "".join(getattr(error, "__notes__", []))  # over another file
    copy = pickle.loads(pickle.dumps(error))  # as from another machine
    assert (type(copy), str(copy), vars(copy)) == (CrashError, str(error), vars(error))


@posix
def test_what_dies_between_files_is_no_files_fault(worker, request_for):
    list(worker.frames(request_for()))
    process = worker._process._process
    process.kill()
    process.wait()
    assert len(list(worker.frames(request_for()))) == 2


@linux
def test_memory_may_be_limited(request_for):
    with DecodeWorker(memory_limit_bytes=400 * MIB) as worker:
        assert len(list(worker.frames(request_for()))) == 2
        before = worker._process._process.pid
        for by in ("torch", "numpy", "bytes"):
            bloated = request_for(sampler=Bloats(num_bytes=800 * MIB, by=by))
            with pytest.raises(DecodeError, match=r"clip.mp4 .* in the memory that is left"):
                list(worker.frames(bloated))
            assert len(list(worker.frames(request_for()))) == 2
        assert worker._process._process.pid == before
        assert list(worker.frames(request_for(sampler=Bloats(num_bytes=100 * MIB))))


@pytest.mark.parametrize("limit", [0, -5])
def test_a_limit_is_checked(limit):
    with pytest.raises(ConfigError, match="memory of a decode worker"):
        DecodeWorker(memory_limit_bytes=limit)


GOOD = {
    "kind": "frames",
    "shape": [2, 4, 6, 3],
    "pts_s": [0.0, 0.5],
    "duration_s": [0.5, 0.5],
    "first_index": 0,
    "source": asdict(Source(path="clip.mp4", fps=2.0)),
    "content": None,
    "num_padded": 0,
    "slot": 3,
    "num_bytes": 0,
    "id": 1,
}
END = {"kind": "end", "id": 1, "num_bytes": 0}
HUGE = 10**30
BAD = [
    {"slot": 8},
    {"slot": -1},
    {"slot": HUGE},
    {"slot": "3"},
    {"slot": [3]},
    {"slot": True},
    {"slot": None},  # without pixels
    {"num_bytes": 144, "slot": None},  # pixels that never come
    {"shape": [2, 4, 6]},
    {"shape": [2, 4, 6, 4]},
    {"shape": [2, 4, -6, 3]},
    {"shape": [2, 0, 6, 3]},
    {"shape": [2, 4.0, 6, 3]},
    {"shape": [2, 1 << 40, 1 << 40, 3]},
    {"shape": [2, HUGE, 6, 3]},
    {
        "shape": [5, 4, 6, 3],
        "pts_s": [0.0] * 5,
        "duration_s": [0.0] * 5,
    },  # 4 a chunk were asked for
    {"shape": "2463"},
    {"pts_s": [0.0]},
    {"pts_s": [0.0, "1"]},
    {"pts_s": [0.0, math.inf]},
    {"pts_s": [0.0, HUGE]},
    {"duration_s": None},
    {"first_index": -1},
    {"first_index": 1.0},
    {"num_padded": 3},
    {"content": [1, 2, 3]},
    {"content": [1, 2, 3, "4"]},
    {"source": {"path": "clip.mp4"}},
    {"source": {**GOOD["source"], "path": 3}},
    {"source": {**GOOD["source"], "fps": "2"}},
    {"source": {**GOOD["source"], "extra": 1}},
    {"kind": "unheard of"},
    {"kind": ["frames"]},
    {"kind": None},
]

# Speaks as it is told, and waits.
ACTOR = """
import json, os, struct, sys, time
settings = json.loads(open(0, 'rb', buffering=0, closefd=False).readline())
for text in [b'{"kind": "ready", "num_bytes": 0}', *SCRIPT]:
    os.write(1, struct.pack('<I', len(text)) + text)
time.sleep(WAIT)
"""


def act(monkeypatch, *texts, wait_s=600):
    script = [text if isinstance(text, bytes) else json.dumps(text).encode() for text in texts]
    boot = f"SCRIPT = {script!r}\nWAIT = {wait_s}\n{ACTOR}"
    monkeypatch.setattr(_process, "_BOOT", boot)
    monkeypatch.setattr(_process, "open_slots", open_slots)
    return DecodeWorker(stall_s=0.5)


@linux
def test_an_actor_can_play_a_process(monkeypatch, request_for):
    with act(monkeypatch, GOOD, END) as worker:
        (frames,) = worker.frames(request_for())
    assert frames.data.shape == (2, 3, 4, 6)
    assert frames.data.sum() == 0


@linux
@pytest.mark.parametrize("change", BAD, ids=lambda change: json.dumps(change)[:50])
def test_what_makes_no_sense_ends_the_process(monkeypatch, request_for, change):
    with act(monkeypatch, {**GOOD, **change}, END) as worker:
        error = caught_over(worker, request_for())
        assert worker._process is None
    assert "clip.mp4 cannot be decoded" in str(error)
    assert "sent" in str(error) or change.get("num_bytes")


@linux
@pytest.mark.parametrize(
    "text", [b"", b"{", b"\xff\xfe", b"[1]", b'"end"', b"[" * 100_000, b'{"id": 1}', b"1" * 5000]
)
def test_what_is_no_message_ends_the_process(monkeypatch, request_for, text):
    with act(monkeypatch, text) as worker:
        assert "the decode process sent" in str(caught_over(worker, request_for()))


@linux
def test_a_slot_cannot_be_sent_twice(monkeypatch, request_for):
    with act(monkeypatch, GOOD, GOOD, END) as worker:
        frames = worker.frames(request_for())
        first = next(frames)
        with pytest.raises(CrashError, match="slot 3"):
            next(frames)
    assert first.data.sum() == 0


@linux
def test_messages_about_something_else_are_passed_over(monkeypatch, request_for):
    other = {**GOOD, "id": 7, "slot": 1}
    with act(monkeypatch, other, {**END, "id": "1"}, {**END, "kind": "tick"}, GOOD, END) as worker:
        assert len(list(worker.frames(request_for()))) == 1


@linux
@pytest.mark.parametrize("name", ["__all__", "KeyError", "no such", 3])
def test_an_error_of_another_name_is_an_error_of_the_file(monkeypatch, request_for, name):
    told = {
        **END,
        "kind": "error",
        "type": name,
        "is_ours": True,
        "text": "x" * 50_000,
        "trace": "",
    }
    with act(monkeypatch, told) as worker, pytest.raises(DecodeError) as caught:
        list(worker.frames(request_for()))
    assert type(caught.value) is DecodeError
    assert len(str(caught.value)) < 10_000


@linux
def test_an_end_without_a_word_is_told(monkeypatch, request_for):
    with act(monkeypatch, GOOD, wait_s=0) as worker:
        assert "died of it (exit 0)" in str(caught_over(worker, request_for()))


@linux
def test_a_closed_pipe_is_told_of_a_process_that_lives(monkeypatch, request_for):
    monkeypatch.setattr(_process, "_DYING_S", 0.2)
    with act(monkeypatch) as worker:
        boot = _process._BOOT.replace("time.sleep", "os.close(1); time.sleep")
        monkeypatch.setattr(_process, "_BOOT", boot)
        worker.close()
        error = caught_over(worker, request_for())
    assert "sent no more" in str(error)
    assert "system" not in str(error)


def test_a_message_has_a_size():
    reader, writer = os.pipe()
    with io.FileIO(reader) as pipe, io.FileIO(writer, "w") as other:
        other.write(struct.pack("<I", 1 << 31))
        with pytest.raises(WireError, match="2147483648"):
            Inbox(pipe).get()


@linux
def test_a_process_that_the_system_refuses_is_no_error_of_the_file(monkeypatch, request_for):
    monkeypatch.setattr(_process.sys, "executable", "/nowhere/python")
    folder = Path("/proc/self/fd")
    before = len(list(folder.iterdir()))
    with pytest.raises(VidcompError, match="cannot be started") as caught:
        list(DecodeWorker().frames(request_for()))
    assert not isinstance(caught.value, DecodeError)
    assert len(list(folder.iterdir())) == before
