"""How much a place of the picture changed."""

import itertools
import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from oracles.linear_pruners import (
    changes_slowly,
    pixel_change_slowly,
    places_slowly,
    strongest_slowly,
)

from vidcomp.errors import ShapeError
from vidcomp.functional.change import (
    changed_above,
    last_rows,
    most_changed,
    pixel_change,
    strongest,
    token_chains,
)
from vidcomp.functional.geometry import patch_cells
from vidcomp.types import Grid

lawful = settings(deadline=None, max_examples=40)


@given(
    num_frames=st.integers(1, 7),
    tubelet=st.integers(1, 3),
    reference=st.sampled_from(["previous", "last_kept"]),
    threshold=st.sampled_from([0.0, 0.2013, 0.4017]),  # no change is ever as large
    scale=st.sampled_from([None, (1.0, 2.0, 0.5)]),
    as_bytes=st.booleans(),
    seed=st.integers(0, 9),
)
@lawful
def test_pixels_equal_their_slow_twin(
    num_frames, tubelet, reference, threshold, scale, as_bytes, seed
):
    draw = torch.Generator().manual_seed(seed)
    frames = torch.randint(0, 256, (num_frames, 3, 4, 6), generator=draw, dtype=torch.uint8)
    frames = frames if as_bytes else frames.float() / 255
    options = {"threshold": threshold, "tubelet": tubelet, "scale": scale, "reference": reference}
    got = pixel_change(frames, (2, 3), **options)
    change, kept = pixel_change_slowly(frames, (2, 3), **options)
    assert torch.allclose(got.change.double(), change, atol=1e-6)
    clear = (change - threshold).abs() > 1e-6
    assert torch.equal(got.kept[clear], kept[clear])
    # The same in two chunks.
    cut = num_frames // 2 // tubelet * tubelet
    if cut:
        first = pixel_change(frames[:cut], (2, 3), **options)
        second = pixel_change(frames[cut:], (2, 3), before=first.last, **options)
        assert torch.equal(torch.cat([first.change, second.change]), got.change)
        assert torch.equal(torch.cat([first.kept, second.kept]), got.kept)


def test_a_fade_is_seen_only_against_what_was_kept():
    fade = torch.arange(0, 200, 2, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 4, 4)
    previous = pixel_change(fade, (2, 2), threshold=0.1)
    assert int(previous.kept.sum()) == 4  # the first frame only
    kept = pixel_change(fade, (2, 2), threshold=0.1, reference="last_kept").kept
    assert kept.flatten(1).all(dim=1).nonzero().squeeze(1).tolist() == list(range(0, 100, 13))


def test_frames_that_cells_do_not_fill_are_refused():
    for frames, cell in ((torch.zeros(2, 3, 4, 5), (2, 2)), (torch.zeros(0, 3, 4, 4), (2, 2))):
        with pytest.raises(ShapeError, match=": "):
            pixel_change(frames, cell)
    with pytest.raises(ShapeError, match="one video"):
        pixel_change(torch.zeros(3, 4, 4), (2, 2))


@st.composite
def walks(draw):
    """Features that walk at random from frame to frame, some rows missing, and their positions."""
    grid = Grid(draw(st.integers(1, 8)), *draw(st.sampled_from([(1, 1), (1, 3), (2, 2)])))
    seed = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    step = torch.randn(grid.t, grid.per_frame, 4, generator=seed)
    x = (step * draw(st.sampled_from([0.1, 0.5, 2.0]))).cumsum(0) + step[:1]
    present = torch.rand(grid.num_patches, generator=seed) < draw(st.sampled_from([0.7, 2.0]))
    present[0] = True
    return x.reshape(-1, 4)[present], patch_cells(grid)[present].float()


references = st.sampled_from(["previous", "last_kept"])


@given(walk=walks(), max_cosine=st.sampled_from([-0.5, 0.5, 0.9, 0.99]), reference=references)
@lawful
def test_changes_of_tokens_equal_their_slow_twin(walk, max_cosine, reference):
    x, positions = walk
    change, kept = changes_slowly(x, positions, max_cosine, reference)
    assume(all(abs(1 - c - max_cosine) > 1e-5 for c in change.values()))
    found = token_chains(positions)
    got_kept, got_change = changed_above(x, found, max_cosine, reference)
    assert set(got_kept.nonzero().squeeze(1).tolist()) == kept
    for row, value in enumerate(got_change.tolist()):
        assert value == pytest.approx(change[row], abs=1e-5)
    last = {rows[-1] for rows in places_slowly(positions)}
    assert set(last_rows(found).tolist()) == last
    last = {[r for r in rows if r in kept][-1] for rows in places_slowly(positions)}
    assert set(last_rows(found, got_kept).tolist()) == last


