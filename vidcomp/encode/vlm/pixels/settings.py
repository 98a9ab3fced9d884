"""The settings of a family's video processor: the checkpoint's file over its class's defaults.

Files are read as transformers 5 does: ``processor_config.json`` if it holds the video processor,
else ``video_preprocessor_config.json``, else ``preprocessor_config.json``.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vidcomp.encode.weights import Checkpoint, find_checkpoint
from vidcomp.errors import ConfigError
from vidcomp.registry import suggest

__all__ = ["DEFAULTS", "read_settings"]

_BICUBIC, _BILINEAR, _LANCZOS = 3, 2, 1
_BASE: dict[str, Any] = {
    "do_resize": True,
    "resample": _BICUBIC,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "num_frames": None,
    "fps": None,
}
_CLIP: dict[str, Any] = {
    **_BASE,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
_CUT: dict[str, Any] = {
    **_CLIP,
    "size": {"shortest_edge": 224},
    "do_center_crop": True,
    "crop_size": {"height": 224, "width": 224},
}
_SQUARE: dict[str, Any] = {
    **_CLIP,
    "size": {"height": 384, "width": 384},
    "do_center_crop": None,
    "crop_size": None,
}
_TUBELETS: dict[str, Any] = {"patch_size": 14, "temporal_patch_size": 2, "merge_size": 2}
# transformers 5.23 leaves it unset, which it takes for False, and announces True: without it a
# second of 1080p video is thousands of tokens.
_CAP: dict[str, Any] = {"cap_pixels_per_frame": True, "min_frames": 4, "max_frames": 768}
_QWEN2: dict[str, Any] = {
    **_CLIP,
    **_TUBELETS,
    **_CAP,
    "size": {"shortest_edge": 128 * 28 * 28, "longest_edge": 28 * 28 * 768},
    "min_pixels": None,
    "max_pixels": None,
    "max_video_tokens": 128_000,
    "fps": 2,
}
_QWEN3: dict[str, Any] = {
    **_BASE,
    **_TUBELETS,
    **_CAP,
    "patch_size": 16,
    "size": {"shortest_edge": 128 * 32 * 32, "longest_edge": 32 * 32 * 768},
    "max_video_tokens": 768,
    "fps": 2,
}
_GLM: dict[str, Any] = {
    **_CLIP,
    **_TUBELETS,
    "size": {"shortest_edge": 112 * 112, "longest_edge": 28 * 28 * 2 * 30_000},
    "max_duration": 300,
    "fps": 2,
}

DEFAULTS: dict[str, dict[str, Any]] = {
    "llava_onevision": _SQUARE,
    "llava_next_video": _CUT,
    "video_llava": _CUT,
    "internvl": _SQUARE,
    "perception_lm": {
        **_BASE,
        "size": {"height": 448, "width": 448},
        "do_center_crop": None,
        "crop_size": None,
        "patch_size": 14,
    },
    "gemma3": {
        **_BASE,
        "resample": _BILINEAR,
        "size": {"height": 224, "width": 224},
        "do_center_crop": None,
        "crop_size": None,
    },
    "smolvlm": {
        **_BASE,
        "resample": _LANCZOS,
        "size": {"longest_edge": 4 * 364},
        "max_image_size": {"longest_edge": 364},
        "video_sampling": None,
        "fps": 1,
        "num_frames": 64,
    },
    "qwen2_vl": _QWEN2,
    "qwen2_5_vl": _QWEN2,
    "qwen3_vl": _QWEN3,
    "qwen3_vl_moe": _QWEN3,
    "qwen3_5": _QWEN3,
    "qwen3_5_moe": _QWEN3,
    "video_llama_3": {
        **_BASE,
        **_TUBELETS,
        "temporal_patch_size": 1,
        "size": {"shortest_edge": 128 * 28 * 28, "longest_edge": 28 * 28 * 768},
        "min_pixels": None,
        "max_pixels": None,
        "fps": 1,
        "min_frames": 4,
        "max_frames": 180,
    },
    "glm4v": _GLM,
    "glm4v_moe": _GLM,
    "glm46v": _GLM,
    "gemma4": {
        **_BASE,
        "image_mean": [0.0, 0.0, 0.0],
        "image_std": [1.0, 1.0, 1.0],
        "num_frames": 32,
        "patch_size": 16,
        "max_soft_tokens": 70,
        "pooling_kernel_size": 3,
    },
    "molmo2": {
        **_BASE,
        "resample": _BILINEAR,
        "size": {"height": 378, "width": 378},
        "patch_size": 14,
        "pooling_size": [3, 3],
        "num_frames": 64,
        "max_fps": 2,
    },
    "minicpmv4_6": {
        **_BASE,
        "scale_resolution": 448,
        "patch_size": 14,
        "downsample_mode": "16x",
        "stack_frames": 1,
        "max_num_frames": 128,
    },
    "nemotron_h_omni": {
        **_BASE,
        "image_mean": None,
        "image_std": None,
        "norm_mean": None,
        "norm_std": None,
        "patch_size": 16,
        "downsample_ratio": 0.5,
        "video_target_num_patches": 1024,
        "video_maintain_aspect_ratio": True,
    },
}
"""What the classes of transformers 5.23 have where a file says nothing, by ``config.model_type``;
frame rates also where those leave them open (see ``sampling``)."""


_OLD = ("min_pixels", "max_pixels", "video_sampling", "norm_mean", "norm_std")


def read_settings(model: str | Path, model_type: str, changed: Mapping[str, Any]) -> dict[str, Any]:
    """Every setting of the family's processor.

    Args:
        model: folder of a checkpoint, or an id of the hub.
        model_type: a key of ``DEFAULTS``.
        changed: settings that are to differ from the checkpoint's.

    Raises:
        ConfigError: the checkpoint has no preprocessor file, or ``changed`` names a setting that
            the processor does not have.
    """
    defaults = DEFAULTS[model_type]
    for name in changed:
        if name not in defaults:
            known = sorted(defaults)
            raise ConfigError(
                f"the video processor of {model_type} has no setting {name!r}: "
                f"{suggest(name, known)}it has {', '.join(known)}"
            )
    settings = dict(defaults)
    for given in (_file(model), changed):
        settings |= _modern(given, settings)
    return {name: value for name, value in settings.items() if name not in _OLD}


def _file(model: str | Path) -> dict[str, Any]:
    folder = Path(model).expanduser()
    checkpoint = Checkpoint(folder, ()) if folder.is_dir() else find_checkpoint(str(model))
    nested = checkpoint.json("processor_config.json") or {}
    places = (
        nested.get("video_processor"),
        checkpoint.json("video_preprocessor_config.json"),
        nested.get("image_processor"),
        checkpoint.json("preprocessor_config.json"),
    )
    found = next((place for place in places if isinstance(place, dict)), None)
    if found is None:
        raise ConfigError(
            f"the model folder {str(checkpoint.folder)!r} has no video_preprocessor_config.json or "
            f"preprocessor_config.json, which say how frames are sized and scaled: copy them from "
            f"the original checkpoint"
        )
    # PerceptionLM keeps the patch's size in the file around its two processors.
    return {"patch_size": nested.get("patch_size"), **found}


def _modern(given: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """What is given for the known settings, older spellings brought to the present one as the
    classes do.  A null is the class's default, as for transformers.
    """
    found = {k: v for k, v in given.items() if k in settings and v is not None}
    for old, new in (("min_pixels", "shortest_edge"), ("max_pixels", "longest_edge")):
        if old in found:
            found["size"] = {**found.get("size", settings["size"]), new: found[old]}
    if "norm_mean" in found and "norm_std" in found:
        found |= {"image_mean": found["norm_mean"], "image_std": found["norm_std"]}
    if "video_sampling" in found:  # SmolVLM; there a size of its own wins over the one for videos
        sampling = found["video_sampling"]
        found.setdefault("size", sampling["video_size"])
        found |= {"num_frames": sampling["max_frames"], "fps": sampling["fps"]}
    return found
