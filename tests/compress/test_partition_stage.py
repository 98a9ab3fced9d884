"""Adaptive pooling as a stage and as a stream, beside the laws."""

import pytest
import torch
from strategies import make_video

from vidcomp.errors import BudgetError, ConfigError, ShapeError
from vidcomp.functional.merge import merge
from vidcomp.registry import COMPRESSORS
from vidcomp.types import Grid, QueryFeatures, TokenBatch, VideoTokens

make = COMPRESSORS.make


def replace(video, **change):
    names = ("tokens", "positions", "spans", "mass", "grid", "assign", "weights")
    return VideoTokens(
        **{n: getattr(video, n) for n in names} | {"extras": dict(video.extras)} | change
    )


def smooth(grid, *, dim=6, seed=0, noise=0.3):
    """Content that changes slowly here and fast there."""
    draw = torch.Generator().manual_seed(seed)
    video = make_video(grid, dim=dim, seed=seed)
    t, h, w = video.positions.unbind(1)
    wave = torch.stack([torch.sin(0.2 * t), torch.cos(h * w / 3), (w > 2).float() * t / 9], dim=1)
    x = torch.zeros(len(video), dim)
    x[:, :3] = wave
    busy = ((h < 2) & (t > grid.t / 2)).float()[:, None]
    return replace(video, tokens=x + noise * busy * torch.randn(len(video), dim, generator=draw))


def distortion(video, out):
    return float((video.tokens - out.tokens[out.assign]).double().square().sum())


def chunks(video, sizes):
    start, n = 0, video.grid.per_frame
    for size in sizes:
        rows = torch.arange(start * n, (start + size) * n)
        part = video.select(rows)
        yield replace(part, grid=Grid(size, *video.grid[1:]), assign=torch.arange(len(rows)))
        start += size


def stream(stage, video, budget, sizes, *, provenance=True):
    state = stage.stream(budget, tuple(video.grid[1:]), provenance=provenance)
    for chunk in chunks(video, sizes):
        state.update(chunk)
    return state.result()


def test_tokens_go_where_something_happens():
    out = make("partition")(smooth(Grid(16, 6, 6)), 60)
    busy = (out.positions[:, 1] < 2) & (out.positions[:, 0] > 8)
    still = (out.positions[:, 1] >= 2) & (out.positions[:, 0] < 8)
    assert float(out.mass[busy].mean()) * 1.5 < float(out.mass[still].mean())


def test_no_pooling_to_a_grid_does_better():
    video = smooth(Grid(16, 6, 6))
    for budget in (12, 60, 150):
        for axes in ("both", "space", "time"):
            pool = make("avg_pool", axes=axes)
            try:
                out = pool(video, budget)
            except BudgetError:
                continue
            assert distortion(video, make("partition")(video, len(out))) < distortion(video, out)


def test_distortion_never_grows_with_the_budget():
    video = smooth(Grid(8, 4, 5))
    for settings in ({}, {"segment_frames": 3}, {"cuts": (2, 5)}, {"min_tokens_per_frame": 2}):
        stage, last = make("partition", **settings), float("inf")
        for budget in range(4, 160, 7):
            out = stage(video, budget)
            found = distortion(video, out)
            assert found <= last * (1 + 1e-5) + 1e-5
            last = found


def test_saliency_draws_tokens():
    video = make_video(Grid(4, 6, 6), dim=8)
    left = video.positions[:, 2] < 3
    video.extras["saliency"] = torch.where(left, 1.0, 0.01)
    out = make("partition", weight="saliency")(video, 40)
    plain = make("partition")(video, 40)
    assert int((out.positions[:, 2] < 2.5).sum()) > 30 > int((plain.positions[:, 2] < 2.5).sum())
    flat = make("partition", weight="saliency", sharpness=0.0)(video, 40)
    assert torch.equal(flat.tokens, plain.tokens)
    wide = replace(video, extras={"saliency": torch.rand(len(video), 2)})
    with pytest.raises(ShapeError, match="one saliency a token"):
        make("partition", weight="saliency")(wide, 40)


def test_a_query_draws_tokens():
    video = make_video(Grid(4, 6, 6), dim=8)
    query = QueryFeatures(embedding=torch.eye(8)[:1])
    mine = video.positions[:, 1] >= 3
    x = video.tokens * 0.3
    x[:, 0] = torch.where(mine, 2.0, -2.0)
    video = replace(video, tokens=x)
    stage = make("partition", weight="query", sharpness=3.0)
    out = stage.bind(query)(video, 40)
    assert int((out.positions[:, 1] >= 3).sum()) > 30
    for call in (stage.plan, stage):
        with pytest.raises(ConfigError, match="was given none"):
            call(video, 40)
    with pytest.raises(ConfigError, match="was given none"):
        stage.stream(40, (6, 6))
    with pytest.raises(ShapeError, match="tokens of 8 features with a query of 3"):
        stage.bind(QueryFeatures(embedding=torch.ones(1, 3))).plan(video, 40)
    # One segment: all that a stream knows is all there is.
    online = stream(stage.bind(query), video, 20, [1, 3])
    assert torch.equal(online.tokens, stage.bind(query)(video, 20).tokens)


def test_a_query_is_compared_with_an_extra_if_it_is_named():
    video = make_video(Grid(4, 6, 6), dim=8)
    sense_ND = torch.where(video.positions[:, 1:2] >= 3, 1.0, -1.0) * torch.ones(1, 3)
    felt = replace(video, extras={"joint": sense_ND})
    stage = make("partition", weight="query", sharpness=3.0, embedding="joint")
    asked = stage.bind(QueryFeatures(embedding=torch.ones(1, 3)))
    out = asked(felt, 40)
    assert int((out.positions[:, 1] >= 3).sum()) > 25
    assert torch.equal(stream(asked, felt, 20, [1, 3]).tokens, asked(felt, 20).tokens)
    with pytest.raises(ShapeError, match="'joint'"):
        asked(video, 40)
    wrong = stage.bind(QueryFeatures(embedding=torch.ones(1, 8)))
    with pytest.raises(ShapeError, match=r"extras\['joint'\] of 3 features with a query of 8"):
        wrong(felt, 40)


