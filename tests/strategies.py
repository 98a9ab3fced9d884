"""Values that Hypothesis may draw: videos of every kind that a stage can be given."""

import torch
from hypothesis import strategies as st

from vidcomp.functional.merge import merge, resample
from vidcomp.types import Grid, VideoTokens

__all__ = ["FLOATS", "dense_videos", "grids", "make_video", "video_tokens"]

FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
CONTENTS = ("random", "few", "equal", "zeros", "some zeros", "static", "large")

sides = st.sampled_from([1, 1, 2, 3, 4, 5, 7])
grids = st.builds(Grid, sides, sides, sides) | st.just(Grid(3, 5, 7))


SMALL = Grid(3, 4, 5)


def make_video(
    grid=SMALL,
    *,
    dim=6,
    dtype=torch.float32,
    content="random",
    seed=0,
    first_t=0,
    valid=None,
    extras=True,
):
    """A dense video whose numbers depend on the arguments only."""
    draw = torch.Generator().manual_seed(seed)
    n = grid.num_patches
    x = torch.randn(n, dim, generator=draw)
    if content == "few":  # many exact duplicates
        x = x[torch.randint(0, min(3, n), (n,), generator=draw)]
    elif content == "equal":
        x = x[:1].expand(n, dim)
    elif content == "zeros":
        x = torch.zeros(n, dim)
    elif content == "some zeros":
        x = x * (torch.rand(n, 1, generator=draw) < 0.5)
    elif content == "static":  # the same picture again and again, with a little noise
        x = x[: grid.per_frame].repeat(grid.t, 1) + 0.01 * x
    elif content == "large":  # near the largest number of half precision
        x = (x.clamp(-2, 2) * 3e4).clamp(-6e4, 6e4)
    start = torch.arange(grid.t) * 0.5 + 0.25
    more = {}
    if extras:
        more = {
            "row": torch.arange(n, dtype=torch.float32),
            "saliency": torch.rand(n, generator=draw).to(dtype),
            "keys": torch.randn(n, 2, 4, generator=draw).to(dtype),
        }
    return VideoTokens.from_grid(
        x.to(dtype).contiguous(),
        grid,
        torch.stack([start, start + 0.5], dim=1),
        first_t=first_t,
        valid=valid,
        extras=more,
        frame_extras={"pooled": torch.randn(grid.t, 3, generator=draw)} if extras else {},
    )


@st.composite
def dense_videos(draw, dtypes=FLOATS, contents=CONTENTS):
    """One token a patch, any float type, with duplicates, zero vectors and one-patch grids."""
    return make_video(
        draw(grids),
        dim=draw(st.sampled_from([1, 4, 8])),
        dtype=draw(st.sampled_from(dtypes)),
        content=draw(st.sampled_from(contents)),
        seed=draw(st.integers(0, 99)),
        first_t=draw(st.sampled_from([0, 0, 3])),
        extras=draw(st.sampled_from([True, True, False])),
    )


@st.composite
def video_tokens(draw, dtypes=FLOATS, contents=CONTENTS, soft=False):
    """Videos that are dense, letterboxed, pruned, merged or (``soft``) resampled already."""
    video = draw(dense_videos(dtypes, contents))
    n = len(video)
    shape = draw(
        st.sampled_from(["dense", "dense", "letterbox", "pruned", "merged"] + ["soft"] * soft)
    )
    seed = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    if shape == "letterbox" and video.grid.h > 1:
        row_of_picture = torch.arange(n) // video.grid.w % video.grid.h
        video = video.select((row_of_picture > 0).nonzero().squeeze(1))
    elif shape == "pruned":
        kept = torch.randperm(n, generator=seed)[: draw(st.integers(1, n))]
        video = video.select(kept.sort().values)
    elif shape == "merged":
        groups = torch.randint(0, draw(st.integers(1, n)), (n,), generator=seed)
        video = merge(video, groups.unique(return_inverse=True)[1])
    elif shape == "soft":
        weights = torch.rand(draw(st.integers(1, n)), n, generator=seed) + 0.01
        video = resample(video, (weights / weights.sum(1, keepdim=True)).to_sparse())
    return video
