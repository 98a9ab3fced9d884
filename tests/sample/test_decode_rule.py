"""Sizes that follow the video: asked for once it is known, in this process and in another."""

from dataclasses import dataclass

import pytest
from clips import moving_square, write_clip

from vidcomp.errors import ShapeError
from vidcomp.functional.resize import Resize
from vidcomp.sample.decode import DecodeRequest, outline, read_frames, stream_frames
from vidcomp.sample.decode.isolate import DecodeWorker
from vidcomp.sample.fps import Fps
from vidcomp.sample.uniform import Uniform


@dataclass(frozen=True)
class ByFrames:
    """A side of one pixel a frame, never more than the picture has."""

    most: int = 1000

    def __call__(self, height: int, width: int, num_frames: int) -> Resize:
        if num_frames > self.most:
            raise ShapeError(f"at most {self.most} frames, got {num_frames}: take fewer")
        return Resize(height=min(height, num_frames), width=min(width, num_frames))


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("rule") / "a.mp4", moving_square(20, 48, 64), fps=5)


def test_a_rule_sees_the_size_and_the_picked_frames(clip):
    asked = []

    def rule(height, width, num_frames):
        asked.append((height, width, num_frames))
        return ByFrames()(height, width, num_frames)

    request = DecodeRequest(path=str(clip), sampler=Uniform(num_frames=9), resize=rule)
    assert outline(request) == (9, 48, 64, 4.0, Resize(height=9, width=9))
    frames = read_frames(clip, Uniform(num_frames=9), size=rule)
    assert frames.data.shape == (9, 3, 9, 9)
    assert set(asked) == {(48, 64, 9)}
    padded = DecodeRequest(
        path=str(clip), sampler=Uniform(num_frames=25, short="pad"), resize=ByFrames()
    )
    assert [chunk.data.shape[2:] for chunk in stream_frames(padded)] == [(20, 20)]


def test_ranges_and_other_processes_count_their_own_frames(clip):
    request = DecodeRequest(
        path=str(clip), sampler=Fps(fps=5), resize=ByFrames(), start_s=1, end_s=3, chunk_frames=4
    )
    here = list(stream_frames(request))
    with DecodeWorker() as worker:
        there = list(worker.frames(request))
    for chunks in (here, there):
        assert [tuple(chunk.data.shape) for chunk in chunks] == [
            (4, 3, 10, 10),
            (4, 3, 10, 10),
            (2, 3, 10, 10),
        ]
    assert outline(request).resize == Resize(height=10, width=10)


def test_what_a_rule_refuses_is_told_before_decoding(clip):
    request = DecodeRequest(path=str(clip), sampler=Fps(fps=5), resize=ByFrames(most=3))
    for ask in (outline, lambda request: next(iter(stream_frames(request)))):
        with pytest.raises(ShapeError, match="at most 3 frames, got 20"):
            ask(request)


def test_a_plain_policy_is_what_the_outline_says(clip):
    for resize in (None, Resize(mode="none"), Resize(height=8, width=9)):
        request = DecodeRequest(path=str(clip), sampler=Fps(fps=1), resize=resize)
        assert outline(request).resize == resize
