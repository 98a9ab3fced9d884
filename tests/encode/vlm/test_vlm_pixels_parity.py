"""Pixels are those of the video processors of transformers, to the grey level.

Their classes need torchvision, whose wheels need not fit the torch that is installed: without their
compiled operators the classes still work.
"""

import importlib
import sys
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from llm.pixel_cases import FILES, clip, pixels_of, sized, write

from vidcomp.encode.vlm.pixels.settings import DEFAULTS
from vidcomp.llm.sampling import sampling_of

pytestmark = pytest.mark.filterwarnings("ignore")
_library: list[torch.library.Library] = []  # operators live as long as this does


def _torchvision() -> ModuleType:
    """torchvision, its compiled operators only defined where they do not load."""
    try:
        return importlib.import_module("torchvision")
    except ModuleNotFoundError:
        pytest.skip("torchvision is not installed")
    except RuntimeError:
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
    library = torch.library.Library("torchvision", "FRAGMENT")
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _library.append(library)
    return importlib.import_module("torchvision")


@pytest.fixture(autouse=True, scope="module")
def torchvision() -> ModuleType:
    """Before transformers looks for it."""
    return _torchvision()


CLASSES = {
    "llava_onevision": "LlavaOnevisionVideoProcessor",
    "llava_next_video": "LlavaNextVideoVideoProcessor",
    "video_llava": "VideoLlavaVideoProcessor",
    "internvl": "InternVLVideoProcessor",
    "smolvlm": "SmolVLMVideoProcessor",
    "perception_lm": "PerceptionLMVideoProcessor",
    "gemma3": "Gemma3ImageProcessor",
    "qwen2_vl": "Qwen2VLVideoProcessor",
    "qwen2_5_vl": "Qwen2VLVideoProcessor",
    "qwen3_vl": "Qwen3VLVideoProcessor",
    "qwen3_vl_moe": "Qwen3VLVideoProcessor",
    "qwen3_5": "Qwen3VLVideoProcessor",
    "qwen3_5_moe": "Qwen3VLVideoProcessor",
    "video_llama_3": "VideoLlama3VideoProcessor",
    "glm4v": "Glm4vVideoProcessor",
    "glm4v_moe": "Glm4vVideoProcessor",
    "glm46v": "Glm46VVideoProcessor",
    "gemma4": "Gemma4VideoProcessor",
    "molmo2": "Molmo2VideoProcessor",
    "minicpmv4_6": "MiniCPMV4_6VideoProcessor",
    "nemotron_h_omni": "NemotronH_Omni_Reasoning_V3VideoProcessor",
}
SIZES = [(54, 96), (97, 41), (31, 30), (200, 24), (28, 28)]


def _original(name: str, folder: Path, **changed: Any) -> Any:
    import transformers

    cls = getattr(transformers, CLASSES[name])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return cls.from_pretrained(str(folder), **changed)


def _run(name: str, processor: Any, data: torch.Tensor) -> dict[str, Any]:
    if name == "gemma3":
        return dict(processor(images=list(data), do_pan_and_scan=False, return_tensors="pt"))
    settings: dict[str, Any] = {"do_sample_frames": False, "return_tensors": "pt"}
    if name == "minicpmv4_6":
        from transformers.video_utils import VideoMetadata

        length = len(data)
        meta = VideoMetadata(total_num_frames=length, fps=1.0, duration=length, height=1, width=1)
        settings |= {"video_metadata": [meta], "max_slice_nums": 1, "return_tensors": None}
    if name == "nemotron_h_omni":
        settings["return_tensors"] = None
    return dict(processor(videos=[data], **settings))


def _difference(found: Any, wanted: Any) -> float:
    wanted = torch.as_tensor(wanted)
    found = torch.as_tensor(found).reshape(wanted.shape)
    return float((found.double() - wanted.double()).abs().max())


def _check(name: str, folder: Path, data: torch.Tensor, tolerance: float, **changed: Any) -> float:
    from dataclasses import replace

    pixels = pixels_of(name, write(name, folder), changed=changed)
    frames = replace(clip(len(data), 8, 8), data=data)
    found = pixels.prepare(sized(pixels, frames))
    wanted = _run(name, _original(name, folder, **changed), data)
    if name == "nemotron_h_omni":  # whose model repeats the last frame, not its processor
        found.inputs["pixel_values_videos"] = found.inputs["pixel_values_videos"][: len(data)]
    if name in ("internvl", "perception_lm"):  # renamed by the processor around it
        wanted["pixel_values"] = torch.as_tensor(wanted["pixel_values_videos"])
    worst = 0.0
    for key, value in found.inputs.items():
        if isinstance(value, torch.Tensor):
            difference = _difference(value, wanted[key])
            worst = max(worst, difference if value.is_floating_point() else 0.0)
            assert difference <= (tolerance if value.is_floating_point() else 0), key
    return worst


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", FILES)
def test_a_clip_is_what_the_original_makes_of_it(name, size, tmp_path):
    # Grey levels are equal, scaling differs in the last digit.  Molmo2 rounds floats where a reader
    # computes with whole numbers: a level may be the next one.  Nemotron's are floats.
    tolerance = {"nemotron_h_omni": 1e-4, "molmo2": 1 / 255 / 0.5}.get(name, 0) + 2e-6
    _check(name, tmp_path, clip(3 if name != "gemma3" else 1, *size).data, tolerance)


