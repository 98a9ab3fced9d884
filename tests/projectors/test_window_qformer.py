"""The window Q-Former: every window as if it were alone, whole or not."""

import pytest
import torch
from oracles.projectors import slow_adaptive_pool
from oracles.qformers import slow_qformer
from projector_cases import dense, make, provenance
from test_qformers import lively
from torch.nn.functional import layer_norm, linear

from vidcomp.types import Grid

CLOSE = {"atol": 1e-4, "rtol": 1e-4}


@pytest.mark.parametrize("grid", [Grid(1, 3, 3), Grid(2, 3, 4), Grid(1, 1, 2), Grid(1, 5, 3)])
@pytest.mark.parametrize("offset", [None, 2])
def test_tokens_equal_the_slow_twin_window_by_window(grid: Grid, offset: int | None) -> None:
    side = 3 if offset is None else 4
    settings = {"window_side": side, "spatial_offset": offset, "depth": 2}
    projector = lively(make("window_qformer", **settings))
    video, state = dense(grid), projector.state_dict()
    norm = (state["norm.weight"], state["norm.bias"], 1e-6)
    x_THWD = layer_norm(video.tokens, (12,), *norm).view(*grid, -1)
    cells = projector.cells(grid)
    expected = torch.zeros(*cells, 10)
    for t in range(grid.t):
        for top in range(0, grid.h, side):
            for left in range(0, grid.w, side):
                window = x_THWD[t, top : top + side, left : left + side]
                h, w, _ = window.shape
                if offset is None:
                    starts = slow_adaptive_pool(window[None], 2, 2)[0].flatten(0, 1)
                else:
                    ys, xs = (
                        [min(p + 2 * i, n - 1) for i in (0, 1)]
                        for p, n in ((offset // 2, h), (offset % 2, w))
                    )
                    starts = torch.stack([window[y, x] for y in ys for x in xs]).double()
                places = state["image_positions"][0].view(side, side, -1)[:h, :w]
                latents, _ = slow_qformer(
                    state["query"][0] + starts,
                    (window + places).flatten(0, 1),
                    state,
                    depth=2,
                    heads=2,
                    frequency=1,
                )
                y, x = top // side * 2, left // side * 2
                out = linear(latents.float(), state["out_linear.weight"], state["out_linear.bias"])
                expected[t, y : y + 2, x : x + 2] = out.view(2, 2, -1)
    torch.testing.assert_close(projector(video).tokens, expected.flatten(0, 2), **CLOSE)


@pytest.mark.parametrize(
    ("grid", "cells"),
    [((2, 6, 9), (2, 4, 6)), ((1, 7, 2), (1, 6, 2)), ((1, 1, 1), (1, 2, 2))],
)
def test_counts(grid: tuple[int, int, int], cells: tuple[int, int, int]) -> None:
    projector = make("window_qformer")
    assert projector.cells(Grid(*grid)) == Grid(*cells)
    assert len(projector(dense(Grid(*grid)))) == Grid(*cells).num_patches


def test_tokens_stay_where_their_latents_start_from() -> None:
    out = make("window_qformer", window_side=4)(dense(Grid(1, 4, 8)))
    assert out.positions[:, 1].tolist() == [0.5] * 4 + [2.5] * 4
    assert out.positions[:, 2].tolist() == [0.5, 2.5, 4.5, 6.5] * 2
    assert torch.equal(out.mass, torch.full((8,), 4.0))
    assert ((provenance(out) > 0).sum(dim=1) == 4).all()


def test_one_frame_says_nothing_about_another() -> None:
    projector, video = lively(make("window_qformer")), dense(Grid(3, 4, 5))
    out = projector(video).tokens.view(3, -1, 10)
    for t in range(3):
        alone = projector(dense_frame(video.tokens.view(3, 20, -1)[t]))
        torch.testing.assert_close(alone.tokens, out[t], atol=1e-5, rtol=1e-5)


def dense_frame(x_PD: torch.Tensor):
    video = dense(Grid(1, 4, 5))
    return type(video).from_grid(x_PD, video.grid, video.spans[:1])
