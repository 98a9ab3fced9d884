"""A process of its own for decoding: what it gives, and what it survives."""

import gc
import os
import pickle
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from clips import moving_square, write_clip
from decode_oracle import Dies, Every, Hangs, Rows, Shouts, Spread, Stumbles, Works

from vidcomp.errors import ConfigError, DecodeError, MissingExtraError, VidcompError
from vidcomp.functional.resize import Resize
from vidcomp.sample.base import Sampler, Selection
from vidcomp.sample.decode import DecodeRequest, Limits, stream_frames
from vidcomp.sample.decode.isolate import DecodeWorker

TESTS = Path(__file__).parents[1]
posix = pytest.mark.skipif(os.name != "posix", reason="needs signals")


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("isolate") / "clip.mp4", moving_square(40), g=10)


@pytest.fixture(scope="module")
def worker():
    with DecodeWorker() as worker:
        yield worker


@pytest.fixture
def request_for(clip):
    base = DecodeRequest(path=str(clip), sampler=Spread(), chunk_frames=4)
    return lambda **changes: replace(base, **changes)


def pid(worker):
    return worker._process._process.pid


def is_alive(process_id):
    try:
        state = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def ends_within(process_id, seconds):
    end_s = time.monotonic() + seconds
    while is_alive(process_id):
        if time.monotonic() > end_s:
            return False
        time.sleep(0.1)
    return True


def run_script(tmp_path, text, **environment):
    script = tmp_path / "script.py"
    script.write_text(text)
    return subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{TESTS}{os.pathsep}{TESTS.parent}", **environment},
    )


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"sampler": Every(), "chunk_frames": 7, "start_s": 0.5, "end_s": 3.3},
        {"resize": Resize(mode="letterbox", height=56, width=56)},
        {"sampler": Rows(rows=(0, 3, 3, 3), num_padded=2)},
        {"backend": "pyav", "on_damage": "keep"},
    ],
)
def test_frames_are_those_of_the_same_process(worker, request_for, changes):
    request = request_for(**changes)
    assert pickle.loads(pickle.dumps(request)) == request
    for ours, theirs in zip(stream_frames(request), worker.frames(request), strict=True):
        assert torch.equal(ours.data, theirs.data)
        assert ours.data.stride() == theirs.data.stride()
        assert torch.equal(ours.pts_s, theirs.pts_s)
        assert torch.equal(ours.duration_s, theirs.duration_s)
        for name in ("first_index", "source", "content", "num_padded"):
            assert getattr(ours, name) == getattr(theirs, name)


def test_errors_keep_their_class_and_words(worker, request_for, tmp_path):
    class_and_change = [
        (DecodeError, {"path": str(tmp_path / "nowhere.mp4")}),
        (DecodeError, {"limits": Limits(max_frames=2)}),
        (ConfigError, {"sampler": Rows(rows=(99,))}),
    ]
    if "torchcodec" not in sys.modules:
        class_and_change.append((MissingExtraError, {"backend": "torchcodec"}))
    before = pid(worker) if worker._process else None
    for kind, change in class_and_change:
        with pytest.raises(kind) as here:
            list(stream_frames(request_for(**change)))
        with pytest.raises(kind) as there:
            list(worker.frames(request_for(**change)))
        assert type(there.value) is kind
        assert str(there.value) == str(here.value)
    assert before in (None, pid(worker))


def test_a_bug_of_a_sampler_is_told_with_its_trace(worker, request_for):
    with pytest.raises(
        DecodeError, match=r"clip.mp4 .*ZeroDivisionError: in the sampler"
    ) as caught:
        list(worker.frames(request_for(sampler=Stumbles())))
    assert "decode_oracle.py" in "".join(caught.value.__notes__)


@posix
@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGKILL])
def test_a_crash_is_an_error_of_that_file_only(worker, request_for, number):
    expected = len(list(worker.frames(request_for())))
    words = f"clip.mp4 .*exit {-number}, {signal.Signals(number).name}"
    with pytest.raises(DecodeError, match=words) as caught:
        list(worker.frames(request_for(sampler=Dies(number=int(number)))))
    if number == signal.SIGSEGV:
        assert "decode_oracle.py" in "".join(caught.value.__notes__)  # where it was
    assert len(list(worker.frames(request_for()))) == expected


