"""The resampler's time embeddings, clips and provenance."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.projectors import slow_resampler_medium
from projector_cases import DIM_IN, dense, make, pruned
from torch.nn.functional import interpolate

from vidcomp.errors import ShapeError
from vidcomp.functional.merge import merge
from vidcomp.projectors.perceiver import Perceiver
from vidcomp.types import Grid, TokenBatch, VideoTokens

few = settings(deadline=None, max_examples=15)
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


def perceiver(**settings: Any) -> Perceiver:
    built = make("perceiver", **settings)
    assert isinstance(built, Perceiver)
    return built


def state(projector: Perceiver) -> dict[str, torch.Tensor]:
    names = projector.original_names()
    return {names[n]: t for n, t in projector.state_dict().items()}


@few
@given(seed=st.integers(0, 99), frames=st.integers(1, 3), kind=st.sampled_from([dense, pruned]))
def test_tokens_and_their_sources_equal_the_slow_twin(seed: int, frames: int, kind: Any) -> None:
    projector, video = perceiver(dim_out=DIM_IN, seed=seed), kind(Grid(frames, 2, 3), seed)
    place = video.positions[:, 0].long()
    embedded = video.tokens + projector.frame_emb.weight.detach()[place]
    latents, weights = slow_resampler_medium(embedded, state(projector), heads=2, depth=2)
    out = projector(video)
    torch.testing.assert_close(out.tokens.double(), latents, **CLOSE)
    read = weights.mean(dim=0)[:, : len(video)]
    shares = (read / read.sum(dim=1, keepdim=True)).float()
    patch = (video.assign >= 0).nonzero().squeeze(1)
    torch.testing.assert_close(out.weights.to_dense()[:, patch], shares, **CLOSE)
    torch.testing.assert_close(out.positions, shares @ video.positions, **CLOSE)


def test_sources_of_latents_that_ignore_the_video_still_sum_to_one() -> None:
    projector = perceiver(depth=1)
    with torch.no_grad():  # keys of the media vanish beside those of the latents
        projector.layers[0].norm_clip.weight.zero_()
        projector.layers[0].norm_latents.weight.fill_(1e4)
    out = projector(dense(Grid(2, 3, 3)))
    torch.testing.assert_close(out.weights.to_dense().sum(dim=1), torch.ones(3))
    assert torch.isfinite(out.positions).all()


@pytest.mark.parametrize("rows", [1, 2, 3, 5])
@pytest.mark.parametrize("frames", [1, 2, 4, 5, 9])
def test_a_short_table_is_stretched_over_a_long_video(rows: int, frames: int) -> None:
    short, long = perceiver(max_frames=rows), perceiver(max_frames=max(rows, frames))
    table = short.frame_emb.weight.detach()
    if frames > rows:
        stretched = interpolate(table.T[None], size=frames, mode="linear", align_corners=True)
        table = stretched[0].T
    long.load_state_dict({**short.state_dict(), "frame_emb.weight": table})
    video = dense(Grid(frames, 2, 2))
    torch.testing.assert_close(short(video).tokens, long(video).tokens, **CLOSE)


def test_frames_in_another_order_are_seen_only_with_embeddings() -> None:
    grid = Grid(3, 2, 2)
    video = dense(grid)
    backward = replace(
        video, tokens=video.tokens.view(3, 4, -1).flip(0).flatten(0, 1), extras={}, frame_extras={}
    )
    seen, blind = perceiver(max_frames=3), perceiver(max_frames=0)
    assert not torch.allclose(seen(video).tokens, seen(backward).tokens, atol=1e-3)
    torch.testing.assert_close(blind(video).tokens, blind(backward).tokens, **CLOSE)


@few
@given(frames=st.integers(1, 7), length=st.integers(1, 4), kind=st.sampled_from([dense, pruned]))
def test_a_clip_is_read_as_if_it_were_alone(frames: int, length: int, kind: Any) -> None:
    rows_of_table = 3 if length > 1 else 0
    clips = perceiver(frames_per_clip=length, max_frames=rows_of_table)
    alone = perceiver(frames_per_clip=None, max_frames=rows_of_table)
    alone.load_state_dict(clips.state_dict())
    video = kind(Grid(frames, 2, 2), 5)
    out, place = clips(video), (video.positions[:, 0] + 1e-3) // length
    expected = []
    for clip in sorted(set(place.tolist())):
        rows = video.select((place == clip).nonzero().squeeze(1))
        positions = rows.positions - torch.tensor([clip * length, 0, 0])
        grid = Grid(length, 2, 2)
        expected.append(
            alone(
                VideoTokens(
                    tokens=rows.tokens,
                    positions=positions,
                    spans=rows.spans,
                    mass=rows.mass,
                    grid=grid,
                )
            ).tokens
        )
    torch.testing.assert_close(out.tokens, torch.cat(expected), **CLOSE)


def test_provenance_stays_in_its_clip() -> None:
    out = perceiver(frames_per_clip=2, num_latents=3)(dense(Grid(5, 2, 2)))
    shares = out.weights.to_dense().view(3, 3, 5, 4).sum(dim=3)
    for clip in range(3):
        inside = shares[clip, :, clip * 2 : clip * 2 + 2].sum(dim=1)
        torch.testing.assert_close(inside, torch.ones(3), **CLOSE)
    starts = out.spans.view(3, 3, 2)[:, 0]
    assert starts.tolist() == [[0.0, 1.0], [1.0, 2.0], [2.0, 2.5]]


def test_a_clip_without_tokens_has_none() -> None:
    video = dense(Grid(6, 2, 2))
    rest = video.select(torch.cat([torch.arange(8), torch.arange(16, 24)]))
    projector = perceiver(frames_per_clip=2, max_clips=3)
    out, full = projector(rest), projector(video)
    assert len(out) == 6
    torch.testing.assert_close(out.tokens, torch.cat([full.tokens[:3], full.tokens[6:]]), **CLOSE)


def test_a_token_merged_over_frames_is_between_them_in_time() -> None:
    grid = Grid(2, 1, 1)
    video = dense(grid)
    merged = merge(video, torch.zeros(2, dtype=torch.int64))
    projector = perceiver(max_frames=2)
    out = projector(merged)
    middle = projector.frame_emb.weight.detach().mean(dim=0)
    blind = perceiver(max_frames=0)
    weights = {n: t for n, t in projector.state_dict().items() if n != "frame_emb.weight"}
    blind.load_state_dict(weights)
    moved = replace(merged, tokens=merged.tokens + middle)
    torch.testing.assert_close(out.tokens, blind(moved).tokens, **CLOSE)


def test_a_chunk_counts_its_own_frames() -> None:
    video = dense(Grid(3, 2, 2))
    later = replace(video, positions=video.positions + torch.tensor([40.0, 0, 0]))
    projector = perceiver(frames_per_clip=2)
    out, same = projector(later), projector(video)
    assert torch.equal(out.tokens, same.tokens)
    torch.testing.assert_close(out.positions[:, 0], same.positions[:, 0] + 40)


def test_the_order_of_rows_does_not_matter() -> None:
    video = dense(Grid(3, 2, 3))
    shuffled = video.select(torch.randperm(18, generator=torch.Generator().manual_seed(1)))
    projector = perceiver(frames_per_clip=2)
    out, same = projector(shuffled), projector(video)
    torch.testing.assert_close(out.tokens, same.tokens, **CLOSE)
    torch.testing.assert_close(out.weights.to_dense(), same.weights.to_dense(), **CLOSE)


def test_a_broken_video_does_not_spoil_its_batch() -> None:
    good = pruned(Grid(2, 2, 2))
    broken = dense(Grid(3, 2, 2))
    broken = replace(broken, tokens=torch.full_like(broken.tokens, torch.nan))
    projector = perceiver()
    for batch in ([broken, good], [good, broken]):
        out = projector(TokenBatch.pack(batch))
        same = out[batch.index(good)]
        torch.testing.assert_close(same.tokens, projector(good).tokens, **CLOSE)
        torch.testing.assert_close(same.positions, projector(good).positions, **CLOSE)


def test_tokens_without_provenance_are_projected_too() -> None:
    video = dense(Grid(2, 2, 2))
    bare = replace(video, assign=None)
    out = perceiver()(bare)
    assert out.weights is None
    torch.testing.assert_close(out.positions, perceiver()(video).positions, **CLOSE)
    late = replace(bare, positions=bare.positions + torch.tensor([9.0, 0, 0]))
    with pytest.raises(ShapeError, match="grid of 2 frames"):
        perceiver()(late)


def test_no_tokens_are_refused() -> None:
    nothing = dense(Grid(1, 2, 2)).select(torch.zeros(0, dtype=torch.int64))
    with pytest.raises(ShapeError, match="reads at least one token"):
        perceiver()(nothing)


@pytest.mark.parametrize(
    ("length", "frames", "expected"), [(None, 9, 3), (1, 9, 27), (4, 9, 9), (4, 8, 6)]
)
def test_counts(length: int | None, frames: int, expected: int) -> None:
    projector = perceiver(frames_per_clip=length, max_frames=0 if length == 1 else 3)
    assert projector.num_tokens(Grid(frames, 2, 2)) == expected
    assert len(projector(dense(Grid(frames, 2, 2)))) == expected
