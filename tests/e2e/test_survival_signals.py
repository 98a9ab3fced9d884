"""A run that is asked to stop finishes what it has begun; one that nobody listens to goes on."""

import os
import signal
import time

import pytest
from bad_clips import Ended, unending
from clips import moving_square, write_clip
from warm_command import is_reading, until

from vidcomp.store import open_cache, verify

QUICK = [
    *("--budget", "20", "--workers", "1"),
    *("--set", "sample={name: fps, fps: 10}"),
    *("--set", "encode.resize={mode: stretch, height: 56, width: 56}"),
]
SENTENCE = "finishing what has begun"


@pytest.fixture
def endless_clip(tmp_path):
    """A file that nobody ever reads to its end, and two good ones."""
    folder = tmp_path / "in"
    folder.mkdir()
    for i in (1, 2):
        write_clip(folder / f"{i}.mp4", moving_square(6, seed=i))
    try:
        return unending(folder / "0.mkv")
    except OSError:
        pytest.skip("files cannot be as large here as the one that hangs")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_first_signal_finishes_what_has_begun(warm, endless_clip, tmp_path, number, code):
    args = ["extract", endless_clip.parent, "--out", tmp_path / "cache", *QUICK, "--json"]
    run = warm.start(args, tmp_path / "scratch")
    until(lambda: is_reading(run, endless_clip))
    run.kill(number)
    until(lambda: SENTENCE in run.err)
    with Ended(endless_clip):
        assert run.wait() == code
    told = run.json
    assert (told["done"], told["failed"], told["lost"]) == (1, 0, 2)
    assert (told["interrupted"], told["exit_code"]) == (signal.Signals(number).name, code)
    assert "Traceback" not in run.err
    assert list(open_cache(tmp_path / "cache").keys()) == ["0.mkv"]
    assert not run.children()
    again = warm.run(args, tmp_path / "scratch")
    assert (again.code, again.json["done"], again.json["cached"]) == (0, 2, 1)
    assert verify(tmp_path / "cache").ok


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_second_signal_ends_the_run_at_once(warm, endless_clip, tmp_path, number, code):
    args = ["extract", endless_clip.parent, "--out", tmp_path / "cache", *QUICK, "-q"]
    run = warm.start(args, tmp_path / "scratch")
    until(lambda: is_reading(run, endless_clip))
    run.kill(number)
    until(lambda: SENTENCE in run.err)
    assert not run.is_over
    run.kill(number)
    started = time.monotonic()
    assert run.wait() == code
    assert time.monotonic() - started < 2 * max(1.0, os.getloadavg()[0])
    until(lambda: not run.children(), 5)
    assert "Traceback" not in run.err
    endless_clip.unlink()
    assert warm.run(args, tmp_path / "scratch").code == 0
    assert sorted(open_cache(tmp_path / "cache").keys()) == ["1.mp4", "2.mp4"]


def test_a_hanging_file_does_not_outlast_its_patience_while_a_run_ends(
    warm, endless_clip, tmp_path
):
    args = ["extract", endless_clip.parent, "--out", tmp_path / "cache", *QUICK, "--json"]
    run = warm.start([*args, "--stall", "2"], tmp_path / "scratch")
    until(lambda: is_reading(run, endless_clip))
    run.kill(signal.SIGINT)
    assert run.wait() == 130
    assert (run.json["done"], run.json["failed"], run.json["lost"]) == (0, 1, 2)
    assert "no progress for 2 s" in run.json["failures"][0]["error"]


@pytest.mark.parametrize("how", ["broken", "closed"])
@pytest.mark.parametrize("streams", [[1], [2], [1, 2]])
def test_a_run_that_nobody_listens_to_loses_no_record(warm, many_clips, tmp_path, how, streams):
    """As with ``| head``, or under a daemon that closed the streams."""
    args = ["extract", many_clips, "--out", tmp_path / "cache", *QUICK]
    run = warm.run(args, tmp_path / "scratch", **{how: streams})
    # 1: the summary could not be told; nobody expects that who has closed the stream himself.
    assert run.code == (1 if how == "broken" and 1 in streams else 0)
    assert len(open_cache(tmp_path / "cache")) == 12
    assert verify(tmp_path / "cache").ok
    assert not run.children()


def test_a_run_whose_terminal_goes_away_loses_no_record(warm, endless_clip, tmp_path):
    args = ["extract", endless_clip.parent, "--out", tmp_path / "cache", *QUICK]
    here, there = os.openpty()
    run = warm.start(args, tmp_path / "scratch", terminal=os.ttyname(there))
    until(lambda: is_reading(run, endless_clip))
    os.close(there)
    os.close(here)
    with Ended(endless_clip):
        assert run.wait() == 0
    assert len(open_cache(tmp_path / "cache")) == 3


def test_a_run_whose_words_nobody_hears_can_be_stopped(warm, endless_clip, tmp_path):
    args = ["extract", endless_clip.parent, "--out", tmp_path / "cache", *QUICK]
    run = warm.start(args, tmp_path / "scratch", broken=[2])
    until(lambda: is_reading(run, endless_clip))
    run.kill(signal.SIGTERM)
    time.sleep(2)
    with Ended(endless_clip):
        assert run.wait() == 143
    assert list(open_cache(tmp_path / "cache").keys()) == ["0.mkv"]
