"""What every encoder promises, on every family."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from llm.tiny_llms import CONFIGS
from tiny_models import CLIP_MODELS, FRAME_MODELS, PYTORCHVIDEO_MODELS, random_frames
from tiny_tokenizers import TOKENIZERS

from vidcomp.encode.base import Encoder
from vidcomp.encode.clips import valid_patches
from vidcomp.errors import ShapeError
from vidcomp.functional.resize import Resize, target_size
from vidcomp.registry import ENCODERS
from vidcomp.types import Frames, Grid, VideoTokens

QUIET = pytest.mark.filterwarnings("ignore")  # of transformers, about its own classes
MODELS = [
    "dct",
    *(f"hf:{name}" for name in FRAME_MODELS),
    *(f"hf_clip:{name}" for name in CLIP_MODELS),
    *(f"hf_ids:{name}" for name in TOKENIZERS),
    *(f"pytorchvideo:{name}" for name in PYTORCHVIDEO_MODELS),
    *(pytest.param(f"video_llm:vlm/{name}", marks=QUIET) for name in CONFIGS),
]


@pytest.fixture(params=MODELS, scope="module")
def encoder(request: pytest.FixtureRequest, tiny) -> Encoder:
    kind, _, name = request.param.partition(":")
    settings = {"model": tiny(name)} if name else {"size": 28}
    return ENCODERS.make(kind, **settings).build(batch_size=5)


def frames_for(encoder: Encoder, num: int, **fields) -> Frames:
    resize = encoder.resize
    if not isinstance(resize, Resize):
        return random_frames(num, *target_size(48, 64, resize(48, 64, num)), **fields)
    size = (24, 32) if resize.mode == "smart" else (resize.height, resize.width)
    return random_frames(num, *size, **fields)


def same(a: VideoTokens, b: VideoTokens) -> bool:
    rows = [(getattr(a, n), getattr(b, n)) for n in ("positions", "spans", "mass", "assign")]
    exact = all(torch.equal(x, y) for x, y in rows) and a.grid == b.grid
    return exact and torch.allclose(a.tokens, b.tokens, rtol=1e-4, atol=2e-5)


def test_videos_mix_in_one_pass_without_a_trace(encoder: Encoder):
    clip = encoder.frames_multiple
    batch = [
        frames_for(encoder, clip + 1, seed=1),
        frames_for(encoder, 2 * clip, seed=2, first_index=3 * clip),
        frames_for(encoder, 1, seed=3),
    ]
    before = [frames.data.clone() for frames in batch]
    together = encoder.many(batch)
    assert all(same(a, encoder(frames)) for a, frames in zip(together, batch, strict=True))
    assert all(torch.equal(a, f.data) for a, f in zip(before, batch, strict=True))
    assert encoder.many([]) == []


def test_chunks_make_the_whole(encoder: Encoder):
    clip = encoder.frames_multiple
    whole = frames_for(encoder, 3 * clip + 1)
    chunks = [whole[:clip], whole[clip : 3 * clip], whole[3 * clip :]]
    assert same(VideoTokens.cat(list(encoder.stream(chunks))), encoder(whole))


def test_tokens_lie_on_the_grid_that_was_announced(encoder: Encoder):
    num = encoder.frames_multiple + 1
    frames = frames_for(encoder, num, first_index=2 * encoder.frames_multiple)
    video = encoder(frames)
    assert video.grid == encoder.grid(num, *frames.data.shape[2:])
    if encoder.num_codes:
        assert video.tokens.shape == (video.grid.num_patches,)
        assert video.tokens.dtype == torch.int64
        assert 0 <= video.tokens.min() < video.tokens.max() < encoder.num_codes
    else:
        assert video.tokens.shape == (video.grid.num_patches, encoder.dim)
        assert video.tokens.dtype == torch.float32
    steps = encoder.frames_multiple * 2 // encoder.tubelet
    assert video.positions[0].tolist() == [steps, 0, 0]
    assert video.positions[-1].tolist() == [
        steps + video.grid.t - 1,
        *(n - 1 for n in video.grid[1:]),
    ]
    assert video.mass.sum() == video.grid.num_patches
    assert torch.equal(video.assign, torch.arange(video.grid.num_patches))
    first, last = frames.spans[0], frames.spans[-1]
    assert video.spans[0, 0] == first[0]
    assert video.spans[-1, 1] == last[1]
    assert video.spans[0, 1] == frames.spans[encoder.tubelet - 1, 1]
    assert not video.tokens.requires_grad
    assert not video.tokens.is_inference()  # else nothing could be trained on them


def test_a_step_that_only_fills_a_clip_has_no_token(encoder: Encoder):
    real, clip = encoder.frames_multiple, encoder.frames_multiple
    frames = frames_for(encoder, 2 * clip)
    frames.data[real:] = frames.data[real - 1]
    padded = replace(frames, num_padded=clip)
    video = encoder(padded)
    full = encoder(frames)
    assert video.grid == full.grid
    assert len(video) == len(full) // 2
    assert torch.equal(video.tokens, full.tokens[: len(video)])
    assert (video.assign[len(video) :] == -1).all()


def test_keep_says_which_patches_have_tokens(encoder: Encoder):
    """What their features are is in test_keep.py."""
    frames = frames_for(encoder, encoder.frames_multiple)
    video = encoder(frames)
    keep = torch.arange(video.grid.num_patches).reshape(video.grid) % 3 == 1
    kept, chosen = encoder(frames, keep), video.select(keep.flatten().nonzero().squeeze(1))
    for name in ("positions", "spans", "mass", "assign"):
        assert torch.equal(getattr(kept, name), getattr(chosen, name))
    assert kept.tokens.shape == chosen.tokens.shape
    assert kept.grid == video.grid
    with pytest.raises(ShapeError, match="keep must be"):
        encoder(frames, keep[:, :1, :1].expand(-1, 1, -1) if keep.shape[1] > 1 else keep[..., :0])
    with pytest.raises(ShapeError, match=r"keep must be .* bool"):
        encoder(frames, keep.long())
    with pytest.raises(ShapeError, match="as many masks"):
        encoder.many([frames], [keep, keep])


def test_wrong_pictures_are_refused(encoder: Encoder):
    frames = frames_for(encoder, 1)
    with pytest.raises(ShapeError, match="3 colour channels"):
        encoder(replace(frames, data=frames.data[:, :1]))
    with pytest.raises(ShapeError, match="at least one frame"):
        encoder(frames[:0])
    if encoder.frames_multiple > 1:
        with pytest.raises(ShapeError, match="multiple of"):
            encoder(replace(frames, first_index=1))


def test_building_leaves_the_random_state_alone(tiny):
    models = {"hf": "vit", "hf_clip": "videomae", "hf_ids": "janus", "pytorchvideo": "mvit"}
    for kind, name in models.items():
        before = torch.get_rng_state()
        ENCODERS.make(kind, model=tiny(name)).build()
        assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("name", ["hf:siglip", "hf:dinov3", "hf_clip:vjepa2", "pytorchvideo:x3d"])
def test_half_precision_is_near(name: str, tiny):
    kind, _, model = name.partition(":")
    exact, low = (
        ENCODERS.make(kind, model=tiny(model), dtype=dtype).build()
        for dtype in ("float32", "bfloat16")
    )
    frames = frames_for(exact, exact.frames_multiple)
    a, b = exact(frames).tokens, low(frames).tokens
    assert b.dtype == torch.bfloat16
    assert torch.cosine_similarity(a, b.float()).min() > 0.99


def test_letterbox_bars_and_padding_have_no_tokens():
    frames = random_frames(4, 28, 28, content=(7, 0, 14, 28), num_padded=1)
    video = ENCODERS.make("dct", patch=7).build()(frames)
    assert video.grid == Grid(4, 4, 4)
    assert len(video) == 3 * 2 * 4
    assert video.positions[:, 1].unique().tolist() == [1.0, 2.0]
    assert video.positions[:, 0].unique().tolist() == [0.0, 1.0, 2.0]
    valid = (video.assign >= 0).reshape(video.grid)
    assert valid[:3, 1:3].all()
    assert valid.sum() == len(video)


@pytest.mark.parametrize(
    ("content", "rows"),
    [
        ((6, 0, 1, 28), [0]),
        ((6, 0, 2, 28), [0, 1]),
        ((7, 0, 7, 28), [1]),
        ((13, 0, 9, 28), [1, 2, 3]),
    ],
)
def test_one_real_pixel_makes_a_patch_valid(content: tuple[int, int, int, int], rows: list[int]):
    frames = random_frames(1, 28, 28, content=content)
    valid = valid_patches(frames, Grid(1, 4, 4))
    assert valid is not None
    assert valid.reshape(4, 4).all(dim=1).nonzero().flatten().tolist() == rows
    assert torch.equal(valid, valid_patches(frames, Grid(1, 4, 4), patch=(7, 7)))


def test_cells_of_a_feature_map_share_the_picture_and_patches_do_not():
    """A picture of 10 pixels and patches of 3: the last pixel belongs to no patch."""
    frames = random_frames(1, 10, 10, content=(0, 0, 7, 10))
    shared = valid_patches(frames, Grid(1, 3, 1))
    assert shared is not None
    assert shared.tolist() == [True, True, True]  # cells end at 3.33, 6.67 and 10
    cut = replace(frames, content=(9, 0, 1, 10))
    patches = valid_patches(cut, Grid(1, 3, 3), patch=(3, 3))
    assert patches is not None
    assert not patches.any()


def test_the_python_of_the_page_runs():
    page = (Path(__file__).resolve().parents[2] / "docs" / "encoders.md").read_text()
    code = page.split("```python\n")[1].split("```")[0]
    exec(compile(code, "docs/encoders.md", "exec"), {})
    for name in ENCODERS.names():
        assert f"`{name}`" in page
        assert all(f"`{setting}`" in page for setting in ENCODERS[name].model_fields)


@pytest.mark.gpu
@pytest.mark.parametrize("name", MODELS)
def test_a_gpu_gives_the_same_tokens(name: str, tiny):
    kind, _, model = name.partition(":")
    config = ENCODERS.make(kind, **({"model": tiny(model)} if model else {"size": 28}))
    if model in ("clip", "siglip", "dinov3"):
        config = ENCODERS.make(kind, model=tiny(model), saliency=True)
    near, far = config.build(), config.build(device="cuda")
    frames = frames_for(near, near.frames_multiple + 1, content=(0, 0, 16, 16))
    a, b = near(frames), far(frames)
    assert b.tokens.is_cuda
    assert torch.allclose(a.tokens, b.to("cpu").tokens, rtol=1e-2, atol=1e-2)
    for key, value in a.extras.items():
        assert torch.allclose(value, b.extras[key].cpu(), rtol=1e-2, atol=1e-4)
