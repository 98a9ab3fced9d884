"""Diverse selection against slow twins, and what must hold for any rows."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.cluster import distinct_first_slowly, greedy_dpp_slowly, max_min_slowly
from safetensors import safe_open

from vidcomp.errors import BudgetError
from vidcomp.functional import diverse
from vidcomp.functional.diverse import (
    cosine_distances,
    distinct_first,
    greedy_dpp,
    max_min,
    max_min_of,
)

modest = settings(deadline=None, max_examples=40)


def rows(n, dim=6, seed=0, content="random"):
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(n, dim, generator=draw)
    if content == "few":
        return x[torch.randint(0, min(3, n), (n,), generator=draw)]
    return torch.zeros(n, dim) if content == "zeros" else x


def uniform(n, seed):
    return torch.rand(n, generator=torch.Generator().manual_seed(1000 + seed)) + 0.1


contents = st.sampled_from(["random", "few", "zeros"])


@given(n=st.integers(1, 16), seed=st.integers(0, 40), scaled=st.booleans(), data=st.data())
@modest
def test_max_min_agrees_with_loops(n, seed, scaled, data):
    x, k = rows(n, seed=seed), data.draw(st.integers(1, n))
    scale = uniform(n, seed) if scaled else None
    assert max_min(x, k, scale_N=scale).tolist() == max_min_slowly(x, k, scale)


@given(
    n=st.integers(1, 40),
    content=contents,
    seed=st.integers(0, 20),
    scaled=st.booleans(),
    batch=st.sampled_from([1, 3, 64]),
    window=st.sampled_from([1, 4, 128]),
    data=st.data(),
)
@modest
def test_bounds_find_the_picks_of_the_matrix(n, content, seed, scaled, batch, window, data):
    x, k = rows(n, seed=seed, content=content), data.draw(st.integers(1, n))
    scale = uniform(n, seed) if scaled else None
    expected = max_min(x, k, scale_N=scale)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(diverse, "_HELD", 16)
        patch.setattr(diverse, "_BATCH", batch)
        patch.setattr(diverse, "_WINDOW", window)
        assert torch.equal(max_min(x, k, scale_N=scale), expected)
    assert len(set(expected.tolist())) == k


@given(
    n=st.integers(8, 90),
    content=st.sampled_from(["any", "few", "near", "pairs"]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    scaled=st.booleans(),
    seed=st.integers(0, 999),
    data=st.data(),
)
@settings(deadline=None)
def test_what_float32_tells_are_the_picks_of_the_matrix(n, content, dtype, scaled, seed, data):
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 24, generator=draw)
    if content == "few":
        x = x.round()
    if content == "near":
        x = x[:1] + 1e-3 * x
    if content == "pairs":
        x[1::2] = x[: n - n % 2 : 2]
    x = x.to(dtype)
    k = data.draw(st.integers(1, n // 4))
    scale = torch.rand(n, generator=draw) if scaled else None
    found = diverse._rough_max_min(x, k, scale)
    distance = cosine_distances(x, x)
    expected = max_min_of(distance if scale is None else distance * scale, k)
    assert torch.equal(max_min(x, k, scale_N=scale), expected)
    assert found is None or torch.equal(found, expected)
    assert found is not None or content in ("few", "near", "pairs")


def test_published_picks(golden):
    with safe_open(golden / "divprune.safetensors", "pt") as file:
        x, expected = file.get_tensor("input.x"), file.get_tensor("output.selected_order")
    assert torch.equal(max_min(x, len(expected)), expected)


def test_the_first_pick_is_the_most_isolated():
    angle = torch.tensor([0.0, 0.1, 1.0, 1.1, 2.0])
    x = torch.stack([angle.cos(), angle.sin()], dim=1)
    assert max_min(x, 3).tolist() == [4, 0, 2]


def test_groups_pick_alone_and_may_repeat_as_published():
    distance = torch.stack([cosine_distances(rows(7, seed=s), rows(7, seed=s)) for s in range(3)])
    picks = max_min_of(distance, 4)
    assert torch.equal(picks, torch.stack([max_min_of(d, 4) for d in distance]))
    twins = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    repeated = max_min_of(cosine_distances(twins, twins), 4, repeats=True)
    assert len(set(repeated.tolist())) == 2
    assert sorted(max_min_of(cosine_distances(twins, twins), 4).tolist()) == [0, 1, 2, 3]


def test_columns_may_be_scaled_by_negative_numbers():
    distance = cosine_distances(rows(6), rows(6)) * torch.tensor([1.0, -2, 3, -1, 0, 2])
    assert sorted(max_min_of(distance, 6).tolist()) == list(range(6))


@given(n=st.integers(1, 9), seed=st.integers(0, 60), data=st.data())
@modest
def test_greedy_dpp_agrees_with_determinants(n, seed, data):
    x, relevance = rows(n, 9, seed), uniform(n, seed)
    k = data.draw(st.integers(1, n))
    assert greedy_dpp(x, relevance, k).tolist() == greedy_dpp_slowly(x, relevance, k)


@given(
    n=st.integers(1, 40),
    content=contents,
    seed=st.integers(0, 20),
    dim=st.sampled_from([1, 3, 8]),
    relevance=st.sampled_from(["random", "zero", "negative", "one", "huge"]),
    data=st.data(),
)
@modest
def test_beyond_the_rank_no_row_repeats(n, content, seed, dim, relevance, data):
    x, k = rows(n, dim, seed, content), data.draw(st.integers(1, n))
    weight = {
        "random": uniform(n, seed),
        "zero": torch.zeros(n),
        "negative": -uniform(n, seed),
        "one": (torch.arange(n) == n - 1).float(),
        "huge": uniform(n, seed).double() * 1e300,
    }[relevance]
    picks = greedy_dpp(x, weight, k).tolist()
    assert len(set(picks)) == k
    assert all(0 <= i < n for i in picks)
    if relevance == "one":
        assert picks[0] == n - 1
    assert greedy_dpp(x, weight, n).tolist()[:k] == picks
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(diverse, "_BATCH", 2)
        patch.setattr(diverse, "_WINDOW", 2)
        assert greedy_dpp(x, weight, k).tolist() == picks


def test_every_round_spans_the_space_again():
    """40 rows in 4 dimensions: each 4 picks that follow each other are independent."""
    x = rows(40, 4)
    picks = greedy_dpp(x, torch.ones(40), 12)
    for part in picks.split(4):
        assert torch.linalg.matrix_rank(x[part]) == 4
    assert len(set(picks.tolist())) == 12


def test_relevance_beats_difference_if_it_is_large():
    x = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
    assert greedy_dpp(x, torch.tensor([1.0, 0.5, 1e-4]), 2).tolist() == [0, 1]
    assert greedy_dpp(x, torch.tensor([1.0, 0.5, 0.5]), 2).tolist() == [0, 2]


@given(
    n=st.integers(1, 30),
    content=contents,
    seed=st.integers(0, 30),
    limit=st.sampled_from([-0.5, 0.0, 0.3, 0.7, 1.0]),
    data=st.data(),
)
@modest
def test_distinct_rows_agree_with_loops(n, content, seed, limit, data):
    x, score = rows(n, seed=seed, content=content), uniform(n, seed)
    k = data.draw(st.integers(0, n))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(diverse, "_BATCH", data.draw(st.sampled_from([1, 64])))
        found = distinct_first(x, score, k, limit).tolist()
    if content == "random":
        assert found == distinct_first_slowly(x, score, k, limit)
    assert len(set(found)) == len(found) <= k


def test_distances_of_equal_directions_are_zero():
    x = torch.randn(5, 300, generator=torch.Generator().manual_seed(0))
    distance = cosine_distances(
        torch.cat([x, 3 * x, torch.zeros(2, 300)]), torch.cat([x, x[:2] * 0])
    )
    assert (distance[:5].diagonal() == 0).all()
    assert (distance[5:10].diagonal() == 0).all()
    assert (distance[10:, 5:] == 0).all()
    assert (distance[10:, :5] == 1).all()


@pytest.mark.parametrize("k", [0, 4])
def test_impossible_numbers_of_picks(k):
    x = torch.zeros(3, 2)
    for pick in (
        lambda: max_min(x, k),
        lambda: max_min_of(torch.zeros(3, 3), k),
        lambda: greedy_dpp(x, torch.ones(3), k),
    ):
        with pytest.raises(BudgetError, match="1 to 3"):
            pick()
