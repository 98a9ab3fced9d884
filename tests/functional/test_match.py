"""ToMe's matching: the recorded original, a slow twin, and rounds that reach any count."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.match import bipartite_slowly
from safetensors import safe_open
from torch.nn import functional as F  # noqa: N812  # as everybody calls it

from vidcomp.errors import BudgetError
from vidcomp.functional.match import (
    bipartite_groups,
    every_kth_groups,
    halving_counts,
    proportional_bias,
    rounds_of_matching,
)
from vidcomp.functional.merge import merge_by_assignment

CLOSE = {"atol": 2e-5, "rtol": 1e-4}


def read(golden, name):
    with safe_open(golden / f"{name}.safetensors", "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  # no dict
        return tensors, json.loads(file.metadata()["parameters"])


@pytest.fixture
def tome(golden):
    return read(golden, "tome")


def two_steps(tensors, r_list, b):
    """Both recorded steps of one video: (tokens, mass, group of each first row) after each."""
    x, metric = tensors["input.x"][b], tensors["input.metric"][b]
    mass, total = torch.ones(len(x)), torch.arange(len(x))
    for r in r_list:
        step = bipartite_groups(metric, r)
        x, mass = merge_by_assignment(x, mass, step, len(x) - r)
        metric, total = x, step[total]
        yield x, mass, total


@pytest.mark.parametrize("b", [0, 1])
def test_two_merges_reproduce_the_original(tome, b):
    tensors, parameters = tome
    for i, (x, mass, total) in enumerate(two_steps(tensors, parameters["r_list"], b)):
        torch.testing.assert_close(x, tensors[f"output.step{i}.x"][b], **CLOSE)
        assert torch.equal(mass, tensors[f"output.step{i}.size"][b, :, 0])
        source = F.one_hot(total, len(x)).T
        assert torch.equal(source.float(), tensors[f"output.step{i}.source"][b])


@pytest.mark.parametrize("b", [0, 1])
def test_every_kth_reproduces_the_original(tome, b):
    tensors, parameters = tome
    x = tensors["input.x"][b]
    groups = every_kth_groups(x, parameters["kth"])
    y, mass = merge_by_assignment(x, torch.ones(len(x)), groups, len(x) // parameters["kth"])
    torch.testing.assert_close(y, tensors["output.kth.x"][b], **CLOSE)
    assert torch.equal(mass, tensors["output.kth.size"][b, :, 0])


@pytest.mark.parametrize("b", [0, 1])
def test_attention_in_proportion_reproduces_the_original(tome, b):
    tensors, parameters = tome
    x, mass, _ = list(two_steps(tensors, parameters["r_list"], b))[-1]
    weight = {name.removeprefix("input.attn."): v for name, v in tensors.items() if "attn" in name}
    heads = parameters["heads"]
    qkv = F.linear(x, weight["qkv.weight"], weight["qkv.bias"])
    q, k, v = qkv.reshape(len(x), 3, heads, -1).permute(1, 2, 0, 3)
    bias = proportional_bias(mass).expand(heads, len(x), len(x))
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias).transpose(0, 1).flatten(1)
    out = F.linear(out, weight["proj.weight"], weight["proj.bias"])
    torch.testing.assert_close(out, tensors["output.propattn.out"][b], **CLOSE)
    torch.testing.assert_close(k.mean(0), tensors["output.propattn.k_mean"][b], **CLOSE)


@given(st.integers(1, 14), st.integers(0, 999), st.data())
@settings(deadline=None)
def test_matching_equals_its_slow_twin(n, seed, data):
    metric = torch.randn(n, 4, generator=torch.Generator().manual_seed(seed))
    r = data.draw(st.integers(0, n // 2))
    assert bipartite_groups(metric, r).tolist() == bipartite_slowly(metric.tolist(), r)


@given(n=st.integers(2, 60), window=st.integers(2, 70), seed=st.integers(0, 99), data=st.data())
@settings(deadline=None, max_examples=60)
def test_windows_are_not_left(n, window, seed, data):
    metric = torch.randn(n, 6, generator=torch.Generator().manual_seed(seed))
    r = data.draw(st.integers(0, n // 2))
    groups = bipartite_groups(metric, r, window)
    assert sorted(set(groups.tolist())) == list(range(n - r))
    if window >= n:
        assert torch.equal(groups, bipartite_groups(metric, r))
    for k in range(n - r):
        rows = (groups == k).nonzero().squeeze(1)
        assert int(rows[-1] - rows[0]) <= window + 2  # whole pairs, about as many in each


@given(st.integers(1, 20), st.integers(0, 99), st.data())
@settings(deadline=None)
def test_groups_have_no_gaps_and_ties_go_to_the_lower_row(n, seed, data):
    draw = torch.Generator().manual_seed(seed)
    metric = torch.randn(2, 3, generator=draw)[torch.randint(0, 2, (n,), generator=draw)]
    r = data.draw(st.integers(0, n // 2))
    groups = bipartite_groups(metric, r)
    assert sorted(set(groups.tolist())) == list(range(n - r))
    same = bipartite_groups(torch.ones(n, 3), r).tolist()
    # All alike: the first r even rows merge into row 1, the others stay in their order.
    kept = list(range(0, n, 2))[r:]
    order = kept + list(range(1, n, 2))
    assert same == [
        order.index(1) if i % 2 == 0 and i not in kept else order.index(i) for i in range(n)
    ]


def test_more_than_half_is_refused_not_clipped():
    with pytest.raises(BudgetError, match="use more rounds"):
        bipartite_groups(torch.randn(7, 2), 4)
    with pytest.raises(BudgetError, match="use more rounds"):
        bipartite_groups(torch.randn(7, 2), -1)
    with pytest.raises(BudgetError, match="change k"):
        every_kth_groups(torch.randn(7, 2), 8)
    with pytest.raises(BudgetError, match="change k"):
        every_kth_groups(torch.randn(7, 2), 0)


def test_every_kth_drops_the_tail():
    assert every_kth_groups(torch.eye(7), 3)[-1] == -1
    assert every_kth_groups(torch.eye(4), 1).tolist() == [0, 1, 2, 3]


@given(st.integers(1, 5000), st.data())
def test_halving_counts_reach_the_target(n, data):
    target = data.draw(st.integers(1, n))
    fewest = halving_counts(n, target)
    for rounds in (None, len(fewest), len(fewest) + 1, len(fewest) + 5):
        counts = halving_counts(n, target, rounds or None)
        before = [n, *counts][:-1] if counts else []
        assert (counts[-1] if counts else n) == target
        assert all(b - b // 2 <= a <= b for b, a in zip(before, counts, strict=True))
        assert rounds is None or not fewest or len(counts) == max(rounds, len(fewest))
    if len(fewest) > 1:
        with pytest.raises(BudgetError, match=f"takes {len(fewest)} rounds"):
            halving_counts(n, target, len(fewest) - 1)


def test_halving_counts_by_hand():
    assert halving_counts(144, 64) == [72, 64]  # as VideoChat-Flash
    assert halving_counts(64, 64) == []
    assert halving_counts(1000, 1, 12)[:3] == [562, 316, 178]


@given(st.integers(2, 40), st.integers(0, 99), st.data())
@settings(deadline=None)
def test_rounds_carry_mass(n, seed, data):
    """The metric of merged rows is the weighted mean of all that they stand for."""
    draw = torch.Generator().manual_seed(seed)
    metric, mass = torch.randn(n, 3, generator=draw), torch.rand(n, generator=draw) + 0.5
    target = data.draw(st.integers(1, n))
    positions = torch.stack([torch.zeros(n), torch.arange(n), torch.zeros(n)], 1)
    for where in (None, positions):
        groups = rounds_of_matching(metric, mass, halving_counts(n, target), where)
        assert sorted(set(groups.tolist())) == list(range(target))
        x, m, total = metric, mass, torch.arange(n)
        place = positions
        for count in halving_counts(n, target):
            step = bipartite_groups(x, len(x) - count)
            total = step[total]
            x, m = merge_by_assignment(metric, mass, total, count)
            if where is not None:
                place, _ = merge_by_assignment(positions, mass, total, count)
                order = sorted(range(count), key=lambda k: (place[k, 1], (total == k).nonzero()[0]))
                rank = torch.tensor([order.index(k) for k in range(count)])
                total, x, m = rank[total], x[order], m[order]
        assert groups.tolist() == total.tolist()
