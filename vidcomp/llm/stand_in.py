"""What stands in for the image and video processors of transformers when text is made.

Only shapes are told, by tensors that hold one number whatever their size.

Legend: t frames of a grid (tubelets), k frames in each of them.
"""

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from vidcomp.types import VideoTokens

__all__ = ["StandIn", "announce", "image_settings", "video_settings"]


class StandIn:
    """Settings as attributes; called, it tells what it was given."""

    model_input_names: tuple[str, ...] = ()

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.__dict__.update(settings)
        self._shapes: Mapping[str, Any] = {}

    def telling(self, shapes: Mapping[str, Any]) -> Self:
        """The same settings, telling these shapes."""
        other = copy.copy(self)
        other._shapes = dict(shapes)
        return other

    def __call__(self, *pixels: object, **settings: object) -> dict[str, Any]:
        """The shapes, whatever is given."""
        del pixels, settings
        return dict(self._shapes)

    def fetch_images(self, images: Any) -> Any:
        """Images are never loaded."""
        return images


def video_settings(config: Any, model: str | Path) -> dict[str, Any]:  # a transformers config
    """What processors read of their video processor."""
    return {**_common(config), **_from_file(model, "video_preprocessor_config.json")}


def image_settings(config: Any, model: str | Path) -> dict[str, Any]:
    """What processors read of their image processor."""
    return {**_common(config), **_from_file(model, "preprocessor_config.json")}


def _common(config: Any) -> dict[str, Any]:
    vision = getattr(config, "vision_config", None)
    return {
        "merge_size": getattr(vision, "spatial_merge_size", 2),
        "temporal_patch_size": getattr(vision, "temporal_patch_size", 2),
        "patch_size": getattr(vision, "patch_size", 14),
        "downsample_mode": getattr(config, "downsample_mode", "16x"),
        "slice_mode": False,
        "use_image_id": False,
        "num_frames": None,
        "fps": None,
        "max_fps": 2.0,
        "size": {},
    }


def _from_file(model: str | Path, name: str) -> dict[str, Any]:
    from transformers.utils.hub import cached_file

    found = cached_file(str(model), name, _raise_exceptions_for_missing_entries=False)
    return {} if found is None else dict(json.loads(Path(found).read_text()))


def announce(
    config: Any,
    videos: Sequence[VideoTokens],
    times: Sequence[Tensor],
    patch_size: int = 14,
) -> dict[str, Any]:
    """What the video processor of the model would give for these videos, as shapes.

    Args:
        config: of the model.
        videos: on the grid of the model's own encoder.
        times: [t, k] float64 seconds for each.
        patch_size: pixels of a patch, as the processor has it.
    """
    vision = config.vision_config
    grids = [video.grid for video in videos]
    merge = getattr(vision, "spatial_merge_size", 2)
    side = getattr(vision, "image_size", 0) or 0
    height, width = side if isinstance(side, (list, tuple)) else (side, side)
    if config.model_type == "perception_lm":
        side = patch_size * config.projector_pooling_ratio
        height, width = (n * side for n in grids[0][1:])
    tokens = [grid.per_frame for grid in grids]
    steps = 16 if getattr(config, "downsample_mode", "16x") == "16x" else 4
    frames = [time.numel() for time in times]
    most = max(frames, default=0)
    return {
        "pixel_values_videos": [_shape(num, 3, height, width) for num in frames],
        "pixel_values": _shape(len(videos), most, 3, 1, 1),
        "video_grid_thw": torch.tensor([(g.t, g.h * merge, g.w * merge) for g in grids]),
        "video_merge_sizes": torch.full((len(videos),), merge),
        "video_compression_mask": torch.ones(sum(g.num_patches for g in grids), dtype=torch.bool),
        "num_soft_tokens_per_video": tokens,
        "video_grids": torch.tensor([tuple(grid) for grid in grids]),
        "num_frames_per_video": [grid.t for grid in grids],
        "target_sizes_videos": torch.tensor(
            [(1, steps * grid.per_frame) for grid in grids for _ in range(grid.t)]
        ),
        "grids_videos": torch.zeros(sum(grid.t for grid in grids), 2, dtype=torch.int64),
        "num_crops": [0] * sum(grid.t for grid in grids),
        "video_metadata": [
            _metadata(time, video) for time, video in zip(times, videos, strict=True)
        ],
    }


def _shape(*shape: int) -> Tensor:
    return torch.zeros(1).expand(*shape)


def _metadata(times_TK: Tensor, video: VideoTokens) -> Any:
    """Presentation times as they are: frames counted in seconds, one a second."""
    from transformers.video_utils import VideoMetadata

    seconds = times_TK.flatten().tolist()
    spacing = (seconds[-1] - seconds[0]) / max(1, len(seconds) - 1) or 1.0
    end = max([seconds[-1], *video.spans[:, 1].tolist()])
    length: Any = len(seconds) * spacing  # the class wants whole numbers, and reads any
    return VideoMetadata(total_num_frames=length, fps=1.0, duration=end, frames_indices=seconds)