def test_scenes_are_found_and_kept_apart():
    first, second = (make_video(Grid(5, 3, 3), dim=16, content="static", seed=s) for s in (0, 9))
    video = make_video(Grid(10, 3, 3), dim=16)
    video = replace(video, tokens=torch.cat([first.tokens, second.tokens]))
    for settings in ({"cut_below": 0.6}, {"cuts": (5,)}, {"cuts": (5, 40)}):
        out = make("partition", **settings)(video, 7)
        owners = [set(out.assign.reshape(10, 9)[t].tolist()) for t in range(10)]
        assert not set.union(*owners[:5]) & set.union(*owners[5:])
    two = make("partition", cut_below=0.6)(video, 2)
    assert two.mass.tolist() == [45.0, 45.0]
    assert len(make("partition", cut_below=0.6)(video, 1)) == 1
    late = make_video(Grid(10, 3, 3), dim=16, first_t=100)
    late = replace(late, tokens=video.tokens)
    out = make("partition", cuts=(105,))(late, 2)
    assert out.positions[:, 0].tolist() == [102.0, 107.0]


def test_frames_that_must_be_covered_need_a_budget():
    video = make_video(Grid(4, 3, 3))
    stage = make("partition", min_tokens_per_frame=4)
    with pytest.raises(BudgetError, match="makes at least") as caught:
        stage.plan(video, 1)
    least = int(str(caught.value).split("at least ")[1].split()[0])
    assert stage.plan(video, least) == len(stage(video, least)) == least >= 4
    with pytest.raises(BudgetError, match="min_tokens_per_frame=4 makes at least"):
        stage(video, least - 1)


def test_tokens_that_were_merged_and_letterboxed():
    video = smooth(Grid(6, 5, 4))
    video = video.select((video.positions[:, 1] > 0).nonzero().squeeze(1))
    group = torch.arange(len(video)) // 2
    small = merge(video, group)
    for budget in range(1, len(small)):
        out = make("partition")(small, budget)
        assert len(out) == budget
        assert float(out.mass.sum()) == len(video)


@pytest.mark.parametrize("budget", [5, 40, 150])
def test_a_batch_of_mixed_videos(budget):
    stage = make("partition", segment_frames=5)
    videos = [smooth(Grid(9, 5, 4), seed=1), smooth(Grid(9, 5, 4), seed=2), smooth(Grid(4, 6, 7))]
    out = stage.many(TokenBatch.pack(videos), [budget, 1000, budget + 1])
    assert out.lengths.tolist() == [budget, 180, budget + 1]
    for video, k, found in zip(videos, (budget, 1000, budget + 1), out, strict=True):
        assert torch.equal(stage(video, k).tokens, found.tokens)


def rung_counts(video, segment):
    """Counts that the prices of a stream's scale lead to."""
    from vidcomp.compress.merge._partition_stream import Moments
    from vidcomp.functional.partition_build import Cells, Rules, build_forest

    stage = make("partition", segment_frames=segment)
    patches = stage._patches(video, Moments())
    forest = build_forest([patches], [Cells.of(patches)], Rules(segment))
    prices = torch.tensor([[2.0 ** (k / 2) for k in range(-24, 16)]], dtype=torch.float64)
    return sorted({plan.tokens for plan in forest.plans(prices)[0]})


def test_a_stream_is_the_stage_at_every_price_of_its_scale():
    video = smooth(Grid(40, 4, 5), noise=0.5)
    stage = make("partition", segment_frames=4)
    counts = [n for n in rung_counts(video, 4) if 10 < n < len(video) / 5]
    assert len(counts) > 5
    for budget in counts:
        online, offline = stream(stage, video, budget, [7, 1, 12, 20]), stage(video, budget)
        assert torch.equal(online.assign, offline.assign)
        # A token of several segments is a mean of means: its last bit may differ.
        assert torch.allclose(online.tokens, offline.tokens, atol=1e-6)
        assert torch.allclose(online.positions, offline.positions, atol=1e-5)
        assert torch.equal(online.spans, offline.spans)


def test_a_stream_is_near_to_the_stage_at_every_budget():
    video = smooth(Grid(48, 4, 5), noise=0.5)
    stage = make("partition", segment_frames=4)
    worst = 1.0
    for budget in range(20, 300, 65):
        online, offline = stream(stage, video, budget, [16, 32]), stage(video, budget)
        assert len(online) == budget
        worst = max(worst, distortion(video, online) / distortion(video, offline))
    assert 1.0 <= worst < 1.05


def test_a_stream_of_what_does_not_change():
    video = make_video(Grid(70, 3, 3), content="equal")
    for budget in (1, 2, 17, 100):
        out = stream(make("partition", segment_frames=4), video, budget, [70])
        assert len(out) == budget
        assert float(out.mass.sum()) == len(video)


def test_a_stream_takes_one_token_a_patch():
    video = make_video(Grid(2, 2, 3))
    twice = replace(video, positions=video.positions // 2 * 2, assign=None)
    state = make("partition").stream(3, (2, 3))
    with pytest.raises(ShapeError, match="one token a patch"):
        state.update(twice)
    for settings in ({"cuts": (1,)}, {"cut_below": 0.5}, {"min_tokens_per_frame": 2}):
        with pytest.raises(ConfigError, match="no online form with"):
            make("partition", **settings).stream(3, (2, 3))
