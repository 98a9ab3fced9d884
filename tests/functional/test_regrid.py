"""Other cells of a dense grid, axis by axis: the same as mixing all rows at once."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import dense_videos, make_video

from vidcomp.functional.merge import resample
from vidcomp.functional.pool import (
    adaptive_weights,
    bilinear_weights,
    grid_weights,
    window_weights,
)
from vidcomp.functional.regrid import regrid
from vidcomp.types import Grid, VideoTokens


@st.composite
def axes(draw: st.DrawFn, grid: Grid) -> list[torch.Tensor]:
    """Bins, windows that leave something out, interpolation, or nothing for each axis."""
    found = []
    for size in grid:
        kinds = [
            torch.eye(size, dtype=torch.float64),
            adaptive_weights(size, draw(st.integers(1, 6))),
            bilinear_weights(size, draw(st.integers(1, 6))),
            window_weights(size, min(2, size), 2),
        ]
        found.append(draw(st.sampled_from(kinds)))
    return found


@settings(deadline=None, max_examples=80)
@given(video=dense_videos(), data=st.data())
def test_it_is_the_mixture_of_rows(video: VideoTokens, data: st.DataObject) -> None:
    along = data.draw(axes(video.grid))
    weights = grid_weights(along)
    tokens = torch.randn(len(weights), 3)
    ours, theirs = regrid(video, along, tokens), resample(video, weights, tokens)
    assert ours.tokens is tokens
    for name in ("positions", "spans", "mass"):
        torch.testing.assert_close(getattr(ours, name), getattr(theirs, name))
    torch.testing.assert_close(ours.weights.to_dense(), theirs.weights.to_dense())
    assert ours.weights.is_coalesced()
    assert ours.extras.keys() == theirs.extras.keys()
    for name, rows in theirs.extras.items():
        assert ours.extras[name].dtype == rows.dtype
        torch.testing.assert_close(ours.extras[name], rows)
    assert ours.frame_extras.keys() == video.frame_extras.keys()


def test_masses_need_not_be_alike() -> None:
    video = make_video(Grid(2, 3, 4))
    video.mass.copy_(torch.rand(24) + 0.5)
    along = [adaptive_weights(n, b) for n, b in zip(video.grid, (1, 2, 3), strict=True)]
    tokens = torch.zeros(6, 1)
    theirs = resample(video, grid_weights(along), tokens)
    torch.testing.assert_close(regrid(video, along, tokens).mass, theirs.mass)
