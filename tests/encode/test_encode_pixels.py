"""Sizes and colours against the processors of transformers themselves."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import CLIP_COLORS, HALF, IMAGENET, random_frames

from vidcomp.encode.pixels import Normalize, read_processor, resize_of, with_mean_fill
from vidcomp.encode.weights import Checkpoint
from vidcomp.errors import ConfigError
from vidcomp.functional.resize import Resize, resize_frames

CROP = {"do_center_crop": True, "crop_size": {"height": 96, "width": 96}}
PROCESSORS: dict[str, dict[str, Any]] = {
    "siglip": {
        "image_processor_type": "SiglipImageProcessor",
        "size": {"height": 96, "width": 96},
        "resample": 3,
        **HALF,
    },
    "clip of 2021": {
        "feature_extractor_type": "CLIPFeatureExtractor",
        "size": 96,
        "crop_size": 96,
        "do_center_crop": True,
        "resample": 3,
        **CLIP_COLORS,
    },
    "dinov2": {
        "image_processor_type": "BitImageProcessor",
        "size": {"shortest_edge": 109},
        "resample": 3,
        **CROP,
        **IMAGENET,
    },
    "vit, filter unsaid": {"image_processor_type": "ViTImageProcessor", "size": 96, **HALF},
    "videomae of 2022": {
        "feature_extractor_type": "VideoMAEFeatureExtractor",
        "size": 96,
        "crop_size": 96,
        "do_center_crop": True,
        "resample": 2,
        **IMAGENET,
    },
    "convnext, cropped": {
        "image_processor_type": "ConvNextImageProcessor",
        "size": {"shortest_edge": 96},
        "crop_pct": 0.875,
        "resample": 3,
        **IMAGENET,
    },
    "convnext, warped": {
        "image_processor_type": "ConvNextImageProcessor",
        "size": {"shortest_edge": 384},
        "crop_pct": 0.875,
        "resample": 3,
        **IMAGENET,
    },
    "not normalised": {
        "image_processor_type": "SiglipImageProcessor",
        "size": {"height": 96, "width": 96},
        "resample": 2,
        "do_normalize": False,
    },
}


def checkpoint(folder: Path, settings: dict[str, Any], name: str = "preprocessor") -> Checkpoint:
    (folder / f"{name}_config.json").write_text(json.dumps(settings))
    return Checkpoint(folder, ())


@pytest.mark.parametrize("size", [(400, 560), (601, 390)])
@pytest.mark.parametrize("name", PROCESSORS)
def test_within_one_grey_level_of_the_models_own_processor(
    name: str, size: tuple[int, int], tmp_path: Path
):
    from PIL import Image
    from transformers import AutoImageProcessor

    settings = {"do_resize": True, "do_normalize": True, **PROCESSORS[name]}
    processor = read_processor(checkpoint(tmp_path, settings))
    frames = random_frames(1, *size)
    picture, _ = resize_frames(frames.data, resize_of(processor))
    ours = Normalize.of(processor, "cpu")(picture)[0]

    image = Image.fromarray(frames.data[0].permute(1, 2, 0).numpy())
    theirs = AutoImageProcessor.from_pretrained(tmp_path, backend="pil")(image, return_tensors="pt")
    theirs = theirs["pixel_values"].reshape(ours.shape)
    std = processor["image_std"] if settings["do_normalize"] else [1.0] * 3
    grey_levels = (ours - theirs).abs() * 255 * torch.tensor(std)[:, None, None]
    assert grey_levels.max() <= 1.001


def test_vivit_is_rescaled_around_zero(tiny):
    from transformers import VivitImageProcessor

    processor = read_processor(Checkpoint(Path(tiny("vivit")), ()))
    frames = random_frames(2, 32, 32)
    ours = Normalize.of(processor, "cpu")(frames.data)
    theirs = VivitImageProcessor.from_pretrained(tiny("vivit"), do_resize=False)
    pictures = list(frames.data.permute(0, 2, 3, 1).numpy())
    wanted = theirs(pictures, return_tensors="pt", do_center_crop=False)["pixel_values"][0]
    assert torch.allclose(ours, wanted, atol=1e-5)


def test_files_of_classes_that_need_torchvision_are_read_as_they_are(tiny):
    for name, mode, size in [("vjepa2", "crop", 36), ("dinov3", "stretch", None)]:
        resize = resize_of(read_processor(Checkpoint(Path(tiny(name)), ())))
        assert (resize.mode, resize.height, resize.short_side) == (mode, 32, size)


def test_settings_inside_a_processors_file_are_found(tmp_path: Path):
    nested = {"video_processor": {"size": {"height": 8, "width": 16}, "resample": 0, **HALF}}
    resize = resize_of(read_processor(checkpoint(tmp_path, nested, "processor")))
    assert (resize.mode, resize.height, resize.width) == ("stretch", 8, 16)
    assert resize.interpolation == "nearest"


def test_naflex_keeps_the_aspect_within_the_limit(tiny):
    resize = resize_of(read_processor(Checkpoint(Path(tiny("siglip2")), ())))
    picture, _ = resize_frames(random_frames(1, 90, 180).data, resize)
    _, _, height, width = picture.shape
    assert height % 8 == width % 8 == 0
    assert height * width <= 16 * 64
    assert width > height


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 32, "resample": 4}, "filter 4"),
        ({"size": {"shortest_edge": 32}, "resample": 2}, "no resize policy does"),
        ({"size": {"height": 32, "width": 32}, "resample": 2, **CROP}, "no resize policy does"),
        ({"resample": 2}, "no resize policy does"),
    ],
)
def test_what_no_policy_does_is_said(settings: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        resize_of(settings)


def test_a_checkpoint_without_a_preprocessor_file_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"no preprocessor_config\.json"):
        read_processor(Checkpoint(tmp_path, ()))
    with pytest.raises(ConfigError, match="image_mean"):
        Normalize.of({"do_normalize": True}, "cpu")


def test_both_memory_layouts_give_the_same_bits():
    data = random_frames(3, 17, 23).data
    normalize = Normalize(**{k.removeprefix("image_"): v for k, v in IMAGENET.items()})
    interleaved, planes = normalize(data), normalize(data.contiguous())
    assert interleaved.stride() == data.stride()
    assert torch.equal(interleaved, planes)
    assert data.dtype == torch.uint8


def test_letterbox_bars_become_zero():
    normalize = Normalize(**{k.removeprefix("image_"): v for k, v in CLIP_COLORS.items()})
    resize = with_mean_fill(Resize(mode="letterbox", height=32, width=32), normalize)
    picture, _ = resize_frames(random_frames(1, 10, 40).data, resize)
    bars = normalize(picture)[0, :, 0]
    assert (bars.abs() < 0.5 / 255 / 0.26).all()
    chosen = Resize(mode="letterbox", fill=(1, 2, 3))
    assert with_mean_fill(chosen, normalize) == chosen
