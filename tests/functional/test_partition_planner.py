"""What is remembered between prices says the same as looking anew."""

import pytest
import torch
from functional.test_partition import patches
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vidcomp.functional.partition_build import Cells, Rules, build_forest
from vidcomp.functional.partition_forest import Forest
from vidcomp.functional.partition_planner import Planner
from vidcomp.functional.partition_prices import find_prices
from vidcomp.types import Grid


def forest_of(videos, rules):
    return build_forest(videos, [Cells.of(video) for video in videos], rules)


@given(
    seed=st.integers(0, 99),
    frames=st.integers(1, 9),
    time_price=st.sampled_from([1.0, 2.5, 0.5]),
    flat=st.booleans(),
    rounds=st.lists(st.lists(st.floats(0, 3), min_size=2, max_size=2), min_size=2, max_size=6),
)
@example(
    seed=3,
    frames=5,
    time_price=0.5,
    flat=True,
    rounds=[[0.5, 2.225073858507203e-309], [0.0, 2.891211566006534e-121]],
)
@settings(deadline=None, max_examples=40)
def test_plans_are_those_of_looking_anew(seed, frames, time_price, flat, rounds):
    videos = [
        patches(Grid(frames, 2, 3), seed=seed + i, full=i == 0, offset=float(i)) for i in range(2)
    ]
    if flat:  # plans that cost the same
        videos = [v._replace(tokens=v.tokens.round()) for v in videos]
    forest = forest_of(videos, Rules(segment_frames=3, time_price=time_price))
    planner = Planner(forest)
    for prices in rounds:
        price_VP = torch.tensor([prices, sorted(prices)], dtype=torch.float64)
        for found, anew in zip(planner(price_VP), forest.plans(price_VP), strict=True):
            for one, other in zip(found, anew, strict=True):
                assert (one.price, one.tokens, one.paid) == (other.price, other.tokens, other.paid)
                assert one.spread == pytest.approx(other.spread, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("width", [0.5, 0.1, 0.01, 0.001])
def test_only_segments_whose_plan_is_open_are_looked_at(width, monkeypatch):
    forest = forest_of([patches(Grid(64, 4, 4), seed=3)], Rules(segment_frames=4))
    looked: list[int] = []
    segments_at = Forest.segments_at

    def spy(self, number, price_BP, which_B=None):
        looked.append(len(price_BP))
        return segments_at(self, number, price_BP, which_B)

    monkeypatch.setattr(Forest, "segments_at", spy)
    planner, price = Planner(forest), 0.6
    ends = planner(torch.tensor([[price, price * (1 - width)]], dtype=torch.float64))[0]
    assert looked == [16]
    planner(torch.tensor([[price * (1 - width / 2)]], dtype=torch.float64))
    assert sum(looked[1:]) <= min(16, ends[1].tokens - ends[0].tokens)
    assert sum(looked[1:]) > 0 or ends[1].tokens == ends[0].tokens


@given(seed=st.integers(0, 99), budget=st.integers(1, 40), other=st.integers(1, 40))
@settings(deadline=None, max_examples=25)
def test_prices_do_not_depend_on_the_videos_beside(seed, budget, other):
    videos = [patches(Grid(6, 2, 4), seed=seed), patches(Grid(6, 2, 4), seed=seed + 1)]
    rules = Rules(segment_frames=2)
    together = forest_of(videos, rules)
    both = find_prices(Planner(together), together.spread(), [budget, other], 1.0)
    alone = forest_of(videos[:1], rules)
    assert find_prices(Planner(alone), alone.spread(), [budget], 1.0)[0] == both[0]
