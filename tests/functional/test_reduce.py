"""Group reductions: exact, ordered, the same however they are cut into blocks."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vidcomp.functional import reduce
from vidcomp.functional.reduce import group_max, group_min, group_sum, norms

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
