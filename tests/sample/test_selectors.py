"""Selectors of patches by their pixels: as published, exact, and the same in chunks."""

import pickle
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.selectors import above_slowly
from tiny_models import random_frames

from vidcomp.budget import Budget
from vidcomp.errors import BudgetError, ConfigError, ShapeError
from vidcomp.registry import SELECTORS
from vidcomp.types import Frames, Grid

make = SELECTORS.make
SIDE = 4
VARIANTS = [
    ("difffp", {"threshold": 30.0}),
    ("difffp", {"threshold": 20.0, "reference": "last_kept", "min_tokens": 3}),
    ("difffp", {"retention": 0.3}),
    ("difffp", {"retention": 0.55, "reference": "last_kept"}),
    ("difffp", {"retention": 0.4, "merge": 2}),
    ("dtd_pixels", {}),
    ("dtd_pixels", {"threshold": 0.05, "reference": "last_kept"}),
    ("dtd_pixels", {"threshold": 0.04, "merge": 2, "min_tokens": 1}),
    ("dtd_pixels", {"share": 0.29}),
    ("dtd_pixels", {"share": 0.5, "reference": "last_kept"}),
    ("dtd_pixels", {"retention": 0.1}),
]
every = pytest.mark.parametrize(
    ("name", "options"), VARIANTS, ids=[f"{n}({o})" for n, o in VARIANTS]
)


def moving(num, h=4, w=6, *, seed=0, **fields):
    """Frames of h x w patches of which about half change a little, others much or not at all."""
    frames = random_frames(num, h * SIDE, w * SIDE, seed=seed, **fields)
    draw = torch.Generator().manual_seed(seed + 1)
    data = frames.data.clone()
    for t in range(1, num):
        amount = torch.randint(0, 4, (h, w), generator=draw) * 20
        change = torch.randint(-60, 60, (3, h * SIDE, w * SIDE), generator=draw)
        limit = amount.repeat_interleave(SIDE, 0).repeat_interleave(SIDE, 1)
        step = torch.maximum(torch.minimum(change, limit), -limit)
        data[t] = (data[t - 1].int() + step).clamp(0, 255).to(torch.uint8)
    return replace(frames, data=data)


