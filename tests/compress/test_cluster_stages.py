"""Stages that cluster or pick tokens by how they differ, beside the laws."""

import pytest
import torch
from pydantic import ValidationError
from safetensors import safe_open
from strategies import make_video

from vidcomp.compress._parts import time_parts
from vidcomp.errors import BudgetError, ConfigError, ShapeError
from vidcomp.functional.cluster import density_peaks
from vidcomp.functional.diverse import max_min
from vidcomp.functional.quality import quality
from vidcomp.registry import COMPRESSORS
from vidcomp.types import Grid, QueryFeatures, VideoTokens

make = COMPRESSORS.make
CLUSTERING = ["dpc_knn", "chat_univi", "simple_cluster", "ustc"]
ALL = [*CLUSTERING, "divprune", "cdpruner"]


def video_of(x, grid, **extras):
    start = torch.arange(grid.t).float()
    spans = torch.stack([start, start + 1], dim=1)
    return VideoTokens.from_grid(x, grid, spans, extras=extras)


def stage_of(name, dim, **settings):
    stage = make(name, **settings)
    if name == "cdpruner":
        query = torch.randn(2, dim, generator=torch.Generator().manual_seed(1))
        return stage.bind(QueryFeatures(embedding=query))
    return stage


def scenes(frames=24, side=8, dim=16, seed=0):
    """Two scenes: a still background, a part that moves, and noise."""
    draw = torch.Generator().manual_seed(seed)
    out = []
    for t in range(frames):
        if t % (frames // 2) == 0:
            still = torch.randn(side, side, dim, generator=draw)
            thing = torch.randn(dim, generator=draw)
        frame = still + 0.1 * torch.randn(side, side, dim, generator=draw)
        frame[t % side, :3] = 2 * thing
        out.append(frame)
    x = torch.stack(out).reshape(-1, dim)
    saliency = torch.rand(len(x), generator=draw)
    return video_of(x, Grid(frames, side, side), saliency=saliency)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("content", ["static", "equal", "zeros", "few", "large"])
@pytest.mark.parametrize("budget", [1, 2, 7, 131, 239])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_poor_videos_keep_exactly_the_budget(name, content, budget, dtype):
    video = make_video(Grid(5, 6, 8), dim=6, content=content, dtype=dtype)
    out = stage_of(name, 6)(video, budget)
    assert len(out) == budget
    assert torch.isfinite(out.tokens.float()).all()
    assert len(set(map(tuple, out.positions.tolist()))) == budget or name in CLUSTERING


@pytest.mark.parametrize("name", ALL)
def test_better_than_even_spacing_or_at_least_more_varied(name):
    """Clusters lose less than what is left by even spacing; picks cover more."""
    video = scenes()
    budget = len(video) // 10
    stage = stage_of(name, 16, **({"importance": "norm"} if name == "ustc" else {}))
    ours, even = (quality(video, s(video, budget)) for s in (stage, make("stride")))
    if name in ("dpc_knn", "simple_cluster", "chat_univi"):
        assert ours.distortion < even.distortion
    if name == "divprune":
        assert ours.coverage > even.coverage


def test_a_short_video_is_one_part():
    video = scenes(6, 5)
    whole = make("dpc_knn", scope="video")(video, 30)
    assert torch.equal(make("dpc_knn")(video, 30).tokens, whole.tokens)
    groups = make("dpc_knn", scope="video").groups(video, 30)
    assert torch.equal(groups, density_peaks(video.tokens, 30, 5)[1])


def test_parts_do_not_mix():
    video = scenes(6, 5)
    for settings, frames in (({"scope": "frame"}, 1), ({"segment_tokens": 50}, 2)):
        out = make("dpc_knn", **settings)(video, 31)
        assert len(out) == 31
        seconds = out.spans[:, 1] - out.spans[:, 0]
        assert float(seconds.max()) <= frames
        assert (out.spans[:, 0] // frames == (out.spans[:, 1] - 1) // frames).all()


def test_fewer_tokens_than_frames():
    video = scenes(6, 5)
    with pytest.raises(BudgetError, match="each of 6 frames, more than a budget of 5"):
        make("dpc_knn", scope="frame").plan(video, 5)
    assert len(make("dpc_knn", segment_tokens=1)(video, 5)) == 5


def test_time_parts():
    frame = torch.arange(6).repeat_interleave(4)
    assert time_parts(frame, 8, 99).tolist() == [0] * 8 + [1] * 8 + [2] * 8
    assert time_parts(frame, 8, 2).tolist() == [0] * 12 + [1] * 12
    assert time_parts(frame, 1, 99).tolist() == frame.tolist()
    assert time_parts(frame, 100, 99).tolist() == [0] * 24
    ragged = torch.tensor([0] * 9 + [4] + [5] * 2)
    part = time_parts(ragged, 4, 99)
    assert part.diff().min() >= 0
    assert sorted(set(part.tolist())) == list(range(int(part.max()) + 1))


def test_divprune_keeps_the_picks_in_order_of_rows():
    video = scenes(4, 6)
    kept = (make("divprune")(video, 20).assign, max_min(video.tokens, 20).sort().values)
    assert torch.equal((kept[0] >= 0).nonzero().squeeze(1), kept[1])


@pytest.mark.parametrize(("retention", "count"), [(0.05, 5), (0.045, 4), (0.055, 6), (0.001, 1)])
def test_divprune_rounds_halves_to_even_as_published(retention, count):
    video = scenes(4, 5)
    stage = make("divprune", mode="published", retention=retention)
    assert stage.plan(video, 99) == len(stage(video, 99)) == count
    if count > 1:
        with pytest.raises(BudgetError, match=f"keeps {count} of 100"):
            stage(video, count - 1)


def test_published_divprune(golden):
    with safe_open(golden / "divprune.safetensors", "pt") as file:
        x, expected = file.get_tensor("input.x"), file.get_tensor("output.kept_sorted")
    stage = make("divprune", mode="published", retention=0.15)
    out = stage(video_of(x, Grid(4, 8, 8)), 255)
    assert torch.equal(out.tokens, x[expected])


def test_published_cdpruner(golden):
    with safe_open(golden / "cdpruner.safetensors", "pt") as file:
        x, embedding = (
            file.get_tensor("input.image_features"),
            file.get_tensor("input.image_embeds"),
        )
        text, mask = file.get_tensor("input.text_embeds"), file.get_tensor("output.mask")
    video = video_of(x.flatten(0, 1), Grid(2, 10, 10), near=embedding.flatten(0, 1))
    stage = make("cdpruner", mode="published", frame_tokens=24, embedding="near")
    out = stage.bind(QueryFeatures(embedding=text))(video, 199)
    assert torch.equal(out.assign >= 0, mask.flatten())
    with pytest.raises(BudgetError, match="keeps 48 tokens"):
        stage.bind(QueryFeatures(embedding=text)).plan(video, 47)


def test_cdpruner_turns_to_what_is_asked():
    x = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    video, query = video_of(x, Grid(1, 8, 8)), QueryFeatures(embedding=x[:1])
    cosine = torch.nn.functional.cosine_similarity(x, x[:1])
    near = make("cdpruner", relevance="similar").bind(query)(video, 6)
    far = make("cdpruner").bind(query)(video, 6)
    assert cosine[near.assign >= 0].mean() > cosine.mean() > cosine[far.assign >= 0].mean()
    assert near.assign[0] == 0


def test_cdpruner_needs_a_question_of_its_width():
    video = scenes(2, 4)
    with pytest.raises(ConfigError, match="bind it"):
        make("cdpruner").plan(video, 5)
    with pytest.raises(ShapeError, match="16 features with a query of 3"):
        make("cdpruner").bind(QueryFeatures(embedding=torch.ones(1, 3)))(video, 5)
    with pytest.raises(ShapeError, match=r"extras\['near'\]"):
        make("cdpruner", embedding="near").bind(QueryFeatures(embedding=torch.ones(1, 3))).plan(
            video, 5
        )


def test_a_query_unlike_everything_alike_picks_by_difference():
    video = scenes(2, 4)
    stage = make("cdpruner").bind(QueryFeatures(embedding=torch.zeros(1, 16)))
    assert (stage.scores(video) == 1).all()
    assert len(stage(video, 20)) == 20


def test_places_tell_equal_tokens_apart():
    """The same token everywhere: only the places can make groups."""
    video = video_of(torch.ones(1, 48).expand(16, 48).contiguous(), Grid(1, 4, 4))
    out = make("simple_cluster", rounds=20)(video, 4)
    for k in range(4):
        cells = (out.assign == k).nonzero().squeeze(1)
        far = (cells[:, None] // 4 - cells // 4).abs() + (cells[:, None] % 4 - cells % 4).abs()
        assert int(far.max()) <= 3  # of 6
    blind = make("simple_cluster", theta=None)(video, 4)
    assert sorted(blind.mass.tolist()) == [1, 1, 1, 13]


def test_two_levels_are_about_as_good():
    video = scenes()
    direct, levels = (
        quality(video, make("simple_cluster", direct=d)(video, 150)).distortion
        for d in (1 << 27, 1)
    )
    assert levels < 1.25 * direct


def chunk_of(video, start, frames):
    rows = torch.arange(start, start + frames).repeat_interleave(64) * 64
    rows += torch.arange(64).repeat(frames)
    grid, extras = Grid(frames, 8, 8), {"saliency": video.extras["saliency"][rows]}
    spans = video.spans[rows[::64]]
    return VideoTokens.from_grid(video.tokens[rows], grid, spans, first_t=start, extras=extras)


@pytest.mark.parametrize("budget", [30, 100])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_online_clusters_lose_little_more(budget, dtype):
    """The bound that the docstring of the stage states."""
    stage, lost = make("simple_cluster"), []
    for seed in range(3):
        video = scenes(96, seed=seed).to(dtype=dtype)
        stream = stage.stream(budget, (8, 8), provenance=True)
        for start in range(0, 96, 3):
            stream.update(chunk_of(video, start, 3))
            assert len(stream._kept) <= 8 * budget
        out = stream.result()
        assert len(out) == budget
        assert out.tokens.dtype == dtype
        assert out.extras["saliency"].dtype == torch.float32
        assert float(out.mass.sum()) == pytest.approx(len(video))
        x = video.tokens.float()
        errors = [
            (x - y.tokens.float()[y.assign]).square().sum() for y in (out, stage(video, budget))
        ]
        lost.append(float(errors[0] / errors[1]))
    assert max(lost) <= 1.15


def test_all_that_fits_is_clustered_as_offline():
    video = scenes(6)
    stream = make("simple_cluster", coreset=8).stream(50, (8, 8), provenance=True)
    stream.update(video)
    a, b = stream.result(), make("simple_cluster")(video, 50)
    assert torch.equal(a.tokens, b.tokens)
    assert torch.equal(a.assign, b.assign)


def test_ustc_keeps_important_tokens_as_they_are():
    x = torch.eye(12).repeat_interleave(4, 0) + 0.01 * torch.rand(48, 12)
    saliency = torch.linspace(1, 0, 48)
    video = video_of(x, Grid(3, 4, 4), saliency=saliency)
    out = make("ustc")(video, 10)
    alone = (out.mass == 1).nonzero().squeeze(1)
    assert len(out) == 10
    # The first of every four looks like no earlier one: 7 of them stay, the rest is clustered.
    kept = {int((video.tokens == out.tokens[k]).all(1).nonzero()[0]) for k in alone}
    assert {0, 4, 8, 12, 16, 20, 24} <= kept
    assert float(out.mass.sum()) == 48


def test_ustc_has_more_clusters_if_nothing_differs():
    video = video_of(torch.ones(48, 4), Grid(3, 4, 4), saliency=torch.rand(48))
    out = make("ustc")(video, 10)
    assert len(out) == 10
    assert float(out.mass.sum()) == 48


def test_ustc_needs_attention_or_the_norm():
    video = make_video(Grid(2, 3, 3), extras=False)
    with pytest.raises(ShapeError, match="saliency"):
        make("ustc").plan(video, 4)
    assert len(make("ustc", importance="norm")(video, 4)) == 4


def test_chat_univi_tells_events_at_every_level():
    video = scenes(24, 6)
    stage = make("chat_univi", mode="published", levels=(8, 4, 2), event_rate=1 / 12)
    out = stage(video, 200)
    assert len(out) == stage.plan(video, 200) == 28
    weights = out.weights.to_dense()
    for first, count in ((0, 8), (8, 4), (12, 2), (14, 8), (22, 4), (26, 2)):
        covered = (weights[first : first + count] > 0).sum(0)
        assert covered.max() == 1  # no patch twice in a level
        assert covered.sum() == 12 * 36  # the two scenes are the events
    with pytest.raises(BudgetError, match="28 tokens of 2 events, more than a budget of 27"):
        stage.plan(video, 27)


def test_chat_univi_spends_the_budget_on_levels():
    video = scenes(24, 6)
    out = make("chat_univi", levels=(4, 2, 1), event_rate=1 / 12)(video, 70)
    covers = (out.weights.to_dense() > 0).sum(0)
    assert len(out) == 70
    assert (covers == 3).all()
    assert float(out.mass.sum()) == pytest.approx(len(video), rel=1e-5)
    assert torch.allclose(out.tokens, out.weights.to_dense() @ video.tokens, atol=1e-5)


def test_published_chat_univi_of_an_image_is_the_recorded_hierarchy(golden):
    with safe_open(golden / "dpc_knn.safetensors", "pt") as file:
        x = file.get_tensor("input.x")
        fine, coarse = file.get_tensor("output.ctm0.x"), file.get_tensor("output.ctm1.x")
    for b in range(len(x)):
        stage = make("chat_univi", mode="published", levels=(16, 8), neighbours=(5, 3))
        out = stage(video_of(x[b], Grid(1, 8, 8)), 63)
        torch.testing.assert_close(out.tokens[:16], fine[b], atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(out.tokens[16:], coarse[b], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("levels", [(2, 4), (0,), ()])
def test_levels_fall(levels):
    with pytest.raises((ConfigError, ValidationError)):
        make("chat_univi", levels=levels)
