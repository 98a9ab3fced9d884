"""Tokens to compress: of real clips, by two encoders without training; and made up."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path

import torch
from torch import Tensor

from vidcomp.api import encoder, sampler
from vidcomp.compress.base import Compressor, QueryAware
from vidcomp.encode.base import Encoder
from vidcomp.errors import DecodeError
from vidcomp.pipelines.inputs import expand
from vidcomp.registry import COMPRESSORS
from vidcomp.sample.decode import read_frames
from vidcomp.types import Frames, Grid, QueryFeatures, VideoTokens

__all__ = ["asked", "clip_frames", "clip_tokens", "drifting_video", "needed_extras", "random_vit"]

_PICTURE, _PATCH = 224, 14
_VIT = {
    "hidden_size": 384,
    "intermediate_size": 1536,
    "num_hidden_layers": 6,
    "num_attention_heads": 6,
    "image_size": _PICTURE,
    "patch_size": _PATCH,
}
_PROCESSOR = {
    "image_processor_type": "SiglipImageProcessor",
    "size": {"height": _PICTURE, "width": _PICTURE},
    "resample": 3,
    "do_resize": True,
    "do_rescale": True,
    "do_normalize": True,
    "rescale_factor": 1 / 255,
    "image_mean": [0.5] * 3,
    "image_std": [0.5] * 3,
}


def clip_frames(folder: Path, patterns: Sequence[str], num_frames: int) -> dict[str, Frames]:
    """Frames of the clips of a folder whose names match, by name.

    Clips that cannot be read or have fewer frames are passed over.
    """
    found: dict[str, Frames] = {}
    uniform = sampler("uniform", num_frames=num_frames)
    for item in expand([str(folder)]):
        if not any(fnmatch(item.key, pattern) for pattern in patterns):
            continue
        try:
            frames = read_frames(item.path, uniform, size=_PICTURE)
        except DecodeError:
            continue
        if len(frames) == num_frames == len(frames.pts_s.unique()):
            found[item.key] = frames
    return found


def clip_tokens(clips: dict[str, Frames], work: Path) -> dict[tuple[str, str], VideoTokens]:
    """By encoder and clip: ``dct``, and ``vit``, the mean-centred output of a random ViT."""
    encoders = {"dct": encoder("dct", patch=_PATCH, size=_PICTURE), "vit": random_vit(work)}
    tokens = {}
    for name, encode in encoders.items():
        for clip, frames in clips.items():
            video = encode(frames)
            if name == "vit":
                video = replace(video, tokens=video.tokens - video.tokens.mean(dim=0))
            tokens[name, clip] = video
    return tokens


def random_vit(work: Path) -> Encoder:
    """A SigLIP of 6 layers with random weights, the same every time."""
    import transformers

    folder = work / "vit"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**_VIT))
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(_PROCESSOR))
    return encoder("hf", model=str(folder))


def drifting_video(
    grid: Grid, dim: int, extras: Iterable[str] = (), dtype: torch.dtype = torch.float32
) -> VideoTokens:
    """One picture that drifts, a tenth of which moves faster, with a new one every 64 frames."""
    draw = torch.Generator().manual_seed(0)
    parts = []
    picture = torch.randn(grid.per_frame, dim, generator=draw)
    moving = torch.randn(grid.per_frame, 1, generator=draw) > 1.3
    for t in range(grid.t):
        noise = torch.randn(picture.shape, generator=draw)
        fresh = t % 64 == 0
        picture = noise if fresh else picture * 0.995 + noise * torch.where(moving, 0.5, 0.1)
        parts.append(picture.to(dtype))
    start = torch.arange(grid.t, dtype=torch.float32)
    made: dict[str, Tensor] = {}
    tokens = torch.cat(parts)
    del parts
    if "saliency" in extras:
        made["saliency"] = torch.rand(len(tokens), generator=draw)
    if "keys" in extras:
        made["keys"] = torch.randn(len(tokens), 1, 64, generator=draw).to(dtype)
    return VideoTokens.from_grid(tokens, grid, torch.stack([start, start + 1], dim=1), extras=made)


def needed_extras(label: str) -> tuple[str, ...]:
    """What the encoder must give for a method, beside features."""
    needs = COMPRESSORS[label.split(":")[0]].about.needs
    return tuple(name for name in ("saliency", "keys") if name in needs)


def asked(stage: Compressor, video: VideoTokens) -> Compressor:
    """The stage; one that wants a query is asked for the mean token of the video."""
    if not isinstance(stage, QueryAware):
        return stage
    return stage.bind(QueryFeatures(embedding=video.tokens.float().mean(dim=0, keepdim=True)))
