"""Quality without a model: what it must be for tokens that are the video, are less, are moved."""

from dataclasses import replace

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from oracles.quality import quality_slowly
from strategies import make_video, video_tokens

from vidcomp.errors import ShapeError
from vidcomp.functional import quality as module
from vidcomp.functional.merge import merge, resample
from vidcomp.functional.quality import Quality, nearest_rows, quality
from vidcomp.types import Grid

BEST = Quality(0, 0, 1, 0, 1, 1, 1)
laws = settings(deadline=None, max_examples=40)
seeds = st.integers(0, 99)


def drawn(seed):
    return torch.Generator().manual_seed(seed)


def pruned(video, num, seed=0):
    kept = torch.randperm(len(video), generator=drawn(seed))[:num]
    return video.select(kept.sort().values)


def merged(video, num, seed=0):
    group = torch.randint(0, num, (len(video),), generator=drawn(seed))
    return merge(video, group.unique(return_inverse=True)[1])


def mixed(video, num, seed=0, share=0.3):
    """Soft provenance in which some rows are not covered."""
    weights = torch.rand(num, len(video), generator=drawn(seed))
    weights = weights * (torch.rand(weights.shape, generator=drawn(seed + 1)) < share)
    weights[:, 0] += 0.01
    return resample(video, (weights / weights.sum(1, keepdim=True)).to_sparse())


def forgotten(video, num, seed=0):
    return replace(merged(video, num, seed), assign=None)


WAYS = {"prune": pruned, "merge": merged, "soft": mixed, "no provenance": forgotten}


@laws
@given(video=video_tokens())
def test_a_video_compared_with_itself_loses_nothing(video):
    found = quality(video, video)
    assert found[:5] == BEST[:5]
    if len(video) == video.grid.num_patches:
        assert found == pytest.approx(BEST, abs=1e-9)


@pytest.mark.parametrize("way", WAYS)
@laws
@given(
    grid=st.sampled_from([Grid(1, 1, 4), Grid(4, 1, 1), Grid(3, 2, 3), Grid(2, 3, 2)]),
    dim=st.sampled_from([1, 3, 6]),
    content=st.sampled_from(["random", "static", "large", "some zeros"]),
    num=st.integers(1, 8),
    first_t=st.sampled_from([0, 3]),
    seed=seeds,
)
def test_it_is_what_plain_loops_find(way, grid, dim, content, num, first_t, seed):
    video = make_video(grid, dim=dim, content=content, seed=seed, first_t=first_t)
    if way == "no provenance":  # its positions must tell where the grid starts
        video = replace(video, positions=video.positions - torch.tensor([float(first_t), 0, 0]))
    kept = WAYS[way](video, min(num, len(video)), seed)
    assume(float(video.tokens.var(dim=0, correction=0).sum()) > 1e-6)
    assert quality(video, kept) == pytest.approx(quality_slowly(video, kept), rel=1e-6, abs=1e-7)


@pytest.mark.parametrize("way", ["prune", "merge", "soft"])
def test_letterboxed_patches_are_not_judged(way):
    valid = torch.arange(36) % 12 >= 4
    video = make_video(Grid(3, 3, 4), seed=1, valid=valid)
    kept = WAYS[way](video, 7)
    assert quality(video, kept) == pytest.approx(quality_slowly(video, kept), rel=1e-6)
    assert quality(video, video) == pytest.approx(BEST, abs=1e-9)


def test_blocks_do_not_show(monkeypatch):
    video = make_video(Grid(4, 3, 5), seed=3)
    cases = [way(video, 9) for way in WAYS.values()]
    whole = [quality(video, kept) for kept in cases]
    monkeypatch.setattr(module, "_BLOCK", 40)
    assert [quality(video, kept) for kept in cases] == [pytest.approx(q, rel=1e-9) for q in whole]


@laws
@given(seed=seeds, more=st.integers(1, 20), fewer=st.integers(1, 20))
def test_more_rows_of_a_video_are_never_further_from_it(seed, more, fewer):
    video = make_video(Grid(3, 4, 5), seed=seed)
    order = torch.randperm(60, generator=drawn(seed))
    few, many = (quality(video, video.select(order[:n])) for n in (fewer, fewer + more))
    assert many.nearest_distortion <= few.nearest_distortion
    assert many.neighbour_error <= few.neighbour_error
    assert many.coverage >= few.coverage
    assert many.temporal_coverage >= few.temporal_coverage


@laws
@given(seed=seeds, num=st.integers(1, 20))
def test_groups_that_are_split_never_distort_more(seed, num):
    video = make_video(Grid(3, 4, 5), seed=seed)
    coarse = torch.randint(0, num, (60,), generator=drawn(seed))
    fine = 2 * coarse + torch.randint(0, 2, (60,), generator=drawn(seed + 1))
    some, more = (
        quality(video, merge(video, group.unique(return_inverse=True)[1]))
        for group in (coarse, fine)
    )
    assert more.distortion <= some.distortion + 1e-6
    assert some.distortion <= 1 + 1e-6


@pytest.mark.parametrize("way", ["prune", "merge"])
@laws
@given(seed=seeds, num=st.integers(1, 59))
def test_the_token_nearest_to_a_patch_is_nearer_than_its_own(way, seed, num):
    video = make_video(Grid(3, 4, 5), seed=seed)
    found = quality(video, WAYS[way](video, num, seed))
    assert found.nearest_distortion <= found.distortion
    assert all(0 <= share <= 1 for share in (found.coverage, *found[4:]))


