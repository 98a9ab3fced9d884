"""The sample clips are what they claim to be, and the demo runs from videos to a batch."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from clips import moving_square, write_clip

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"


@pytest.fixture(scope="module")
def make_clips():
    sys.path.insert(0, str(SCRIPTS))
    try:
        import make_clips

        yield make_clips
    finally:
        sys.path.remove(str(SCRIPTS))


def shortened(make_clips, seconds=0.4):
    return tuple(dataclasses.replace(clip, seconds=seconds) for clip in make_clips.CLIPS)


def motion(make_clips, name):
    """Mean change from frame to frame, in grey levels, over the whole clip."""
    (clip,) = (c for c in make_clips.CLIPS if c.name == name)
    times = [clip.seconds * i / 40 for i in range(40)]
    steps = [
        np.asarray(make_clips.frame(clip, t + d), dtype=float) for t in times for d in (0, 0.04)
    ]
    return np.array([np.abs(b - a).mean() for a, b in zip(steps[::2], steps[1::2], strict=True)])


def test_the_clips_are_a_handful_and_one_lasts_a_minute(make_clips):
    seconds = {clip.name: clip.seconds for clip in make_clips.CLIPS}
    assert len(seconds) == 6
    assert seconds["one_minute"] == 60


def test_each_clip_moves_as_its_name_says(make_clips):
    names = [clip.name for clip in make_clips.CLIPS]
    moved = {name: motion(make_clips, name).mean() for name in names}
    assert moved["static_scene"] == 0
    assert 0 < moved["slow_pan"] < moved["fast_motion"]
    assert moved["moving_shapes"] < moved["fast_motion"]
    (cuts,) = (c for c in make_clips.CLIPS if c.name == "hard_cuts")
    before, after = (np.asarray(make_clips.frame(cuts, t), dtype=float) for t in (1.24, 1.26))
    assert np.abs(after - before).mean() > 5 * moved["hard_cuts"]


def test_writing_gives_the_same_bytes_and_leaves_what_is_there(make_clips, tmp_path):
    clips = shortened(make_clips)
    one = make_clips.write_clips(tmp_path / "one", clips)
    two = make_clips.write_clips(tmp_path / "two", clips)
    assert [p.read_bytes() for p in one] == [p.read_bytes() for p in two]
    one[0].write_bytes(b"mine")
    one[1].unlink()
    assert make_clips.write_clips(tmp_path / "one", clips) == one
    assert one[0].read_bytes() == b"mine"
    assert one[1].read_bytes() == two[1].read_bytes()
    assert sorted(tmp_path.glob("one/*")) == sorted(one), "no half-written files stay"
    with av.open(str(two[0])) as file:
        frames = list(file.decode(video=0))
    assert (len(frames), frames[0].width, frames[0].height) == (10, 480, 270)


def run_demo(folder, *videos):
    command = [sys.executable, str(SCRIPTS / "demo.py"), *videos]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_the_demo_takes_the_users_videos_and_works_once(tmp_path):
    write_clip(tmp_path / "my clip.mp4", moving_square(8), fps=8)
    first = run_demo(tmp_path, "my clip.mp4", "missing.mp4")
    assert first.returncode == 3, first.stderr
    assert "there is no file missing.mp4" in first.stdout
    assert "1 video: my clip.mp4" in first.stdout
    assert "tokens     [196, 48]" in first.stdout
    second = run_demo(tmp_path, "my clip.mp4")
    assert second.returncode == 0, second.stderr
    assert "nothing to do: all 1 are already cached" in second.stdout
    assert "1 video: my clip.mp4" in second.stdout


@pytest.mark.slow
def test_the_demo_makes_its_own_clips(tmp_path):
    first = run_demo(tmp_path)
    assert first.returncode == 0, first.stderr
    assert "6 done, 0 already cached, 0 failed" in first.stdout
    clips = list((tmp_path / "demo").glob("*.mp4"))
    assert len(clips) == 6
    assert sum(clip.stat().st_size for clip in clips) < 8e6
    assert "nothing to do: all 6 are already cached" in run_demo(tmp_path).stdout
