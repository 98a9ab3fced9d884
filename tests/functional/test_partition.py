"""Boxes for a budget: optimal where they can be, exact everywhere."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.partition import best_spreads, corners, greedy_slowly

from vidcomp.errors import BudgetError
from vidcomp.functional.geometry import patch_cells
from vidcomp.functional.partition import Patches, Rules, least_tokens, partition
from vidcomp.functional.partition_boxes import (
    box_bounds,
    box_counts,
    box_spread,
    boxes_of,
    crowded_boxes,
    paint,
)
from vidcomp.functional.partition_build import Cells, build_forest
from vidcomp.functional.partition_prices import find_prices
from vidcomp.functional.partition_spend import spend
from vidcomp.types import Grid

TINY = [Grid(2, 3, 3), Grid(3, 2, 3), Grid(1, 3, 3), Grid(5, 1, 2), Grid(1, 1, 7), Grid(4, 2, 2)]


def patches(grid, *, dim=2, seed=0, full=True, weighted=False, offset=0.0, dtype=torch.float64):
    draw = torch.Generator().manual_seed(seed)
    there = torch.rand(grid.num_patches, generator=draw) < (2.0 if full else 0.6)
    there[0] = True
    cell = there.nonzero().squeeze(1)
    x = torch.randn(len(cell), dim, generator=draw).to(dtype) + offset
    weight = torch.rand(len(cell), generator=draw).double() if weighted else torch.ones(len(cell))
    return Patches(x, weight.double(), cell, grid)


def spread(video, group):
    total = 0.0
    for k in group.unique():
        x, w = video.tokens[group == k].double(), video.weight[group == k][:, None]
        mean = (w * x).sum(0) / w.sum()
        total += float((w * (x - mean) ** 2).sum())
    return total


def parts(group):
    return {tuple((group == k).nonzero().squeeze(1).tolist()) for k in group.unique()}


def slow(video):
    cells = [tuple(c) for c in patch_cells(video.grid)[video.cell].tolist()]
    x = dict(zip(cells, video.tokens.tolist(), strict=True))
    return x, dict(zip(cells, video.weight.tolist(), strict=True))


@given(
    grid=st.sampled_from(TINY), seed=st.integers(0, 999), full=st.booleans(), weighted=st.booleans()
)
@settings(deadline=None, max_examples=25)
def test_every_count_is_exact_and_every_corner_of_the_hull_optimal(grid, seed, full, weighted):
    video = patches(grid, seed=seed, full=full, weighted=weighted)
    best = best_spreads(*slow(video), grid)
    optimal, last = corners(best), float("inf")
    assert len(optimal) >= min(2, len(video.cell))  # one token, and all
    for budget in range(1, len(video.cell) + 1):
        (group,) = partition([video], [budget])
        assert sorted(group.unique().tolist()) == list(range(budget))
        found = spread(video, group)
        assert found <= last + 1e-9
        assert found >= best[budget] - 1e-9
        if budget in optimal:
            assert found == pytest.approx(best[budget], abs=1e-9)
        last = found


@given(
    grid=st.sampled_from([Grid(4, 3, 4), Grid(3, 5, 2)]),
    seed=st.integers(0, 999),
    full=st.booleans(),
)
@settings(deadline=None, max_examples=12)
def test_what_is_left_goes_to_the_best_split_each_time(grid, seed, full):
    video = patches(grid, seed=seed, full=full)
    forest = build_forest([video], [Cells.of(video)], Rules())
    x, weight = slow(video)
    whole = [tuple((0, n) for n in grid)]
    for num in {0, 1, 2, 5, 9, len(video.cell) - 1}:
        num = min(num, len(video.cell) - 1)
        boxes = spend(forest, forest.roots, num).boxes
        expected = greedy_slowly(x, weight, grid, whole, num)
        got = {tuple(map(tuple, b)) for b in forest.bounds_of(boxes).tolist()}
        assert got == set(expected)


def test_ties_spread_evenly():
    grid = Grid(4, 4, 4)
    video = Patches(torch.ones(64, 3), torch.ones(64).double(), torch.arange(64), grid)
    for budget in range(1, 65):
        (group,) = partition([video], [budget])
        sizes = torch.bincount(group, minlength=budget)
        assert int(sizes.min()) >= 1
        assert int(sizes.max()) <= 2 * int(sizes.min())


@pytest.mark.parametrize(("offset", "dtype"), [(1e4, torch.float32), (1e4, torch.float64)])
def test_offsets_do_no_harm(offset, dtype):
    video = patches(Grid(4, 6, 6), dim=5, seed=3, dtype=torch.float32)
    # Values that the offset leaves as they are.
    video = video._replace(tokens=(video.tokens * 64).round() / 64)
    moved = video._replace(tokens=video.tokens.to(dtype) + offset)
    assert torch.equal((moved.tokens - offset).float(), video.tokens)
    for budget in (1, 7, 40, 143):
        assert torch.equal(partition([video], [budget])[0], partition([moved], [budget])[0])


def test_huge_values_do_not_overflow():
    video = patches(Grid(3, 4, 4), seed=5)
    huge = video._replace(tokens=video.tokens * 2.0**900)
    for budget in (2, 11, 30):
        assert parts(partition([video], [budget])[0]) == parts(partition([huge], [budget])[0])


@given(seed=st.integers(0, 999), frames=st.integers(1, 9), segment=st.integers(1, 4))
@settings(deadline=None, max_examples=15)
def test_segments_share_one_price(seed, frames, segment):
    """The best for the price over all segments, each of which is best for itself at that price."""
    grid, rules = Grid(frames, 2, 2), Rules(segment_frames=segment)
    video = patches(grid, seed=seed)
    forest = build_forest([video], [Cells.of(video)], rules)
    for budget in range(1, grid.num_patches + 1):
        (group,) = partition([video], [budget], rules)
        assert len(group.unique()) == budget
        plan = find_prices(forest.plans, forest.spread(), [budget], 1.0)[0]
        again = forest.plans(torch.tensor([[plan.price]], dtype=torch.float64))[0][0]
        assert again.tokens == plan.tokens <= budget
        assert spread(video, group) <= plan.spread + 1e-9
    # A box either lies in one segment or is whole frames of whole segments.
    (group,) = partition([video], [max(1, grid.num_patches // 3)], rules)
    frame = torch.arange(grid.num_patches) // 4
    for k in group.unique():
        mine = frame[group == k]
        if len((mine // segment).unique()) > 1:
            assert len(mine) == 4 * len(mine.unique())


def test_scenes_are_not_joined_while_there_are_tokens_for_all():
    video = patches(Grid(9, 2, 3), seed=2)._replace(starts=(0, 2, 7))
    scene = torch.bucketize(video.cell // 6, torch.tensor([2, 7]), right=True)
    last = float("inf")
    for budget in range(1, 55):
        (group,) = partition([video], [budget])
        assert len(group.unique()) == budget
        found = spread(video, group)
        assert found <= last + 1e-9
        last = found
        for k in group.unique():
            scenes = scene[group == k].unique()
            assert len(scenes) == 1 or budget < 3
        for s in range(3):
            assert budget >= 3 or len(group[scene == s].unique()) == 1


def test_a_dear_split_in_time_is_made_later():
    video = patches(Grid(8, 4, 4), dim=4, seed=1)

    def frames(price):
        (group,) = partition([video], [40], Rules(time_price=price))
        assert len(group.unique()) == 40
        return sum(len((video.cell[group == k] // 16).unique()) for k in range(40)) / 40

    few, usual, many = (frames(price) for price in (0.02, 1.0, 50.0))
    assert 1 <= few < usual < many


@given(seed=st.integers(0, 99), least=st.integers(2, 7), full=st.booleans())
@settings(deadline=None, max_examples=15)
def test_every_frame_is_covered(seed, least, full):
    video = patches(Grid(5, 2, 3), seed=seed, full=full)
    rules = Rules(min_tokens_per_frame=least)
    minimum = least_tokens(video, rules)
    frame = video.cell // 6
    for budget in range(minimum, len(video.cell) + 1):
        (group,) = partition([video], [budget], rules)
        assert len(group.unique()) == budget
        for t in frame.unique():
            mine = group[frame == t]
            assert len(mine.unique()) >= min(least, len(mine))
    if minimum > 1:
        with pytest.raises(BudgetError, match=f"at least {minimum} tokens"):
            partition([video], [minimum - 1], rules)


@given(seed=st.integers(0, 999), num=st.integers(2, 30))
@settings(deadline=None, max_examples=15)
def test_rows_of_one_patch_part_last(seed, num):
    draw = torch.Generator().manual_seed(seed)
    cell = torch.randint(0, 8, (num,), generator=draw)
    video = Patches(
        torch.randn(num, 3, generator=draw).double(),
        torch.ones(num).double(),
        cell,
        Grid(2, 2, 2),
    )
    last = float("inf")
    for budget in range(1, num + 1):
        (group,) = partition([video], [budget])
        assert sorted(group.unique().tolist()) == list(range(budget))
        found = spread(video, group)
        assert found <= last + 1e-9
        last = found
        if budget >= len(cell.unique()):
            assert all(len(cell[group == k].unique()) == 1 for k in range(budget))
        else:
            assert all(len(group[cell == c].unique()) == 1 for c in cell.unique())


def test_videos_side_by_side_are_as_alone():
    videos = [
        patches(Grid(5, 3, 4), seed=1),
        patches(Grid(5, 3, 4), seed=2, full=False),
        patches(Grid(7, 2, 2), seed=3),
        patches(Grid(1, 1, 1), seed=4),
    ]
    budgets = [9, 30, 5, 1]
    rules = Rules(segment_frames=3)
    together = partition(videos, budgets, rules)
    for video, budget, group in zip(videos, budgets, together, strict=True):
        assert torch.equal(partition([video], [budget], rules)[0], group)


@given(grid=st.sampled_from(TINY), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=20)
def test_what_boxes_hold(grid, seed):
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(2, *grid, 3, generator=draw)
    there = torch.rand(2, *grid, generator=draw) < 0.7
    weight = torch.rand(2, *grid, generator=draw).double() * there
    boxes = boxes_of(grid, x.device)
    found, mean = box_spread(lambda a, b: x[..., a:b], 3, weight)
    counts, crowded = box_counts(there.int()), crowded_boxes(there, 3)
    for i, bounds in enumerate(box_bounds(grid, boxes.number).tolist()):
        part = tuple(slice(*side) for side in bounds)
        for b in range(2):
            w, y = weight[b][part].reshape(-1, 1), x[b][part].reshape(-1, 3).double()
            middle = (w * y).sum(0) / w.sum().clamp(min=1e-300)
            expected = float((w * (y - middle) ** 2).sum())
            assert float(found[i, b]) == pytest.approx(expected, abs=1e-9)
            assert int(counts[i, b]) == int(there[b][part].sum())
            in_frame = there[b][part].flatten(1).sum(1)
            of_frame = there[b][part[0]].flatten(1).sum(1)
            assert bool(crowded[i, b]) == bool(((in_frame * 3 > of_frame) & (in_frame > 1)).any())
    total = weight.flatten(1).sum(1)[:, None].clamp(min=1e-300)
    whole = (weight[..., None] * x).flatten(1, 3).sum(1) / total
    assert torch.allclose(mean, whole)


def test_halves_come_before_their_box_and_fill_it():
    grid = Grid(5, 3, 6)
    boxes = boxes_of(grid, torch.device("cpu"))
    bounds = box_bounds(grid, boxes.number)
    assert len(boxes.number) == 9 * 5 * 11
    assert bounds[-1].tolist() == [[0, 5], [0, 3], [0, 6]]
    for axis in range(3):
        for i in range(len(bounds)):
            left, right = int(boxes.left[axis, i]), int(boxes.right[axis, i])
            start, stop = bounds[i, axis].tolist()
            if stop - start == 1:
                assert left == right == len(bounds)
                continue
            assert max(left, right) < i
            middle = (start + stop + 1) // 2
            assert bounds[left, axis].tolist() == [start, middle]
            assert bounds[right, axis].tolist() == [middle, stop]


def test_painting():
    bounds = torch.tensor([[[0, 2], [0, -1], [0, -1]], [[2, 3], [0, 1], [1, 3]]])
    painted = paint(bounds, Grid(3, 2, 3)).reshape(3, 2, 3)
    assert painted[:2].unique().tolist() == [0]
    assert painted[2].tolist() == [[-1, 1, 1], [-1, -1, -1]]
