"""Preprocessor files in the spelling of the published checkpoints, sized for the tiny models.

``write(name, folder)`` makes the file; ``pixels_of`` reads it back for the tiny model's config.
"""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from llm.tiny_llms import CONFIGS
from tiny_models import CLIP_COLORS, HALF

from vidcomp.encode.vlm.families import FAMILIES
from vidcomp.encode.vlm.pixels import Pixels
from vidcomp.functional.resize import resize_frames
from vidcomp.types import Frames

VIDEO, IMAGE, NESTED = (
    "video_preprocessor_config.json",
    "preprocessor_config.json",
    "processor_config.json",
)
_SCALE = {
    "do_resize": True,
    "do_rescale": True,
    "do_normalize": True,
    "rescale_factor": 0.00392156862745098,
    "do_convert_rgb": True,
}
_CUT = {
    "crop_size": {"height": 28, "width": 28},
    "do_center_crop": True,
    "resample": 3,
    "size": {"shortest_edge": 28},
    **_SCALE,
    **CLIP_COLORS,
}
_QWEN = {"patch_size": 4, "temporal_patch_size": 2, "merge_size": 2, "resample": 3}
_QWEN3: dict[str, Any] = {
    "size": {"longest_edge": 40_000, "shortest_edge": 1024},
    **_QWEN,
    **HALF,
    "video_processor_type": "Qwen3VLVideoProcessor",
    "do_sample_frames": True,
}
_GLM = {
    "size": {"shortest_edge": 2_000, "longest_edge": 40_000},
    **_SCALE,
    **_QWEN,
    **CLIP_COLORS,
}

FILES: dict[str, tuple[str, dict[str, Any]]] = {
    "llava_onevision": (
        VIDEO,
        {
            "video_processor_type": "LlavaOnevisionVideoProcessor",
            "size": {"height": 28, "width": 28},
            "resample": 3,
            **_SCALE,
            **HALF,
        },
    ),
    "llava_next_video": (
        VIDEO,
        {"image_processor_type": "LlavaNextVideoImageProcessor", **_CUT},
    ),
    "video_llava": (IMAGE, {"image_processor_type": "VideoLlavaImageProcessor", **_CUT}),
    "internvl": (
        VIDEO,
        {
            "video_processor_type": "InternVLVideoProcessor",
            "size": {"height": 28, "width": 28},
            "resample": 3,
            "crop_size": None,
            "do_center_crop": None,
            **_SCALE,
            **CLIP_COLORS,
        },
    ),
    "smolvlm": (
        IMAGE,
        {
            "image_processor_type": "SmolVLMImageProcessor",
            "do_image_splitting": True,
            "do_pad": True,
            "max_image_size": {"longest_edge": 28},
            "size": {"longest_edge": 112},
            "resample": 1,
            "video_sampling": {"fps": 1, "max_frames": 64, "video_size": {"longest_edge": 28}},
            **_SCALE,
            **HALF,
        },
    ),
    "perception_lm": (
        NESTED,
        {
            "patch_size": 7,
            "pooling_ratio": 2,
            "processor_class": "PerceptionLMProcessor",
            "video_processor": {
                "video_processor_type": "PerceptionLMVideoProcessor",
                "size": {"height": 28, "width": 28},
                "resample": 3,
                **_SCALE,
                **HALF,
            },
        },
    ),
    "gemma3": (
        IMAGE,
        {
            "do_convert_rgb": None,
            "do_normalize": True,
            "do_pan_and_scan": None,
            "do_rescale": True,
            "do_resize": True,
            "image_processor_type": "Gemma3ImageProcessor",
            "image_seq_length": 4,
            "resample": 2,
            "rescale_factor": 0.00392156862745098,
            "size": {"height": 28, "width": 28},
            **HALF,
        },
    ),
    "qwen2_vl": (
        IMAGE,
        {
            "min_pixels": 3136,
            "max_pixels": 12_800,
            **_QWEN,
            **CLIP_COLORS,
            "image_processor_type": "Qwen2VLImageProcessor",
        },
    ),
    "qwen2_5_vl": (
        IMAGE,
        {
            "min_pixels": 1024,
            "max_pixels": 6_400,
            "size": {"min_pixels": 1, "max_pixels": 2},
            **_QWEN,
            **CLIP_COLORS,
            "image_processor_type": "Qwen2VLImageProcessor",
        },
    ),
    "qwen3_vl": (VIDEO, _QWEN3),
    "qwen3_vl_moe": (VIDEO, _QWEN3),
    "qwen3_5": (VIDEO, _QWEN3),
    "qwen3_5_moe": (VIDEO, _QWEN3),
    "video_llama_3": (
        NESTED,
        {
            "video_processor": {
                "video_processor_type": "VideoLlama3VideoProcessor",
                "size": {"shortest_edge": 1024, "longest_edge": 40_000},
                **_SCALE,
                **HALF,
                "patch_size": 4,
                "temporal_patch_size": 1,
                "merge_size": 2,
            }
        },
    ),
    "glm4v": (VIDEO, {"video_processor_type": "Glm4vVideoProcessor", **_GLM}),
    "glm4v_moe": (VIDEO, {"video_processor_type": "Glm4vVideoProcessor", **_GLM}),
    "glm46v": (VIDEO, {"video_processor_type": "Glm46VVideoProcessor", **_GLM}),
    "gemma4": (
        NESTED,
        {
            "video_processor": {
                "video_processor_type": "Gemma4VideoProcessor",
                **_SCALE,
                "image_mean": [0.0, 0.0, 0.0],
                "image_std": [1.0, 1.0, 1.0],
                "resample": 3,
                "num_frames": 32,
                "patch_size": 4,
                "pooling_kernel_size": 2,
                "max_soft_tokens": 70,
            }
        },
    ),
    "molmo2": (
        VIDEO,
        {
            "video_processor_type": "Molmo2VideoProcessor",
            "size": {"height": 28, "width": 28},
            "resample": 2,
            **_SCALE,
            **HALF,
            "patch_size": 7,
            "pooling_size": [3, 3],
            "num_frames": 64,
            "max_fps": 2,
        },
    ),
    "minicpmv4_6": (
        NESTED,
        {
            "video_processor": {
                "video_processor_type": "MiniCPMV4_6VideoProcessor",
                **_SCALE,
                **HALF,
                "resample": 3,
                "patch_size": 4,
                "scale_resolution": 64,
                "downsample_mode": "16x",
                "max_slice_nums": 9,
                "slice_mode": True,
                "stack_frames": 1,
                "max_num_frames": 128,
            }
        },
    ),
    "nemotron_h_omni": (
        VIDEO,
        {
            "video_processor_type": "NemotronH_Omni_Reasoning_V3VideoProcessor",
            "norm_mean": CLIP_COLORS["image_mean"],
            "norm_std": CLIP_COLORS["image_std"],
            "patch_size": 4,
            "downsample_ratio": 0.5,
            "video_target_num_patches": 200,
            "video_maintain_aspect_ratio": True,
        },
    ),
}
"""File and content by family."""