@posix
def test_a_crash_between_chunks_is_noticed_at_the_next(worker, request_for):
    frames = worker.frames(request_for(sampler=Every(), chunk_frames=2))
    next(frames)
    os.kill(pid(worker), signal.SIGKILL)
    with pytest.raises(DecodeError, match="SIGKILL"):
        list(frames)
    assert len(list(worker.frames(request_for()))) == 2


def test_a_hang_is_an_error_of_that_file_only(request_for):
    with DecodeWorker(stall_s=1.0) as worker:
        list(worker.frames(request_for()))
        begin_s = time.monotonic()
        with pytest.raises(DecodeError, match=r"clip.mp4 .*made no progress for 1 s"):
            list(worker.frames(request_for(sampler=Hangs())))
        assert time.monotonic() - begin_s < 20
        assert len(list(worker.frames(request_for()))) == 2


def test_long_work_is_no_hang(request_for):
    with DecodeWorker(stall_s=1.0) as worker:
        assert len(list(worker.frames(request_for(sampler=Works(seconds=3.0))))) == 1


def test_leaving_early_keeps_the_process(worker, request_for):
    list(worker.frames(request_for()))
    before = pid(worker)
    for _ in range(3):
        frames = worker.frames(request_for(sampler=Every(), chunk_frames=3))
        next(frames)
        frames.close()
    for _ in worker.frames(request_for(sampler=Every(), chunk_frames=3)):
        break
    assert [len(c) for c in worker.frames(request_for())] == [4, 4]
    assert pid(worker) == before


def test_a_new_request_ends_the_old_one(worker, request_for):
    old = worker.frames(request_for(sampler=Every(), chunk_frames=3))
    next(old)
    new = worker.frames(request_for(sampler=Rows(rows=(7, 8))))
    assert next(new).pts_s.tolist() == pytest.approx([0.7, 0.8])
    with pytest.raises(ConfigError, match="one worker for each thread"):
        next(old)
    assert list(new) == []
    assert len(list(worker.frames(request_for()))) == 2


def test_the_process_is_replaced_after_enough_requests(request_for):
    with DecodeWorker(recycle_after=2) as worker:
        seen = []
        for _ in range(5):
            list(worker.frames(request_for()))
            seen.append(pid(worker))
        assert [seen.index(p) for p in seen] == [0, 0, 2, 2, 4]


@pytest.mark.parametrize("settings", [{"stall_s": 0.0}, {"recycle_after": 0}])
def test_settings_are_checked(settings):
    with pytest.raises(ConfigError, match="decode worker"):
        DecodeWorker(**settings)


def test_what_libraries_print_does_not_get_between(worker, request_for, capfd):
    assert len(list(worker.frames(request_for(sampler=Shouts())))) == 1
    assert capfd.readouterr() == ("", "")


def test_a_sampler_that_cannot_travel_is_told(worker, request_for):
    class Local(Sampler):
        def __call__(self, timeline):
            return Selection(torch.tensor([0]))

    with pytest.raises(ConfigError, match="at the top of a module"):
        list(worker.frames(request_for(sampler=Local())))
    assert len(list(worker.frames(request_for()))) == 2


@posix
def test_ending_a_worker_ends_its_process(request_for):
    worker = DecodeWorker()
    list(worker.frames(request_for()))
    first = pid(worker)
    worker.close()
    assert not is_alive(first)
    list(worker.frames(request_for()))  # and it can be used again
    second = pid(worker)
    del worker
    gc.collect()
    assert ends_within(second, 5)


@posix
def test_interrupts_of_the_terminal_are_for_the_owner(worker, request_for):
    list(worker.frames(request_for()))
    before = pid(worker)
    os.kill(before, signal.SIGINT)
    assert len(list(worker.frames(request_for()))) == 2
    assert pid(worker) == before


SCRIPT = """
from decode_oracle import Every
from vidcomp.sample.decode import DecodeRequest
from vidcomp.sample.decode.isolate import DecodeWorker
print("once", flush=True)
worker = DecodeWorker()
request = DecodeRequest(path={path!r}, sampler=Every(), chunk_frames=2)
frames = worker.frames(request)
"""