@given(
    change=st.lists(st.sampled_from([-math.inf, 0.0, 0.1, 0.2, 1.0, math.inf]), max_size=12),
    amount=st.floats(0, 1),
)
@lawful
def test_the_strongest_changes(change, amount):
    may_stay = {row: value for row, value in enumerate(change) if value > -math.inf}
    k = round(amount * len(may_stay))
    got = strongest(torch.tensor(change), k).tolist()
    assert len(got) == k
    assert got == strongest_slowly(may_stay, k)


@given(walk=walks(), amount=st.floats(0, 1), reference=references)
@lawful
def test_most_changed_rows_are_exact(walk, amount, reference):
    x, positions = walk
    k = 1 + round(amount * (len(x) - 1))
    found = token_chains(positions)
    got = most_changed(x, found, k, reference).tolist()
    assert got == sorted(set(got))
    assert len(got) == k
    change, _ = changes_slowly(x, positions, 2.0, "previous")
    finite = sorted(c for c in change.values() if c < math.inf)
    assume(all(b - a > 1e-5 for a, b in itertools.pairwise(finite)))
    if reference == "previous":
        assert got == strongest_slowly(change, k)
    new = {rows[0] for rows in places_slowly(positions)}
    assert len(new & set(got)) == (
        len(new) if k >= len(new) else k - min(k // 2, len(x) - len(new))
    )


def turning(*speeds, num_frames=100):
    """One place a speed (radians a frame), each a vector that turns, in raster order."""
    angle = torch.arange(num_frames)[:, None].double() * torch.tensor(speeds, dtype=torch.float64)
    x = torch.stack([angle.cos(), angle.sin()], dim=2).flatten(0, 1)
    return x, patch_cells(Grid(num_frames, 1, len(speeds))).float()


@pytest.mark.parametrize("k", [4, 7, 12, 33, 60])
def test_what_turns_faster_is_kept_more_often(k):
    """Compared with the last kept token, kept rows changed more than all dropped ones."""
    x, positions = turning(0.0017, 0.0033, 0.0071, num_frames=600)
    got = set(most_changed(x, token_chains(positions), k, "last_kept").tolist())
    assert len(got) == k
    counts, kept, dropped = [], [], [0.0]
    for rows in places_slowly(positions):
        last = rows[0]
        counts.append(len(got & set(rows)))
        assert last in got
        for row in rows[1:]:
            change = 1 - float(x[row] @ x[last])
            (kept if row in got else dropped).append(change)
            last = row if row in got else last
    # But for one row a place, where frames change from the finer threshold to the coarser.
    assert sum(change < 0.8 * max(dropped) for change in kept) <= 3
    assert counts == sorted(counts)


@pytest.mark.parametrize("k", [30, 60])
def test_a_slow_rotation_starves_only_against_the_frame_before(k):
    """Each frame's cosine to the last is above .999, but the end is nothing like the start."""
    x, positions = turning(0.03, num_frames=150)
    noise = torch.randn(150, 2, generator=torch.Generator().manual_seed(0)).double() * 0.2
    flicker = torch.tensor([1.0, 0.0]).double() + noise
    x = torch.stack([x, flicker], dim=1).flatten(0, 1)
    positions = patch_cells(Grid(150, 1, 2)).float()
    found = token_chains(positions)
    adjacent = changed_above(x, found, 2.0, "previous")[1][::2]
    assert float(adjacent[1:].max()) < 1e-3
    kept = {r: most_changed(x, found, k, r) for r in ("previous", "last_kept")}
    drift = {r: (rows[rows % 2 == 0] // 2).tolist() for r, rows in kept.items()}
    assert drift["previous"] == [0]
    assert len(drift["last_kept"]) > 8
    assert max(b - a for a, b in itertools.pairwise([*drift["last_kept"], 150])) < 25


def test_equality_with_the_threshold_is_alike():
    x = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
    found = token_chains(torch.tensor([[0.0, 0, 0], [1, 0, 0], [2, 0, 0]]))
    for limit, expected in (
        (1.0, [True] * 3),
        (0.5, [True, False, True]),
        (-1.0, [True, False, True]),
    ):
        assert changed_above(x, found, limit, "previous")[0].tolist() == expected