def grid_of(frames, tubelet=1):
    t = -(-len(frames) // tubelet)
    return Grid(t, frames.data.shape[2] // SIDE, frames.data.shape[3] // SIDE)


def select(selector, frames, tubelet=1, valid=None):
    return selector(
        frames, grid_of(frames, tubelet), tubelet=tubelet, patch=(SIDE, SIDE), valid=valid
    )


@every
@given(num=st.integers(1, 7), tubelet=st.sampled_from([1, 1, 2]), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=12)
def test_masks_have_the_grid_and_nothing_is_written(name, options, num, tubelet, seed):
    frames = moving(num, seed=seed)
    before, state = frames.data.clone(), torch.random.get_rng_state()
    mask = select(make(name, **options), frames, tubelet)
    assert mask.shape == torch.Size(grid_of(frames, tubelet))
    assert mask.dtype == torch.bool
    assert bool(mask.any())
    assert torch.equal(frames.data, before)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(mask, select(make(name, **options), frames, tubelet))
    if "retention" in options:
        budget = Budget(retention=options["retention"]).resolve(mask.numel(), 0, 0.0)
        assert int(mask.sum()) == budget
    else:
        assert bool(mask[0].all())


@every
def test_chunks_carry_on(name, options):
    frames = moving(10)
    selector = make(name, **options)
    whole = select(selector, frames, 2)
    stream = selector.stream(tubelet=2, patch=(SIDE, SIDE))
    parts, total = [], 0
    for rows in (slice(0, 2), slice(2, 8), slice(8, 10)):
        chunk = frames[rows]
        chunk = replace(chunk, data=chunk.data.clone())
        parts.append(stream.update(chunk, grid_of(chunk, 2)))
        chunk.data.zero_()  # the memory of a chunk is the caller's
        total += parts[-1].numel()
        if "retention" in options:
            kept = sum(int(part.sum()) for part in parts)
            assert kept == Budget(retention=options["retention"]).resolve(total, 0, 0.0)
    if "retention" not in options:  # which choose within a chunk
        assert torch.equal(torch.cat(parts), whole)


@given(seed=st.integers(0, 99), reference=st.sampled_from(["previous", "last_kept"]))
@settings(deadline=None, max_examples=8)
def test_difffp_is_what_is_described(seed, reference):
    frames = moving(5, 2, 3, seed=seed)
    std = (0.5, 0.25, 0.5)
    for threshold, least in ((40.0, 0), (70.0, 2)):
        selector = make(
            "difffp", threshold=threshold, std=std, reference=reference, min_tokens=least
        )
        expected = above_slowly(
            frames.data,
            SIDE,
            lambda change, threshold=threshold: change > threshold,
            [255 / value for value in std],
            reference=reference,
            least=least,
        )
        assert select(selector, frames).tolist() == expected


@given(
    seed=st.integers(0, 99),
    reference=st.sampled_from(["previous", "last_kept"]),
    tubelet=st.sampled_from([1, 2, 3]),
)
@settings(deadline=None, max_examples=8)
def test_dtd_is_what_is_described(seed, reference, tubelet):
    frames = moving(6, 2, 3, seed=seed)
    selector = make("dtd_pixels", threshold=0.06, reference=reference)
    expected = above_slowly(
        frames.data,
        SIDE,
        lambda change: change >= 0.06,
        [1, 1, 1],
        reference=reference,
        tubelet=tubelet,
    )
    assert select(selector, frames, tubelet).tolist() == expected


def test_what_is_equal_to_the_threshold():
    """DTD keeps it, DiffFP does not; the change is 51 / 255 in all pixels, in halves exactly."""
    data = torch.zeros(2, 3, SIDE, SIDE, dtype=torch.uint8)
    data[1] = 51
    times = torch.arange(2, dtype=torch.float64)
    frames = Frames(data=data, pts_s=times, duration_s=torch.ones_like(times))
    assert select(make("dtd_pixels", threshold=0.2), frames).flatten().tolist() == [True, True]
    assert select(make("dtd_pixels", threshold=0.21), frames).flatten().tolist() == [True, False]
    options = {"std": (1.0, 1.0, 1.0), "min_tokens": 0}
    assert not select(make("difffp", threshold=51, **options), frames)[1].any()
    assert select(make("difffp", threshold=50.9, **options), frames)[1].all()


def test_a_share_of_each_frame_is_dropped():
    frames = moving(3, 10, 10)
    mask = select(make("dtd_pixels", share=0.29), frames)
    assert mask.flatten(1).sum(1).tolist() == [100, 71, 71]  # int(0.29 * 100) is 28
    mask = select(make("dtd_pixels", share=0.99, min_tokens=2), frames)
    assert mask[1:, 0, :2].all()  # the first ones, beside the one that changed most
    assert mask[1:].flatten(1).sum(1).tolist() == [3, 3]
    with pytest.raises(ConfigError, match="leave one out"):
        make("dtd_pixels", share=0.5, retention=0.5)


def test_only_the_last_kept_frame_sees_a_slow_drift():
    level = torch.arange(60, dtype=torch.uint8)[:, None, None, None] * 4
    times = torch.arange(60, dtype=torch.float64)
    frames = Frames(
        data=level.expand(60, 3, SIDE, SIDE).contiguous(),
        pts_s=times,
        duration_s=torch.ones_like(times),
    )
    blind = make("dtd_pixels", threshold=0.1)
    aware = make("dtd_pixels", threshold=0.1, reference="last_kept")
    assert int(select(blind, frames).sum()) == 1
    kept = select(aware, frames).flatten().nonzero().flatten().tolist()
    assert kept == list(range(0, 60, 7))  # 28 / 255 is the first above 0.1


def test_bars_and_padding_neither_count_nor_stay():
    frames = moving(8)
    valid = torch.ones(8, 4, 6, dtype=torch.bool)
    valid[:, 0] = valid[6:] = False
    for name, options in VARIANTS:
        mask = select(make(name, **options), frames, valid=valid)
        assert not bool((mask & ~valid).any())
        if "retention" in options:
            expected = Budget(retention=options["retention"]).resolve(int(valid.sum()), 0, 0.0)
            assert int(mask.sum()) == expected
    nothing = select(make("difffp"), frames, valid=torch.zeros_like(valid))
    assert not nothing.any()
    assert not select(make("difffp", retention=0.2), frames, valid=torch.zeros_like(valid)).any()


def test_every_step_keeps_some():
    frames = moving(6)
    frames = replace(frames, data=frames.data[:1].expand(6, -1, -1, -1).contiguous())
    mask = select(make("difffp", min_tokens=3), frames)
    assert mask.flatten(1).sum(1).tolist() == [24, 3, 3, 3, 3, 3]
    assert mask[1].flatten().nonzero().flatten().tolist() == [0, 1, 2]
    mask = select(make("difffp", min_tokens=3, retention=0.2), frames)
    assert int(mask.sum()) == 28
    assert int(mask.flatten(1).sum(1).min()) == 3
    with pytest.raises(BudgetError, match="min_tokens=3 of 6 steps are 18 patches"):
        select(make("difffp", min_tokens=3, retention=0.1), frames)


def test_a_small_share_sees_all_that_changes():
    """The first frame, of which nothing was seen before, does not take everything."""
    mask = select(make("dtd_pixels", retention=0.05), moving(10))
    counts = mask.flatten(1).sum(1)
    assert counts[0] == counts[1:].sum() == 6


def test_merged_patches_stay_together():
    frames = moving(5)
    for options in ({"threshold": 30.0}, {"threshold": 30.0, "reference": "last_kept"}):
        mask = select(make("difffp", merge=2, min_tokens=0, **options), frames)
        blocks = mask.reshape(5, 2, 2, 3, 2).transpose(2, 3).flatten(3)
        assert bool((blocks.all(-1) == blocks.any(-1)).all())
        assert not bool(mask.all())
    with pytest.raises(ShapeError, match="merge=5"):
        select(make("difffp", merge=5), frames)


def test_cells_that_share_the_picture():
    """A feature map of 3 x 3 over 10 x 10 pixels: lines of pixels count twice until they fit."""
    frames = random_frames(3, 10, 10)
    data = frames.data.clone()
    data[1:] = data[0]
    data[2, :, 0, 0] = 255 - data[2, :, 0, 0]
    frames = replace(frames, data=data)
    mask = make("difffp", min_tokens=0)(frames, Grid(3, 3, 3))
    assert mask[2].nonzero().tolist() == [[0, 0]]
    assert not mask[1].any()
    # A patch of 3 pixels never sees the last line.
    data[2] = data[0]
    data[2, :, 9, 9] = 255 - data[2, :, 9, 9]
    frames = replace(frames, data=data)
    assert not make("difffp", min_tokens=0)(frames, Grid(3, 3, 3), patch=(3, 3))[2].any()
    assert make("difffp", min_tokens=0)(frames, Grid(3, 3, 3))[2, 2, 2]


@every
def test_what_is_carried_on_is_one_picture(name, options):
    stream = make(name, **options).stream(patch=(SIDE, SIDE))
    sizes = []
    for t in range(12):
        frames = moving(6, seed=t, first_index=6 * t)
        stream.update(frames, grid_of(frames))
        sizes.append(len(pickle.dumps(stream)))
    assert max(sizes) - min(sizes) < 64
    assert max(sizes) < 3 * frames.data[0].numel() + 2000


def test_what_does_not_fit_is_refused():
    frames = moving(4)
    selector = make("difffp")
    for grid in (Grid(3, 4, 6), Grid(4, 5, 6), Grid(4, 4, 7)):
        with pytest.raises(ShapeError, match=r"encoder\.grid"):
            selector(frames, grid, patch=(SIDE, SIDE))
    with pytest.raises(ShapeError, match="valid"):
        selector(frames, Grid(4, 4, 6), valid=torch.ones(4, 4, 5, dtype=torch.bool))
    stream = selector.stream(patch=(SIDE, SIDE))
    stream.update(frames, grid_of(frames))
    with pytest.raises(ShapeError, match="frame 4 comes next, got 0"):
        stream.update(frames, grid_of(frames))
    larger = moving(2, 5, 6, first_index=4)
    with pytest.raises(ShapeError, match="one size"):
        stream.update(larger, grid_of(larger))
    assert stream.update(moving(2, first_index=4), Grid(2, 4, 6)).shape == (2, 4, 6)


def test_selectors_are_settings():
    assert SELECTORS.names() == ["difffp", "dtd_pixels"]
    for name, options in VARIANTS:
        selector = make(name, **options)
        assert SELECTORS.parse(selector.dump()) == selector
        for field in type(selector).model_fields.values():
            assert field.description
    with pytest.raises(ConfigError, match="no selector is called 'diffp'"):
        make("diffp")