def write(name: str, folder: Path) -> Path:
    """The folder, with the family's preprocessor file in it."""
    file, content = FILES[name]
    (folder / file).write_text(json.dumps(content))
    return folder


def tiny_config(name: str) -> Any:
    """What ``Pixels`` reads of a model's config; two families have no tiny model."""
    if name == "perception_lm":
        return SimpleNamespace(projector_pooling_ratio=2)
    if name == "nemotron_h_omni":
        return SimpleNamespace(video_temporal_patch_size=2)
    from transformers import CONFIG_MAPPING

    return CONFIG_MAPPING[name](**CONFIGS[name])


def pixels_of(name: str, folder: Path, **settings: Any) -> Pixels:
    """The processor in the folder of ``write``."""
    changed: dict[str, Any] = settings.pop("changed", {})
    return Pixels.load(str(folder), FAMILIES[name], tiny_config(name), **settings, **changed)


def clip(num_frames: int, height: int, width: int, seed: int = 0) -> Frames:
    """Smooth colours, noise, and a black and a white box with hard edges; two frames a second."""
    generator = torch.Generator().manual_seed(seed)
    smooth = torch.rand(num_frames, 3, height // 8 + 2, width // 8 + 2, generator=generator)
    data = torch.nn.functional.interpolate(smooth, size=(height, width), mode="bilinear") * 255
    data += 20 * torch.randn(data.shape, generator=generator)
    data[:, :, height // 3 : height // 2, width // 3 : width // 2] = 0
    data[:, :, height // 2 : height // 2 + 9, width // 2 :] = 255
    return Frames(
        data=data.clamp(0, 255).to(torch.uint8).to(memory_format=torch.channels_last),
        pts_s=torch.arange(num_frames, dtype=torch.float64) / 2,
        duration_s=torch.full((num_frames,), 0.5, dtype=torch.float64),
    )


def sized(pixels: Pixels, frames: Frames, num_frames: int | None = None) -> Frames:
    """Frames as a decoder hands them on: resized as the processor asks."""
    from dataclasses import replace

    height, width = frames.data.shape[2:]
    policy = pixels.resize(width, height, num_frames or len(frames))
    return replace(frames, data=resize_frames(frames.data, policy)[0])
