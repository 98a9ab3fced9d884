"""Patches that are not kept are not computed, and what that does to the others."""

import pytest
import torch
from test_encode_laws import MODELS, frames_for
from tiny_models import random_frames

from vidcomp.encode.base import Encoder
from vidcomp.encode.video_llm import VideoLlmEncoder
from vidcomp.registry import ENCODERS
from vidcomp.types import VideoTokens

PLAIN = {"siglip", "siglip2", "clip", "dinov2", "dinov2_registers", "dinov3", "aimv2", "vit"}


@pytest.fixture(params=MODELS, scope="module")
def encoder(request: pytest.FixtureRequest, tiny) -> Encoder:
    kind, _, name = request.param.partition(":")
    settings = {"model": tiny(name)} if name else {"size": 28}
    return ENCODERS.make(kind, **settings).build(batch_size=5)


@pytest.fixture(params=sorted(PLAIN), scope="module")
def plain(request: pytest.FixtureRequest, tiny) -> Encoder:
    return ENCODERS.make("hf", model=tiny(request.param)).build(batch_size=4)


def random_mask(encoder, frames, share=0.4, seed=0):
    grid = encoder.grid(len(frames), *frames.data.shape[2:])
    return torch.rand(grid, generator=torch.Generator().manual_seed(seed)) < share


def near(a, b):
    return torch.allclose(a, b, rtol=1e-4, atol=2e-5)


def same(a: VideoTokens, b: VideoTokens) -> bool:
    names = ("positions", "spans", "mass", "assign")
    return near(a.tokens, b.tokens) and all(
        torch.equal(getattr(a, n), getattr(b, n)) for n in names
    )


def test_all_kept_is_all_encoded(encoder: Encoder):
    frames = frames_for(encoder, 2 * encoder.frames_multiple + 1)
    everything = torch.ones(encoder.grid(len(frames), *frames.data.shape[2:]), dtype=torch.bool)
    assert same(encoder(frames, everything), encoder(frames))


def test_encoders_that_need_whole_pictures_select(encoder: Encoder):
    frames = frames_for(encoder, 2 * encoder.frames_multiple + 1)
    keep = random_mask(encoder, frames)
    kept, whole = encoder(frames, keep), encoder(frames)
    chosen = whole.select(keep.flatten().nonzero().squeeze(1))
    assert same(kept, chosen) != encoder.gathers


def test_only_plain_transformers_gather(tiny):
    for name in [one for one in MODELS if isinstance(one, str)]:  # video_llm: never
        kind, _, model = name.partition(":")
        encoder = ENCODERS.make(kind, **({"model": tiny(model)} if model else {})).build()
        assert encoder.gathers == (kind == "hf" and model in PLAIN), name


def test_clips_without_a_kept_patch_are_not_run(encoder: Encoder, monkeypatch):
    """Of three clips only the middle one, of its frames those of equal counts together."""
    if isinstance(encoder, VideoLlmEncoder):
        pytest.skip("runs one step at least, and all where frames have rows of their own")
    clip = encoder.frames_multiple
    frames = frames_for(encoder, 3 * clip)
    keep = torch.zeros(encoder.grid(3 * clip, *frames.data.shape[2:]), dtype=torch.bool)
    steps = len(keep) // 3
    keep[steps : 2 * steps, 0, 0] = True
    seen = []
    inner = type(encoder).features_kept

    def watched(self, clips_BFCHW, keep_BTHW):
        seen.append(clips_BFCHW.shape[:2])
        return inner(self, clips_BFCHW, keep_BTHW)

    monkeypatch.setattr(type(encoder), "features_kept", watched)
    kept = encoder(frames, keep)
    assert seen == [(1, clip)]
    assert len(kept) == steps
    nothing = encoder(frames, torch.zeros_like(keep))
    assert len(seen) == 1
    assert nothing.tokens.shape == ((0,) if encoder.num_codes else (0, encoder.dim))
    assert nothing.tokens.dtype == kept.tokens.dtype
    assert nothing.grid == kept.grid
    joined = VideoTokens.cat([nothing, encoder(frames_for(encoder, clip, first_index=3 * clip))])
    assert joined.grid.t == nothing.grid.t + steps


def test_masks_do_not_mix_in_a_batch(encoder: Encoder):
    clip = encoder.frames_multiple
    batch = [frames_for(encoder, clip + 1, seed=1), frames_for(encoder, 2 * clip, seed=2)]
    batch.append(frames_for(encoder, 1, seed=3))
    masks = [random_mask(encoder, batch[0]), None, random_mask(encoder, batch[2], seed=5)]
    together = encoder.many(batch, masks)
    for video, frames, mask in zip(together, batch, masks, strict=True):
        assert same(video, encoder(frames, mask))


