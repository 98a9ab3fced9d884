"""Frames at two resolutions, and whole frames evenly spaced, beside the laws."""

import pytest
import torch
from strategies import make_video
from torch.nn.functional import adaptive_avg_pool2d, interpolate, max_pool2d

from vidcomp.errors import BudgetError, ShapeError
from vidcomp.registry import COMPRESSORS
from vidcomp.types import Grid, TokenBatch

make = COMPRESSORS.make


def pictures(video):
    """[T, D, H, W] float64."""
    return video.tokens.double().reshape(*video.grid, -1).permute(0, 3, 1, 2)


def rows(x_TDHW):
    return x_TDHW.permute(0, 2, 3, 1).flatten(0, 2).float()


def test_slowfast_as_published():
    video = make_video(Grid(7, 6, 6), dim=4)
    stage = make("slowfast", mode="published", slow_frames=3, slow_pool=2, fast=2)
    assert stage.plan(video, 200) == 3 * 3 * 6 + 7 * 4
    out = stage(video, 200)
    x = pictures(video)
    slow = rows(max_pool2d(x[[0, 3, 6]], (2, 1)))
    fast = rows(adaptive_avg_pool2d(x, 2))
    torch.testing.assert_close(out.tokens, torch.cat([slow, fast]), atol=1e-6, rtol=1e-6)
    assert out.positions[:54, 0].unique().tolist() == [0, 3, 6]
    assert out.positions[54:, 0].unique().tolist() == list(range(7))
    assert float(out.mass.sum()) == pytest.approx(len(video))
    with pytest.raises(BudgetError, match="makes 82 tokens, more than a budget of 81"):
        stage.plan(video, 81)
    with pytest.raises(ShapeError, match="6 x 6"):
        make("slowfast", mode="published", fast=7)(video, 200)


def test_an_odd_height_loses_its_last_row_as_published():
    video = make_video(Grid(2, 5, 4), dim=3)
    out = make("slowfast", mode="published", slow_frames=2, fast=1)(video, 39)
    slow = rows(max_pool2d(pictures(video), (2, 1)))
    torch.testing.assert_close(out.tokens[:16], slow)


def test_llava_video_as_published():
    video = make_video(Grid(7, 6, 5), dim=4)
    stage = make("llava_video_slowfast", mode="published", stride=3)
    out = stage(video, 200)
    x = pictures(video)
    frames = []
    for t in range(7):
        size = (3, 3) if t % 3 == 0 else (2, 2)
        frames.append(rows(interpolate(x[t : t + 1], size=size, mode="bilinear")))
    torch.testing.assert_close(out.tokens, torch.cat(frames), atol=1e-6, rtol=1e-5)
    assert len(out) == stage.plan(video, 200) == 3 * 9 + 4 * 4
    with pytest.raises(BudgetError, match="makes 43 tokens, more than a budget of 42"):
        stage(video, 42)


def test_the_stride_does_not_depend_on_batch_mates():
    """The original's doubles from video to video."""
    video, other = make_video(Grid(4, 8, 8)), make_video(Grid(3, 8, 8), seed=1)
    for settings in ({}, {"mode": "published"}):
        stage = make("llava_video_slowfast", stride=2, **settings)
        alone = stage(video, 150)
        out = stage.many(TokenBatch.pack([other, video, video]), [150] * 3)
        assert torch.equal(out[1].tokens, alone.tokens)
        assert torch.equal(out[2].tokens, alone.tokens)


@pytest.mark.parametrize("name", ["slowfast", "llava_video_slowfast"])
def test_the_count_is_the_largest_of_its_grids(name):
    video = make_video(Grid(6, 8, 8), dim=2)
    settings = {"slow_frames": 2} if name == "slowfast" else {"stride": 3, "ratio": 4}
    stage = make(name, **settings)
    slow, fast = 2, 6 if name == "slowfast" else 4
    reachable = set()
    for side in range(1, 9):
        for height, width in ((side, side), (side, side + 1), (side + 1, side)):
            if max(height, width) > 8:
                continue
            for h in {max(1, height // 4), -(-height // 4)}:
                for w in {max(1, width // 4), -(-width // 4)}:
                    reachable.add(slow * height * width + fast * h * w)
    for budget in range(slow + fast, 200):
        best = max(n for n in reachable if n <= budget)
        assert len(stage(video, budget)) == stage.plan(video, budget) >= best
    with pytest.raises(BudgetError, match=f"needs at least {slow + fast} tokens"):
        stage(video, slow + fast - 1)


def test_slow_frames_have_more_tokens():
    video = make_video(Grid(6, 8, 8), dim=2)
    out = make("llava_video_slowfast", stride=3)(video, 6 * 16)
    per_frame = torch.bincount(out.positions[:, 0].long()).tolist()
    assert per_frame == [30, 9, 9, 30, 9, 9]
    assert float(out.mass.sum()) == pytest.approx(len(video))
    out = make("slowfast", slow_frames=2, ratio=4)(video, 6 * 16)
    per_frame = torch.bincount(out.positions[:, 0].long()).tolist()
    assert per_frame[1] == per_frame[4] > 4 * per_frame[0]


def test_pathways_go_by_positions():
    """Letterboxed rows, and a frame of which nothing is left."""
    keep = (torch.arange(4 * 16) // 4 % 4 > 0) & (torch.arange(64) // 16 != 2)
    video = make_video(Grid(4, 4, 4), dim=2, valid=keep)
    for name in ("slowfast", "llava_video_slowfast"):
        for budget in (12, 20, 30):
            out = make(name)(video, budget)
            assert 0 < len(out) == make(name).plan(video, budget) <= budget
            assert 2 not in out.positions[:, 0]


def test_whole_frames_come_first():
    video = make_video(Grid(6, 2, 3))
    stage = make("uniform_frames")

    def kept(budget):
        return torch.bincount(stage(video, budget).positions[:, 0].long(), minlength=6).tolist()

    assert kept(12) == [0, 6, 0, 0, 6, 0]
    assert kept(18) == [0, 6, 0, 6, 0, 6]
    assert kept(14) == [2, 6, 0, 0, 6, 0]  # the first of the frames that are farthest
    assert kept(4) == [0, 0, 0, 4, 0, 0]
    assert stage(video, 4).extras["row"].tolist() == [18, 20, 21, 23]


def test_ragged_frames_are_filled_up():
    """Frames of 1, 6, 1, 6, 1, 6 tokens."""
    keep = (torch.arange(36) // 6 % 2 == 1) | (torch.arange(36) % 6 == 0)
    video = make_video(Grid(6, 2, 3), valid=keep)
    for budget in range(1, len(video)):
        assert len(make("uniform_frames")(video, budget)) == budget
