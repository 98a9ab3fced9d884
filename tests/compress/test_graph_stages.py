"""STTM, LLaVA-Scissor and LongVU, beside the laws: slow twins, and what exact modes repair."""

from dataclasses import replace

import pytest
import torch
from oracles.graphs import longvu_slowly, scissor_slowly, sttm_slowly
from strategies import make_video

from vidcomp.errors import BudgetError, ConfigError, ShapeError
from vidcomp.functional.similarity import cosine
from vidcomp.registry import COMPRESSORS
from vidcomp.types import Grid, QueryFeatures

make = COMPRESSORS.make
CLOSE = {"atol": 1e-5, "rtol": 1e-4}


def clustered(grid, seed, noise=0.3, kinds=4, dim=6):
    """Tokens near a few kinds, in blocks of neighbours."""
    draw = torch.Generator().manual_seed(seed)
    centres = torch.randn(kinds, dim, generator=draw)
    coarse = torch.randint(0, kinds, (grid.t, -(-grid.h // 2), -(-grid.w // 2)), generator=draw)
    which = coarse.repeat_interleave(2, 1).repeat_interleave(2, 2)[:, : grid.h, : grid.w]
    x = centres[which].reshape(-1, dim)
    x = x + noise * torch.randn(x.shape, generator=draw)
    return replace(make_video(grid, dim=dim), tokens=x)


@pytest.mark.parametrize("grid", [Grid(3, 4, 4), Grid(3, 5, 5), Grid(2, 7, 4), Grid(2, 3, 6)])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(
    ("spatial", "temporal", "skip"), [(0.9, 0.8, 0), (0.8, None, 0), (0.6, 0.5, 1)]
)
def test_published_sttm_is_its_slow_twin(grid, weighted, spatial, temporal, skip):
    video = clustered(grid, sum(grid))
    if skip and min(grid[1:]) < 4:
        skip = 0
    settings = {"spatial": spatial, "temporal": temporal, "root_level": skip}
    stage = make("sttm", mode="published", weighted=weighted, **settings)
    pictures = video.tokens.reshape(*grid, -1)
    tokens, patches = sttm_slowly(pictures, spatial, temporal, skip, weighted)
    assert len(tokens) < len(video)
    out = stage(video, len(video) - 1)
    torch.testing.assert_close(out.tokens, tokens, **CLOSE)
    assert out.mass.tolist() == patches
    for call in (stage, stage.plan):
        with pytest.raises(BudgetError, match=f"leaves {len(tokens)} of {len(video)} tokens"):
            call(video, len(tokens) - 1)


def test_published_sttm_needs_a_dense_grid():
    video = make_video(Grid(2, 4, 4)).select(torch.arange(31))
    for call in (stage := make("sttm", mode="published")), stage.plan:
        with pytest.raises(ShapeError, match="dense grid"):
            call(video, 20)
    assert len(make("sttm")(video, 20)) == 20
    for call in (stage := make("sttm", heads=5)), stage.plan:
        with pytest.raises(ShapeError, match="6 features do not split into heads=5"):
            call(video, 20)


def test_sttm_spends_tokens_where_there_is_detail():
    video = clustered(Grid(4, 8, 8), 1)
    flat = replace(video, tokens=video.tokens.clone())
    for t in range(4):
        flat.tokens[t * 64 : t * 64 + 32] = 1.0  # the upper half is flat and still
    out = make("sttm")(flat, 60)
    upper = {int(row) for t in range(4) for row in out.assign[t * 64 : t * 64 + 32]}
    assert len(upper) == 2  # two cells of 4 x 4, each all the time
    assert len(out) == 60


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("threshold", [0.5, 0.9])
def test_published_scissor_is_its_slow_twin(seed, threshold):
    video = clustered(Grid(3, 4, 4), seed)
    slow = scissor_slowly(list(video.tokens.reshape(3, 16, -1)), threshold)
    stage = make("scissor", mode="published", threshold=threshold)
    assert len(slow) < len(video)
    out = stage(video, len(video) - 1)
    torch.testing.assert_close(out.tokens, slow, **CLOSE)
    for call in (stage, stage.plan):
        with pytest.raises(BudgetError, match=f"leaves {len(slow)} of 48 tokens"):
            call(video, len(slow) - 1)


def test_scissor_finds_what_hangs_together():
    video = clustered(Grid(4, 6, 6), 0, noise=0.01, kinds=5)
    which = cosine(video.tokens, video.tokens) > 0.9
    out = make("scissor")(video, 5)
    for row in range(5):
        members = (out.assign == row).nonzero().squeeze(1)
        assert bool(which[members][:, members].all())


def test_every_component_keeps_a_token_of_its_own():
    """A mean may be nearest to none of its tokens, as of two that point apart."""
    draw = torch.Generator().manual_seed(3)
    video = replace(make_video(Grid(3, 4, 4), dim=2), tokens=torch.randn(48, 2, generator=draw))
    for budget in range(1, 48):
        assert len(make("scissor")(video, budget)) == budget


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("budget", [20, 60, 110])
def test_published_longvu_is_its_slow_twin(seed, budget):
    grid = Grid(11, 4, 4)
    video = clustered(grid, seed, noise=0.6, kinds=3)
    settings = {"window": 4, "frame_threshold": 0.8, "chunk": 3, "threshold": 0.7}
    slow = longvu_slowly(video.tokens.reshape(11, 16, -1), budget, **settings)
    stage = make("longvu", mode="published", **settings)
    assert stage.keep(video, budget).tolist() == slow
    assert stage.plan(video, budget) == len(slow) <= budget


def test_published_longvu_may_cut_everything():
    video = make_video(Grid(3, 1, 4))
    stage = make("longvu", mode="published", chunk=1, frame_threshold=2.0)
    for call in (stage, stage.plan):
        with pytest.raises(BudgetError, match="cuts 4 tokens from each of 3 chunks"):
            call(video, 1)


def test_the_latest_content_is_kept():
    """What is new in the last frame of every chunk survives, though not in the published form."""
    still = make_video(Grid(1, 4, 4), dim=16).tokens
    x = still.repeat(16, 1) + 0.001 * make_video(Grid(16, 4, 4), dim=16, seed=1).tokens
    new = [t * 16 + p for t in (7, 15) for p in range(4)]
    x[new] = make_video(Grid(1, 2, 4), dim=16, seed=2).tokens
    video = replace(make_video(Grid(16, 4, 4), dim=16), tokens=x)
    settings = {"frame_threshold": 2.0, "chunk": 8}
    assert set(new) <= set(make("longvu", **settings).keep(video, 40).tolist())
    published = make("longvu", mode="published", threshold=1.0, **settings).keep(video, 40)
    assert not set(new) & set(published.tolist())


def test_redundant_frames_go_first():
    x = torch.randn(6, 1, 8, generator=torch.Generator().manual_seed(0)).repeat(1, 4, 1)
    x[:3] = x[0]  # frames 0 to 2 are one picture
    x = x + 0.01 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    video = replace(make_video(Grid(6, 2, 2), dim=8), tokens=x.reshape(24, 8))
    kept = make("longvu", window=3, frame_threshold=0.9).keep(video, 16)
    assert kept.tolist() == [*range(4, 8), *range(12, 24)]  # the middle one stands for the three


def test_frames_that_the_question_asks_for_stay_in_full():
    draw = torch.Generator().manual_seed(0)
    subjects = torch.randn(8, 16, generator=draw)
    x = subjects[:, None] + 0.1 * torch.randn(8, 36, 16, generator=draw)
    video = replace(make_video(Grid(8, 6, 6), dim=16), tokens=x.reshape(-1, 16))
    stage = make("longvu_query", frame_threshold=2.0, chunk=1)
    for call in (stage, stage.plan):
        with pytest.raises(ConfigError, match="was given none: bind it"):
            call(video, 100)
    for asked in (2, 5):
        out = stage.bind(QueryFeatures(embedding=subjects[asked : asked + 1]))(video, 148)
        counts = torch.bincount(out.positions[:, 0].long(), minlength=8).tolist()
        assert counts == [36 if t == asked else 16 for t in range(8)]
        assert float(out.mass.sum()) == 8 * 36
    wide = stage.bind(QueryFeatures(embedding=torch.ones(1, 3)))
    for call in (wide, wide.plan):
        with pytest.raises(ShapeError, match="frames of 16 features with a query of 3"):
            call(video, 100)