def test_a_script_needs_no_main_guard(tmp_path, clip):
    script = SCRIPT.format(path=str(clip)) + "print(sum(map(len, frames)))\n"
    out, err = run_script(tmp_path, script).communicate(timeout=120)
    assert (out.split(), err) == (["once", "40"], "")


def test_a_sampler_of_the_script_itself_is_told(tmp_path, clip):
    script = (
        "import torch\n"
        "from vidcomp.sample.base import Sampler, Selection\n"
        "class Mine(Sampler):\n"
        "    def __call__(self, timeline):\n"
        "        return Selection(torch.tensor([0]))\n"
        + SCRIPT.format(path=str(clip)).replace("Every()", "Mine()")
        + "next(frames)\n"
    )
    out, err = run_script(tmp_path, script).communicate(timeout=120)
    assert out.split() == ["once"]
    assert "not in a script or notebook" in err.splitlines()[-1]


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_no_process_outlives_its_owner(tmp_path, clip):
    script = SCRIPT.format(path=str(clip)) + (
        "next(frames)\nimport time\n"
        "print(worker._process._process.pid, flush=True)\ntime.sleep(600)\n"
    )
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    owner = run_script(tmp_path, script, TMPDIR=str(scratch))
    assert owner.stdout.readline() == "once\n"
    child = int(owner.stdout.readline())
    assert is_alive(child)
    owner.kill()
    owner.communicate(timeout=10)  # nobody else holds the pipes: `| head` does not wait
    assert ends_within(child, 15)
    assert list(scratch.iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_hung_process_does_not_outlive_its_owner_either(tmp_path, clip):
    script = SCRIPT.format(path=str(clip)).replace("Every", "Hangs") + (
        "import threading\nthreading.Thread(target=lambda: next(frames), daemon=True).start()\n"
        "import time\nwhile worker._process is None or not worker._process._is_ready:\n"
        "    time.sleep(0.05)\n"
        "time.sleep(1)\nprint(worker._process._process.pid, flush=True)\ntime.sleep(600)\n"
    )
    owner = run_script(tmp_path, script)
    assert owner.stdout.readline() == "once\n"
    child = int(owner.stdout.readline())
    owner.kill()
    owner.communicate(timeout=10)
    assert ends_within(child, 15)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_copy_starts_a_process_of_its_own(tmp_path, clip):
    script = SCRIPT.format(path=str(clip)) + (
        "import os, warnings\nwarnings.simplefilter('ignore')\n"
        "total = sum(map(len, frames))\nowner = worker._process._process.pid\n"
        "if os.fork() == 0:\n"
        "    total = sum(map(len, worker.frames(request)))\n"
        "    print('child', total, worker._process._process.pid != owner, flush=True)\n"
        "    worker.close()\n    os._exit(0)\n"
        "os.wait()\n"
        "print('parent', sum(map(len, worker.frames(request))),\n"
        "      worker._process._process.pid == owner)\n"
    )
    out, _ = run_script(tmp_path, script).communicate(timeout=120)
    assert out.splitlines() == ["once", "child 40 True", "parent 40 True"]


@pytest.mark.skipif(sys.platform != "linux", reason="counts the open files of Linux")
def test_a_worker_gives_back_what_it_opened(request_for):
    folder = Path("/proc/self/fd")
    before = len(list(folder.iterdir()))
    with DecodeWorker() as worker:
        list(worker.frames(request_for()))
        with pytest.raises(DecodeError):
            list(worker.frames(request_for(sampler=Dies())))
        list(worker.frames(request_for()))
    assert len(list(folder.iterdir())) == before


def test_a_process_that_cannot_start_is_no_error_of_the_file(request_for, monkeypatch):
    from vidcomp.sample.decode import _process

    boot = "import sys; sys.stderr.write('no module of that name'); raise SystemExit(3)"
    monkeypatch.setattr(_process, "_BOOT", boot)
    with DecodeWorker() as worker, pytest.raises(VidcompError, match="exit 3: no module") as caught:
        list(worker.frames(request_for()))
    assert not isinstance(caught.value, DecodeError)


def test_a_source_is_plain_values(request_for):
    frames = next(stream_frames(request_for()))
    assert asdict(frames.source)["path"].endswith("clip.mp4")
