"""Budgets are exact integers, however they are said."""

import itertools
import math
import time
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.shares import apportion_slowly

from vidcomp import Budget, apportion
from vidcomp.budget import frames_within
from vidcomp.errors import BudgetError

weights = st.lists(
    st.one_of(st.just(0.0), st.integers(0, 5).map(float), st.floats(0, 1e300)), max_size=8
)


def resolve(budget, num_tokens=0, num_frames=0, num_seconds=0.0):
    return budget.resolve(num_tokens, num_frames, num_seconds)


@given(percent=st.integers(1, 100), tokens=st.integers(1, 10**9))
def test_retention_is_decimal(percent, tokens):
    budget = Budget(retention=percent / 100)
    assert resolve(budget, num_tokens=tokens) == max(1, percent * tokens // 100)
    assert Budget.parse(f"{percent}%") == budget
    assert str(budget) == f"{percent}% of the tokens"


def test_floats_do_not_lose_a_token():
    assert resolve(Budget(retention=0.29), num_tokens=100) == 29  # int(0.29 * 100) is 28
    assert resolve(Budget(per_frame=0.1), num_frames=30) == 3
    assert resolve(Budget(per_second=1.1), num_seconds=30.0) == 33  # 1.1 * 30 is 33.00000000000001
    assert resolve(Budget(retention=0.1), num_tokens=3) == 1


def test_a_budget_is_said_in_one_way():
    for wrong in (
        {},
        {"tokens": 3, "retention": 0.5},
        {"tokens": 0},
        {"tokens": 2.5},
        {"retention": 0.0},
        {"retention": 1.01},
        {"per_frame": -1},
        {"per_second": math.inf},
        {"per_frame": math.nan},
        {"tokens": True},
        {"tokens": "many"},
    ):
        with pytest.raises(BudgetError, match=": "):
            Budget(**wrong)
    for wrong in ("2.5", "0%", "101%", "lots", {"token": 3}, 0, None):
        with pytest.raises(BudgetError, match=": "):
            Budget.parse(wrong)


def test_one_meaning_is_one_value():
    assert Budget(tokens=196.0) == Budget(tokens=196) == Budget.parse("196") == Budget.parse(196)
    assert repr(Budget(tokens=196.0)) == repr(Budget(tokens=196))
    assert repr(Budget(per_frame=16)) == repr(Budget(per_frame=16.0))
    assert Budget.parse({"per_frame": 16}) == Budget(per_frame=16)


def test_context_leaves_what_is_not_reserved():
    assert Budget.for_context(4096, 1024) == Budget(tokens=3072)
    with pytest.raises(BudgetError, match="reserve less"):
        Budget.for_context(1024, 1024)


def test_frames_within():
    assert frames_within(1000, tokens_per_frame=196, num_frames=32) == 5
    assert frames_within(10**6, tokens_per_frame=196, num_frames=32) == 32
    with pytest.raises(BudgetError, match="pool each frame"):
        frames_within(195, tokens_per_frame=196, num_frames=32)


@given(wishes=weights, total=st.integers(0, 10**15), data=st.data())
@settings(deadline=None, max_examples=300)
def test_apportion_equals_its_slow_twin(wishes, total, data):
    n = len(wishes)
    size = st.one_of(st.integers(0, 6), st.integers(0, 10**15))
    caps = data.draw(st.none() | st.lists(size, min_size=n, max_size=n))
    minimum = data.draw(st.integers(0, 3))
    room = total * n if caps is None else sum(caps)
    least = sum(min(minimum, total if caps is None else caps[i]) for i in range(n))
    if least > min(total, room):
        with pytest.raises(BudgetError, match="lower the minimum"):
            apportion(wishes, total=total, caps=caps, minimum=minimum)
        return
    share = apportion(wishes, total=total, caps=caps, minimum=minimum)
    assert share.dtype == torch.int64
    assert share.tolist() == apportion_slowly(wishes, total, caps, minimum)
    assert sum(share.tolist()) == min(total, room)
    for i, got in enumerate(share.tolist()):
        high = total if caps is None else caps[i]
        assert min(minimum, high) <= got <= high


@given(wishes=st.lists(st.integers(0, 20), min_size=1, max_size=5), total=st.integers(0, 9))
@settings(deadline=None)
def test_no_other_handing_out_is_nearer_to_the_wishes(wishes, total):
    """Largest remainder minimises the squared distance to the real shares: try them all."""
    if not any(wishes):
        wishes = [1] * len(wishes)
    fair = [Fraction(total * w, sum(wishes)) for w in wishes]

    def distance(shares):
        return sum((s - f) ** 2 for s, f in zip(shares, fair, strict=True))

    every = itertools.product(range(total + 1), repeat=len(wishes))
    best = min(distance(shares) for shares in every if sum(shares) == total)
    assert distance(apportion(wishes, total=total).tolist()) == best


@pytest.mark.parametrize(
    ("wishes", "total", "options", "expected"),
    [
        ([1, 1, 1], 4, {}, [2, 1, 1]),  # a tie goes to the lower index
        ([0, 0, 0], 4, {}, [2, 1, 1]),  # no wishes are equal wishes
        ([0, 1], 5, {"caps": [9, 2]}, [3, 2]),  # what nobody else can take
        ([0, 1], 5, {"minimum": 1}, [1, 4]),
        ([9, 1, 1], 9, {"caps": [3, 9, 9]}, [3, 3, 3]),  # refused by one cap, shared by the rest
        ([1, 1], 10, {"caps": [2, 2]}, [2, 2]),  # more than the caps allow
        ([5, 1], 4, {"minimum": 2}, [2, 2]),
        ([1, 1], 3, {"caps": [0, 9], "minimum": 2}, [0, 3]),  # a cap is stronger than the minimum
        ([5e-324, 1e308], 10**15, {}, [0, 10**15]),
        ([1 / 3, 1 / 3, 1 / 3], 3 * 10**17, {}, [10**17] * 3),  # beyond float64's integers
        ([], 4, {}, []),
    ],
)
def test_apportion_by_hand(wishes, total, options, expected):
    assert apportion(wishes, total=total, **options).tolist() == expected


def test_apportion_refuses_what_is_no_weight():
    for wrong in ([-1.0], [math.nan], [math.inf]):
        with pytest.raises(BudgetError, match="softmax"):
            apportion(wrong, total=3)
    with pytest.raises(BudgetError, match="match them"):
        apportion([1, 2], total=3, caps=[1])
    with pytest.raises(BudgetError, match="match them"):
        apportion([1, 2], total=3, caps=[1, -1])


def test_apportion_takes_tensors_that_need_gradients():
    wishes = torch.tensor([0.5, 0.25, 0.25], dtype=torch.bfloat16, requires_grad=True)
    assert apportion(wishes, total=8, caps=torch.tensor([3, 9, 9])).tolist() == [3, 3, 2]


def test_apportion_is_quick_for_a_long_video():
    wishes = torch.linspace(-40, 40, 100_000, dtype=torch.float64).exp()
    start = time.process_time()
    share = apportion(wishes, total=250_000, caps=torch.full((100_000,), 5), minimum=1)
    assert time.process_time() - start < 5  # it was quadratic once; 0.5 s on one slow core
    assert int(share.sum()) == 250_000
