"""Image tokenizers against the models and the processors themselves."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import random_frames
from tiny_tokenizers import TOKENIZERS
from torch import Tensor

from vidcomp.encode.hf import Hf
from vidcomp.encode.hf_ids import HfIds
from vidcomp.errors import ConfigError, ShapeError
from vidcomp.functional.resize import Resize, resize_frames
from vidcomp.types import Frames, VideoTokens

PART = {"flava": "image_codebook", "chameleon": "vqmodel"}
WHOLE = {"flava": "FlavaForPreTraining", "chameleon": "ChameleonModel"}
OWN = {"dvae": "FlavaImageCodebook", "janus": "JanusVQVAE", "emu3": "Emu3VQVAE"}
PIXELS = {"dvae": "codebook_pixel_values", "flava": "codebook_pixel_values"}


def plain_model(name: str, folder: str) -> Any:
    """The tokenizer as transformers loads it."""
    import transformers

    model = getattr(transformers, {**OWN, **WHOLE}[name]).from_pretrained(folder).eval()
    return getattr(model, PART[name]) if name in PART else model


def plain_pixels(name: str, folder: str, frames: Frames) -> Tensor:
    """What the tokenizer's own processor makes of pictures, one by one."""
    from PIL import Image
    from transformers import AutoImageProcessor

    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    extra = {"return_codebook_pixels": True} if name in PIXELS else {}
    pictures = [Image.fromarray(frame.permute(1, 2, 0).numpy()) for frame in frames.data]
    made = [processor([picture], return_tensors="pt", **extra) for picture in pictures]
    return torch.cat([batch[PIXELS.get(name, "pixel_values")] for batch in made])


@torch.no_grad()
def plain_ids(name: str, folder: str, pixels: Tensor) -> Tensor:
    """[T, h * w] ids of pictures."""
    model = plain_model(name, folder)
    if name in PIXELS:
        return model.get_codebook_indices(pixels).flatten(1)
    if name != "emu3":
        return model.encode(pixels).image_tokens.reshape(len(pixels), -1)
    sizes = torch.tensor([pixels.shape[2:]] * len(pixels))
    return torch.stack(model.encode(pixels, image_sizes=sizes).image_tokens).flatten(1)


def settings_for(name: str) -> dict[str, int]:
    return {"clip_frames": 1} if name == "emu3" else {}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_ids_are_the_models_own(name: str, tiny):
    encoder = HfIds(model=tiny(name), **settings_for(name)).build(batch_size=2)
    frames = random_frames(3, 32, 32)
    video = encoder(frames)
    wanted = plain_ids(name, tiny(name), plain_pixels(name, tiny(name), frames))
    assert video.tokens.dtype == torch.int64
    assert torch.equal(video.tokens, wanted.flatten())
    assert len(video.tokens.unique()) > 3
    assert encoder.num_codes == 300


@pytest.mark.parametrize("size", [(60, 90), (131, 61), (20, 26)])
@pytest.mark.parametrize("name", TOKENIZERS)
def test_pixels_are_within_one_grey_level_of_the_processors(name: str, size, tiny):
    encoder = HfIds(model=tiny(name)).build()
    frames = random_frames(1, *size)
    picture, _ = resize_frames(frames.data, encoder.resize)
    ours = encoder._normalize(picture)
    theirs = plain_pixels(name, tiny(name), frames)
    assert ours.shape == theirs.shape
    grey_level = {"chameleon": 0.0078, "dvae": 0.8 / 255, "flava": 0.8 / 255}.get(name, 2 / 255)
    assert (ours - theirs).abs().max() <= 1.01 * grey_level