@pytest.mark.parametrize("cap", [True, False])
@pytest.mark.parametrize("num_frames", [1, 2, 5, 24])
@pytest.mark.parametrize("name", ["qwen2_vl", "qwen3_vl", "glm4v", "video_llama_3"])
def test_pixels_are_shared_among_frames_as_in_the_original(name, num_frames, cap, tmp_path):
    if name in ("qwen3_vl", "glm4v") and num_frames == 1:
        pytest.skip("the original refuses a video of one frame, vidcomp repeats it")
    capped = {"cap_pixels_per_frame": cap, "max_video_tokens": 40} if "qwen" in name else {}
    _check(name, tmp_path, clip(num_frames, 90, 120).data, 2e-6, **capped)


@pytest.mark.parametrize("name", FILES)
def test_defaults_are_those_of_the_class(name, tmp_path):
    import transformers

    cls = getattr(transformers, CLASSES[name])
    own = {"cap_pixels_per_frame", "fps", "num_frames", "video_sampling", "norm_mean", "norm_std"}
    plain = {"min_pixels", "max_pixels", "do_center_crop", "crop_size"}
    for key, value in DEFAULTS[name].items():
        theirs = getattr(cls, key, None)
        if key in own or (key in plain and value is None):
            assert theirs in (None, False, value) or key in ("fps", "num_frames")
        elif name == "perception_lm" and key == "patch_size":
            continue  # of the processor around it
        elif name in ("molmo2", "nemotron_h_omni") and theirs is None:
            continue  # what their code does or the published files say
        else:
            assert theirs == pytest.approx(value), key


def _picks(name: str, folder: Path, total: int, rate: float, **asked: Any) -> tuple[Any, Any]:
    """Indices by our sampler and by the original's."""
    from transformers.video_utils import VideoMetadata

    from vidcomp.sample.base import Timeline

    seconds = total / rate
    pts_s = torch.arange(total, dtype=torch.float64) / rate
    timeline = Timeline(pts_s=pts_s, end_s=seconds, is_key=torch.ones(total, dtype=bool))
    ours = sampling_of(pixels_of(name, write(name, folder)))(timeline).indices
    meta = VideoMetadata(total_num_frames=total, fps=rate, duration=seconds)
    theirs = _original(name, folder).sample_frames(meta, **asked)
    return ours, torch.as_tensor(list(theirs))


def test_qwen3_vl_picks_the_frames_that_the_original_picks(tmp_path):
    for total, rate in [(300, 30.0), (7, 25.0), (3, 1.0), (1000, 24.0), (33, 10.0)]:
        ours, theirs = _picks("qwen3_vl", tmp_path, total, rate, fps=2)
        assert ours.tolist() == theirs.tolist()


@pytest.mark.parametrize("seconds", [4, 25, 100, 700, 3000])
@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("qwen2_vl", {"fps": 2}),
        ("video_llama_3", {"fps": 1}),
        ("smolvlm", {}),
        ("glm4v", {}),
        ("glm46v", {}),
        ("molmo2", {}),
        ("minicpmv4_6", {}),
        ("gemma4", {}),
        ("internvl", {"num_frames": 8}),
        ("llava_onevision", {"num_frames": 32}),
    ],
)
def test_frames_are_near_those_of_the_original(name, asked, seconds, tmp_path):
    ours, theirs = _picks(name, tmp_path, 12 * seconds, 12.0, **asked)
    theirs = theirs.unique()  # GLM-4.6V ends with the last frame twice
    assert abs(len(ours) - len(theirs)) <= max(1, 0.02 * len(theirs))
    # Each of ours is no further from one of theirs than these are from each other.
    gap = int(theirs.diff().max())
    away = (ours[:, None] - theirs[None]).abs().amin(dim=1)
    assert int(away.max()) <= gap
    assert float(away.float().mean()) <= gap / 2


def test_every_family_is_compared():
    assert set(CLASSES) == set(FILES) == set(DEFAULTS)
