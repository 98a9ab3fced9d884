"""Who belongs to whom, and colours that tell neighbours apart."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vidcomp.errors import ShapeError
from vidcomp.report.groups import colour_groups, patch_tokens, spans_frames
from vidcomp.types import Grid, VideoTokens


def video_of(grid, num_tokens, **provenance):
    return VideoTokens(
        tokens=torch.zeros(num_tokens, 2),
        positions=torch.zeros(num_tokens, 3),
        spans=torch.zeros(num_tokens, 2),
        mass=torch.ones(num_tokens),
        grid=grid,
        **provenance,
    )


@st.composite
def maps(draw):
    """Any assignment of the patches of a small grid to tokens, -1 included."""
    grid = Grid(*(draw(st.integers(1, 4)) for _ in range(3)))
    num_tokens = draw(st.integers(1, 12))
    rows = draw(
        st.lists(
            st.integers(-1, num_tokens - 1), min_size=grid.num_patches, max_size=grid.num_patches
        )
    )
    return torch.tensor(rows).reshape(grid), num_tokens


@settings(deadline=None, max_examples=60)
@given(maps())
def test_hard_provenance_is_read_as_it_is(case):
    token_THW, num_tokens = case
    video = video_of(Grid(*token_THW.shape), num_tokens, assign=token_THW.flatten())
    assert torch.equal(patch_tokens(video), token_THW)


@settings(deadline=None, max_examples=60)
@given(st.data(), st.integers(1, 5), st.integers(1, 12), st.booleans())
def test_soft_provenance_gives_each_patch_its_strongest_token(data, num_tokens, size, coalesced):
    share = st.sampled_from([0.0, 0.25, 0.5, 1.0])
    row = st.lists(share, min_size=size, max_size=size)
    weights = torch.tensor(data.draw(st.lists(row, min_size=num_tokens, max_size=num_tokens)))
    sparse = weights.to_sparse()
    if coalesced:
        sparse = sparse.coalesce()
    found = patch_tokens(video_of(Grid(1, 1, size), num_tokens, weights=sparse)).flatten().tolist()
    columns = weights.T.tolist()
    assert found == [-1 if max(c) == 0 else c.index(max(c)) for c in columns]


@settings(deadline=None, max_examples=60)
@given(maps())
def test_a_token_spans_frames_if_more_than_one_frame_has_it(case):
    token_THW, num_tokens = case
    frames = [set(frame.flatten().tolist()) for frame in token_THW]
    wanted = [sum(row in frame for frame in frames) > 1 for row in range(num_tokens)]
    assert spans_frames(token_THW, num_tokens).tolist() == wanted


@settings(deadline=None, max_examples=60)
@given(maps(), st.integers(1, 7))
def test_neighbours_share_no_colour_unless_there_are_too_many(case, num_colours):
    token_THW, num_tokens = case
    groups = torch.arange(num_tokens) % 3 != 0
    colour = colour_groups(token_THW, groups, num_colours).tolist()
    touching = {row: set() for row in range(num_tokens)}
    for dim in range(3):
        for i in range(token_THW.shape[dim] - 1):
            pair = token_THW.select(dim, i).flatten(), token_THW.select(dim, i + 1).flatten()
            for a, b in zip(*(p.tolist() for p in pair), strict=True):
                if a != b and a >= 0 and b >= 0 and groups[a] and groups[b]:
                    touching[a].add(b)
                    touching[b].add(a)
    for row in range(num_tokens):
        assert (0 <= colour[row] < num_colours) == bool(groups[row])
        earlier = [other for other in touching[row] if other < row]
        if groups[row] and len(earlier) < num_colours:
            assert colour[row] not in {colour[other] for other in earlier}


def test_tokens_without_provenance_say_what_to_do():
    with pytest.raises(ShapeError, match=r"store\.assign=true"):
        patch_tokens(video_of(Grid(1, 2, 2), 4))
