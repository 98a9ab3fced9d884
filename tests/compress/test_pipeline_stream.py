"""A pipeline online: blocks, shares that add up, and little videos as if they were whole."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from laws.test_stage_laws import assert_same
from strategies import make_video

from vidcomp.compress import _pipeline_stream
from vidcomp.compress.pipeline import Pipeline
from vidcomp.config import Stage
from vidcomp.errors import ConfigError, ShapeError
from vidcomp.functional.merge import merge
from vidcomp.registry import COMPRESSORS
from vidcomp.types import Grid, VideoTokens


def pipeline(*chain, last):
    """``pipeline("stride", 0.5, last="evs")``."""
    inner = [
        Stage(COMPRESSORS.make(name), retention=retention)
        for name, retention in zip(chain[::2], chain[1::2], strict=True)
    ]
    return Pipeline([*inner, COMPRESSORS.make(last)])


def run(stage, budget, chunks, **more):
    stream = stage.stream(budget, tuple(chunks[0].grid[1:]), **more)
    for chunk in chunks:
        stream.update(chunk)
    return stream.result()


@pytest.fixture(autouse=True)
def short_blocks(monkeypatch):
    monkeypatch.setattr(_pipeline_stream, "BLOCK_FRAMES", 4)


@settings(deadline=None, max_examples=20)
@given(num_frames=st.integers(1, 30), budget=st.integers(1, 60), seed=st.integers(0, 9))
def test_shares_of_blocks_add_up_to_that_of_the_video(num_frames, budget, seed):
    stage = pipeline("random", 0.7, "uniform", 0.5, last="partition")
    video = make_video(Grid(num_frames, 2, 3), seed=seed)
    share = max(1, max(1, num_frames * 6 * 7 // 10) // 2)
    out = run(stage, budget, [video], provenance=True)
    assert len(out) == min(budget, len(video))
    kept = int((out.assign >= 0).sum())
    if share <= budget:
        assert_same(out, stage(video, budget))
    else:
        assert share <= kept <= share + 2


def test_what_is_pruned_ahead_is_told_as_dropped():
    video = make_video(Grid(9, 2, 3))
    out = run(pipeline("norm_topk", 0.5, last="evs"), 5, [video], provenance=True)
    rows = out.extras["row"].long()
    assert torch.equal(out.assign[rows], torch.arange(5))
    assert int((out.assign >= 0).sum()) == 5
    assert torch.equal(out.tokens, video.tokens[rows])


def soft(video):
    """The same tokens, whose provenance is shares."""
    n = len(video)
    return replace(video, assign=None, weights=torch.eye(n).to_sparse())


def test_soft_provenance_is_cut_with_the_frames():
    video = make_video(Grid(7, 2, 3))
    stage = pipeline("stride", 0.5, last="evs")
    hard = run(stage, 5, [video], provenance=True)
    out = run(stage, 5, [soft(video)], provenance=True)
    assert torch.equal(out.tokens, hard.tokens)
    row_Q, patch_Q = out.weights.coalesce().indices()
    assert torch.equal(hard.assign[patch_Q], row_Q)


@pytest.mark.parametrize("make", [lambda video: video, soft])
def test_a_token_of_two_blocks_is_refused(make):
    video = make_video(Grid(8, 1, 2))
    groups = torch.arange(16)
    groups[8] = groups[6]  # patches of the frames 3 and 4
    torn = merge(make(video), groups.unique(return_inverse=True)[1])
    with pytest.raises(ShapeError, match="two blocks"):
        run(pipeline("stride", 0.9, last="evs"), 5, [torn], provenance=True)


def test_one_stage_alone_is_its_own_stream():
    video = make_video(Grid(9, 2, 3))
    alone = run(COMPRESSORS.make("evs"), 7, [video])
    assert_same(run(Pipeline([COMPRESSORS.make("evs")]), 7, [video]), alone)


def test_pipelines_say_whether_they_stream():
    assert pipeline("tome", 0.5, last="evs").streaming
    assert not pipeline("evs", 0.5, last="tome").streaming
    with pytest.raises(ConfigError, match=r"use one of .*partition"):
        pipeline("evs", 0.5, last="tome").stream(5, (2, 2))
    with pytest.raises(ConfigError, match="prune before it, got tome"):
        pipeline("evs", 0.5, "tome", 0.5, last="partition").stream(5, (2, 2))
    nested = Pipeline([pipeline("stride", 0.5, last="evs")])
    video = make_video(Grid(9, 2, 3))
    assert_same(run(nested, 5, [video]), run(nested.stages[0].compressor, 5, [video]))


def test_a_frame_without_tokens_counts():
    video = make_video(Grid(9, 2, 3), valid=torch.arange(54) // 6 % 3 != 1)
    out = run(pipeline("stride", 0.5, last="evs"), 4, [video], provenance=True)
    assert isinstance(out, VideoTokens)
    assert (len(out), out.grid.t) == (4, 9)