def test_cutting_into_chunks_changes_nothing(encoder: Encoder):
    clip = encoder.frames_multiple
    whole = frames_for(encoder, 3 * clip + 1)
    keep = random_mask(encoder, whole)
    steps = encoder.grid(clip, *whole.data.shape[2:]).t
    parts = [
        encoder(whole[:clip], keep[:steps]),
        encoder(whole[clip : 3 * clip], keep[steps : 3 * steps]),
        encoder(whole[3 * clip :], keep[3 * steps :]),
    ]
    assert same(VideoTokens.cat(parts), encoder(whole, keep))


def test_blocks_see_the_kept_patches_only(plain: Encoder, monkeypatch):
    """The rows that go into the first block, and that a patch not kept has no say."""
    frames = frames_for(plain, 6)
    keep = random_mask(plain, frames, 0.5)
    keep[2], keep[3, 1:] = keep[1], False
    widths = []
    inner = torch.nn.functional.scaled_dot_product_attention

    def watched(query, *args, **kwargs):
        widths.append(query.shape[-2])
        return inner(query, *args, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", watched)
    kept = plain(frames, keep)
    extra = plain._tower.num_extra
    expected = {int(n) + extra for n in keep.flatten(1).sum(1) if n}
    assert set(widths) - {1} == expected - {1}  # a pooling head has one query
    changed = frames.data.clone()
    patch = plain.patch[0]
    hidden = ~keep.repeat_interleave(patch, 1).repeat_interleave(patch, 2)
    changed[hidden[:, None].expand_as(changed)] = 7
    other = plain(
        type(frames)(data=changed, pts_s=frames.pts_s, duration_s=frames.duration_s), keep
    )
    assert near(kept.tokens, other.tokens)
    assert not near(
        plain(frames).tokens,
        plain(type(frames)(data=changed, pts_s=frames.pts_s, duration_s=frames.duration_s)).tokens,
    )


def test_positions_stay_with_their_patches(plain: Encoder):
    """Of one colour everywhere, patches differ by their places only, kept or not."""
    frames = frames_for(plain, 1)
    flat = type(frames)(
        data=torch.full_like(frames.data, 90), pts_s=frames.pts_s, duration_s=frames.duration_s
    )
    keep = torch.zeros(plain.grid(1, *flat.data.shape[2:]), dtype=torch.bool)
    keep[0, 1, 1] = keep[0, 2, 0] = True
    swapped = torch.zeros_like(keep)
    swapped[0, 0, 0] = swapped[0, 2, 0] = True
    a, b = plain(flat, keep).tokens, plain(flat, swapped).tokens
    assert not near(a[0], b[0])
    assert not near(a[0], a[1])


@pytest.mark.parametrize("name", ["siglip", "clip", "dinov3"])
def test_saliency_is_that_of_the_kept_patches(name: str, tiny):
    encoder = ENCODERS.make("hf", model=tiny(name), saliency=True).build()
    frames = frames_for(encoder, 3)
    keep = random_mask(encoder, frames)
    keep[1] = False
    kept = encoder(frames, keep)
    assert kept.extras["saliency"].shape == (int(keep.sum()),)
    assert bool((kept.extras["saliency"] > 0).all())
    if name == "siglip":  # the head looks at patches only
        sums = [float(kept.extras["saliency"][kept.positions[:, 0] == t].sum()) for t in (0, 2)]
        assert sums == pytest.approx([1, 1], abs=1e-5)
    assert encoder(frames, torch.zeros_like(keep)).extras["saliency"].shape == (0,)
    everything = encoder(frames, torch.ones_like(keep))
    assert near(everything.extras["saliency"], encoder(frames).extras["saliency"])


@pytest.mark.parametrize("layer", [0, -2, None])
def test_any_layer_can_be_taken(layer, tiny):
    encoder = ENCODERS.make("hf", model=tiny("clip"), layer=layer).build()
    frames = frames_for(encoder, 2)
    keep = random_mask(encoder, frames)
    kept = encoder(frames, keep).tokens
    chosen = encoder(frames).tokens[keep.flatten()]
    # What goes into the first block has seen nobody else.
    assert near(kept, chosen) == (layer == 0)


def test_bars_are_not_kept():
    frames = random_frames(4, 28, 28, content=(7, 0, 14, 28), num_padded=1)
    encoder = ENCODERS.make("dct", patch=7).build()
    keep = torch.ones(4, 4, 4, dtype=torch.bool)
    keep[0, 1] = False
    video = encoder(frames, keep)
    assert len(video) == 3 * 2 * 4 - 4
    valid = encoder.valid(frames)
    assert torch.equal((video.assign >= 0).reshape(4, 4, 4), valid & keep)
    assert encoder.valid(random_frames(1, 28, 28)) is None
