"""Which frames each family is meant to see: its processor's rule as a sampler of vidcomp.

Rates and counts are those of the checkpoint's file.  Where it and the processor's class leave them
open they are those of the family's own examples: 32 frames for LLaVA-OneVision, LLaVA-NeXT-Video
and PerceptionLM, 8 for Video-LLaVA, InternVL and Gemma 3, 2 a second for Qwen and Nemotron.

The samplers go by real presentation times where the originals count frames at an average rate, so
indices differ by a frame here and there.  Those of Qwen3-VL are equal.
"""

from collections.abc import Mapping
from typing import Any

from vidcomp.encode.vlm.pixels import Pixels
from vidcomp.sample.base import Sampler
from vidcomp.sample.fps import Fps
from vidcomp.sample.segments import SegmentMidpoint
from vidcomp.sample.smart import SmartNFrames
from vidcomp.sample.uniform import Uniform

__all__ = ["sampling_of"]

_FRAMES = {
    "llava_onevision": 32,
    "llava_next_video": 32,
    "perception_lm": 32,
    "video_llava": 8,
    "gemma3": 8,
    "internvl": 8,
}
_NEMOTRON_FRAMES = 128
_GLM46V_FRAMES = 640
# Steps of the grid a second for videos up to so many seconds, and for longer ones.
_GLM46V_RATES, _GLM46V_RATE = ((30.0, 3.0), (300.0, 1.0)), 0.5


def sampling_of(pixels: Pixels) -> Sampler:
    """The family's own choice of frames.

    Args:
        pixels: of a checkpoint; the settings of its processor count.

    Returns:
        A sampler; its ``name`` and ``dump()`` are what a recipe says.
    """
    model_type, settings = pixels.family.model_type, pixels.settings
    fps, num_frames = settings["fps"], settings["num_frames"]
    if "cap_pixels_per_frame" in settings:
        return _qwen(settings, of_qwen3=model_type.startswith("qwen3"))
    match model_type:
        case "smolvlm":
            return Fps(fps=fps, max_frames=num_frames)
        case "molmo2":
            return Fps(fps=fps or settings["max_fps"], max_frames=num_frames)
        case "minicpmv4_6":
            return Fps(fps=fps or 1, max_frames=settings["max_num_frames"])
        case "nemotron_h_omni":
            return Fps(fps=fps or 2, max_frames=num_frames or _NEMOTRON_FRAMES)
        case "video_llama_3" if num_frames is None:
            bounds = {name: settings[name] for name in ("min_frames", "max_frames")}
            return Fps(fps=fps, **bounds)
        case "glm4v" | "glm4v_moe":
            return Fps(fps=fps, max_frames=int(settings["max_duration"] * fps))
        case "glm46v":
            step = settings["temporal_patch_size"]
            return Fps(
                fps=_GLM46V_RATE * step,
                by_length=tuple((most, rate * step) for most, rate in _GLM46V_RATES),
                max_frames=_GLM46V_FRAMES,
            )
    if fps is not None and num_frames is None:
        return Fps(fps=fps)
    count = num_frames or _FRAMES[model_type]
    if model_type == "internvl":
        return SegmentMidpoint(num_frames=count)
    return Uniform(num_frames=count)


def _qwen(settings: Mapping[str, Any], *, of_qwen3: bool) -> Sampler:
    return SmartNFrames(
        fps=settings["fps"],
        num_frames=settings["num_frames"],
        min_frames=settings["min_frames"],
        max_frames=settings["max_frames"],
        factor=1 if of_qwen3 else settings["temporal_patch_size"],
        short="keep" if of_qwen3 else "pad",
    )