def test_the_dvaes_pixels_keep_away_from_black_and_white(tiny):
    encoder = HfIds(model=tiny("dvae")).build()
    data = torch.tensor([0, 255], dtype=torch.uint8).reshape(2, 1, 1, 1).expand(2, 3, 8, 8)
    pixels = encoder._normalize(data)
    assert torch.allclose(pixels[0], torch.tensor(0.1), atol=1e-6)
    assert torch.allclose(pixels[1], torch.tensor(0.9), atol=1e-6)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_oblong_pictures_have_oblong_grids(name: str, tiny):
    encoder = HfIds(model=tiny(name), **settings_for(name)).build()
    frames = random_frames(2, 24, 40)
    side = encoder.patch[0]
    video = encoder(frames)
    assert side == (8 if name in PIXELS else 4)
    assert video.grid == (2, 24 // side, 40 // side)
    pixels = encoder._normalize(frames.data)
    assert torch.equal(video.tokens, plain_ids(name, tiny(name), pixels).flatten())
    with pytest.raises(ShapeError, match="resize to 24 x 40"):
        encoder(random_frames(1, 25, 41))


@pytest.mark.parametrize(("name", "passes"), [("dvae", [2, 2, 1]), ("emu3", [4, 4])])
def test_large_pictures_go_through_a_few_at_a_time(name: str, passes, tiny, monkeypatch):
    encoder = HfIds(model=tiny(name)).build()
    frames = random_frames(5, 32, 32)
    whole = encoder(frames)
    seen: list[int] = []
    run = encoder._run

    def counting(clips_BFCHW: Tensor) -> Tensor:
        seen.append(clips_BFCHW.shape[:2].numel())
        return run(clips_BFCHW)

    monkeypatch.setattr(encoder, "_run", counting)
    monkeypatch.setattr("vidcomp.encode.hf_ids._PASS_PIXELS", 2 * 32 * 32)
    assert torch.equal(encoder(frames).tokens, whole.tokens)
    assert seen == passes


@torch.no_grad()
@pytest.mark.parametrize(("clip_frames", "clips"), [(None, [4, 4, 4]), (4, [4, 4, 4]), (8, [8, 4])])
def test_emu3_joins_frames_to_tubelets(clip_frames: int | None, clips: list[int], tiny):
    encoder = HfIds(model=tiny("emu3"), clip_frames=clip_frames).build()
    frames = random_frames(10, 16, 24)  # the last two frames are filled up to four
    video = encoder(frames)
    assert (encoder.tubelet, encoder.frames_multiple) == (4, clip_frames or 4)
    assert video.grid == (3, 4, 6)
    model = plain_model("emu3", tiny("emu3"))
    filled = torch.cat([frames.data, frames.data[-1:], frames.data[-1:]])
    ids = []
    for part in torch.split(encoder._normalize(filled), clips):
        hidden = model.encoder(part[None])
        codes = model.quant_conv(hidden.permute(0, 2, 1, 3, 4)).permute(0, 2, 1, 3, 4)
        ids.append(model.quantize(codes).flatten())
    assert torch.equal(video.tokens, torch.cat(ids))
    assert torch.equal(video.spans[0], torch.tensor([0.0, 1.9]))


def test_bars_of_janus_have_no_ids(tiny):
    encoder = HfIds(model=tiny("janus")).build()
    assert encoder.resize.fill == (127, 127, 127)
    frames = random_frames(1, 32, 32, content=(8, 0, 16, 32))
    video = encoder(frames)
    assert len(video) == 4 * 8
    assert video.grid.num_patches == 64
    assert (video.assign.reshape(8, 8)[:2] == -1).all()


def test_only_some_patches(tiny):
    encoder = HfIds(model=tiny("dvae")).build()
    frames = random_frames(3, 32, 32)
    keep = torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(0)) < 0.3
    whole = encoder(frames)
    kept = encoder(frames, keep)
    assert torch.equal(kept.tokens, whole.tokens[keep.flatten()])
    none = encoder(frames, torch.zeros_like(keep))
    assert none.tokens.shape == (0,)
    assert none.tokens.dtype == torch.int64
    assert VideoTokens.cat([none]).grid == whole.grid


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", TOKENIZERS)
def test_half_precision_gives_mostly_the_same_ids(name: str, dtype, tiny):
    frames = random_frames(4, 32, 32)
    exact, low = (HfIds(model=tiny(name), dtype=d).build()(frames) for d in ("float32", dtype))
    assert low.tokens.dtype == torch.int64
    assert (exact.tokens == low.tokens).float().mean() > 0.75


