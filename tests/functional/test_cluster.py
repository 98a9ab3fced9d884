"""Density peaks and k-means against slow twins, and what must hold for any rows."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.cluster import density_peaks_slowly, kmeans_slowly, rotated_slowly
from safetensors import safe_open

from vidcomp.errors import BudgetError
from vidcomp.functional import cluster, kmeans
from vidcomp.functional.cluster import (
    density_peaks,
    nearest_centres,
    peak_scores,
    peaks_in_parts,
)
from vidcomp.functional.kmeans import spherical_kmeans, two_level_kmeans
from vidcomp.functional.rotary import rotated
from vidcomp.functional.similarity import unit

modest = settings(deadline=None, max_examples=40)


def rows(n, dim=5, seed=0, content="random"):
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(n, dim, generator=draw)
    if content == "few":
        return x[torch.randint(0, min(3, n), (n,), generator=draw)]
    if content == "zeros":
        return torch.zeros(n, dim)
    return x


contents = st.sampled_from(["random", "few", "zeros"])


@given(
    n=st.integers(1, 14),
    dim=st.sampled_from([1, 2, 5]),
    seed=st.integers(0, 50),
    k=st.integers(1, 16),
    data=st.data(),
)
@modest
def test_density_peaks_agree_with_loops(n, dim, seed, k, data):
    x, num_clusters = rows(n, dim, seed), data.draw(st.integers(1, n))
    centres, assign = density_peaks(x, num_clusters, k)
    slow_centres, slow_assign = density_peaks_slowly(x, num_clusters, k)
    assert centres.tolist() == slow_centres
    assert assign.tolist() == slow_assign


@given(
    n=st.integers(1, 30),
    content=contents,
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.float64]),
    scale=st.sampled_from([1.0, 1e-30, 3e4, 1e300]),
    data=st.data(),
)
@modest
def test_clusters_are_as_many_as_asked_for_and_hold_their_centres(n, content, dtype, scale, data):
    x = rows(n, content=content)
    x = (x / x.abs().max().clamp(min=1) * min(scale, torch.finfo(dtype).max)).to(dtype)
    k = data.draw(st.integers(1, n))
    centres, assign = density_peaks(x, k, data.draw(st.integers(1, 40)))
    assert sorted(set(centres.tolist())) == sorted(centres.tolist())
    assert assign[centres].tolist() == list(range(k))
    assert set(assign.tolist()) == set(range(k))


@given(n=st.integers(2, 20), content=contents, seed=st.integers(0, 20), data=st.data())
@modest
def test_blocks_and_groups_change_nothing(n, content, seed, data):
    x = torch.stack([rows(n, seed=seed, content=content), rows(n, seed=seed + 1)])
    k, neighbours = data.draw(st.integers(1, n)), data.draw(st.integers(1, 6))
    alone = [density_peaks(part, k, neighbours) for part in x]
    together = density_peaks(x, k, neighbours)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cluster, "_HELD", 8)  # a row or two at a time, no matrix held
        blocked = density_peaks(x, k, neighbours)
    for b in range(2):
        for place in range(2):
            assert torch.equal(alone[b][place], together[place][b])
            assert torch.equal(alone[b][place], blocked[place][b])


@given(n=st.integers(1, 12), extra=st.integers(1, 5), seed=st.integers(0, 30), data=st.data())
@modest
def test_masked_rows_play_no_part(n, extra, seed, data):
    x, k = rows(n, seed=seed), data.draw(st.integers(1, n))
    place = torch.randperm(n + extra, generator=torch.Generator().manual_seed(seed))[:n].sort()
    mask = torch.zeros(n + extra, dtype=torch.bool)
    mask[place.values] = True
    padded = torch.full((n + extra, x.shape[1]), 1e6)
    padded[extra // 2] = torch.nan
    padded[place.values] = x
    centres, assign = density_peaks(x, k, 3)
    masked_centres, masked_assign = density_peaks(padded, k, 3, mask=mask)
    assert torch.equal(place.values[centres], masked_centres)
    assert torch.equal(assign, masked_assign[mask])
    assert (masked_assign[~mask] == -1).all()
    peaks = peak_scores(padded, 3, mask=mask)
    assert (peaks.log_density[~mask] == -torch.inf).all()
    torch.testing.assert_close(peaks.separation[mask], peak_scores(x, 3).separation)
    assert not peaks.log_score.isnan().any()


def test_peaks_by_hand():
    x = torch.tensor([[0.0], [1.0], [3.0], [10.0]])
    peaks = peak_scores(x, 2)
    assert peaks.log_density.tolist() == pytest.approx([-0.5, -0.5, -2.0, -24.5], rel=1e-6)
    assert peaks.separation.tolist() == pytest.approx([10.0, 1.0, 2.0, 7.0], rel=1e-6)
    # exp(-.5) * 10, exp(-.5) * 1, exp(-2) * 2: the far row is too lonely to be a centre
    centres, assign = density_peaks(x, 2, 2)
    assert centres.tolist() == [0, 1]
    assert assign.tolist() == [0, 1, 1, 1]


def test_far_rows_do_not_all_count_the_same():
    """Densities of exp(-1e6) would all be 0."""
    x = torch.tensor([[0.0], [1e3], [1e3 + 1], [5e3]])
    centres, _ = density_peaks(x, 2, 2)
    assert centres.tolist() == [1, 2]


@pytest.mark.parametrize("k", [0, 5])
def test_impossible_numbers_of_clusters(k):
    with pytest.raises(BudgetError, match="1 to 4"):
        density_peaks(torch.zeros(4, 2), k, 3)
    with pytest.raises(BudgetError, match="1 to 4"):
        spherical_kmeans(torch.zeros(4, 2), torch.ones(4), k, 3)
    with pytest.raises(BudgetError, match="1 to 4"):
        two_level_kmeans(lambda row: torch.zeros(len(row), 2), torch.ones(4), k, 3)


def test_published_clusters(golden):
    with safe_open(golden / "dpc_knn.safetensors", "pt") as file:
        x, mask = file.get_tensor("input.x"), file.get_tensor("input.token_mask") > 0
        plain = file.get_tensor("output.plain.idx_cluster")
        masked = file.get_tensor("output.masked.idx_cluster")
    assert torch.equal(density_peaks(x, 10, 5)[1], plain)
    assert torch.equal(density_peaks(x, 10, 5, mask=mask)[1][mask], masked[mask])


@given(n=st.integers(1, 20), k=st.integers(1, 6), seed=st.integers(0, 20))
@modest
def test_nearest_centres(n, k, seed):
    x, centres = rows(n, seed=seed), rows(k, seed=seed + 100)
    expected = [min(range(k), key=lambda c: float((row - centres[c]).norm())) for row in x]
    assert nearest_centres(x, centres).tolist() == expected
    batch = nearest_centres(torch.stack([x, x]), torch.stack([centres, centres]))
    assert batch.tolist() == [expected, expected]


def test_a_row_equally_near_goes_to_the_first_centre():
    assert nearest_centres(torch.zeros(2, 2), torch.tensor([[3.0, 4.0], [5.0, 0.0]])).tolist() == [
        0,
        0,
    ]


@given(seed=st.integers(0, 30), sizes=st.lists(st.integers(1, 6), min_size=1, max_size=6))
@modest
def test_parts_are_clustered_alone(seed, sizes):
    draw = torch.Generator().manual_seed(seed)
    part = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    part = part[torch.randperm(len(part), generator=draw)]
    share = torch.tensor([1 + seed % size for size in sizes])
    x = rows(len(part), seed=seed)
    found = peaks_in_parts(x, part, share, 3)
    first = 0
    for t, k in enumerate(share.tolist()):
        alone = density_peaks(x[part == t], k, 3)[1]
        assert torch.equal(found[part == t], alone + first)
        first += k


@given(
    n=st.integers(1, 14),
    dim=st.integers(1, 5),
    seed=st.integers(0, 40),
    content=contents,
    rounds=st.integers(1, 4),
    data=st.data(),
)
@modest
def test_kmeans_agrees_with_loops(n, dim, seed, content, rounds, data):
    x = unit(rows(n, dim, seed, content)).float()
    weight = torch.rand(n, generator=torch.Generator().manual_seed(seed)) + 0.5
    k = data.draw(st.integers(1, n))
    group = spherical_kmeans(x, weight, k, rounds)
    assert set(group.tolist()) == set(range(k))
    if content == "random" and dim > 1:
        assert group.tolist() == kmeans_slowly(x, weight, k, rounds)


@given(n=st.integers(1, 60), content=contents, seed=st.integers(0, 20), data=st.data())
@modest
def test_two_levels_make_as_many_groups(n, content, seed, data):
    x, k = unit(rows(n, seed=seed, content=content)), data.draw(st.integers(1, n))
    group = two_level_kmeans(lambda row: x[row], torch.ones(n), k, 3)
    assert set(group.tolist()) == set(range(k))


def spread(x, group):
    """Mean of 1 - cosine between rows and the mean direction of their group."""
    means = unit(torch.stack([x[group == g].sum(0) for g in range(int(group.max()) + 1)]))
    return float((1 - (x * means[group]).sum(1)).mean())


def test_more_rounds_fit_better_and_two_levels_nearly_as_well():
    x = unit(rows(2000, 8, seed=1))
    once, often = (spread(x, spherical_kmeans(x, torch.ones(2000), 100, r)) for r in (1, 8))
    assert often < 0.9 * once
    coarse_first = spread(x, two_level_kmeans(lambda row: x[row], torch.ones(2000), 100, 8))
    assert coarse_first < 1.15 * often


def test_near_ties_are_decided_in_the_wide_type():
    """Products that float32 cannot tell apart, in either order of the groups."""
    x = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    near = torch.tensor([[1 - 1e-6, 0.0], [1 - 2e-7, 0.0]], dtype=torch.float64)
    assert kmeans._best(x, near).tolist() == [1]
    assert kmeans._best(x, near.flip(0)).tolist() == [0]
    assert kmeans._best(x, near[[0, 0]]).tolist() == [0]


def test_a_heavy_row_draws_the_mean():
    x = unit(torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [-1.0, 0.1]]))
    light = spherical_kmeans(x, torch.ones(4), 2, 1)
    assert light.tolist() == kmeans_slowly(x, torch.ones(4), 2, 1)
    weight = torch.tensor([1e-3, 1e-3, 1.0, 1.0])
    assert spherical_kmeans(x, weight, 2, 5).tolist() == kmeans_slowly(x, weight, 2, 5)


@given(dim=st.integers(1, 11), seed=st.integers(0, 20), theta=st.sampled_from([1.0, 100.0, 1e4]))
@modest
def test_rotation_agrees_with_loops(dim, seed, theta):
    x = rows(6, dim, seed)
    positions = 9 * torch.rand(6, 3, generator=torch.Generator().manual_seed(seed))
    found = rotated(x, positions, theta)
    for row, position, got in zip(x, positions, found, strict=True):
        expected = torch.tensor(rotated_slowly(row, position, theta), dtype=torch.float64)
        torch.testing.assert_close(got, expected, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(found.norm(dim=1), x.double().norm(dim=1))


def test_products_of_rotated_rows_depend_on_how_far_apart_they_are():
    x, y = rows(2, 12)
    a, b = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 5.0, 3.0])
    shift = torch.tensor([4.0, 1.0, 2.0])
    here = rotated(x[None], a[None]) @ rotated(y[None], b[None]).T
    there = rotated(x[None], (a + shift)[None]) @ rotated(y[None], (b + shift)[None]).T
    torch.testing.assert_close(here, there)