def test_one_mean_token_has_a_distortion_of_one():
    video = make_video(Grid(3, 4, 5), seed=5, dtype=torch.float64)
    one = merge(video, torch.zeros(60, dtype=torch.int64))
    found = quality(video, one)
    assert found.distortion == pytest.approx(1)
    assert found.nearest_distortion == pytest.approx(1)
    assert found.neighbour_error == pytest.approx(1)
    assert found[4:] == pytest.approx((1, 1, 1))


@pytest.mark.parametrize("way", WAYS)
def test_turning_moving_and_scaling_features_changes_no_error(way):
    video = make_video(Grid(3, 4, 5), seed=6, dtype=torch.float64)
    turn = torch.linalg.qr(torch.randn(6, 6, generator=drawn(1)).double()).Q
    kept = WAYS[way](video, 11)

    def moved(one):
        return replace(one, tokens=3 * one.tokens @ turn + 5)

    before, after = quality(video, kept), quality(moved(video), moved(kept))
    for name in ("distortion", "nearest_distortion", "neighbour_error"):
        assert getattr(after, name) == pytest.approx(getattr(before, name), rel=1e-4), name
    assert after[4:] == before[4:]
    scaled = [replace(one, tokens=3 * one.tokens @ turn) for one in (video, kept)]
    assert quality(*scaled).coverage == before.coverage


def test_a_static_video_needs_one_frame():
    """What was dropped is found at its own place in another frame."""
    video = make_video(Grid(4, 3, 3), seed=7)
    video = replace(video, tokens=video.tokens[:9].repeat(4, 1))
    found = quality(video, video.select(torch.arange(9)))
    assert found[:4] == BEST[:4]
    assert found.temporal_coverage == 0.25
    assert found.temporal_entropy == 0


def test_a_dropped_patch_cannot_borrow_from_far_away():
    """Only two places are kept; the second frame shows there what the first shows elsewhere."""
    x = torch.zeros(18, 1)
    x[9 + 4] = 10.0  # middle of frame 1
    x[0] = 10.0  # a corner of frame 0
    video = replace(make_video(Grid(2, 3, 3), dim=1), tokens=x)
    found = quality(video, video.select(torch.tensor([0, 17])))
    assert found.nearest_distortion == 0
    assert found.distortion > 0.5


def test_a_flat_video_is_not_divided_by_rounding():
    video = make_video(Grid(2, 3, 3), content="equal", seed=8)
    assert quality(video, merge(video, torch.zeros(18, dtype=torch.int64)))[:4] == BEST[:4]
    off = video.select(torch.tensor([0]))
    off = replace(off, tokens=off.tokens * (1 + 1e-7))
    assert quality(video, off).distortion < 1


def test_entropy_counts_tokens_where_they_lie():
    video = make_video(Grid(4, 2, 2), seed=9)
    half = quality(video, video.select(torch.arange(8)))  # frames 0 and 1
    assert half.temporal_coverage == 0.5
    assert half.temporal_entropy == pytest.approx(0.5)
    assert half.position_entropy == pytest.approx(1)
    corner = quality(video, video.select(torch.arange(0, 16, 4)))
    assert corner.temporal_entropy == pytest.approx(1)
    assert corner.position_entropy == 0


def test_the_cosine_that_counts_is_chosen():
    video = make_video(Grid(2, 3, 3), seed=10)
    kept = pruned(video, 4)
    shares = [quality(video, kept, min_cosine=c).coverage for c in (-1, 0, 0.5, 0.9, 1.1)]
    assert shares[0] == 1
    assert shares[-1] == 0
    assert shares == sorted(shares, reverse=True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_types_are_judged_in_full_precision(dtype):
    video = make_video(Grid(3, 4, 5), seed=11, dtype=dtype)
    kept = pruned(video, 13)
    full = [replace(one, tokens=one.tokens.double()) for one in (video, kept)]
    assert quality(video, kept) == pytest.approx(quality(*full), rel=1e-9)


@laws
@given(
    seed=seeds, n=st.integers(1, 30), k=st.integers(1, 20), scale=st.sampled_from([1e-20, 1, 1e20])
)
def test_the_nearest_row_is_the_nearest(seed, n, k, scale):
    x, y = (scale * torch.randn(m, 3, generator=drawn(seed + m)) + scale for m in (n, k))
    gaps = (x[:, None].double() - y[None].double()).norm(dim=-1)
    found = gaps.gather(1, nearest_rows(x, y)[:, None]).squeeze(1)
    assert torch.allclose(found, gaps.amin(dim=1), rtol=1e-3)


def test_what_cannot_be_compared_is_said():
    video = make_video(Grid(2, 3, 3))
    with pytest.raises(ShapeError, match="grids and widths"):
        quality(video, make_video(Grid(3, 3, 3)))
    with pytest.raises(ShapeError, match="float features"):
        quality(replace(video, tokens=torch.arange(18)), video)
    with pytest.raises(ShapeError, match="got 0 tokens"):
        quality(video, video.select(torch.arange(0)))
    with pytest.raises(ShapeError, match="soft provenance"):
        quality(mixed(video, 5), video)
    with pytest.raises(ShapeError, match="soft provenance or none"):
        quality(replace(pruned(video, 5), assign=None), video)
