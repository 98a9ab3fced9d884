"""What a person sees on a token map, read back from its pixels."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vidcomp.errors import ShapeError
from vidcomp.report import frame_of_row, pick_rows, token_map
from vidcomp.types import Frames, Grid, VideoTokens

PINK = (200, 40, 120)
LOST = (70, 70, 70)  # a quarter of the mean of PINK, plus 40


def flat_frames(num, height=64, width=96, colour=PINK, content=None):
    data = torch.tensor(colour, dtype=torch.uint8).view(1, 3, 1, 1).repeat(num, 1, height, width)
    pts = torch.arange(num, dtype=torch.float64) / 4
    return Frames(data=data, pts_s=pts, duration_s=torch.full_like(pts, 0.25), content=content)


def video_of(assign, grid):
    num = int(assign.max()) + 1
    return VideoTokens(
        tokens=torch.zeros(num, 2),
        positions=torch.zeros(num, 3),
        spans=torch.zeros(num, 2),
        mass=torch.ones(num),
        grid=grid,
        assign=assign,
    )


def colours_of(image):
    pixels = np.asarray(image).reshape(-1, 3)
    values, counts = np.unique(pixels, axis=0, return_counts=True)
    return {tuple(v.tolist()): int(n) for v, n in zip(values, counts, strict=True)}


def test_kept_patches_keep_their_pixels_and_dropped_ones_turn_grey():
    grid = Grid(2, 4, 6)
    assign = torch.full((48,), -1)
    assign[:12] = torch.arange(12)
    colours = colours_of(token_map(flat_frames(2), video_of(assign, grid)))
    assert colours[LOST] == pytest.approx(3 * colours[PINK], rel=0.35)  # outlines cost the kept


def test_nothing_dropped_means_nothing_grey():
    grid = Grid(2, 4, 6)
    frames = flat_frames(2)
    assert LOST not in colours_of(token_map(frames, video_of(torch.arange(48), grid)))


def test_only_tokens_that_span_frames_are_coloured():
    """Two frames: the left halves are one token, the right halves a token each."""
    orange = (230, 159, 0)
    assign = torch.tensor([0, 1, 0, 2])
    colours = colours_of(token_map(flat_frames(2), video_of(assign, Grid(2, 1, 2))))
    darker = sum(PINK) / 3 / 255 + 0.25
    tinted = tuple(round(p + 0.25 * (darker * o - p)) for p, o in zip(PINK, orange, strict=True))
    assert colours[orange] > 0
    # A panel's left half inside its outline, twice.
    assert colours[tinted] == pytest.approx(colours[PINK], rel=0.15)


def test_a_group_within_a_frame_is_outlined_in_white_and_not_tinted():
    assign = torch.zeros(16, dtype=torch.int64)
    assign[8:] = 1
    colours = colours_of(token_map(flat_frames(1), video_of(assign, Grid(1, 4, 4))))
    assert (230, 159, 0) not in colours
    assert colours[(255, 255, 255)] > 1000


def test_the_bars_of_a_letterboxed_frame_are_cut_off():
    frames = flat_frames(1, 96, 96, content=(24, 0, 48, 96))
    frames.data[:, :, :24] = 7
    frames.data[:, :, 72:] = 7
    assign = torch.full((64,), -1)
    assign[16:48] = torch.arange(32)
    colours = colours_of(token_map(frames, video_of(assign, Grid(1, 8, 8))))
    assert (7, 7, 7) not in colours
    assert colours[PINK] > 10_000


@settings(deadline=None, max_examples=25)
@given(
    grid=st.builds(Grid, st.integers(1, 6), st.integers(1, 9), st.integers(1, 9)),
    size=st.tuples(st.integers(8, 40), st.integers(8, 40)),
    stack=st.integers(1, 3),
    columns=st.integers(1, 5),
    seed=st.integers(0, 99),
)
def test_any_grid_any_size_any_tubelet_gives_the_same_picture_twice(
    grid, size, stack, columns, seed
):
    dice = torch.Generator().manual_seed(seed)
    assign = torch.randint(-1, 6, (grid.num_patches,), generator=dice)
    assign[0] = 5
    frames = flat_frames(grid.t * stack, *size)
    before = frames.data.clone()
    video = video_of(assign, grid)
    one = token_map(frames, video, title="a clip", budget=6, max_frames=4, columns=columns)
    two = token_map(frames, video, title="a clip", budget=6, max_frames=4, columns=columns)
    assert one.mode == "RGB"
    assert one.tobytes() == two.tobytes()
    assert torch.equal(frames.data, before)


def test_chosen_frames_are_drawn_like_the_same_frames_of_all():
    grid, frames = Grid(6, 2, 2), flat_frames(6)
    frames.data[:] = torch.arange(6, dtype=torch.uint8).view(6, 1, 1, 1) * 20
    video = video_of(torch.arange(24) // 3, grid)
    rows = pick_rows(6, 3)
    chosen = Frames(
        data=frames.data[rows], pts_s=frames.pts_s[rows], duration_s=frames.duration_s[rows]
    )
    all_of_them = token_map(frames, video, max_frames=3)
    assert all_of_them.tobytes() == token_map(chosen, video, rows=rows).tobytes()


def test_a_stretched_frame_is_shown_as_wide_as_it_was():
    video = video_of(torch.arange(16), Grid(1, 4, 4))
    square = token_map(flat_frames(1, 64, 64), video)
    wide = token_map(flat_frames(1, 64, 64), video, aspect=16 / 9)
    assert wide.height < square.height


def test_names_that_the_font_lacks_do_not_stop_the_picture():
    video = video_of(torch.arange(4), Grid(1, 2, 2))
    plain = token_map(flat_frames(1), video, title="e?.mp4")
    assert token_map(flat_frames(1), video, title="é中.mp4").tobytes() == plain.tobytes()


@settings(deadline=None)
@given(st.integers(1, 500), st.integers(1, 40))
def test_picked_rows_are_evenly_spaced(num, limit):
    rows = pick_rows(num, limit)
    gaps = {b - a for a, b in pairwise(rows)}
    assert len(rows) == min(num, limit)
    assert 0 <= rows[0] <= rows[-1] < num
    assert not gaps or (min(gaps) >= 1 and max(gaps) - min(gaps) <= 1)


@settings(deadline=None)
@given(st.integers(1, 60), st.integers(1, 16))
def test_the_frame_of_a_row_lies_in_its_tubelet(num_rows, stack):
    for row in range(num_rows):
        assert frame_of_row(row, num_rows * stack, num_rows) // stack == row


def test_what_does_not_fit_is_refused():
    video = video_of(torch.arange(12), Grid(3, 2, 2))
    with pytest.raises(ShapeError, match="pass all that were sampled"):
        token_map(flat_frames(2), video)
    with pytest.raises(ShapeError, match="one picture a row"):
        token_map(flat_frames(2), video, rows=[0, 1, 2])
    with pytest.raises(ShapeError, match="one picture a row"):
        token_map(flat_frames(1), video, rows=[3])
