"""Group reductions: exact, ordered, the same however they are cut into blocks."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vidcomp.functional import reduce
from vidcomp.functional.reduce import (
    group_max,
    group_min,
    group_sum,
    norms,
    short_means,
    short_sums,
)

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


@given(
    n=st.integers(0, 30),
    shape=st.sampled_from([(), (1,), (5,), (2, 3), (0,)]),
    num_groups=st.integers(1, 6),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 99),
    block=st.sampled_from([1, 7, 1 << 24]),
)
@settings(deadline=None)
def test_group_sum_adds_in_the_order_of_rows(n, shape, num_groups, dtype, seed, block):
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(n, *shape, generator=draw).to(dtype)
    group = torch.randint(-1, num_groups, (n,), generator=draw)
    factor = torch.rand(n, generator=draw)
    expected = torch.zeros(num_groups, *shape, dtype=torch.float64)
    for i in range(n):
        if group[i] >= 0:
            expected[group[i]] += x[i].double() * factor[i].double()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reduce, "_BLOCK", block)
        got = group_sum(x, group, num_groups, factor)
    assert got.dtype == torch.float64
    assert torch.equal(got, expected)


def test_group_sum_may_read_rows_more_than_once():
    x = torch.tensor([[1.0], [10.0], [100.0]])
    row, group = torch.tensor([2, 0, 0, 1]), torch.tensor([0, 1, 0, -1])
    assert group_sum(x, group, 3, row_N=row).tolist() == [[101.0], [1.0], [0.0]]


def test_group_sum_has_a_gradient():
    x = torch.randn(5, 3, requires_grad=True, dtype=torch.float64)
    group = torch.tensor([1, 0, -1, 1, 1])
    factor = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])
    assert torch.autograd.gradcheck(lambda y: group_sum(y, group, 2, factor), x)


def test_group_extremes():
    x = torch.tensor([3.0, -1.0, 7.0, 5.0, -9.0])
    group = torch.tensor([0, 1, 0, 1, -1])
    assert group_min(x, group, 2).tolist() == [3.0, -1.0]
    assert group_max(x, group, 2).tolist() == [7.0, 5.0]
    assert group_min(torch.tensor([9, 4]), torch.tensor([0, 0]), 1).tolist() == [4]


@pytest.mark.parametrize("dtype", DTYPES)
def test_norms_do_not_overflow_in_half(dtype):
    x = torch.full((3, 64), 6e4).to(dtype)
    assert norms(x).dtype == torch.float32
    assert torch.allclose(norms(x), 8 * x[:, 0].float())


@given(
    n=st.integers(0, 120),
    dim=st.sampled_from([1, 17, 64]),
    num_groups=st.integers(1, 6),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 99),
)
@settings(deadline=None)
def test_short_sums_are_sums_to_float32(n, dim, num_groups, dtype, seed):
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(max(1, n // 2), dim, generator=draw).to(dtype)
    group = torch.randint(-1, num_groups, (n,), generator=draw)
    factor = torch.rand(n, generator=draw)
    row = torch.randint(0, len(x), (n,), generator=draw)
    got = short_sums(x, group, num_groups, factor, row)
    assert got.dtype == torch.float32
    expected = group_sum(x, group, num_groups, factor, row)
    size = group_sum(x.abs(), group, num_groups, factor, row)
    assert bool(((got - expected).abs() <= 18 * 2**-24 * size).all())


def test_a_short_sum_of_one_row_is_that_row():
    x = torch.randn(40, 33)
    assert torch.equal(short_sums(x, torch.arange(40).flip(0), 41, torch.ones(40))[:40].flip(0), x)


def test_short_sums_have_a_gradient():
    x = torch.randn(5, 20, requires_grad=True)
    short_sums(x, torch.tensor([1, 0, -1, 1, 1]), 2, torch.ones(5)).sum().backward()
    assert x.grad[:, 0].tolist() == [1, 1, 0, 1, 1]


@given(
    sizes=st.lists(st.integers(1, 60), min_size=1, max_size=8),
    dtype=st.sampled_from(DTYPES[:3]),
    seed=st.integers(0, 99),
)
@settings(deadline=None)
def test_the_mean_of_equal_rows_is_that_row(sizes, dtype, seed):
    draw = torch.Generator().manual_seed(seed)
    kinds = torch.randn(len(sizes), 40, generator=draw).to(dtype)
    size = torch.tensor(sizes)
    group = torch.arange(len(sizes)).repeat_interleave(size)
    turn = torch.randperm(len(group), generator=draw)
    share = (1 / size.double())[group]
    got = short_means(kinds[group[turn]], group[turn], len(sizes), share[turn])
    assert got.dtype == dtype
    assert torch.equal(got, kinds)