@pytest.mark.parametrize("name", ["chameleon", "janus", "emu3"])
def test_ids_decode_to_the_vectors_of_their_codes(name: str, tiny):
    encoder = HfIds(model=tiny(name)).build()
    video = encoder(random_frames(4, 32, 32))
    table = plain_model(name, tiny(name)).quantize.embedding.weight
    wanted = table[video.tokens]
    if name == "janus":
        wanted = torch.nn.functional.normalize(wanted, dim=-1)
    decoded = encoder.decode(video)
    assert torch.equal(decoded.tokens, wanted)
    assert torch.equal(decoded.positions, video.positions)
    with pytest.raises(ShapeError, match="they are vectors already"):
        encoder.decode(decoded)
    video.tokens[0] = 300
    with pytest.raises(ShapeError, match=r"has ids 0\.\.299, got \d+\.\.300"):
        encoder.decode(video)


def test_codes_of_the_dvae_have_no_vectors(tiny):
    encoder = HfIds(model=tiny("dvae")).build()
    with pytest.raises(ConfigError, match="learn a table of embeddings"):
        encoder.decode(encoder(random_frames(1, 32, 32)))


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("clip", {}, "a clip is no image tokenizer that is known"),
        ("dvae", {"clip_frames": 4}, "sees frames one by one"),
        ("emu3", {"clip_frames": 6}, "multiple of 4"),
        ("dvae", {"resize": Resize(height=30, width=32)}, "resize to 32 x 32"),
    ],
)
def test_what_a_tokenizer_cannot_do_is_said(name: str, settings: dict[str, Any], message, tiny):
    with pytest.raises(ConfigError, match=message):
        HfIds(model=tiny(name), **settings).build()


def test_tokenizers_are_no_encoders_of_features(tiny):
    with pytest.raises(ConfigError, match="FlavaImageCodebookConfig"):
        Hf(model=tiny("dvae")).build()


def edit(path: Path, **changes: Any) -> None:
    data = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({name: value for name, value in data.items() if value is not None}))


def test_a_spoilt_checkpoint_is_an_error(own_copy):
    from safetensors.torch import load_file, save_file

    folder = own_copy("janus")
    weights = load_file(folder / "model.safetensors")
    del weights["quantize.embedding.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"lack 1 tensors .*'quantize.embedding.weight'"):
        HfIds(model=str(folder)).build()
    edit(folder / "preprocessor_config.json", size={"height": 32, "width": 16})
    with pytest.raises(ConfigError):
        HfIds(model=str(folder)).build()


def test_weights_of_the_decoder_are_not_needed(own_copy):
    from safetensors.torch import load_file, save_file

    folder = own_copy("janus")
    frames = random_frames(1, 32, 32)
    before = HfIds(model=str(folder)).build()(frames)
    weights = load_file(folder / "model.safetensors")
    kept = {n: w for n, w in weights.items() if not n.startswith(("decoder.", "post_quant"))}
    assert len(kept) < len(weights)
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    assert torch.equal(HfIds(model=str(folder)).build()(frames).tokens, before.tokens)


def test_pixels_of_a_codebook_without_the_map(own_copy):
    folder = own_copy("dvae")
    edit(folder / "preprocessor_config.json", codebook_do_map_pixels=False)
    encoder = HfIds(model=str(folder)).build()
    white = torch.full((1, 3, 8, 8), 255, dtype=torch.uint8)
    assert torch.equal(encoder._normalize(white), torch.ones(1, 3, 8, 8))


def test_a_preprocessor_of_another_model_is_told(own_copy):
    folder = own_copy("dvae")
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"image_processor_type": "CLIPImageProcessor", "size": 224})
    )
    with pytest.raises(ConfigError, match="copy the one of FLAVA"):
        HfIds(model=str(folder)).build()


def test_the_settings_say_which_model_and_where(tiny):
    assert HfIds.locations() == {"model", "revision"}
    one, other = (HfIds(model=tiny(name)).build().weights_hash for name in ("dvae", "janus"))
    assert len(one) == 64
    assert one != other


@pytest.mark.compile
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # from inside torch
@pytest.mark.parametrize("name", ["dvae", "emu3"])
def test_compiled_agrees(name: str, tiny):
    frames = random_frames(5, 32, 32)
    config = HfIds(model=tiny(name))
    fast, slow = (config.build(compile=c, batch_size=4)(frames) for c in (True, False))
    assert np.mean((fast.tokens == slow.tokens).numpy()) > 0.99
