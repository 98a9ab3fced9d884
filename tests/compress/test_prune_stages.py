"""Uniform, random and norm top-k, beside the laws."""

import torch
from strategies import make_video

from vidcomp.registry import COMPRESSORS
from vidcomp.types import Grid, TokenBatch, VideoTokens

make = COMPRESSORS.make


def rows(out):
    return out.extras["row"].tolist()


def test_uniform_takes_the_middle_of_equal_parts():
    video = make_video(Grid(1, 3, 3))
    assert rows(make("uniform")(video, 3)) == [1, 4, 7]
    assert rows(make("uniform")(video, 1)) == [4]


def test_norm_topk_keeps_the_longest_and_prefers_the_earlier():
    video = make_video(Grid(1, 1, 5), dim=2)
    tokens = torch.tensor([[3.0, 4.0], [0.0, 1.0], [5.0, 0.0], [0.0, 9.0], [4.0, 3.0]])
    video = VideoTokens(**{**fields(video), "tokens": tokens})
    assert rows(make("norm_topk")(video, 1)) == [3]
    assert rows(make("norm_topk")(video, 3)) == [0, 2, 3]


def test_random_is_the_same_alone_and_among_others():
    video, other = make_video(Grid(2, 4, 4)), make_video(Grid(3, 4, 4), seed=1)
    stage = make("random")
    alone = rows(stage(video, 10))
    batch = TokenBatch.pack([other, video, video])
    torch.manual_seed(123)
    many = stage.many(batch, [7, 10, 10])
    assert rows(many[1]) == rows(many[2]) == alone
    assert rows(make("random", seed=1)(video, 10)) != alone
    assert set(rows(stage(video, 9))) < set(alone)


def fields(video):
    names = ("tokens", "positions", "spans", "mass", "grid", "assign", "weights")
    return {n: getattr(video, n) for n in names} | {"extras": dict(video.extras)}
